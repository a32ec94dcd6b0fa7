#!/usr/bin/env python3
"""A plan made beforehand against what a server takes that is started with the same flags.

    plan_check.py --model DIR [--bin DIR] [--json FILE] [-- LAUNCHER FLAGS]

For three configurations: `text-generation-launcher plan`, then the launcher until it is ready. Weights, KV cache and
workspace must be as planned to 1 %, and on a GPU so must be the device's memory in use (nvidia-smi). Exit code 1 if
not. Standard library only.
"""

import argparse
import contextlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from stack_bench import Server, device_name, used_mib

HERE = Path(__file__).resolve().parent
WITHIN = 0.01
CONFIGURATIONS = {
    "card": ["--max-input-length", "3696", "--max-total-tokens", "4096", "--max-batch-prefill-tokens", "4096"],
    "half": ["--cuda-memory-fraction", "0.5", "--max-total-tokens", "8192", "--max-batch-size", "32"],
    "few": ["--max-total-tokens", "2048", "--max-batch-total-tokens", "16384", "--max-concurrent-requests", "8"],
}
MEMORY = re.compile(r"(\d+) bytes of weights, (\d+) of KV cache, (\d+) of workspace, (\d+) of graphs")


def planned(binary, model, flags):
    command = [str(binary), "plan", "--model-id", str(model), "--json", *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    return json.loads(done.stdout)


def started(binary, model, flags):
    """What the shard said of its memory, and the device's memory in use (MiB), once the server is ready."""
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        server = Server(binary, model, flags, output=log)
        try:
            server.ready()
            used = used_mib()
        finally:
            server.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.process.wait(60)
            log.seek(0)
            said = log.read()
            sys.stderr.write(said)
    return [int(n) for n in MEMORY.search(said).groups()], used


def compare(name, plan, found, used):
    """Rows ``(what, planned, found, good)``."""
    weights, kv, workspace, graphs = found
    parts = [("weights", plan["weight_bytes"], weights), ("kv", plan["kv_bytes"], kv)]
    parts += [("workspace", plan["workspace_bytes"], workspace)]
    rows = [(f"{name} {what}", wanted, got, abs(got - wanted) <= WITHIN * wanted) for what, wanted, got in parts]
    rows.append((f"{name} graphs, about", plan["graph_bytes"], graphs, graphs <= plan["reserve_bytes"]))
    if used is not None and plan["device"] == "cuda":
        rows.append((f"{name} in all", plan["all_bytes"], used, abs(used - plan["all_bytes"]) <= WITHIN * plan["all_bytes"]))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--bin", type=Path, default=HERE)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--commit", default="unknown")
    parser.add_argument("flags", nargs="*")
    args = parser.parse_args()
    binary = args.bin / "text-generation-launcher"
    figures, good = {}, True
    for name, limits in CONFIGURATIONS.items():
        flags = [*limits, *args.flags]
        plan = planned(binary, args.model, flags)
        found, used = started(binary, args.model, flags)
        for what, wanted, got, fits in compare(name, plan, found, used and used << 20):
            print(f"{what:<24}{wanted:>16}{got:>16}  {(got - wanted) / max(wanted, 1):+.3%}  {'ok' if fits else 'WRONG'}")
            figures[f"plan_{what.replace(', about', '').replace(' ', '_')}_share"] = got / max(wanted, 1)
            good = good and fits
    if args.json:
        settings = {"configurations": CONFIGURATIONS}
        report = {"device": device_name(), "commit": args.commit, "settings": settings, "figures": figures}
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
