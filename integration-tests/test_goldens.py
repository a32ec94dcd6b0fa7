"""Every golden case through the HTTP API: the ids of the numpy reference, logprobs within 2e-3.

Covers both formats (llama, original Qwen), AWQ groups 32 and 64, c_attn biases, dynamic NTK and
log-n attention, and the tokenizers. Goldens are written by oracle/golden.py and golden_long.py.
"""

import pytest

from conftest import golden, linked
from server import Server

LOGPROB_TOLERANCE = 2e-3
LONG_MAX_TOKENS = 24  # golden_long.py's default


def check_case(server, case):
    """One golden case: the prompt's ids, and each step's token, logprob and five best."""
    encoded = server.post("/tokenize", {"inputs": case["prompt"]}).json()
    assert [t["id"] for t in encoded] == case["prompt_ids"]
    body = server.generate(case["prompt"], max_new_tokens=case["max_tokens"], top_n_tokens=5)
    details = body["details"]
    assert [t["id"] for t in details["tokens"]] == case["ids"]
    assert worst_logprob(case, details) <= LOGPROB_TOLERANCE
    assert body["generated_text"] == case["text"]
    cut = len(case["ids"]) == case["max_tokens"]
    assert details["finish_reason"] == ("length" if cut else "eos_token")


def worst_logprob(case, details):
    """The largest difference over the chosen tokens and those of the five best that both list."""
    worst = 0.0
    for token, expected in zip(details["tokens"], case["logprobs"], strict=True):
        worst = max(worst, abs(token["logprob"] - expected))
    for top, expected in zip(details["top_tokens"], case["top"], strict=True):
        got = {t["id"]: t["logprob"] for t in top}
        for token_id, logprob in expected:
            # Candidates about as likely as the fifth may stand fifth instead of it.
            near_the_cut = logprob - expected[-1][1] < LOGPROB_TOLERANCE
            assert token_id in got or near_the_cut
            worst = max(worst, abs(got.get(token_id, logprob) - logprob))
    return worst


def cases(name):
    return [pytest.param(case, id=case["name"]) for case in golden_cases(name)]


def golden_cases(name):
    """A golden file's cases, each with the token limit that it was made with."""
    data = golden(name)
    limit = data.get("max_tokens", LONG_MAX_TOKENS)
    return [{**case, "max_tokens": limit} for case in data["cases"]]


@pytest.mark.parametrize("case", cases("smollm2-135m-awq-g64"))
def test_smollm2_llama_format(smollm2, case):
    check_case(smollm2, case)


@pytest.mark.parametrize("case", cases("smollm2-135m-v1-awq-g64"))
def test_smollm2_original_qwen_format(qwen_v1, case):
    check_case(qwen_v1, case)


@pytest.mark.parametrize("case", cases("tiny-v1-awq-g32"))
def test_tiny_original_qwen_with_biases(tiny, case):
    check_case(tiny, case)


def check_with_overrides(source, folder, case):
    """The case on a server of `source` with the case's config."""
    linked(source, folder, case["config_overrides"])
    with Server("--model-id", folder, "--device", "cpu") as server:
        check_case(server, case)


@pytest.mark.parametrize("case", cases("smollm2-135m-v1-awq-g64-long"))
def test_long_context_rules(models, tmp_path, case):
    """Dynamic NTK and log-n attention, brought into reach by a small seq_length."""
    check_with_overrides(models.smollm2_v1_awq(), tmp_path / "model", case)


@pytest.mark.parametrize("case", cases("smollm2-135m-awq-g64-scaled"))
def test_rotary_scalings_and_the_sliding_window(models, tmp_path, case):
    check_with_overrides(models.smollm2_awq(), tmp_path / "model", case)


def test_qwen2_in_bfloat16_with_biases(models):
    with Server("--model-id", models.smollm2_qwen2_bf16(), "--device", "cpu") as server:
        for case in golden_cases("smollm2-135m-qwen2-bf16"):
            check_case(server, case)


def test_reference_ops_agree(models):
    """The readable scalar path answers the same: the fast one hides nothing."""
    with Server("--model-id", models.tiny_v1_awq(), "--ops", "reference") as server:
        for case in golden_cases("tiny-v1-awq-g32"):
            check_case(server, case)


def test_chat_templates_render_the_golden_prompts(smollm2, qwen_v1):
    """/v1/chat/completions gives the golden text from the golden messages, so templates agree too."""
    for server, name in ((smollm2, "smollm2-135m-awq-g64"), (qwen_v1, "smollm2-135m-v1-awq-g64")):
        for case in golden(name)["cases"]:
            body = {"messages": case["messages"], "max_tokens": 48, "temperature": 0}
            reply = server.post("/v1/chat/completions", body).json()
            assert reply["choices"][0]["message"]["content"] == case["text"], (name, case["name"])
            assert reply["usage"]["prompt_tokens"] == len(case["prompt_ids"])
