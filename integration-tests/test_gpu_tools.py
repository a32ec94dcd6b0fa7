"""The programs that run on a GPU machine, here against the CPU: what they print there is worth what they are worth here."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import GOLDEN, copy_of
from server import BIN, PATIENCE, clean_env

GPU = Path(__file__).parent / "gpu"
EXAMPLES = BIN / "examples"


@pytest.fixture(scope="module")
def roomy(models, tmp_path_factory):
    """The tiny checkpoint with as many positions as the scenarios need."""
    folder = copy_of(models.tiny_v1_awq(), tmp_path_factory.mktemp("roomy"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 8192}))
    return folder


def run(*command, code=0, env=None):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=4 * PATIENCE, env=clean_env(env))
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def test_the_bench_measures_a_shard(roomy, tmp_path):
    report = tmp_path / "engine.json"
    table = run(
        EXAMPLES / "bench_shard", "--model-path", roomy, "--only", "decode_tok_s_b1_128,decode_step_ms_b8,ttft_ms_512,load_c8",
        "--repeats", 2, "--max-batch-total-tokens", 16384, "--commit", "abc", "--json", report, "--", "--device", "cpu",
    )  # fmt: skip
    report = json.loads(report.read_text())
    assert report["commit"] == "abc" and report["settings"]["architecture"] == "QWenLMHeadModel"
    figures = report["figures"]
    for name in (
        "decode_tok_s_b1_128_512", "decode_step_ms_b8", "ttft_ms_512", "load_out_tok_s_c8", "load_tpot_ms_c8",
        "weights_gib", "plan_gib", "ready_s", "used_gib_ready",
    ):  # fmt: skip
        assert figures[name] >= 0 and name in table
    assert figures["load_total_tok_s_c8"] == pytest.approx(5 * figures["load_out_tok_s_c8"], rel=1e-3)
    assert figures["decode_tok_s_b1_128_512"] > 0


def test_a_shard_that_cannot_hold_a_scenario_leaves_it_out(models, tmp_path):
    report = tmp_path / "engine.json"
    run(EXAMPLES / "bench_shard", "--model-path", models.tiny_v1_awq(), "--max-batch-total-tokens", 1024,
        "--only", "decode,ttft_ms_512", "--json", report, "--", "--device", "cpu")  # fmt: skip
    assert "ready_s" in json.loads(report.read_text())["figures"]
    assert not [name for name in json.loads(report.read_text())["figures"] if name.startswith(("decode", "ttft"))]


def test_two_shards_are_compared(models, tmp_path):
    """The fast kernels against the plain ones, on random weights, with biases, dynamic NTK and log-n attention."""
    report = tmp_path / "compare.json"
    shown = run(
        EXAMPLES / "compare_shards", "--model-path", models.tiny_v1_awq(), "--golden", GOLDEN / "tiny-v1-awq-g32.json",
        "--second", "--device cpu --ops reference", "--new-tokens", 8, "--kv-tokens", 16384, "--json", report,
    )  # fmt: skip
    report = json.loads(report.read_text())
    assert report["holds"] and len(report["parts"]) == 9 and shown.count(": holds") == 9
    greedy = next(part for part in report["parts"] if part["part"] == "greedy")
    assert (greedy["sequences"], greedy["tokens"]) == (12, 96)
    # Two implementations: they agree closely, and not because one was compared with itself.
    assert 0 < greedy["inexact_logprobs"] and greedy["worst_logprob_difference"] < 1e-3


def test_windows_are_compared(models, tmp_path):
    """Layers with and without a sliding window in one model, and prompts that outgrow it."""
    folder, report = tmp_path / "windowed", tmp_path / "compare.json"
    run(sys.executable, GPU / "windowed.py", models.smollm2_awq(), folder)
    run(
        EXAMPLES / "compare_shards", "--model-path", folder, "--golden", GOLDEN / "smollm2-135m-awq-g64.json",
        "--second", "--device cpu --threads 1", "--new-tokens", 4, "--kv-tokens", 16384, "--json", report,
    )  # fmt: skip
    assert json.loads(report.read_text())["holds"]
    config = json.loads((folder / "config.json").read_text())
    assert config["sliding_window"] == 40 and set(config["layer_types"]) == {"full_attention", "sliding_attention"}


def test_the_stack_is_measured(roomy, tmp_path):
    engine, report = tmp_path / "engine.json", tmp_path / "stack.json"
    engine.write_text(json.dumps({"figures": {"decode_tok_s_b1_16_24": 1e-6}}))
    run(
        sys.executable, GPU / "stack_bench.py", "--model", roomy, "--bin", BIN, "--engine", engine, "--json", report,
        "--prompt", 16, "--new", 24, "--repeats", 4, "--concurrency", 3, "--requests", 5, "--", "--device", "cpu",
    )  # fmt: skip
    figures = json.loads(report.read_text())["figures"]
    assert figures["stack_share_of_engine"] > 1
    assert figures["stack_load_out_tok_s_c3"] > 0 and figures["stack_ready_s"] > 0


def test_a_slow_stack_fails(roomy, tmp_path):
    engine = tmp_path / "engine.json"
    engine.write_text(json.dumps({"figures": {"decode_tok_s_b1_16_24": 1e9}}))
    shown = run(
        sys.executable, GPU / "stack_bench.py", "--model", roomy, "--bin", BIN, "--engine", engine,
        "--prompt", 16, "--new", 24, "--repeats", 4, "--concurrency", 1, "--requests", 1, "--", "--device", "cpu", code=1,
    )  # fmt: skip
    assert "of the engine's rate" in shown


def test_a_server_is_checked(models):
    shown = run(
        sys.executable, GPU / "serve_check.py", "--model", models.smollm2_awq(), "--bin", BIN, "--rounds", 1, "--new-tokens", 60,
        "--", "--device", "cpu", "--max-total-tokens", 1024,
    )  # fmt: skip
    assert "8 with the text of a quiet server" in shown and "tokens have log-probabilities" in shown


def test_the_14b_folder_is_what_the_router_expects(tmp_path):
    run(sys.executable, GPU / "qwen14b.py", tmp_path)
    lines = (tmp_path / "qwen.tiktoken").read_bytes().splitlines()
    assert len(lines) == len({line.split()[0] for line in lines}) == 151_643
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["hidden_size"], config["vocab_size"], config["intermediate_size"]) == (5120, 152_064, 2 * 13_696)


def test_reports_are_joined(tmp_path):
    spec = importlib.util.spec_from_file_location("join_results", GPU / "join_results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert [module.short_name(name) for name in ("NVIDIA H100 80GB HBM3", "NVIDIA GeForce RTX 4090", "CPU")] == ["H100", "4090", "CPU"]
    for part, value in (("kernels", 1), ("stack", 2)):
        report = {"device": "NVIDIA H100 80GB HBM3", "commit": "x", "settings": {"n": value}, "figures": {part: value}}
        (tmp_path / f"{part}.json").write_text(json.dumps(report))
    run(sys.executable, GPU / "join_results.py", tmp_path, "--commit", "abc")
    (joined,) = tmp_path.glob("20*-H100.json")
    joined = json.loads(joined.read_text())
    assert joined["figures"] == {"kernels": 1, "stack": 2} and joined["commit"] == "abc"
    assert joined["settings"] == {"kernels": {"n": 1}, "stack": {"n": 2}}


def test_checkpoints_travel_in_parts(tmp_path):
    checkpoint = tmp_path / "a-model"
    checkpoint.mkdir()
    (checkpoint / "weights").write_bytes(bytes(range(256)) * 100)
    run(GPU / "models.sh", "pack", checkpoint, tmp_path / "parts")
    run(GPU / "models.sh", "keep", tmp_path / "parts", tmp_path / "store")
    assert (tmp_path / "store" / "a-model" / "weights").read_bytes() == (checkpoint / "weights").read_bytes()


def test_plans_are_compared_with_what_is_taken(roomy, tmp_path):
    report = tmp_path / "plan.json"
    table = run(
        sys.executable, GPU / "plan_check.py", "--bin", BIN, "--model", roomy, "--json", report, "--", "--device", "cpu",
        env={"MAX_BATCH_TOTAL_TOKENS": "16384"},  # not as many as happen to fit
    )  # fmt: skip
    assert "WRONG" not in table and table.count(" ok\n") == 12
    figures = json.loads(report.read_text())["figures"]
    assert figures["plan_card_weights_share"] == figures["plan_few_kv_share"] == 1.0


def test_a_made_up_checkpoint_starts_and_its_phases_are_told(roomy, tmp_path):
    made = tmp_path / "made"
    run(EXAMPLES / "make_checkpoint", "--model-path", roomy, "--out", made)
    original = roomy / "model.safetensors"
    assert abs((made / original.name).stat().st_size - original.stat().st_size) < 4096  # headers differ
    again = tmp_path / "again"
    run(EXAMPLES / "make_checkpoint", "--model-path", roomy, "--out", again)
    assert (made / original.name).read_bytes() == (again / original.name).read_bytes()
    report = tmp_path / "start.json"
    table = run(
        sys.executable, GPU / "start_check.py", "--bin", BIN, "--model", made, "--most", 600, "--json", report,
        "--", "--device", "cpu",
    )  # fmt: skip
    figures = json.loads(report.read_text())["figures"]
    assert 0 < figures["start_repack_s"] < figures["start_ready_s"] < figures["start_s"] + 1
    assert "repack" in table and "ready after" in table
    run(
        sys.executable, GPU / "start_check.py", "--bin", BIN, "--model", made, "--most", 0.0001, "--", "--device", "cpu",
        code=1,
    )  # fmt: skip
