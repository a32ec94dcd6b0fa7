"""Other quantised layouts through the HTTP API: AutoAWQ's "gemv" and "gemv_fast", AutoGPTQ's 4 and 8 bits.

Ids and logprobs are those of the numpy reference, which reads each layout by code of its own (oracle/layouts.py).
Goldens are written by oracle/golden.py --max-tokens 16.
"""

import json
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from conftest import copy_of, linked
from models import GPTQ_KINDS, ORACLE
from server import Server, run_launcher
from test_goldens import check_case, golden_cases

sys.path.insert(0, str(ORACLE))
from checkpoint import Checkpoint  # noqa: E402
from oracle import Model  # noqa: E402

PROMPT = "A lighthouse keeper"


@pytest.mark.parametrize("version", ["gemv", "gemv_fast"])
def test_awq_layouts(models, version):
    """The same nibbles elsewhere: every golden of the "gemm" folder."""
    with Server("--model-id", models.smollm2_awq_layout(version), "--quantize", "awq") as server:
        for case in golden_cases("smollm2-135m-awq-g64"):
            check_case(server, case)


@pytest.mark.parametrize("kind", GPTQ_KINDS)
def test_gptq(models, kind):
    with Server("--model-id", models.smollm2_gptq(kind), "--quantize", "gptq") as server:
        for case in golden_cases(f"smollm2-135m-gptq-{kind}-g64"):
            check_case(server, case)


@pytest.mark.parametrize("flags", [("--bits", 4, "--desc-act"), ("--bits", 8, "--desc-act", "--asym")])
@pytest.mark.parametrize("ops", ["auto", "reference"])
def test_original_qwen_in_gptq(models, flags, ops):
    """Fused c_attn with biases; the readable arithmetic answers the same."""
    folder = models.tiny_v1_gptq(*flags)
    with Server("--model-id", folder, "--ops", ops) as server:
        check_ids(server, folder)


def check_ids(server, folder):
    prompt = [token["id"] for token in server.post("/tokenize", {"inputs": PROMPT}).json()]
    expected = [step["id"] for step in Model(folder).generate(prompt, 12, set())]
    tokens = server.generate(PROMPT, max_new_tokens=12)["details"]["tokens"]
    assert [token["id"] for token in tokens] == expected


MISTRAL = {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 8}


@pytest.mark.parametrize(
    ("make", "overrides"),
    [
        pytest.param(lambda models: models.smollm2_fp16(), {}, id="llama"),
        pytest.param(lambda models: models.smollm2_fp16(), MISTRAL, id="mistral"),
        pytest.param(lambda models: models.smollm2_v1_fp16(), {}, id="original qwen"),
        pytest.param(lambda models: models.tiny_v1_fp16(), {}, id="original qwen with biases"),
    ],
)
def test_plain_float16(models, tmp_path, make, overrides):
    """Nothing is quantised; Qwen2 and bfloat16 have goldens of their own."""
    folder = linked(make(models), tmp_path / "model", overrides)
    with Server("--model-id", folder) as server:
        check_ids(server, folder)


def changed(folder, parent, change, config=None):
    """A copy of a folder whose tensors went through `change` and whose quantisation has `config` on top."""
    out = copy_of(folder, parent)
    tensors = load_file(out / "model.safetensors")
    change(tensors)
    save_file({name: np.ascontiguousarray(t) for name, t in tensors.items()}, out / "model.safetensors")
    described = json.loads((out / "config.json").read_text())
    described["quantization_config"] |= config or {}
    (out / "config.json").write_text(json.dumps(described))
    return out


@pytest.mark.parametrize("make", [lambda models: models.tiny_v1_awq(), lambda models: models.tiny_v1_gptq("--bits", 4)])
def test_modules_to_not_convert(models, tmp_path, make):
    """One layer stays float16, beside a quantised one that shares its input."""
    layer = "transformer.h.1.mlp.w1"

    def with_plain_layer(tensors):
        for part in ("qweight", "qzeros", "scales", "g_idx"):
            tensors.pop(f"{layer}.{part}", None)
        tensors[f"{layer}.weight"] = Checkpoint(models.tiny_v1_fp16()).tensor(f"{layer}.weight")

    folder = changed(make(models), tmp_path, with_plain_layer, {"modules_to_not_convert": ["h.1.mlp.w1"]})
    with Server("--model-id", folder) as server:
        check_ids(server, folder)


def test_wrong_layers_are_named(models, tmp_path):
    g_idx = "transformer.h.0.attn.c_attn.g_idx"

    def missing(tensors):
        del tensors[g_idx]

    def outside(tensors):
        tensors[g_idx] = tensors[g_idx] + 1

    def uneven(tensors):
        tensors[g_idx] = np.zeros_like(tensors[g_idx])

    def not_finite(tensors):
        tensors["transformer.h.0.attn.c_attn.scales"][0, 0] = np.nan

    folder = models.tiny_v1_gptq("--bits", 4, "--desc-act")
    cases = [
        (missing, {}, [g_idx, "not among"]),
        (outside, {}, [g_idx, "expected groups below 2, got 2"]),
        (uneven, {}, [g_idx, "expected 32 input features in each group, got 64 in group 0"]),
        (not_finite, {}, ["c_attn.scales", "finite"]),
        (lambda _: None, {"desc_act": False}, [g_idx, '"desc_act": false']),
        (lambda _: None, {"bits": 8}, ["c_attn.qweight", "GPTQ, 8 bits"]),
        (lambda _: None, {"bits": 3}, ["`quantization_config.bits`: expected one of [4, 8], got 3"]),
        (lambda _: None, {"group_size": 64}, ["GPTQ, 4 bits, in groups of 64; correct it"]),
        (lambda _: None, {"checkpoint_format": "marlin"}, ["checkpoint_format", "marlin"]),
    ]
    for i, (change, config, words) in enumerate(cases):
        (tmp_path / str(i)).mkdir()
        code, output = run_launcher("--model-id", changed(folder, tmp_path / str(i), change, config), "--port", 0)
        last = output.strip().splitlines()[-1]
        assert code == 1 and last.startswith("Error: ") and all(word in last for word in words), output


def test_quantize_must_agree(models):
    for folder, asked, found in (
        (models.tiny_v1_gptq("--bits", 4), "awq", "gptq"),
        (models.tiny_v1_awq(), "gptq", "awq"),
    ):
        code, output = run_launcher("--model-id", folder, "--quantize", asked, "--port", 0)
        assert code == 1 and f"`quantize` is {asked} but the checkpoint is quantised with {found}" in output, output
