"""Bad requests: the contract's status and text, a JSON body, and nothing else is disturbed.

A stream runs beside all of them; at the end it must have given exactly its solo answer.
"""

import json
import threading

import pytest
import requests

from conftest import golden
from server import PATIENCE, Server
from shards import ENDLESS, SLOW_STEPS, fake_shard

PROMPT = golden("smollm2-135m-v1-awq-g64")["cases"][2]["prompt"]
NEIGHBOUR = {"inputs": PROMPT, "parameters": {"max_new_tokens": 200, "details": True}}


@pytest.fixture(scope="module", autouse=True)
def undisturbed(qwen_v1):
    """A generation that runs again and again while this module's requests fail."""
    expected = qwen_v1.post("/generate", NEIGHBOUR).json()
    stop, answers = threading.Event(), []

    def loop():
        while not stop.is_set():
            answers.append(qwen_v1.post("/generate", NEIGHBOUR).json())

    thread = threading.Thread(target=loop)
    thread.start()
    yield
    stop.set()
    thread.join()
    assert answers and all(a == expected for a in answers)
    assert "panicked" not in qwen_v1.output()


def check(reply, status, text, kind=None):
    assert reply.status_code == status, reply.text
    body = reply.json()
    message = body["error"] if isinstance(body["error"], str) else body["error"]["message"]
    assert text in message
    if kind:
        assert body["error_type"] == kind


@pytest.mark.parametrize("path", ["/", "/generate", "/generate_stream"])
@pytest.mark.parametrize(
    "parameters, text",
    [
        ({"temperature": 0}, "`temperature` must be strictly positive"),
        ({"temperature": -1}, "`temperature` must be strictly positive"),
        ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
        ({"top_k": 0}, "`top_k` must be strictly positive"),
        ({"typical_p": 0}, "`typical_p` must be > 0.0 and < 1.0"),
        ({"repetition_penalty": 0}, "`repetition_penalty` must be strictly positive"),
        ({"frequency_penalty": 3}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
        ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
        ({"stop": ["a"] * 5}, "`stop` supports up to 4 stop sequences. Given: 5"),
        ({"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
        ({"truncate": 0}, "`truncate` must be strictly positive and less than 3696. Given: 0"),
        ({"max_new_tokens": 4096}, "`inputs` tokens + `max_new_tokens` must be <= 4096. Given: "),
    ],
)
def test_parameters(qwen_v1, path, parameters, text):
    reply = qwen_v1.post(path, {"inputs": PROMPT, "parameters": parameters})
    check(reply, 422, "Input validation error: " + text, "validation")


def test_empty_inputs(qwen_v1):
    check(qwen_v1.post("/generate", {"inputs": ""}), 422, "`inputs` cannot be empty", "validation")


def test_prompt_too_long(qwen_v1):
    long = {"inputs": "word " * 4200, "parameters": {"max_new_tokens": 1}}
    check(qwen_v1.post("/generate", long), 422, "must be <= 4096. Given: ", "validation")
    middle = {"inputs": "word " * 3800, "parameters": {"max_new_tokens": 1}}
    check(qwen_v1.post("/generate", middle), 422, "`inputs` must have less than 3696 tokens. Given: ")


def raw(server, path, data, content_type="application/json"):
    headers = {"Content-Type": content_type} if content_type else {}
    return requests.post(server.url + path, data=data, headers=headers, timeout=PATIENCE)


@pytest.mark.parametrize("path", ["/generate", "/v1/chat/completions", "/v1/completions", "/tokenize"])
def test_bodies_that_cannot_be_read(qwen_v1, path):
    for data in (b"", b"{", b"nonsense", b"\xff\xfe", b"[" * 100_000):
        check(raw(qwen_v1, path, data), 400, "JSON")
    for data in (b"{}", b"[]", b"3", b'{"inputs": 3, "messages": 3, "prompt": {}}'):
        check(raw(qwen_v1, path, data), 422, "")
    check(raw(qwen_v1, path, b"{}", content_type=None), 415, "application/json")
    check(raw(qwen_v1, path, b"{}", content_type="text/plain"), 415, "application/json")


def test_a_body_of_3_mb(qwen_v1):
    body = json.dumps({"inputs": "a" * 3_000_000}).encode()
    check(raw(qwen_v1, "/generate", body), 413, "")


def test_wrong_paths_and_methods(qwen_v1):
    assert qwen_v1.get("/nowhere").status_code == 404
    reply = qwen_v1.get("/generate")
    assert reply.status_code == 405 and "POST" in reply.headers["allow"]


@pytest.mark.parametrize("stream", [False, True])
def test_chat(qwen_v1, stream):
    def post(**fields):
        body = {"messages": [{"role": "user", "content": "Hi"}], "stream": stream, **fields}
        return qwen_v1.post("/v1/chat/completions", body)

    check(post(max_tokens=100_000), 422, "must be <= 4096")
    check(post(temperature=-1), 422, "`temperature`")
    check(post(top_logprobs=21, logprobs=True), 422, "`top_logprobs`")
    check(post(messages="Hi"), 422, "")
    check(post(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]), 422, "")
    check(post(tools=[{"type": "function", "function": {"name": "f"}}], tool_choice="g"), 422, "Tool with name g not found")


def test_completions(qwen_v1):
    check(qwen_v1.post("/v1/completions", {"prompt": []}), 422, "Empty array detected.")
    check(qwen_v1.post("/v1/completions", {"prompt": "a", "suffix": "b"}), 422, "Suffix is not supported")
    check(qwen_v1.post("/v1/completions", {"prompt": ["a"] * 5}), 422, "maximum allowed batch size of 4")


def test_limits_of_concurrency(models, tmp_path):
    flags = ("--model-id", models.smollm2_awq(), "--max-concurrent-requests", 1)
    with Server(*flags, env=fake_shard(tmp_path, *SLOW_STEPS)) as server:
        events = server.stream("/generate_stream", {"inputs": PROMPT, "parameters": ENDLESS})
        next(events)
        reply = server.post("/generate", {"inputs": "a"})
        check(reply, 429, "Model is overloaded", "overloaded")
        assert int(reply.headers["retry-after"]) >= 1
        events.close()


def test_api_key(models):
    with Server("--model-id", models.tiny_v1_awq(), "--api-key", "secret-key") as server:
        body = {"inputs": "a", "parameters": {"max_new_tokens": 1}}
        assert server.post("/generate", body).status_code == 401
        for key, status in (("secret-key", 200), ("SECRET-KEY", 401), ("secret-key2", 401)):
            headers = {"Authorization": f"Bearer {key}"}
            assert server.post("/generate", body, headers=headers).status_code == status
        assert server.get("/health").status_code == 200
        assert "secret-key" not in server.output()
