#!/usr/bin/env python3
"""What a flood does to others: time to first token beside a key that sends 100 times as much; and what ten
times the load does: how fast requests are refused, and what rate those that run keep meanwhile.

    bench_overload.py [--seconds 20] [--fake | --model DIR] [--batch 8]

Serves SmolLM2-135M on the CPU, or with --fake runs the router before a shard without a model whose steps
take 20 ms: then only the router's decisions count. The clients run on the same cores and are part of what
is measured; anything else that runs on the machine makes figures worse.
"""

import argparse
import asyncio
import json
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
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
        path = Path(self.folder.name) / "shard"
        shard = [RELEASE / "examples" / "fake_shard", "--uds-path", path, "--step-ms", FAKE_STEP_MS]
        router = [RELEASE / "text-generation-router", "--port", self.port, "--tokenizer-name", model,
                  "--master-shard-uds-path", path, *flags]  # fmt: skip
        self.commands = [[str(part) for part in command] for command in (shard, router)]

    healthy = Server.healthy

    def __enter__(self):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.processes = [subprocess.Popen(command, **quiet) for command in self.commands]
        until(self.healthy, "the router is ready")
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.terminate()
            process.wait(10)
        self.folder.cleanup()


class Meter:
    """Counts tokens as they come."""

    n_tokens = 0


def request(key, n_prompt, max_new):
    """The bytes of one streamed request."""
    # Words of one token each, so that no two prompts begin alike.
    inputs = " ".join(random.choices(("one", "two", "red", "sun", "day", "man"), k=n_prompt))
    body = json.dumps({"inputs": inputs, "parameters": {"max_new_tokens": max_new, "truncate": n_prompt}})
    head = f"POST /generate_stream HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\nconnection: close\r\n" \
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"  # fmt: skip
    return (head + body).encode()


async def ask(server, message, meter):
    """Sends one request and reads its answer: (status, seconds to the first token or to the refusal)."""
    started = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(message)
        status = int((await reader.readline()).split()[1])
        first = time.monotonic() - started if status != 200 else None
        async for line in reader:
            if line.startswith(b"data:"):
                first = first or time.monotonic() - started
                meter.n_tokens += 1
        return status, first
    finally:
        writer.close()


async def keep_asking(server, key, shape, results, meter):
    """One client that sends its next request when the last one has ended."""
    while True:
        results.append(await ask(server, request(key, *shape), meter))
        if results[-1][0] != 200:
            await asyncio.sleep(0.05)


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))]


async def crowds(server, seconds, *groups):
    """Groups of (key, clients, shape) at once; returns each group's results."""
    results = [[] for _ in groups]
    running = [
        asyncio.create_task(keep_asking(server, key, shape, results[i], Meter()))
        for i, (key, n, shape) in enumerate(groups)
        for _ in range(n)
    ]
    await asyncio.sleep(seconds)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    return results


def flood(serve, args):
    """Key b's time to first token beside key a's few requests, then beside 100 times as many."""
    half, shape = args.batch // 2, (args.prompt, 32)
    flags = ("--max-batch-size", args.batch, "--max-batch-prefill-tokens", args.prompt, "--max-total-tokens", 1024,
             "--max-concurrent-requests", 128 * args.batch, "--api-key", "a", "--api-key", "b")  # fmt: skip
    medians = []
    with serve(*flags) as server:
        for n in (half, 100 * half):
            _, b = asyncio.run(crowds(server, args.seconds, ("a", n, shape), ("b", half, shape)))
            firsts = [first for status, first in b if status == 200 and first]
            medians.append(statistics.median(firsts))
            print(f"  a sends {n:4} at once: b waits {medians[-1] * 1000:.0f} ms for its first token "
                  f"(p90 {percentile(firsts, 0.9) * 1000:.0f} ms, {len(firsts)} requests)", flush=True)  # fmt: skip
    print(f"  moved by {100 * (medians[1] / medians[0] - 1):+.0f} %")


# Tokens of the request that the server's capacity is counted in.
USUAL_TOKENS = 128
N_ROUNDS = 3


class Knocking(threading.Thread):
    """So many requests a second, each on a connection of its own. Plain sockets: an interpreter's time on a core
    that the server computes on would be taken for the server's."""

    def __init__(self, server, a_second):
        super().__init__(daemon=True)
        self.address, self.a_second = ("127.0.0.1", server.port), a_second
        self.message, self.stopping = request("a", 16, 1), threading.Event()
        self.refusals, self.n_others = [], 0

    def run(self):
        while not self.stopping.wait(random.expovariate(self.a_second)):
            started = time.monotonic()
            with socket.create_connection(self.address) as connection:
                connection.sendall(self.message)
                status = connection.recv(12)
                seconds = time.monotonic() - started
            if status == b"HTTP/1.1 429":
                self.refusals.append(seconds)
            else:
                self.n_others += 1


async def overloaded(server, args):
    """Streams that hold every place, in windows without and with ten times the requests that can be served, in
    the order that cancels a drift: ([tokens/s without, with], requests a second, the `Knocking`s)."""
    meter, results, knocks = Meter(), [], []
    window = args.seconds / 4
    shape = (16, args.total - 16)
    streams = [asyncio.create_task(keep_asking(server, "a", shape, results, meter)) for _ in range(args.batch)]
    await asyncio.sleep(window)
    offered = 10 * meter.n_tokens / window / USUAL_TOKENS
    n_tokens = [0, 0]
    for knocking in [False, True, True, False] * N_ROUNDS:
        if knocking:
            knocks.append(Knocking(server, offered))
            knocks[-1].start()
        before, begun = meter.n_tokens, time.monotonic()
        await asyncio.sleep(window)
        n_tokens[knocking] += (meter.n_tokens - before) / (time.monotonic() - begun)
        if knocking:
            knocks[-1].stopping.set()
            await asyncio.to_thread(knocks[-1].join)
    for task in streams:
        task.cancel()
    await asyncio.gather(*streams, return_exceptions=True)
    return [n / 2 / N_ROUNDS for n in n_tokens], offered, knocks


def overload(serve, args):
    """A server whose places are all taken, by turns alone and with ten times the requests it can serve."""
    flags = ("--max-batch-size", args.batch, "--max-total-tokens", args.total, "--max-concurrent-requests", args.batch)
    with serve(*flags) as server:
        (alone, beside), offered, knocks = asyncio.run(overloaded(server, args))
    times = [1000 * seconds for knocking in knocks for seconds in knocking.refusals]
    print(f"  {offered:.0f} requests/s too many: {len(times)} got a 429, after {statistics.median(times):.1f} ms (p99 "
          f"{percentile(times, 0.99):.1f} ms, longest {max(times):.1f} ms); {sum(k.n_others for k in knocks)} found a place")  # fmt: skip
    print(f"  the {args.batch} that run: {alone:.0f} tok/s before and after, {beside:.0f} meanwhile: {100 * beside / alone:.1f} %")


def main():
    parser = argparse.ArgumentParser(description=re.split(r"\n\n", __doc__)[0])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--fake", action="store_true")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--total", type=int, default=2048)
    args = parser.parse_args()
    model = args.model or Models().smollm2_awq()

    def serve(*flags):
        return FakeServer(model, *flags) if args.fake else Server("--model-id", model, *flags)

    print("A flood from one key:", flush=True)
    flood(serve, args)
    print("Ten times the load:", flush=True)
    overload(serve, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
