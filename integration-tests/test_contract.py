"""The contract, row by row, against the real binaries, in both compatibility modes. Rows live in contract/."""

import json
import re

import pytest

from contract import errors, generate, launcher, openai, others, surface, vllm
from contract.row import BOTH, check
from server import Server, run_launcher

from conftest import CARD_FLAGS

ROWS = [
    (mode, row)
    for table in (errors, surface, generate, openai, others, vllm)
    for row in table.ROWS
    for mode in row.modes
]


@pytest.fixture(scope="module")
def urls(models):
    """(mode, kind) -> URL: a server with the card's flags and one with keys, in each mode."""
    starts = {}
    for mode in BOTH:
        model = ("--model-id", models.smollm2_v1_awq(), *CARD_FLAGS, "--tgi-compat", mode)
        starts[mode, "plain"] = Server(*model)
        keys = ("--api-key", "secret-key", "--api-key", "other-key")
        starts[mode, "keyed"] = Server("--model-id", models.tiny_v1_awq(), "--tgi-compat", mode, *keys)
    running = {}
    try:
        for name, server in starts.items():
            running[name] = server.__enter__()
        yield {name: server.url for name, server in running.items()}
    finally:
        for server in running.values():
            server.__exit__(None)
    assert not any("panicked" in server.output() for server in running.values())


@pytest.mark.parametrize(("mode", "row"), ROWS, ids=[f"{mode}-{row.rule}" for mode, row in ROWS])
def test_row(urls, mode, row):
    check(urls[mode, row.server], row)


@pytest.mark.parametrize("start", launcher.STARTS, ids=[start.rule for start in launcher.STARTS])
def test_start(start, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    port = () if "-p" in start.args else ("--port", 0)
    code, output = run_launcher(*port, *start.args, env=start.env)
    assert code == start.code, output
    assert start.last in output.strip().splitlines()[-1], output
    assert start.said in output and start.unsaid not in output, output


def test_log_lines(models):
    with Server("--model-id", models.tiny_v1_awq()) as server:
        body = {"inputs": "a", "parameters": {"max_new_tokens": 1}}
        assert server.post("/generate", body, headers={"x-request-id": "abc-1"}).status_code == 200
    output = server.output()
    for lines in launcher.LOG_LINES:
        places = [output.find(line) for line in lines]
        assert -1 not in places and places == sorted(places), output
    success = next(line for line in server.lines if "record: Success" in line)
    assert all(re.search(rf"\b{name}=", success) for name in launcher.SUCCESS_FIELDS), success
    assert "abc-1" in success


def test_json_logs(models):
    """The launcher's lines keep their fields apart, the router's are flat; spans carry a request's times."""
    with Server("--model-id", models.tiny_v1_awq(), "--json-output") as server:
        body = {"inputs": "a", "parameters": {"max_new_tokens": 1}}
        assert server.post("/generate", body).status_code == 200
    lines = [json.loads(line) for line in server.lines]
    assert {"timestamp", "level", "target"} <= set.intersection(*map(set, lines))
    (success,) = [line for line in lines if line.get("message") == "Success"]
    assert set(launcher.SUCCESS_FIELDS) <= set(success["span"])
    assert any(line.get("fields", {}).get("message", "").startswith("Starting shard") for line in lines)


def test_the_number_of_rows():
    """At least so many rules: a table that lost its rows would pass otherwise."""
    assert len(ROWS) >= 1450 and len(launcher.STARTS) >= 135, (len(ROWS), len(launcher.STARTS))
