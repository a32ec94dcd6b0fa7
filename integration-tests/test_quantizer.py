"""`text-generation-launcher quantize`: AWQ folders that AutoAWQ's loaders know, nearer to the float model than plain
rounding; runs that are killed go on; wrong inputs are named.
"""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import copy_of
from models import ORACLE
from server import LAUNCHER, PATIENCE, Server, clean_env, until

sys.path.insert(0, str(ORACLE))
from checkpoint import Checkpoint  # noqa: E402
from oracle import Model, log_softmax  # noqa: E402

GROUP = 32
# The buffers of AutoAWQ's WQLinear_GEMM and the keys of its AwqConfig.to_transformers_dict and to_dict.
CONFIG_KEYS = {"quant_method", "zero_point", "group_size", "bits", "version", "modules_to_not_convert"}
FILE_KEYS = {"zero_point", "q_group_size", "w_bit", "version", "modules_to_not_convert"}


def command(source, out, *flags):
    return [LAUNCHER, "quantize", str(source), str(out), "--group-size", str(GROUP), *map(str, flags)]


def quantize(source, out, *flags):
    return subprocess.run(
        command(source, out, *flags), capture_output=True, text=True, env=clean_env(), timeout=PATIENCE
    )


@pytest.fixture(scope="module")
def quantized(models, tmp_path_factory):
    """The tiny model, quantised on one thread, and what the run said."""
    out = tmp_path_factory.mktemp("quantizer") / "out"
    done = quantize(models.tiny_v1_fp16(), out, "--threads", 1)
    assert done.returncode == 0, done.stdout + done.stderr
    return out, done.stdout


def test_the_folder_is_autoawqs(models, quantized):
    out, _ = quantized
    source, made = Checkpoint(models.tiny_v1_fp16()), Checkpoint(out)
    config = made.config["quantization_config"]
    assert set(config) == CONFIG_KEYS
    assert (config["quant_method"], config["bits"], config["group_size"]) == ("awq", 4, GROUP)
    assert (config["version"], config["zero_point"]) == ("gemm", True)
    in_file = json.loads((out / "quant_config.json").read_text())
    assert set(in_file) <= FILE_KEYS and (in_file["q_group_size"], in_file["w_bit"]) == (GROUP, 4)
    kept = {"model_type", "architectures", "hidden_size", "vocab_size", "seq_length"}
    assert all(made.config[key] == source.config[key] for key in kept)
    for name in source.names():
        prefix, weight = name.removesuffix(".weight"), source.tensor(name)
        if not re.search(r"(c_attn|c_proj|w1|w2)\.weight$", name):
            assert made.tensor(name).shape == weight.shape and made.tensor(name).dtype == np.float16, name
            continue
        n, k = weight.shape
        assert name not in made.names()
        for part, shape, dtype in (
            ("qweight", (k, n // 8), np.int32),
            ("qzeros", (k // GROUP, n // 8), np.int32),
            ("scales", (k // GROUP, n), np.float16),
        ):
            tensor = made.tensor(f"{prefix}.{part}")
            assert (tensor.shape, tensor.dtype) == (shape, dtype), (prefix, part)
    assert (out / "qwen.tiktoken").read_bytes() == (models.tiny_v1_fp16() / "qwen.tiktoken").read_bytes()


def test_nearer_to_the_float_model_than_plain_rounding(models, quantized):
    """Kullback-Leibler divergence of the next token on text that the search has not seen."""
    ids = list(b"A lighthouse keeper counted the ships. They were late, and the fog was coming in again. " * 2)
    of = lambda folder: log_softmax(Model(folder).logits(ids))
    exact, plain, ours = of(models.tiny_v1_fp16()), of(models.tiny_v1_awq()), of(quantized[0])
    divergence = lambda logits: float((np.exp(exact) * (exact - logits)).sum(axis=-1).mean())
    assert divergence(ours) < 0.7 * divergence(plain), (divergence(ours), divergence(plain))


def test_the_server_serves_it(quantized):
    expected = Model(quantized[0]).generate(list(b"Hello"), 8, set())
    with Server("--model-id", quantized[0], "--quantize", "awq") as server:
        got = server.generate("Hello", max_new_tokens=8)["details"]["tokens"]
    assert [token["id"] for token in got] == [step["id"] for step in expected]


def test_threads_do_not_change_a_byte(models, quantized, tmp_path):
    done = quantize(models.tiny_v1_fp16(), tmp_path / "out", "--threads", 3)
    assert done.returncode == 0, done.stderr
    for path in quantized[0].iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes(), path.name


def is_still(pid):
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "TZ"


def stopped_after_its_first_block(models, out, flags):
    """A run that holds still between its two blocks; one that was too quick for this is begun anew."""
    work = out.with_name(f".{out.name}.quantizing")
    while True:
        process = subprocess.Popen(
            command(models.tiny_v1_fp16(), out, *flags), stdout=subprocess.DEVNULL, env=clean_env()
        )
        until(lambda: (work / "block-00000.safetensors").exists() or out.exists(), "a first block")
        process.send_signal(signal.SIGSTOP)
        until(lambda: is_still(process.pid), "it holds still or has ended")  # noqa: B023
        if len(list(work.glob("block-*.safetensors"))) == 1 and not out.exists():
            return process
        process.kill()
        process.wait(PATIENCE)
        for folder in (out, work):
            shutil.rmtree(folder, ignore_errors=True)


def test_a_killed_run_goes_on(models, quantized, tmp_path):
    """Killed for good once its first block is on disk; the next run keeps that block and ends with the same bytes."""
    out, work = tmp_path / "out", tmp_path / ".out.quantizing"
    first = work / "block-00000.safetensors"
    slow = ("--threads", 1, "--calibration-tokens", 10**6)
    whole = quantize(models.tiny_v1_fp16(), tmp_path / "whole", *slow)
    assert whole.returncode == 0, whole.stderr
    process = stopped_after_its_first_block(models, out, slow)
    busy = quantize(models.tiny_v1_fp16(), out, *slow)
    process.kill()
    process.wait(PATIENCE)
    assert busy.returncode == 1 and "another run" in busy.stderr
    assert not out.exists()
    made = first.stat().st_mtime_ns
    # Other settings would not give the same blocks: they start over, and that is tried in a copy.
    shutil.copytree(work, tmp_path / ".other.quantizing")
    other = quantize(models.tiny_v1_fp16(), tmp_path / "other", "--calibration-tokens", 512)
    assert other.returncode == 0 and "An earlier run" not in other.stdout
    kept = tmp_path / "kept"
    kept.hardlink_to(first)
    again = quantize(models.tiny_v1_fp16(), out, *slow)
    assert again.returncode == 0 and "An earlier run finished 1 of 2 blocks" in again.stdout, again.stdout
    assert made == kept.stat().st_mtime_ns
    weights = "model.safetensors"
    assert (out / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()
    assert not work.exists()


def test_progress_is_told(quantized):
    assert re.search(r"Quantised: \[1/2\] -- ETA: \d+ s", quantized[1]), quantized[1]
    assert re.search(r"out: 2 blocks in 4 bits by \d+ tokens, [\d.]+ MB, \d+ s", quantized[1]), quantized[1]


def test_own_calibration_text(models, tmp_path):
    (tmp_path / "text").write_text("The quick brown fox. " * 200)
    out = tmp_path / "out"
    done = quantize(models.tiny_v1_fp16(), out, "--calibration", tmp_path / "text")
    assert done.returncode == 0, done.stderr
    (tmp_path / "short").write_text("Too short.")
    (tmp_path / "binary").write_bytes(b"\xff\xfe" * 1000)
    for name, complaint in (("short", "expected at least 256"), ("binary", "UTF-8"), ("absent", "absent")):
        done = quantize(models.tiny_v1_fp16(), tmp_path / "other", "--calibration", tmp_path / name)
        assert done.returncode == 1 and complaint in done.stderr, done.stderr


def test_wrong_inputs_are_named(models, quantized, tmp_path):
    damaged = copy_of(models.tiny_v1_fp16(), tmp_path)
    weights = (damaged / "model.safetensors").read_bytes()
    (damaged / "model.safetensors").write_bytes(weights[:-1000])
    cases = [
        ((quantized[0], tmp_path / "out"), "is quantised already"),
        ((tmp_path / "nowhere", tmp_path / "out"), "nowhere"),
        ((models.tiny_v1_fp16(), quantized[0]), "is not empty"),
        ((models.tiny_v1_fp16(), tmp_path / "out", "--group-size", 48), "expected one of"),
        ((models.tiny_v1_fp16(), tmp_path / "out", "--group-size", 128), "does not divide the model's"),
        ((damaged, tmp_path / "out"), "model.safetensors"),
    ]
    for (source, out, *flags), complaint in cases:
        arguments = ["quantize", str(source), str(out), *(map(str, flags or ("--group-size", GROUP)))]
        done = subprocess.run([LAUNCHER, *arguments], capture_output=True, text=True, env=clean_env(), timeout=PATIENCE)
        last = done.stderr.strip().splitlines()[-1]
        assert done.returncode == 1 and last.startswith("Error: ") and complaint in last, done.stderr
    assert not (tmp_path / "out").exists()
