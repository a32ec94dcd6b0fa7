#!/usr/bin/env python3
"""Random load for a long time: does memory stay flat?

    soak.py [--minutes 60] [--a-second 10] [--kill-every 300] [--model DIR]

Serves the tiny checkpoint on the CPU with too little memory for all (so that sequences are preempted) and
sends so many random requests a second, in bursts, on random routes: whole or streamed, some dropped midway,
some wrong. Every ``--kill-every`` seconds the shard is killed. Prints the memory of router, shard and launcher once
a minute; everything that failed other than as it should is printed, and the exit code is then 1.
"""

import argparse
import os
import random
import re
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from models import Models  # noqa: E402
from server import Server  # noqa: E402

FLAGS = ("--max-total-tokens", 400, "--max-batch-total-tokens", 512, "--max-concurrent-requests", 16)
LARGEST_BURST = 40


def processes(server):
    """The pid of each program."""
    found = {}
    for pid in {server.process.pid, *server.family()}:
        try:
            name = Path(os.readlink(f"/proc/{pid}/exe")).name
        except OSError:
            continue  # it ended meanwhile
        found[name.removeprefix("text-generation-")] = pid
    return found


def rss_mb(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024


class Load:
    """Sends random requests and counts what came of them."""

    def __init__(self, server, rng):
        self.server, self.rng = server, rng
        self.counts, self.faults, self.lock = {}, [], threading.Lock()

    def body(self):
        """(path, body, whether it streams)."""
        rng = self.rng
        text = rng.choice(("", "x" * 70)) + "".join(rng.choices("abcdefgh ,.é漢", k=rng.randint(1, 40)))
        n = rng.randint(1, 200)
        sampling = {"do_sample": True, "temperature": 0.8, "seed": rng.randrange(2**32)} if rng.random() < 0.5 else {}
        match rng.randrange(5):
            case 0:
                return "/generate", {"inputs": text, "parameters": {"max_new_tokens": n, **sampling}}, False
            case 1:
                return "/generate_stream", {"inputs": text, "parameters": {"max_new_tokens": n, **sampling}}, True
            case 2:
                stream = rng.random() < 0.5
                return "/v1/completions", {"model": "-", "prompt": text, "max_tokens": n, "stream": stream}, stream
            case 3:
                return "/tokenize", {"inputs": text}, False
            case _:
                return "/generate", {"inputs": text, "parameters": {"max_new_tokens": -n}}, False

    def send(self, path, body, streams, drop_after):
        headers = {"x-tenant": random.choice("abc")}
        try:
            with requests.post(self.server.url + path, json=body, headers=headers, stream=True, timeout=60) as reply:
                for i, _ in enumerate(reply.iter_lines()):
                    if streams and i == drop_after:
                        break
                status = reply.status_code
        except requests.RequestException as error:
            status = type(error).__name__
        expected = (422,) if body.get("parameters", {}).get("max_new_tokens", 1) < 0 else (200, 429)
        with self.lock:
            self.counts[status] = self.counts.get(status, 0) + 1
            if status not in expected and len(self.faults) < 20:
                self.faults.append((status, path, body))

    def burst(self, pool):
        for _ in range(self.rng.randint(1, LARGEST_BURST)):
            path, body, streams = self.body()
            drop_after = self.rng.randint(0, 100) if self.rng.random() < 0.3 else -1
            pool.submit(self.send, path, body, streams, drop_after)


def main():
    parser = argparse.ArgumentParser(description=re.split(r"\n\n", __doc__)[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--a-second", type=float, default=10)
    parser.add_argument("--kill-every", type=float, default=300)
    parser.add_argument("--model", type=Path)
    args = parser.parse_args()
    rng = random.Random(1)
    with Server("--model-id", args.model or Models().tiny_v1_awq(), *FLAGS) as server, ThreadPoolExecutor(40) as pool:
        load, begun = Load(server, rng), time.monotonic()
        next_note, next_kill = begun, begun + args.kill_every
        while (now := time.monotonic()) < begun + args.minutes * 60:
            if now >= next_note:
                sizes = {name: round(rss_mb(pid), 1) for name, pid in sorted(processes(server).items())}
                print(f"{(now - begun) / 60:4.0f} min  MB: {sizes}  answers: {load.counts}", flush=True)
                next_note += 60
            if now >= next_kill and (pid := processes(server).get("shard")):
                os.kill(pid, signal.SIGKILL)
                next_kill += args.kill_every
            load.burst(pool)
            time.sleep(rng.expovariate(2 * args.a_second / LARGEST_BURST))
        names = ("tgi_preemptions", "tgi_shard_recoveries", "tgi_replayed_tokens", "tgi_prompt_tokens_cached")
        print({name: server.metric(name) for name in names})
    for fault in load.faults:
        print("unexpected:", fault)
    return 1 if load.faults else 0


if __name__ == "__main__":
    sys.exit(main())
