"""Devices: what the shard's binary needs to start, and what `--device` does on a machine without a GPU.

Machines with a GPU pass too: it is hidden from the processes under test.
"""

import re
import subprocess

import pytest

from conftest import copy_of
from server import BIN, PATIENCE, Server, clean_env, run_launcher

HIDDEN = {"CUDA_VISIBLE_DEVICES": ""}
# glibc and the unwinder; everything else, CUDA's runtime included, is linked statically or opened when needed.
ALLOWED = {"libc.so.6", "libm.so.6", "libgcc_s.so.1", "libdl.so.2", "libpthread.so.0", "librt.so.1"}
# Without the CUDA kernels, without a driver, and with a driver that sees no GPU.
REASONS = ("no CUDA kernels", "no NVIDIA driver", "sees no GPU", "the kernels need")


@pytest.mark.parametrize("program", ["launcher", "router", "shard"])
def test_no_library_beyond_glibc_is_needed(program):
    """A binary that starts everywhere: on a machine without a driver, and without a C++ runtime."""
    listed = subprocess.run(
        ["readelf", "--dynamic", BIN / f"text-generation-{program}"], capture_output=True, text=True, check=True
    ).stdout
    needed = set(re.findall(r"\(NEEDED\).*\[(.+?)\]", listed))
    assert "libc.so.6" in needed
    assert {name for name in needed if not name.startswith("ld-linux")} <= ALLOWED


def test_a_gpu_that_is_not_there_is_an_error(models):
    code, output = run_launcher(
        "--port", 0, "--model-id", models.tiny_v1_awq(), "--device", "cuda", env=HIDDEN
    )
    assert code == 1, output
    (reason,) = [line for line in output.splitlines() if "--device cuda" in line and "rror" in line][:1]
    assert any(word in reason for word in REASONS), output
    assert "panicked" not in output


def test_the_shard_alone_says_why(models, tmp_path):
    done = subprocess.run(
        [BIN / "text-generation-shard", "--model-path", models.tiny_v1_awq(), "--uds-path", tmp_path / "s", "--device", "cuda"],
        capture_output=True, text=True, env=clean_env(HIDDEN), timeout=PATIENCE,
    )  # fmt: skip
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and last.startswith("Error: "), done.stderr
    assert "--device cuda" in last and any(word in last for word in REASONS), last


@pytest.mark.parametrize("flags", [(), ("--device", "auto"), ("--device", "cpu")])
def test_without_a_gpu_the_cpu_serves(models, flags):
    with Server("--model-id", models.tiny_v1_awq(), *flags, env=HIDDEN) as server:
        assert server.post("/generate", {"inputs": "x", "parameters": {"max_new_tokens": 2}}).status_code == 200
        assert server.get("/info").json()["model_device_type"] == "cpu"


def test_dummy_weights_need_no_weights(models, tmp_path):
    folder = copy_of(models.tiny_v1_awq(), tmp_path)
    (folder / "model.safetensors").unlink()
    with Server("--model-id", folder, "--dummy-weights", "--device", "cpu") as server:
        first, second = (server.generate("12345", max_new_tokens=8)["details"]["tokens"] for _ in range(2))
    assert len(first) > 0 and [t["id"] for t in first] == [t["id"] for t in second]
