"""Each client package against both families of models: the original Qwen's format and a template in Jinja.

`make test-clients` runs this: the packages that cannot live together have environments of their own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import golden
from server import PATIENCE

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PYTHON = {
    "newest": sys.executable,
    "legacy": os.environ.get("QUERN_LEGACY_PYTHON", str(ROOT / ".venv-legacy/bin/python")),
    "litellm": os.environ.get("QUERN_LITELLM_PYTHON", str(ROOT / ".venv-litellm/bin/python")),
}
GOLDEN = {"qwen_v1": "smollm2-135m-v1-awq-g64", "smollm2": "smollm2-135m-awq-g64"}


@pytest.fixture(params=sorted(GOLDEN))
def served(request):
    """A server's URL and the first golden case of its model."""
    return request.getfixturevalue(request.param).url, golden(GOLDEN[request.param])["cases"][0]


def use(script, environment, served):
    """What a script returns when its package asks the server."""
    url, case = served
    command = [PYTHON[environment], HERE / f"{script}.py", url]
    done = subprocess.run(command, input=json.dumps(case), capture_output=True, text=True, timeout=4 * PATIENCE)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout), case


def is_weather(calls):
    """One call of get_weather with arguments that its schema allows."""
    ((name, arguments),) = calls
    allowed = arguments["city"] in ("Paris", "Rome") and arguments["unit"] in ("celsius", "fahrenheit")
    return name == "get_weather" and allowed and len(arguments) == 2


def is_colours(value):
    return set(value) == {"colour", "n"} and value["colour"] in ("red", "green") and value["n"] in range(10)


@pytest.mark.parametrize(("environment", "version"), [("newest", "3."), ("legacy", "1.")])
def test_openai(served, environment, version):
    got, case = use("openai_package", environment, served)
    assert got["version"].startswith(version)
    assert got["plain"] == got["streamed"] == got["logprob_bytes"] == case["text"]
    assert got["finish"] == "stop" and got["usage"] == got["streamed_usage"] == len(case["ids"])
    assert is_colours(got["schema"]) and is_colours(got["streamed_schema"]) and got["parsed"] in ("red", "green")
    assert got["n"] == [0, 1] and 2 <= got["many_tokens"] <= 6 and got["echo"] == [True, True]
    assert got["scored_text"][0] == got["scored_text"][1] and got["scored_text"][0].startswith("1 2 3")
    logprobs, best = got["scored"]
    assert logprobs[0] is best[0] is None and all(b >= own for own, b in zip(logprobs[1:], best[1:], strict=True))
    assert got["error"] == ["Tool error: Tool with name rain not found", "invalid_request_error", None]
    assert got["missing"] == "model_not_found" and got["model"]
    assert got["accumulated"] == {"role": "assistant", "calls": [["now", {}]]}
    tools = got["tools"]
    assert is_weather(tools["named"]) and tools["named_content"] is None and tools["named_finish"] == "tool_calls"
    assert is_weather(tools["streamed"]) and tools["streamed_finish"] == "tool_calls"
    assert len(tools["required"]) == 1 and tools["required"][0][0] in ("get_weather", "now")
    assert (tools["auto_finish"] == "tool_calls") <= tools["auto_calls"] and tools["none_calls"] is None
    assert tools["after_result"]


@pytest.mark.parametrize(("environment", "version"), [("newest", "2."), ("legacy", "0.26.5")])
def test_huggingface_hub(served, environment, version):
    got, case = use("hub", environment, served)
    assert got["version"].startswith(version)
    assert got["plain"] == got["streamed"] == got["text"] == case["text"]
    assert got["text_streamed"].startswith(case["text"])
    assert is_weather(got["called"]) and got["called_finish"] == got["chunks_finish"] == "tool_calls"
    if environment == "newest":
        assert is_weather(got["called_streamed"][0])
    assert is_colours(got["schema"]) and is_colours(got["grammar"])


def test_text_generation(served):
    got, case = use("text_generation_package", "legacy", served)
    assert got["ids"] == got["stream_ids"] == case["ids"]
    assert got["finish"] == "eos_token"
    assert got["text"] == got["stream_text"] == got["plain"] == case["text"]
    assert is_colours(got["grammar"]) and is_weather(got["called"])


def test_langchain(served):
    got, case = use("langchain_package", "newest", served)
    assert got["plain"] == got["streamed"] == case["text"]
    assert is_weather(got["called"]) and is_weather(got["called_streamed"]) and got["called_finish"] == "tool_calls"
    assert got["answer"] and got["schema"] in ("red", "green") and got["function"] in ("red", "green")


def test_litellm(served):
    got, case = use("litellm_package", "litellm", served)
    assert got["plain"] == got["streamed"] == case["text"]
    assert is_weather(got["called"]) and got["called_finish"] == "tool_calls"
    assert is_weather(got["called_streamed"][0]) and got["called_streamed"][1] == "tool_calls"
    assert is_colours(got["schema"]) and got["answer"]
