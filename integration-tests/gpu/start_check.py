#!/usr/bin/env python3
"""How long a server takes from its start to its first 200 of /health, and which phase takes what.

    start_check.py --model DIR [--bin DIR] [--most SECONDS] [--json FILE] [-- LAUNCHER FLAGS]

Starts the launcher several times on a checkpoint that is in the page cache after the first start, and prints the phases
that /info tells. Exit code 1 if the median of the warm starts is over --most seconds. Standard library only.
"""

import argparse
import contextlib
import http.client
import json
import statistics
import subprocess
import sys
from pathlib import Path

from stack_bench import CARD, Server, device_name

HERE = Path(__file__).resolve().parent
STARTS = 4


def info(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", "/info")
    return json.loads(connection.getresponse().read())


def start(binary, model, flags):
    """Seconds until ready, and those of the phases."""
    server = Server(binary, model, flags)
    try:
        seconds = server.ready()
        return seconds, info(server.port)["startup_seconds"]
    finally:
        server.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.process.wait(60)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--bin", type=Path, default=HERE)
    parser.add_argument("--most", type=float, default=6.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--commit", default="unknown")
    parser.add_argument("flags", nargs="*")
    args = parser.parse_args()
    size = sum(p.stat().st_size for p in args.model.glob("*.safetensors"))
    print(f"{args.model}: {size / 1e9:.2f} GB of weights")
    starts = []
    for i in range(STARTS):
        seconds, phases = start(args.bin / "text-generation-launcher", args.model, [*CARD, *args.flags])
        told = ", ".join(f"{name} {took:.2f}" for name, took in phases.items())
        print(f"{'first' if i == 0 else 'warm':<6}{seconds:6.2f} s   {told}")
        starts.append((seconds, phases))
    warm = starts[1:]
    ready = statistics.median(seconds for seconds, _ in warm)
    figures = {"start_s": ready, "start_first_s": starts[0][0]}
    for name in warm[0][1]:
        figures[f"start_{name}_s"] = statistics.median(phases[name] for _, phases in warm)
    print(f"ready after {ready:.2f} s (median of {len(warm)}), at most {args.most:g}")
    if args.json:
        settings = {"bytes": size, "starts": STARTS, "flags": args.flags}
        report = {"device": device_name(), "commit": args.commit, "settings": settings, "figures": figures}
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if ready <= args.most else 1


if __name__ == "__main__":
    sys.exit(main())
