"""A real Prometheus scrapes the server under load; then every expression of our dashboard, of TGI's and the five
series that gateways look for must return data.

Needs the Debian package's binary (`make` unpacks it to .prometheus); $PROMETHEUS names another one.
"""

import contextlib
import json
import os
import re
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from contract.others import METRICS
from server import PATIENCE, ROOT, Server, free_port, until

BINARY = os.environ.get("PROMETHEUS", str(ROOT / ".prometheus/usr/bin/prometheus"))
DASHBOARD = ROOT / "docker/grafana/quern.json"
CONFIG = """
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: quern
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
    relabel_configs: [{{target_label: container, replacement: quern}}]
"""
# What TGI's published dashboard asks, by panel; it chooses the server by the label that Kubernetes adds.
DURATIONS = [
    ("tgi_request_queue_duration", ""), ("tgi_request_duration", ""), ("tgi_request_mean_time_per_token_duration", ""),
    ("tgi_request_generated_tokens", ""), ("tgi_request_input_length", ""), ("tgi_request_skipped_tokens", ""),
    *((f"tgi_batch_{part}_duration", f', method="{method}"')
      for part in ("inference", "forward", "decode", "filter", "concat") for method in ("prefill", "decode")),
]  # fmt: skip
HEADLINES = {
    ("tgi_request_queue_duration", ""), ("tgi_batch_inference_duration", ', method="prefill"'),
    ("tgi_batch_forward_duration", ', method="decode"'),
}  # fmt: skip
TGI = [
    *(f'histogram_quantile({p}, sum by (le) (rate({name}_bucket{{container="quern"{method}}}[1m])))'
      for name, method in DURATIONS for p in (0.5, 0.9, 0.99)),
    *(f'sum(increase({name}_bucket{{container="quern"{method}}}[1m])) by (le)' for name, method in DURATIONS),
    # Its headline figures leave out what is zero: time to first token (two that it adds), time a token, tokens.
    *(f'(histogram_quantile(0.5, sum by (le) (rate({name}_bucket{{container="quern"{method}}}[1m]))) * 1000) > 0'
      for name, method in DURATIONS if (name, method) in HEADLINES),
    'sum((rate(tgi_request_generated_tokens_sum{container="quern"}[1m]) / rate(tgi_request_generated_tokens_count{container="quern"}[1m])) > 0)',
    *(f'sum(rate({name}_sum{{container="quern"{method}}}[1m])) / sum(rate({name}_count{{container="quern"{method}}}[1m]))'
      for name, method in DURATIONS),
    'sum(increase(tgi_request_success{container="quern"}[1m]))',
    'sum(increase(tgi_request_failure{container="quern"}[1m])) by (err)',
    'count(tgi_request_count{container="quern"})',
    'sum(increase(tgi_batch_concat{container="quern"}[1m])) by (reason)',
    'sum(tgi_queue_size{container="quern"})', 'avg(tgi_batch_current_max_tokens{container="quern"})',
    'tgi_batch_current_size{container="quern"}',
]  # fmt: skip


def dashboard():
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    expressions = [target["expr"] for panel in panels for target in panel.get("targets", [])]
    assert len(expressions) > 40
    return [e.replace("$__rate_interval", "1m").replace("$instance", ".*") for e in expressions]


@pytest.fixture(scope="module")
def prometheus(models, tmp_path_factory):
    """A function that asks Prometheus, which scrapes a server that works all the time."""
    folder = tmp_path_factory.mktemp("prometheus")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with Server("--model-id", models.tiny_v1_awq(), "--max-batch-prefill-tokens", 64) as server:
        (folder / "prometheus.yml").write_text(CONFIG.format(port=server.port))
        process = subprocess.Popen(
            [BINARY, "--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address=127.0.0.1:{port}"],
            cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        enough = threading.Event()
        try:
            with ThreadPoolExecutor(4) as pool:
                loads = [pool.submit(load, server, i, enough) for i in range(4)]
                ask = lambda query: requests.get(url + "/api/v1/query", params={"query": query}, timeout=PATIENCE).json()  # noqa: E731
                try:
                    until(lambda: ready(ask), "Prometheus scraped the load")
                    yield ask
                finally:
                    enough.set()
            assert all(load.result() is None for load in loads)
        finally:
            process.terminate()
            process.wait(PATIENCE)


def load(server, index, enough):
    """Prompts of many lengths, some refused, some alike, until it is enough."""
    n = 0
    while not enough.is_set():
        n += 1
        prompt = "one two three four " * (1 + n % 20)
        server.post("/generate", {"inputs": prompt, "parameters": {"max_new_tokens": 10 + index}})
        server.post("/generate", {"inputs": ""})


def ready(ask):
    with contextlib.suppress(requests.RequestException, KeyError, IndexError):
        return float(ask("rate(tgi_request_success[1m])")["data"]["result"][0]["value"][1]) > 0
    return False


def result(ask, query):
    """What is found, once something is: rates need a second scrape, and some events come later than others."""

    def found():
        reply = ask(query)
        assert reply["status"] == "success", f"{query}: {reply}"
        return reply["data"]["result"]

    return until(found, query)


def test_every_expression_of_our_dashboard(prometheus):
    for query in dashboard():
        result(prometheus, query)


def test_every_expression_of_tgis_dashboard(prometheus):
    for query in TGI:
        result(prometheus, query)


def test_tgis_dashboard_finds_its_servers(prometheus):
    """By the values of the label that it lets people choose from."""
    found = result(prometheus, "group(tgi_request_count) by (container)")
    assert [one["metric"] for one in found] == [{"container": "quern"}]


def test_quantiles_are_numbers(prometheus):
    """Of everything that happens in a plain load."""
    for name in ("request_duration", "request_time_to_first_token_duration", "request_inter_token_duration",
                 "request_queue_duration", "request_input_length", "batch_forward_duration", "batch_next_size"):  # fmt: skip
        query = f"histogram_quantile(0.5, sum by (le) (rate(tgi_{name}_bucket[1m])))"
        until(lambda: float(result(prometheus, query)[0]["value"][1]) >= 0, f"a number for {query}")


def test_every_metric_of_the_contract(prometheus):
    for name, kind, _ in METRICS:
        series = name + "_count" if kind == "histogram" else name
        result(prometheus, series)


def test_the_dashboard_asks_for_nothing_that_does_not_exist():
    names = set(re.findall(r"\b((?:tgi|process)_\w+)", " ".join(dashboard())))
    table = (ROOT / "router/src/metrics/table.rs").read_text(encoding="utf-8")
    base = {re.sub(r"_(bucket|sum|count)$", "", n) if f'"{n}"' not in table else n for n in names}
    assert {n for n in base if n.startswith("tgi_") and f'"{n}"' not in table} == set()
    assert Path(BINARY).exists(), f"{BINARY}: run `make .prometheus/usr/bin/prometheus` (Debian's package)"
