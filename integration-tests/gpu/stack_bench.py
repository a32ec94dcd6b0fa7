#!/usr/bin/env python3
"""The whole server on a GPU machine: streaming rate over HTTP, memory, start and end.

    stack_bench.py --model DIR [--bin DIR] [--engine FILE] [--json FILE] [-- LAUNCHER FLAGS]

Starts text-generation-launcher, measures one stream and then many, and stops it. `--engine` names what `bench_shard --json`
wrote: the stream must then come within 3 % of its batch-1 rate. Device memory must be the same when the server is ready and
after the load, and SIGTERM must end it with exit code 0; otherwise the exit code here is 1. Standard library only.
"""

import argparse
import contextlib
import http.client
import json
import random
import signal
import socket
import statistics
import string
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
# The launch line of the first model's card, less its model and port.
CARD = ["--max-input-length", "3696", "--max-total-tokens", "4096", "--max-batch-prefill-tokens", "4096"]
WITHIN = 0.03
START_SECONDS = 120
STOP_SECONDS = 60


def nvidia_smi(what):
    """One property of GPU 0, None where there is no nvidia-smi."""
    query = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader,nounits", "--id=0"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    return None


def used_mib():
    used = nvidia_smi("memory.used")
    return int(used) if used is not None else None


def device_name():
    return nvidia_smi("name") or "CPU"


class Server:
    """The launcher as a child; its output goes to stderr, or where `output` says."""

    def __init__(self, binary, model, flags, output=sys.stderr):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.started = time.perf_counter()
        command = [binary, "--model-id", model, "--hostname", "127.0.0.1", "--port", str(self.port), *flags]
        self.process = subprocess.Popen([str(part) for part in command], stdout=output, stdin=subprocess.DEVNULL)

    def ready(self):
        """Seconds from the start to the first 200 of /health."""
        while time.perf_counter() - self.started < START_SECONDS:
            if self.process.poll() is not None:
                raise RuntimeError(f"the launcher ended with {self.process.returncode}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return time.perf_counter() - self.started
            time.sleep(0.02)
        raise RuntimeError(f"not ready within {START_SECONDS} s")

    def stream(self, n_prompt, n_new, salt):
        """One /generate_stream: seconds from the request to each token's event."""
        # Digits are tokens of their own in the vocabularies that this is used with; no two prompts begin alike.
        prompt = "".join(random.Random(f"{salt} {n_prompt}").choices(string.digits, k=n_prompt))
        body = json.dumps({"inputs": prompt, "parameters": {"max_new_tokens": n_new, "details": True}})
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.perf_counter()
        connection.request("POST", "/generate_stream", body, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        if reply.status != 200:
            raise RuntimeError(f"{reply.status}: {reply.read(500)!r}")
        times = []
        for line in reply:
            if line.startswith(b"data:"):
                if b'"token"' not in line:
                    raise RuntimeError(f"an event without a token: {line[:500]!r}")
                times.append(time.perf_counter() - began)
        connection.close()
        return times

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)


def rate(times):
    """Tokens a second after the first one."""
    return (len(times) - 1) / (times[-1] - times[0])


def alone(server, args):
    """One stream at a time: rates of whole answers, and times to the first token."""
    server.stream(args.prompt, 8, "warm-up")
    rates, lengths = [], []
    for salt in range(args.repeats):
        times = server.stream(args.prompt, args.new, salt)
        lengths.append(len(times))
        if len(times) == args.new:
            rates.append(rate(times))
    if not rates:
        raise RuntimeError(f"every answer ended early ({lengths} of {args.new} tokens): nothing to compare")
    first = [server.stream(512, 1, f"first {i}")[0] * 1e3 for i in range(5)]
    return rates, first


def load(server, concurrency, n_requests):
    """A closed loop of 512 in / 128 out: tokens a second, median time to first token and median seconds a token."""
    jobs = iter(range(n_requests))
    lock, results, errors = threading.Lock(), [], []

    def work():
        while True:
            with lock:
                job = next(jobs, None)
            if job is None:
                return
            try:
                results.append(server.stream(512, 128, job))
            except Exception as error:  # noqa: BLE001: whatever went wrong is the run's result
                errors.append(repr(error))
                return

    threads = [threading.Thread(target=work) for _ in range(concurrency)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if errors:
        raise RuntimeError(f"{len(errors)} streams failed: {errors[0]}")
    per_token = [(t[-1] - t[0]) / (len(t) - 1) for t in results if len(t) > 1]
    return {
        f"stack_load_out_tok_s_c{concurrency}": sum(map(len, results)) / seconds,
        f"stack_load_ttft_ms_c{concurrency}": statistics.median(t[0] for t in results) * 1e3,
        f"stack_load_tpot_ms_c{concurrency}": statistics.median(per_token) * 1e3,
    }


def engine_rate(args):
    """What the engine alone does with the same lengths; None where nobody measured it."""
    if not args.engine or not args.engine.exists():
        return None
    figures = json.loads(args.engine.read_text())["figures"]
    return figures.get(f"decode_tok_s_b1_{args.prompt}_{args.new}")


def measure(server, args, figures):
    figures["stack_ready_s"] = server.ready()
    figures["stack_used_mib_ready"] = used_mib()
    rates, first = alone(server, args)
    print("rates", " ".join(f"{r:.1f}" for r in rates), "tok/s; first tokens", " ".join(f"{f:.1f}" for f in first), "ms")
    figures[f"stack_decode_tok_s_b1_{args.prompt}_{args.new}"] = statistics.median(rates)
    figures["stack_ttft_ms_512"] = statistics.median(first)
    figures |= load(server, args.concurrency, args.requests)
    figures["stack_used_mib_after_load"] = used_mib()
    engine = engine_rate(args)
    if engine:
        figures["stack_share_of_engine"] = statistics.median(rates) / engine


def failures(figures, exit_code):
    share = figures.get("stack_share_of_engine")
    if share is not None and share < 1 - WITHIN:
        yield f"the stream has {share:.3f} of the engine's rate, expected at least {1 - WITHIN}"
    ready, after = figures.get("stack_used_mib_ready"), figures.get("stack_used_mib_after_load")
    if ready != after:
        yield f"device memory in use was {ready} MiB when ready and {after} MiB after the load"
    if exit_code != 0:
        yield f"exit code {exit_code} after SIGTERM"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--bin", type=Path, default=HERE)
    parser.add_argument("--engine", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--commit", default="unknown")
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--new", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--requests", type=int, default=192)
    parser.add_argument("flags", nargs="*", help="of the launcher, after --")
    return parser.parse_args()


def main():
    args = arguments()
    figures = {}
    flags = [*CARD, *args.flags]
    server = Server(args.bin / "text-generation-launcher", args.model, flags)
    try:
        measure(server, args, figures)
        exit_code = server.stop()
    finally:
        if server.process.poll() is None:
            server.process.kill()
    figures = {name: round(value, 4) for name, value in figures.items() if value is not None}
    settings = {"launcher": " ".join(flags), "stream": f"{args.prompt} in, {args.new} out, {args.repeats} times"}
    report = {"device": device_name(), "commit": args.commit, "settings": settings, "figures": figures}
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    for name, value in figures.items():
        print(f"{name:<34} {value:>12}")
    wrong = list(failures(figures, exit_code))
    for reason in wrong:
        print("FAILED:", reason)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
