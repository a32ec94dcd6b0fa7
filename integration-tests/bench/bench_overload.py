#!/usr/bin/env python3
"""What a flood does to others: time to first token beside a tenant that sends 100 times as much, and how
fast a server at ten times its load refuses, and whether those it serves notice.

    bench_overload.py [--seconds 20] [--fake | --model DIR] [--batch 8]

Serves SmolLM2-135M on the CPU, or with --fake runs the router before a shard without a model whose steps
take 20 ms: then only the router's decisions count. Anything else that runs on the machine makes figures worse.
"""

import argparse
import asyncio
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from models import Models  # noqa: E402
from server import ROOT, Server, free_port, until  # noqa: E402

RELEASE = ROOT / "target" / "release"
FAKE_STEP_MS = 20


class FakeServer:
    """The router before a fake shard, with the launcher's flags; a context manager like `Server`."""

    def __init__(self, model, *flags):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = tempfile.TemporaryDirectory()
        socket = Path(self.folder.name) / "shard"
        shard = [RELEASE / "examples" / "fake_shard", "--uds-path", socket, "--step-ms", FAKE_STEP_MS]
        router = [RELEASE / "text-generation-router", "--port", self.port, "--tokenizer-name", model,
                  "--master-shard-uds-path", socket, *flags]  # fmt: skip
        self.commands = [[str(part) for part in command] for command in (shard, router)]

    healthy = Server.healthy

    def __enter__(self):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.processes = [subprocess.Popen(command, **quiet) for command in self.commands]
        until(self.healthy, 20, "the router is ready")
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.terminate()
            process.wait(10)
        self.folder.cleanup()


class Meter:
    """Counts tokens as they come."""

    n_tokens = 0


async def ask(server, tenant, n_prompt, max_new, meter):
    """One streamed request: (status, seconds to the first token or to the refusal)."""
    # Words of one token each, so that no two prompts begin alike.
    inputs = " ".join(random.choices(("one", "two", "red", "sun", "day", "man"), k=n_prompt))
    body = json.dumps({"inputs": inputs, "parameters": {"max_new_tokens": max_new, "truncate": n_prompt}}).encode()
    head = f"POST /generate_stream HTTP/1.1\r\nhost: x\r\nx-tenant: {tenant}\r\nconnection: close\r\n" \
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"  # fmt: skip
    started = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(head.encode() + body)
    status = int((await reader.readline()).split()[1])
    first = time.monotonic() - started if status != 200 else None
    async for line in reader:
        if line.startswith(b"data:"):
            first = first or time.monotonic() - started
            meter.n_tokens += 1
    writer.close()
    return status, first


async def keep_asking(server, tenant, shape, results, meter):
    """One client that sends its next request when the last one has ended."""
    while True:
        results.append(await ask(server, tenant, *shape, meter))


async def clients(server, seconds, meter, *crowds):
    """Crowds of (tenant, clients, shape) at once; returns each crowd's results."""
    results = [[] for _ in crowds]
    tasks = [
        keep_asking(server, tenant, shape, results[i], meter)
        for i, (tenant, n, shape) in enumerate(crowds)
        for _ in range(n)
    ]
    running = [asyncio.create_task(task) for task in tasks]
    await asyncio.sleep(seconds)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    return results


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))]


def flood(serve, args):
    """Tenant b's time to first token beside tenant a's few requests, then beside 100 times as many."""
    half, shape = args.batch // 2, (args.prompt, 32)
    flags = ("--max-batch-size", args.batch, "--max-batch-prefill-tokens", args.prompt, "--max-total-tokens", 1024,
             "--max-concurrent-requests", 128 * args.batch)  # fmt: skip
    medians = []
    with serve(*flags) as server:
        for n in (half, 100 * half):
            _, b = asyncio.run(clients(server, args.seconds, Meter(), ("a", n, shape), ("b", half, shape)))
            firsts = [first for status, first in b if status == 200]
            medians.append(statistics.median(firsts))
            print(f"  a sends {n:4} at once: b waits {medians[-1] * 1000:.0f} ms for its first token "
                  f"(p90 {percentile(firsts, 0.9) * 1000:.0f} ms, {len(firsts)} requests)", flush=True)  # fmt: skip
    print(f"  moved by {100 * (medians[1] / medians[0] - 1):+.0f} %")


async def overload_once(server, args, n_clients, refused_a_second):
    """A full server's token rate, with so many further requests a second: (tokens/s, refusals' seconds)."""
    refusals = []

    async def knock():
        status, seconds = await ask(server, "a", 16, 1, Meter())
        if status == 429:
            refusals.append(seconds)

    async def knock_on():
        while True:
            asyncio.create_task(knock())
            await asyncio.sleep(random.expovariate(refused_a_second))

    knocking = asyncio.create_task(knock_on()) if refused_a_second else None
    meter = Meter()
    await clients(server, args.seconds, meter, ("a", n_clients, (16, 128)))
    if knocking:
        knocking.cancel()
    return meter.n_tokens / args.seconds, refusals


def overload(serve, args):
    """A server whose places are all taken, alone and with ten times the requests that it can serve."""
    flags = ("--max-batch-size", args.batch, "--max-total-tokens", 1024, "--max-concurrent-requests", args.batch)
    with serve(*flags) as server:
        rates = []
        for _ in range(3):
            alone, _ = asyncio.run(overload_once(server, args, args.batch, 0))
            offered = 10 * alone / 128
            beside, refusals = asyncio.run(overload_once(server, args, args.batch, offered))
            rates.append(beside / alone)
            times = [1000 * seconds for seconds in refusals]
            print(f"  {alone:.0f} tok/s alone, {beside:.0f} beside {offered:.0f} requests/s too many: {100 * beside / alone:.1f} %; "
                  f"429 in {statistics.median(times):.1f} ms (p99 {percentile(times, 0.99):.1f} ms, {len(times)} of them)", flush=True)  # fmt: skip
    print(f"  those served keep {100 * statistics.median(rates):.1f} % of their rate (median of 3)")


def main():
    parser = argparse.ArgumentParser(description=re.split(r"\n\n", __doc__)[0])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--fake", action="store_true")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=128)
    args = parser.parse_args()
    model = args.model or Models().smollm2_awq()

    def serve(*flags):
        return FakeServer(model, *flags) if args.fake else Server("--model-id", model, *flags)

    print("A flood from one tenant:", flush=True)
    flood(serve, args)
    print("Ten times the load:", flush=True)
    overload(serve, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
