"""Starts that must fail: one clear line, exit code 1, soon, and no process left.

Each case damages a copy of the tiny checkpoint, or gives contradicting arguments.
"""

import contextlib
import json
import shutil
import socket
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from server import run_launcher


@pytest.fixture
def folder(models, tmp_path):
    return shutil.copytree(models.tiny_v1_awq(), tmp_path / "model")


def fails(*args, words):
    """The launcher ends with code 1 and its last line is an `Error:` that has all ``words``."""
    code, output = run_launcher("--port", 0, *args)
    last = output.strip().splitlines()[-1]
    assert code == 1, output
    assert last.startswith("Error: "), output
    errors = "\n".join(line for line in output.splitlines() if "rror" in line)
    for word in words:
        assert word in errors, f"{word!r} not in:\n{output}"
    assert "panicked" not in output
    assert not [c for c in command_lines() if "text-generation" in c and f"\0{args[1]}\0" in c + "\0"]


def command_lines():
    """Of every process on the machine: an orphan is nobody's child."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield path.read_bytes().decode(errors="replace")


def edit_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.update(changes)
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def edit_tensors(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    path.unlink()
    save_file(tensors, path, metadata={"format": "pt"})


def test_missing_folder(tmp_path):
    fails("--model-id", tmp_path / "nowhere", words=["nowhere"])


def test_folder_without_config(tmp_path):
    fails("--model-id", tmp_path, words=["config.json"])


def test_config_that_is_no_json(folder):
    (folder / "config.json").write_text("{")
    fails("--model-id", folder, words=["config.json"])


def test_missing_safetensors(folder):
    (folder / "model.safetensors").unlink()
    fails("--model-id", folder, words=["safetensors"])


def test_pickle_is_never_opened(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    fails("--model-id", folder, words=["safetensors", "pickle"])


def test_truncated_safetensors(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    fails("--model-id", folder, words=["model.safetensors"])


@pytest.mark.parametrize("length", [0, 2**40, 2**63])
def test_header_length_that_lies(folder, length):
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    fails("--model-id", folder, words=["model.safetensors"])


def test_header_with_offsets_past_the_end(folder):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    name = next(n for n in header if n.endswith("ln_f.weight"))
    header[name]["data_offsets"] = [0, 2**50]
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])
    fails("--model-id", folder, words=["model.safetensors"])


def test_unsupported_architecture(folder):
    edit_config(folder, architectures=["GPTNeoXForCausalLM"], model_type="gpt_neox")
    fails("--model-id", folder, words=["GPTNeoXForCausalLM", "QWenLMHeadModel", "LlamaForCausalLM"])


def test_awq_tensor_of_the_wrong_shape(folder):
    def cut(tensors):
        name = "transformer.h.0.mlp.w1.qweight"
        tensors[name] = np.ascontiguousarray(tensors[name][:, :-1])

    edit_tensors(folder, cut)
    fails("--model-id", folder, words=["transformer.h.0.mlp.w1.qweight", "[64, 12]", "[64, 11]"])


@pytest.mark.parametrize("group", [7, 48])
def test_unsupported_group_size(folder, group):
    (folder / "quant_config.json").unlink()
    edit_config(folder, quantization_config={"quant_method": "awq", "bits": 4, "group_size": group,
                                             "zero_point": True, "version": "gemm"})  # fmt: skip
    fails("--model-id", folder, words=["group", str(group), "128"])


def test_group_size_that_the_tensors_do_not_have(folder):
    (folder / "quant_config.json").unlink()
    edit_config(folder, quantization_config={"quant_method": "awq", "bits": 4, "group_size": 64,
                                             "zero_point": True, "version": "gemm"})  # fmt: skip
    fails("--model-id", folder, words=["transformer.h.0."])


def test_missing_tensor(folder):
    edit_tensors(folder, lambda tensors: tensors.pop("transformer.h.1.ln_2.weight"))
    fails("--model-id", folder, words=["transformer.h.1.ln_2.weight"])


def test_scales_that_are_not_finite(folder):
    def poison(tensors):
        tensors["transformer.h.1.attn.c_proj.scales"][0, 0] = np.nan

    edit_tensors(folder, poison)
    fails("--model-id", folder, words=["transformer.h.1.attn.c_proj"])


def test_gptq_asked_of_an_awq_model(folder):
    fails("--model-id", folder, "--quantize", "gptq", words=["gptq", "awq"])


def test_awq_asked_of_a_plain_model(models):
    fails("--model-id", models.tiny_v1_fp16(), "--quantize", "awq", words=["awq"])


def test_no_tokenizer(folder):
    (folder / "qwen.tiktoken").unlink()
    fails("--model-id", folder, words=["qwen.tiktoken", "tokenizer.json"])


@pytest.mark.parametrize(
    "args, text",
    [
        (("--max-input-length", 4096, "--max-total-tokens", 4096), "must be < `max_total_tokens`"),
        (("--max-input-length", 5, "--max-input-tokens", 5), "Both `max_input_tokens`"),
        (("--validation-workers", 0), "`validation_workers` must be > 0"),
        (("--max-total-tokens", 400, "--max-batch-total-tokens", 300),
         "`max_total_tokens` must be <= `max_batch_total_tokens`. Given: 400 and 300"),
        (("--max-batch-size", 0), "`max_batch_size` must be > 0"),
    ],
)  # fmt: skip
def test_contradicting_limits(models, args, text):
    fails("--model-id", models.tiny_v1_awq(), *args, words=["ArgumentValidation", text])


def test_limits_beyond_the_models_positions(models):
    fails("--model-id", models.tiny_v1_awq(), "--max-total-tokens", 100_000, words=["100000", "512"])


def test_port_in_use(models):
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, output = run_launcher("--port", port, "--model-id", models.tiny_v1_awq())
    assert code == 1
    assert str(port) in output.strip().splitlines()[-1] and "in use" in output.strip().splitlines()[-1]


def test_unknown_flag():
    code, output = run_launcher("--no-such-flag")
    assert code == 2 and "--no-such-flag" in output
