"""The clients that people use, unchanged, against the original Qwen's format and the card's flags.

huggingface_hub's InferenceClient, the openai package, the legacy text-generation package (in an
environment of its own), and curl.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import InferenceClient
from openai import OpenAI

from conftest import golden
from server import PATIENCE

LEGACY_PYTHON = os.environ.get("QUERN_LEGACY_PYTHON", str(Path(sys.prefix).parent / ".venv-legacy/bin/python"))
CASE = golden("smollm2-135m-v1-awq-g64")["cases"][0]


@pytest.fixture(scope="module")
def hub(qwen_v1):
    return InferenceClient(qwen_v1.url)


@pytest.fixture(scope="module")
def openai(qwen_v1):
    return OpenAI(base_url=qwen_v1.url + "/v1", api_key="-", max_retries=0)


def test_text_generation(hub):
    text = hub.text_generation(CASE["prompt"], max_new_tokens=48, return_full_text=False)
    assert text == CASE["text"]


def test_text_generation_details(hub):
    reply = hub.text_generation(CASE["prompt"], max_new_tokens=48, details=True, return_full_text=False)
    assert reply.generated_text == CASE["text"]
    assert reply.details.finish_reason == "eos_token"
    assert reply.details.generated_tokens == len(CASE["ids"])
    assert [t.id for t in reply.details.tokens] == CASE["ids"]
    assert reply.details.tokens[-1].special and not reply.details.tokens[0].special


def test_text_generation_stream(hub):
    """The plain stream yields every token's text, the end token's included (it is not told apart)."""
    pieces = list(hub.text_generation(CASE["prompt"], max_new_tokens=48, stream=True))
    assert "".join(pieces) == CASE["text"] + "<|im_end|>"
    assert len(pieces) == len(CASE["ids"])


def test_text_generation_stream_details(hub):
    call = {"max_new_tokens": 48, "return_full_text": False}
    events = list(hub.text_generation(CASE["prompt"], stream=True, details=True, **call))
    assert [e.token.id for e in events] == CASE["ids"]
    assert [e.index for e in events] == list(range(1, len(events) + 1))
    assert events[-1].generated_text == CASE["text"]
    assert events[-1].details.finish_reason == "eos_token"
    assert events[-1].details.input_length == len(CASE["prompt_ids"])
    assert all(e.generated_text is None and e.details is None for e in events[:-1])


def test_the_cards_call(hub):
    """The sampling of the model card, twice with a seed: the same text."""
    call = {
        "max_new_tokens": 128,
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 0.95,
        "top_k": 40,
        "repetition_penalty": 1.1,
        "return_full_text": False,
    }
    first, second = (hub.text_generation(CASE["prompt"], seed=7, **call) for _ in range(2))
    assert first == second and first
    assert len({hub.text_generation(CASE["prompt"], seed=s, **call) for s in range(4)}) > 1


def test_hub_chat_completion(hub):
    reply = hub.chat_completion(CASE["messages"], max_tokens=48, temperature=0)
    assert reply.choices[0].message.content == CASE["text"]
    assert reply.choices[0].finish_reason == "stop"
    pieces = hub.chat_completion(CASE["messages"], max_tokens=48, temperature=0, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in pieces) == CASE["text"]


def test_hub_health_and_info(qwen_v1):
    info = qwen_v1.get("/info").json()
    assert info["max_input_tokens"] == info["max_input_length"] == 3696
    assert info["max_total_tokens"] == 4096
    assert info["router"] == "text-generation-router"


def test_openai_chat(openai):
    reply = openai.chat.completions.create(
        model="any", messages=CASE["messages"], max_tokens=48, temperature=0, logprobs=True, top_logprobs=2
    )
    choice = reply.choices[0]
    assert (choice.message.role, choice.message.content) == ("assistant", CASE["text"])
    assert choice.finish_reason == "stop"
    assert reply.usage.prompt_tokens == len(CASE["prompt_ids"])
    assert reply.usage.completion_tokens == len(CASE["ids"])
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    first = choice.logprobs.content[0]
    assert abs(first.logprob - CASE["logprobs"][0]) < 2e-3
    assert len(first.top_logprobs) == 2 and bytes(first.bytes).decode() == first.token


def test_openai_chat_stream(openai):
    chunks = list(
        openai.chat.completions.create(
            model="any",
            messages=CASE["messages"],
            max_tokens=48,
            temperature=0,
            top_p=1,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == CASE["text"]
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == len(CASE["ids"])
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert len({c.id for c in chunks}) == 1 and chunks[0].id.startswith("chatcmpl-")


def test_openai_completions(openai):
    reply = openai.completions.create(model="any", prompt=CASE["prompt"], max_tokens=48, temperature=0)
    assert reply.choices[0].text == CASE["text"]
    assert reply.choices[0].finish_reason == "stop"
    both = openai.completions.create(model="any", prompt=[CASE["prompt"]] * 2, max_tokens=4, temperature=0)
    assert [c.index for c in both.choices] == [0, 1]
    assert both.choices[0].text == both.choices[1].text
    assert both.choices[0].finish_reason == "length"


def test_openai_completions_stream(openai):
    chunks = list(
        openai.completions.create(model="any", prompt=CASE["prompt"], max_tokens=48, temperature=0, stream=True)
    )
    assert "".join(c.choices[0].text for c in chunks) == CASE["text"]
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_openai_stop_string(openai):
    """A stop string inside a token's text ends the answer just before it."""
    reply = openai.chat.completions.create(
        model="any", messages=CASE["messages"], max_tokens=48, temperature=0, stop="ranc"
    )
    assert reply.choices[0].message.content == CASE["text"].split("ranc")[0]
    assert reply.choices[0].finish_reason == "stop"


def test_openai_error_object(openai):
    import openai as package

    with pytest.raises(package.UnprocessableEntityError) as caught:
        openai.chat.completions.create(model="any", messages=CASE["messages"], max_tokens=5000)
    assert caught.value.body["message"].startswith("Input validation error: `inputs` tokens + `max_new_tokens`")


def test_legacy_text_generation_package(qwen_v1):
    script = """
import json, sys
from text_generation import Client
client = Client(sys.argv[1], timeout=600)
case = json.load(sys.stdin)
reply = client.generate(case["prompt"], max_new_tokens=48)
stream = list(client.generate_stream(case["prompt"], max_new_tokens=48))
print(json.dumps({
    "text": reply.generated_text,
    "finish": reply.details.finish_reason.value,
    "ids": [t.id for t in reply.details.tokens],
    "stream_ids": [e.token.id for e in stream],
    "stream_text": stream[-1].generated_text,
}))
"""
    reply = in_legacy(script, qwen_v1.url)
    assert reply["ids"] == reply["stream_ids"] == CASE["ids"]
    assert reply["finish"] == "eos_token"
    assert reply["text"] == reply["stream_text"] == CASE["text"]


def in_legacy(script, url):
    """What ``script`` prints in the environment of the old clients, as JSON; it gets the URL and the golden case."""
    done = subprocess.run(
        [LEGACY_PYTHON, "-c", script, url], input=json.dumps(CASE), capture_output=True, text=True, timeout=4 * PATIENCE
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_hub_0_26(qwen_v1):
    """The last huggingface_hub before TGI was archived: it says `return_full_text: false` itself."""
    script = """
import json, sys
import huggingface_hub
from huggingface_hub import InferenceClient
from huggingface_hub.errors import ValidationError
client = InferenceClient(sys.argv[1])
case = json.load(sys.stdin)
prompt, messages = case["prompt"], case["messages"]
details = client.text_generation(prompt, max_new_tokens=48, details=True, decoder_input_details=True)
best = client.text_generation(prompt, max_new_tokens=4, details=True, best_of=2, do_sample=True, temperature=1.2)
stream = list(client.text_generation(prompt, max_new_tokens=48, stream=True, details=True))
chat = client.chat_completion(messages, max_tokens=48, temperature=0, logprobs=True, top_logprobs=2)
chunks = list(client.chat_completion(messages, max_tokens=48, temperature=0, stream=True))
try:
    client.text_generation(prompt, temperature=-1.0)
    error = None
except ValidationError as caught:
    error = str(caught)
print(json.dumps({
    "version": huggingface_hub.__version__,
    "plain": client.text_generation(prompt, max_new_tokens=48),
    "full": client.text_generation(prompt, max_new_tokens=48, return_full_text=True),
    "details": details.generated_text,
    "finish": details.details.finish_reason,
    "prefill": [token.id for token in details.details.prefill],
    "best_of": len(best.details.best_of_sequences),
    "stream": [event.token.text for event in stream],
    "stream_text": stream[-1].generated_text,
    "chat": chat.choices[0].message.content,
    "chat_logprobs": len(chat.choices[0].logprobs.content),
    "chunks": "".join(chunk.choices[0].delta.content or "" for chunk in chunks),
    "error": error,
    "healthy": client.health_check(),
    "info": client.get_endpoint_info()["max_total_tokens"],
}))
"""
    got = in_legacy(script, qwen_v1.url)
    assert got["version"] == "0.26.5"
    assert got["plain"] == got["details"] == got["stream_text"] == got["chat"] == got["chunks"] == CASE["text"]
    assert got["full"] == CASE["prompt"] + CASE["text"]
    assert got["finish"] == "eos_token" and got["prefill"] == CASE["prompt_ids"]
    assert "".join(got["stream"]) == CASE["text"] + "<|im_end|>"
    assert got["chat_logprobs"] == len(CASE["ids"]) and got["best_of"] == 1
    assert got["error"] == "Input validation error: `temperature` must be strictly positive"
    assert got["healthy"] is True and got["info"] == 4096


def test_hub_newest_refusals_and_best_of(hub):
    from huggingface_hub.errors import ValidationError

    with pytest.raises(ValidationError, match="`temperature` must be strictly positive"):
        hub.text_generation(CASE["prompt"], temperature=-1.0)
    best = hub.text_generation(CASE["prompt"], max_new_tokens=3, details=True, best_of=2, do_sample=True, temperature=1.2)
    assert len(best.details.best_of_sequences) == 1


def test_curl(qwen_v1):
    body = json.dumps({"inputs": CASE["prompt"], "parameters": {"max_new_tokens": 48}})
    command = ["curl", "-sS", "-H", "Content-Type: application/json", "-d", body]
    one = subprocess.run([*command, qwen_v1.url + "/generate"], capture_output=True, timeout=PATIENCE, check=True)
    assert json.loads(one.stdout) == {"generated_text": CASE["text"]}
    stream = subprocess.run(
        [*command, "-N", "-i", qwen_v1.url + "/generate_stream"], capture_output=True, timeout=PATIENCE, check=True
    ).stdout.decode()
    head, _, events = stream.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200") and "text/event-stream" in head
    lines = events.split("\n\n")
    assert lines[-1] == "" and all(line.startswith('data: {"index":') for line in lines[:-1])
    assert len(lines) - 1 == len(CASE["ids"])
