"""Processes: signals, drain, crashes of a child, no orphans, health before and after readiness, logs, metrics."""

import contextlib
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from conftest import golden
from server import PATIENCE, Server, alive, until
from shards import ENDLESS, SLOW_STEPS, fake_shard, shard_pid

PROMPT = golden("smollm2-135m-v1-awq-g64")["cases"][2]["prompt"]
LONG = {"inputs": PROMPT, "parameters": {"max_new_tokens": 150, "details": True}}


@pytest.fixture
def server(models):
    """However slow the machine is, no drain ends before its requests."""
    with Server("--model-id", models.smollm2_v1_awq(), "-g", 3600) as running:
        yield running


@pytest.fixture
def server_as_tgi(models):
    """Without replacement of a shard that ended."""
    with Server("--model-id", models.smollm2_v1_awq(), "--max-shard-restarts", 0) as running:
        yield running


@pytest.mark.parametrize("whole_group", [False, True])
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(server, sig, whole_group):
    """A running stream ends as it would have; then everything exits with code 0.

    systemd signals every process of a service, not only the launcher.
    """
    expected = server.post("/generate", LONG).json()
    events = server.stream("/generate_stream", LONG)
    seen = [next(events)]
    family = server.family()
    server.process.send_signal(sig)
    for pid in family if whole_group else ():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sig)
    seen += list(events)
    assert seen[-1]["generated_text"] == expected["generated_text"]
    assert server.process.wait(PATIENCE) == 0
    until(lambda: not alive(family), "all processes gone")
    assert "signal received, starting graceful shutdown" in server.output()


def test_a_request_being_tokenized_at_the_signal_is_served(server):
    body = {"inputs": "a" * 1_900_000, "parameters": {"max_new_tokens": 2, "truncate": 10}}
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(server.post, "/generate", body)
        until(lambda: server.metric("tgi_request_count") == 1, "the body is there")
        server.process.send_signal(signal.SIGTERM)
        assert reply.result().status_code == 200, reply.result().text
    assert server.process.wait(PATIENCE) == 0


def test_a_second_signal_ends_at_once(models, tmp_path):
    env = fake_shard(tmp_path, *SLOW_STEPS)
    with Server("--model-id", models.smollm2_awq(), "-g", 3600, env=env) as server:
        events = server.stream("/generate_stream", {"inputs": PROMPT, "parameters": ENDLESS})
        next(events)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: "Terminating webserver" in server.output(), "the signal is seen")
        time.sleep(0.2)  # sooner it would be an echo of the first
        assert server.stop() == 0
        assert "another signal received while stopping, ending at once" in server.output()
        with pytest.raises(requests.RequestException):
            list(events)


def test_a_killed_launcher_leaves_no_orphan(server):
    family = server.family()
    assert len(family) >= 2
    server.process.kill()
    until(lambda: not alive(family), "children died with the launcher")


@pytest.mark.parametrize(
    "name, words",
    [("text-generation-shard", "ShardFailed"), ("text-generation-router", "WebserverFailed")],
)
def test_a_killed_child_ends_the_service(server_as_tgi, name, words):
    server = server_as_tgi
    family = server.family()
    os.kill(server.child(name), signal.SIGKILL)
    assert server.process.wait(PATIENCE) == 1
    until(lambda: not alive(family), "nothing left")
    server.reader.join(PATIENCE)
    assert server.output().strip().splitlines()[-1].startswith("Error: " + words)


def test_a_killed_shard_fails_its_requests_clearly(models, tmp_path):
    env = fake_shard(tmp_path, *SLOW_STEPS)
    with Server("--model-id", models.smollm2_awq(), "--max-shard-restarts", 0, env=env) as server:
        events = server.stream("/generate_stream", {"inputs": PROMPT, "parameters": ENDLESS})
        next(events)
        os.kill(shard_pid(server), signal.SIGKILL)
        last = list(events)[-1]
        assert last["error_type"] == "generation"
        assert last["error"].startswith("Request failed during generation: Server error: ")
        assert server.process.wait(PATIENCE) == 1


def test_log_lines_that_scripts_look_for(server):
    for words in ("Starting shard", "Shard ready in", "Starting Webserver", "Connected"):
        assert words in server.output(), words


def test_json_output(models):
    with Server("--model-id", models.tiny_v1_awq(), "--json-output") as server:
        server.generate("a", max_new_tokens=2)
    parsed = [json.loads(line) for line in server.lines if line.startswith("{")]
    assert len(parsed) > 5 and all("timestamp" in p and "level" in p for p in parsed)
    assert not [line for line in server.lines if line and not line.startswith("{")]


def test_metrics_count_requests_once(models):
    with Server("--model-id", models.tiny_v1_awq()) as server:
        server.generate("a", max_new_tokens=3)
        server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2, "temperature": 0})
        server.post("/generate", {"inputs": ""})
        text = server.get("/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert values["tgi_request_count"] == "3"
    assert values["tgi_request_success"] == "2"
    assert values['tgi_request_failure{err="validation"}'] == "1"
    assert values["tgi_request_generated_tokens_sum"] == "5"
    assert values["tgi_request_duration_count"] == "2"
    assert values["tgi_queue_size"] == "0"
    assert int(values['tgi_batch_inference_count{method="decode"}']) >= 3


def test_two_servers_side_by_side(models, tiny):
    with Server("--model-id", models.tiny_v1_awq()) as other:
        body = {"inputs": "the thing", "parameters": {"max_new_tokens": 5}}
        assert other.post("/generate", body).json() == tiny.post("/generate", body).json()


def test_flags_from_the_environment(models):
    env = {"MODEL_ID": str(models.tiny_v1_awq()), "MAX_TOTAL_TOKENS": "300", "MAX_INPUT_TOKENS": "200"}
    with Server(env=env) as server:
        info = server.get("/info").json()
    assert (info["max_total_tokens"], info["max_input_tokens"]) == (300, 200)


def test_flags_without_effect_warn_once(models):
    with Server("--model-id", models.tiny_v1_awq(), "--disable-custom-kernels", "--watermark-gamma", 0.5) as server:
        pass
    for flag in ("--disable-custom-kernels", "--watermark-gamma"):
        assert len([line for line in server.lines if flag in line and "WARN" in line]) == 1, flag
