#!/usr/bin/env python3
"""The CPU path beside llama.cpp on the same machine: prompt, decode, sequences together, memory.

    bench_cpu.py [--runs 5] [--threads 2] [--model DIR --gguf FILE] [--peer PYTHON]

Runs the shard's executor (`bench_cpu`, built by `make bench-cpu`) and llama.cpp in turns, each in a fresh
process, and prints medians, ratios and what memory allows. Without --model and --gguf both serve
SmolLM2-135M. Without --peer, llama-cpp-python is compiled once into a venv in the user's cache (some
minutes). `busy` is the share of the machine that other processes took: figures with more than a few
percent say little, because both sides spin at barriers.
"""

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from models import Models  # noqa: E402

OURS = HERE.parent.parent / "target" / "release" / "examples" / "bench_cpu"
PEER = HERE / "peer_llamacpp.py"
PEER_PACKAGE = "llama-cpp-python==0.3.36"
FIGURES = (
    ("prompt_tok_s", "prompt {prompt}, tok/s"),
    ("decode_tok_s", "decode {decode} after it, tok/s"),
    ("batch_decode_tok_s", "{sequences} sequences decoding, tok/s in all"),
    ("load_s", "load, s"),
    ("peak_rss_mb", "peak memory, MB"),
)


def gcc_version():
    """Major version of the C compiler that pip will use; a large one if it is not GCC."""
    cc = os.environ.get("CC", "cc")
    told = subprocess.run([cc, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"(?:gcc|GCC|cc) .*?(\d+)\.\d+\.\d+", told)
    return int(found[1]) if found else 99


def peer_python(cache):
    """The Python of a venv that has llama-cpp-python, compiled for this processor when first asked for."""
    folder = cache / "quern" / PEER_PACKAGE.replace("==", "-")
    python = folder / "bin" / "python"
    works = lambda: python.exists() and not subprocess.run(
        [python, "-c", "import llama_cpp"], capture_output=True, check=False
    ).returncode  # fmt: skip
    if works():
        return python
    print(f"Compiling {PEER_PACKAGE} in {folder} (some minutes)", flush=True)
    venv.create(folder, with_pip=True, clear=True)
    env = dict(os.environ)
    if gcc_version() < 13:
        # llama.cpp's AMX code, compiled by GCC 12, crashes on processors that have AMX.
        flags = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
        env["CMAKE_ARGS"] = f"-DGGML_NATIVE=ON -DCMAKE_C_FLAGS='{flags}' -DCMAKE_CXX_FLAGS='{flags}'"
        print(f"GCC before 13: without AMX ({flags})", flush=True)
    install = [python, "-m", "pip", "install", "-q", "--no-binary", "llama-cpp-python", PEER_PACKAGE]
    subprocess.run(install, env=env, check=True)
    if not works():
        raise RuntimeError(f"{python} cannot import llama_cpp; delete {folder} and try again")
    return python


def machine_busy():
    """Seconds of processor time that the machine has spent working since it started."""
    fields = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def children_busy():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def timed(command):
    """The JSON that ``command`` prints, and how busy others kept the machine."""
    machine, own, wall = machine_busy(), children_busy(), time.monotonic()
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{done.stderr}\n{command[0]} ended with {done.returncode}")
    others = (machine_busy() - machine) - (children_busy() - own)
    report = json.loads(done.stdout.splitlines()[-1])
    report["busy"] = max(0.0, others / (time.monotonic() - wall) / (os.cpu_count() or 1))
    return report


def table(ours, theirs, args):
    middle = lambda runs, key: statistics.median(run[key] for run in runs)
    print(f"\n{'median of ' + str(args.runs):42} {'quern':>10} {'llama.cpp':>10} {'ratio':>7}")
    for key, label in FIGURES:
        a, b = middle(ours, key), middle(theirs, key)
        print(f"{label.format(**vars(args)):42} {a:10.2f} {b:10.2f} {a / b:7.2f}")
    busy = [max(run["busy"] for run in runs) for runs in (ours, theirs)]
    print(f"{'other processes, share of the machine':42} {busy[0]:10.0%} {busy[1]:10.0%}")
    weights, kv = middle(ours, "weight_bytes_per_token"), middle(ours, "kv_bytes_per_token")
    bandwidth = max(run["read_bytes_s"] for run in ours)
    limit, reached = bandwidth / (weights + kv), middle(ours, "decode_tok_s")
    print(
        f"\nA decoded token reads {weights / 1e6:.0f} MB of weights and {kv / 1e6:.0f} MB of KV cache. Memory gives "
        f"{bandwidth / 1e9:.1f} GB/s to {args.threads} threads, so at most {limit:.0f} tok/s: "
        f"{reached / limit:.0%} reached. Instructions: {ours[0]['level']}."
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--decode", type=int, default=128)
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--model", type=Path, help="checkpoint folder")
    parser.add_argument("--gguf", type=Path, help="the same model for llama.cpp")
    parser.add_argument("--peer", type=Path, help="a Python that has llama-cpp-python")
    args = parser.parse_args()
    if not OURS.exists():
        raise SystemExit(f"{OURS} is missing; run `make bench-cpu`")
    models = Models() if not (args.model and args.gguf) else None
    model, gguf = args.model or models.smollm2_awq(), args.gguf or models.gguf()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    peer = args.peer or peer_python(cache)
    sizes = [f"--{name}={getattr(args, name)}" for name in ("threads", "prompt", "decode", "sequences")]
    ours, theirs = [], []
    for run in range(args.runs):
        ours.append(timed([OURS, "--model-path", model, *sizes]))
        theirs.append(timed([peer, PEER, gguf, *sizes]))
        line = lambda r: "  ".join(f"{r[key]:7.1f}" for key, _ in FIGURES[:3]) + f"  busy {r['busy']:.0%}"
        print(f"run {run + 1}: quern {line(ours[-1])} | llama.cpp {line(theirs[-1])}", flush=True)
    table(ours, theirs, args)


if __name__ == "__main__":
    main()
