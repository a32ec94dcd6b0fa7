"""Too little memory, dropped clients, shared beginnings, deadlines: nothing of it shows in an answer.

Answers are compared to the last bit (ids, logprobs, texts) with those of a server that has memory for all
and shares nothing, asked one request at a time.
"""

import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from server import Server, until
from shards import ENDLESS, SLOW_STEPS, fake_shard

# With room for a few sequences, those that grow push others out: certain with 200 of them.
SCARCE = ("--max-total-tokens", 320, "--max-batch-total-tokens", 640, "--max-batch-prefill-tokens", 48)
SCARCER = ("--max-total-tokens", 192, "--max-batch-total-tokens", 192, "--max-batch-prefill-tokens", 48)
AMPLE = ("--max-total-tokens", 320, "--prefix-caching", "off")
N_REQUESTS = 200


def some_requests(n, longest, seed):
    """Requests of random lengths; some begin alike, some sample, some penalise what they said before."""
    rng = random.Random(seed)
    text = lambda k: "".join(rng.choices("abcdefgh ,.", k=k))
    beginnings = [text(k) for k in (20, 64, 100)]
    made = []
    for _ in range(n):
        parameters = {"max_new_tokens": rng.randint(1, longest), "details": True}
        if rng.random() < 0.5:
            parameters |= {"do_sample": True, "temperature": 0.9, "top_p": 0.95, "seed": rng.randrange(2**32)}
        if rng.random() < 0.3:
            parameters |= {"repetition_penalty": 1.2, "top_n_tokens": 2}
        inputs = rng.choice([*beginnings, ""]) + text(rng.randint(1, 50))
        made.append({"inputs": inputs, "parameters": parameters})
    return made


def answer(server, request):
    """(tokens with everything about them, whole text, reason) of a stream."""
    events = list(server.stream("/generate_stream", request))
    last = events[-1]
    return [(e["token"], e["top_tokens"] if "top_tokens" in e else None) for e in events], last["generated_text"], \
        last["details"]["finish_reason"]  # fmt: skip


def drop(server, request, n_events):
    """Reads some events of a stream and closes the connection."""
    events = server.stream("/generate_stream", request)
    for _, _ in zip(range(n_events), events):
        pass
    events.close()


@pytest.mark.parametrize(
    "model, n_kinds, longest, scarce", [("tiny_v1_awq", 200, 160, SCARCE), ("smollm2_awq", 24, 48, SCARCER)]
)
def test_scarce_memory_and_dropped_clients_change_no_answer(models, model, n_kinds, longest, scarce):
    """200 requests at once; the larger model has fewer kinds of them, as each is also asked alone."""
    folder = getattr(models, model)()
    kinds = some_requests(n_kinds, longest, seed=4)
    with Server("--model-id", folder, *AMPLE) as server:
        alone = [answer(server, request) for request in kinds]
        assert server.metric("tgi_preemptions") == 0
        assert server.metric("tgi_prompt_tokens_cached") == 0

    rng = random.Random(5)
    wanted = [i % n_kinds for i in range(N_REQUESTS)]
    rng.shuffle(wanted)
    dropped = {i: rng.randint(0, 20) for i in range(N_REQUESTS) if rng.random() < 0.25}
    with Server("--model-id", folder, *scarce) as server:

        def ask(i):
            request = kinds[wanted[i]]
            return drop(server, request, dropped[i]) if i in dropped else answer(server, request)

        with ThreadPoolExecutor(100) as pool:
            together = list(pool.map(ask, range(N_REQUESTS)))
        finished = [i for i in range(N_REQUESTS) if i not in dropped]
        for i in finished:
            assert together[i] == alone[wanted[i]], kinds[wanted[i]]
        figures = {
            name: server.metric("tgi_" + name)
            for name in ("preemptions", "replayed_tokens", "prompt_tokens_cached", "prompt_tokens_computed")
        }
        print(f"{len(finished)} finished answers equal their solo answers, {len(dropped)} streams dropped;", figures)
        assert figures["preemptions"] > 0
        assert figures["replayed_tokens"] > 0
        assert figures["prompt_tokens_cached"] > 0
        # Everybody has left, and so has everything they held.
        until(lambda: server.metric("tgi_batch_current_size") == 0, "the batch is empty")
        assert server.metric("tgi_batch_current_max_tokens") == 0
        assert server.metric("tgi_queue_size") == 0


def turns(server, n_turns):
    """A chat of `n_turns`: for each (prompt tokens, answer's tokens, tokens computed, seconds to the first token)."""
    messages, rows = [{"role": "system", "content": "You are a helpful assistant. " * 8}], []
    for turn in range(n_turns):
        messages.append({"role": "user", "content": f"Question {turn}: what comes after {turn}, and why is it so?"})
        before = server.metric("tgi_prompt_tokens_computed")
        body = {"model": "-", "messages": messages, "max_tokens": 16, "temperature": 0, "stream": True,
                "stream_options": {"include_usage": True}}  # fmt: skip
        started, first, text = time.monotonic(), None, ""
        for event in server.stream("/v1/chat/completions", body):
            if event == "[DONE]":
                break
            first = first or time.monotonic() - started
            text += "".join(choice["delta"].get("content") or "" for choice in event["choices"])
            usage = event.get("usage") or {}
        messages.append({"role": "assistant", "content": text})
        computed = server.metric("tgi_prompt_tokens_computed") - before
        rows.append((usage["prompt_tokens"], usage["completion_tokens"], int(computed), first))
    return messages, rows


def test_a_chat_computes_only_what_is_new(models):
    """From the second turn on the prompt's tokens are computed from where the last turn's blocks end."""
    block = 32
    alone = ("--model-id", models.smollm2_v1_awq(), "--canary-interval", 0)
    with Server(*alone) as server:
        cached_messages, cached = turns(server, 20)
    with Server(*alone, "--prefix-caching", "off") as server:
        messages, plain = turns(server, 20)
    assert cached_messages == messages, "the cache shows in an answer"
    print("turn  prompt  computed  first token, ms: cached  computed anew")
    for turn, (one, other) in enumerate(zip(cached, plain), 1):
        print(f"{turn:4}  {one[0]:6}  {one[2]:8}  {one[3] * 1000:23.0f}  {other[3] * 1000:13.0f}")
    for (prompt, n_answer, _, _), (next_prompt, _, computed, _) in zip(cached, cached[1:]):
        # What was an input of a step is in the cache, up to the last whole block. The answer's end token is
        # not part of the next prompt's text, and its last token was never an input.
        kept = (prompt + n_answer - 2) // block * block
        assert computed <= next_prompt - kept, (prompt, n_answer, next_prompt, computed)
    assert all(row[2] == row[0] for row in plain)


@pytest.fixture(scope="module")
def small(models):
    with Server("--model-id", models.tiny_v1_awq(), "--max-total-tokens", 500, "--canary-interval", 0) as server:
        yield server


def test_tenants_share_nothing(small):
    """A prompt that one tenant sent is no quicker for another: timing tells nothing about who asked what."""
    body = {"inputs": "x" * 200, "parameters": {"max_new_tokens": 1}}

    def computed(**headers):
        before = small.metric("tgi_prompt_tokens_computed")
        assert small.post("/generate", body, headers=headers).status_code == 200
        return small.metric("tgi_prompt_tokens_computed") - before

    keys = [{"authorization": "Bearer a"}, {"authorization": "Bearer b"}, {"authorization": "Bearer a", "x-tenant": "t"}]
    whole = [computed(**key) for key in keys]
    assert whole == [200] * 3
    assert [computed(**key) for key in keys] == [8] * 3


def test_a_deadline_ends_the_request_with_an_error(models, tmp_path):
    body = {"inputs": "abc", "parameters": ENDLESS}
    with Server("--model-id", models.smollm2_awq(), env=fake_shard(tmp_path, *SLOW_STEPS)) as slow:

        def post(milliseconds):
            headers = {"x-request-timeout-ms": str(milliseconds)}
            with slow.post("/generate_stream", body, stream=True, headers=headers) as reply:
                return reply.status_code, [line for line in reply.iter_lines() if line]

        # Before the first token it is a status, after it the stream's last event.
        status, lines = post(40)
        assert status == 504 and b'"error_type":"timeout"' in lines[-1], lines[-1]
        milliseconds, n_timeouts = 1000, 1
        while status != 200:
            status, lines = post(milliseconds)
            milliseconds, n_timeouts = 2 * milliseconds, n_timeouts + 1
        assert len(lines) >= 2 and b'"error_type":"timeout"' in lines[-1], lines[-1]
        until(lambda: slow.metric("tgi_batch_current_size") == 0, "its blocks are free")
        until(lambda: slow.metric('tgi_request_failure{err="timeout"}') == n_timeouts, "each is counted")


def test_overload_says_when_to_come_back(models, tmp_path):
    body = {"inputs": "abc", "parameters": ENDLESS}
    flags = ("--model-id", models.smollm2_awq(), "--max-concurrent-requests", 2)
    with Server(*flags, env=fake_shard(tmp_path, *SLOW_STEPS)) as server:
        streams = [server.post("/generate_stream", body, stream=True) for _ in range(2)]
        refused = server.post("/generate", body)
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        # Another tenant is let in beyond the limit: it has less than its share.
        other = server.post("/generate", {"inputs": "abc", "parameters": {"max_new_tokens": 1}}, headers={"x-tenant": "o"})
        assert other.status_code == 200
        for stream in streams:
            stream.close()
        assert server.get("/health").status_code == 200
