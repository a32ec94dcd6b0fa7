#!/usr/bin/env python3
"""The router's own cost: token interval beyond a shard's step, requests a second, memory, time to first byte.

    bench_router.py [--runs 5] [--model DIR]

Starts the real router in front of `fake_shard` (a shard without a model, whose steps take exactly
2.7 ms, or 0) and measures it with `bench_router`, all built by `make bench-router`. Figures are medians
of the runs; anything else that runs on the machine makes them worse.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from models import Models  # noqa: E402
from server import ROOT, free_port, until  # noqa: E402

RELEASE = ROOT / "target" / "release"
STEP_MS = 2.7


class Router:
    """The router before a fake shard with ``step_ms`` steps; a context manager."""

    def __init__(self, model, step_ms, in_flight):
        self.port = free_port()
        self.folder = tempfile.TemporaryDirectory()
        socket = Path(self.folder.name) / "shard"
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        shard = [RELEASE / "examples" / "fake_shard", "--uds-path", socket, "--step-ms", str(step_ms)]
        self.shard = subprocess.Popen([*shard, "--max-steps-in-flight", str(in_flight)], **quiet)
        router = [RELEASE / "text-generation-router", "--port", str(self.port), "--tokenizer-name", model]
        limits = ["--max-concurrent-requests", "256", "--master-shard-uds-path", socket]
        self.router = subprocess.Popen([*router, *limits], **quiet)

    def __enter__(self):
        import requests

        def healthy():
            try:
                return requests.get(f"http://127.0.0.1:{self.port}/health", timeout=1).status_code == 200
            except requests.RequestException:
                return False

        until(healthy, "the router is ready")
        return self

    def __exit__(self, *_):
        for process in (self.router, self.shard):
            process.terminate()
            process.wait(10)
        self.folder.cleanup()

    def rss_mb(self):
        status = Path(f"/proc/{self.router.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024

    def bench(self, *args):
        command = [RELEASE / "examples" / "bench_router", "--address", f"127.0.0.1:{self.port}", *args]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--model", type=Path)
    args = parser.parse_args()
    model = args.model or Models().smollm2_awq()
    for in_flight in (2, 1):
        print(f"{STEP_MS} ms steps, {in_flight} in flight:", flush=True)
        with Router(model, STEP_MS, in_flight) as router:
            excess = {}
            for _ in range(args.runs):
                for line in router.bench("--streams", "1,16,64,128", "--step-ms", str(STEP_MS)).splitlines():
                    streams = int(re.match(r"\s*(\d+)", line)[1])
                    excess.setdefault(streams, []).append(float(re.search(r"minus step ([-+\d.]+)", line)[1]))
            for streams, values in excess.items():
                middle = statistics.median(values)
                print(f"  {streams:3} streams: interval minus step {middle:.3f} ms (from {min(values):.3f} to {max(values):.3f})")
            print(f"  router RSS {router.rss_mb():.0f} MB", flush=True)
    with Router(model, 0, 2) as router:
        rates = []
        for _ in range(args.runs):
            # 16 words are 32 tokens of SmolLM2's.
            line = router.bench("--streams", "128", "--requests", "200", "--prompt-words", "16")
            rates.append(int(re.search(r"(\d+) requests/s", line)[1]))
        middle = statistics.median(rates)
        print(f"0 ms steps, 128 clients: {middle:.0f} requests/s (from {min(rates)} to {max(rates)})")
        line = router.bench("--streams", "128", "--step-ms", "0", "--tokens", "2000")
        rate = 128 / float(re.search(r"interval ([\d.]+) ms", line)[1]) * 1000
        print(f"0 ms steps, 128 streams: {rate:.0f} tok/s, router RSS {router.rss_mb():.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
