"""`text-generation-launcher plan`: its numbers against what a server that was started with the same flags reports."""

import json
import re
import subprocess

import pytest
from fake_hub import FakeHub
from server import LAUNCHER, PATIENCE, Server, clean_env

MEMORY = re.compile(
    r"Memory for (\d+) KV blocks of 32 tokens: (\d+) bytes of weights, (\d+) of KV cache, (\d+) of workspace, (\d+) of graphs"
)


def plan(*flags, env=None):
    """``(exit code, stdout, last line of stderr)``."""
    done = subprocess.run(
        [LAUNCHER, "plan", *map(str, flags)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=clean_env(env),
        timeout=PATIENCE,
    )
    assert "panicked" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr.strip().rpartition("\n")[2]


def planned(*flags, env=None):
    code, out, error = plan(*flags, "--json", env=env)
    assert code == 0, error
    return json.loads(out)


CONFIGURATIONS = [
    ("smollm2_awq", ("--max-total-tokens", 1000, "--max-batch-size", 8)),
    ("tiny_v1_awq", ("--max-batch-total-tokens", 4096, "--max-total-tokens", 512)),
    ("smollm2_v1_fp16", ("--max-input-length", 300, "--max-total-tokens", 400, "--max-concurrent-requests", 3)),
]


@pytest.mark.parametrize(("model", "flags"), CONFIGURATIONS)
def test_a_plan_is_what_the_server_takes(models, model, flags):
    flags = ("--model-id", getattr(models, model)(), "--device", "cpu", *flags)
    # As many tokens as memory allows are as many as were free at that moment: within 1 %, when it stood still.
    n_attempts = 10 if "--max-batch-total-tokens" not in flags else 1
    assert any(plan_and_start(flags) == pytest.approx(1, rel=0.01) for _ in range(n_attempts))


def plan_and_start(flags):
    """Checks a plan against a server; how much of its KV cache was planned."""
    report = planned(*flags)
    with Server(*flags) as server:
        blocks, weights, kv, workspace, graphs = map(int, MEMORY.search(server.output()).groups())
        info = server.get("/info").json()
    assert info["max_total_tokens"] == report["max_total_tokens"]
    assert info["max_input_tokens"] == report["max_input_tokens"]
    assert report["weight_bytes"] == weights
    assert report["workspace_bytes"] == workspace
    assert report["graph_bytes"] == graphs == 0
    assert report["kv_bytes"] == report["max_batch_total_tokens"] * report["kv_bytes_per_token"]
    assert kv == blocks * 32 * report["kv_bytes_per_token"]
    return report["kv_bytes"] / kv


@pytest.fixture
def hub(models):
    folder = models.tiny_v1_awq()
    with FakeHub({"o/tiny": {p.name: p.read_bytes() for p in folder.iterdir()}}) as hub:
        yield hub


def test_a_model_of_the_hub_is_planned_by_its_headers(hub, models, tmp_path):
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
    flags = ("--device", "cpu", "--memory-gib", 8)
    by_header = planned("--model-id", "o/tiny", *flags, env=env)
    assert by_header == planned("--model-id", models.tiny_v1_awq(), *flags)
    size = hub.files["o/tiny"]["model.safetensors"].size
    asked = [seen for seen in hub.seen if seen.path.endswith("model.safetensors") and seen.method == "GET"]
    assert asked and all(seen.range and seen.range.startswith("bytes=0-") for seen in asked), asked
    ends = {int(seen.range.rpartition("-")[2]) for seen in asked}
    assert max(ends) < max(size, 128 << 10)
    assert not list((tmp_path / "hf").rglob("model.safetensors")), "weights are in the cache"


def test_a_hub_without_ranges_and_one_that_lies(hub, tmp_path):
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
    hub.trouble.ignore_range = True
    assert planned("--model-id", "o/tiny", "--device", "cpu", env=env)["layers"] > 0
    file = hub.files["o/tiny"]["model.safetensors"]
    file.served = (1 << 62).to_bytes(8, "little") + file.data[8:]
    code, out, error = plan("--model-id", "o/tiny", "--device", "cpu", env=env)
    assert (code, out) == (1, "") and "is no safetensors file: its header claims 4611686018427387904 bytes" in error


def test_what_does_not_fit_is_said(models):
    flags = ("--model-id", models.tiny_v1_awq(), "--device", "cpu")
    code, out, error = plan(*flags, "--memory-gib", 0.0012, "--max-total-tokens", 512)
    assert code == 1 and "does not fit: " in out and error.startswith("Error: "), (out, error)
    for wrong in (("--memory-gib", 0), ("--gpu-memory-gib", 80), ("--max-total-tokens", 10**6)):
        code, out, error = plan(*flags, *wrong)
        assert (code, out) == (1, "") and error.startswith("Error: ") and wrong[0].strip("-").replace("-", "_") in (
            error.replace("-", "_")
        ), (wrong, error)
    code, out, error = plan()
    assert code == 1 and "needs --model-id" in error
