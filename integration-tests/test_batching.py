"""Together = alone: whatever the company, a request gives the answer that it gives alone."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import golden
from server import Server, until
from shards import ENDLESS, SLOW_STEPS, fake_shard

PROMPTS = [c["prompt"] for name in ("smollm2-135m-v1-awq-g64",) for c in golden(name)["cases"]]
# 16 requests: the golden prompts, one of them four times over with other sampling.
SAMPLED = {"do_sample": True, "temperature": 0.9, "top_p": 0.9, "top_k": 50}
REQUESTS = [
    {"inputs": prompt, "parameters": {"max_new_tokens": 16 + i, "details": True}}
    for i, prompt in enumerate(PROMPTS)
] + [
    {"inputs": PROMPTS[2], "parameters": {"max_new_tokens": 30, "details": True, "seed": seed, **SAMPLED}}
    for seed in (1, 2, 3)
] + [
    {
        "inputs": PROMPTS[3],
        "parameters": {"max_new_tokens": 30, "details": True, "repetition_penalty": 1.3, "top_n_tokens": 3},
    }
]  # fmt: skip


def answer(server, request):
    reply = server.post("/generate", request)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_sixteen_at_once_equal_each_alone(qwen_v1):
    assert len(REQUESTS) == 16
    alone = [answer(qwen_v1, r) for r in REQUESTS]
    with ThreadPoolExecutor(len(REQUESTS)) as pool:
        together = list(pool.map(lambda r: answer(qwen_v1, r), REQUESTS))
    # Bodies hold ids, texts and logprobs: equal to the last bit.
    for request, one, other in zip(REQUESTS, alone, together, strict=True):
        assert one == other, request


def test_a_long_prompt_is_chunked_without_a_trace(models, qwen_v1):
    """A prompt beyond the step's budget is prefilled in chunks; the answer stays the same."""
    prompt = PROMPTS[4] + "word " * 300
    body = {"inputs": prompt, "parameters": {"max_new_tokens": 8, "details": True}}
    with Server("--model-id", models.smollm2_v1_awq(), "--max-batch-prefill-tokens", 64) as chunked:
        assert answer(chunked, body) == answer(qwen_v1, body)


def test_a_dropped_client_frees_its_place(models, tmp_path):
    """Closing a stream cancels its generation."""
    body = {"inputs": PROMPTS[2], "parameters": ENDLESS}
    with Server("--model-id", models.smollm2_awq(), env=fake_shard(tmp_path, *SLOW_STEPS)) as server:
        events = server.stream("/generate_stream", body)
        for _ in range(2):
            next(events)
        assert server.metric("tgi_batch_current_size") == 1
        events.close()
        until(lambda: server.metric("tgi_batch_current_size") == 0, "the cancelled request left the batch")


@pytest.mark.parametrize("stop", ["ranc", "Paris, ", "is"])
def test_stop_strings_are_found_anywhere(qwen_v1, stop):
    case = golden("smollm2-135m-v1-awq-g64")["cases"][0]
    body = qwen_v1.generate(case["prompt"], max_new_tokens=48, stop=[stop])
    head, found, _ = case["text"].partition(stop)
    assert found
    assert body["generated_text"] == head + stop
    assert body["details"]["finish_reason"] == "stop_sequence"
