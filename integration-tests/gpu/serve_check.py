#!/usr/bin/env python3
"""A server with a real checkpoint, and what only a running one shows.

    serve_check.py --model DIR [--bin DIR] [--rounds N] [--new-tokens N] [-- LAUNCHER FLAGS]

Constrained answers keep to their grammar, prompts have their log-probabilities, and streams outlive a `kill -9` of the
shard. Exit code 1 if not. Standard library only.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection
from pathlib import Path

from stack_bench import Server

HERE = Path(__file__).resolve().parent
PATTERNS = ["[0-9]{4}", "(yes|no|maybe)", "[A-Z][a-z]{2,8}( [A-Z][a-z]{2,8})?", "(19|20)[0-9]{2}-(0[1-9]|1[0-2])", "[a-f]+"]
TYPES = {"string": str, "integer": int, "boolean": bool}
STREAMS = 8


def post(server, path, body):
    connection = HTTPConnection("127.0.0.1", server.port, timeout=120)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    reply = connection.getresponse()
    text = reply.read()
    connection.close()
    if reply.status != 200:
        raise RuntimeError(f"{path}: {reply.status}: {text[:500]!r}")
    return json.loads(text)


def generate(server, prompt, **parameters):
    parameters = {"max_new_tokens": 60, "details": True, "return_full_text": False} | parameters
    return post(server, "/generate", {"inputs": prompt, "parameters": parameters})


def check_grammars(server, rounds):
    """How many answers ended by themselves; those that do not keep to their grammar raise."""
    ended = 0
    for seed in range(rounds):
        warm = {"do_sample": True, "seed": seed, "temperature": 1.2} if seed else {}
        for pattern in PATTERNS:
            answer = generate(server, "In which year?", grammar={"type": "regex", "value": pattern}, **warm)
            if answer["details"]["finish_reason"] == "eos_token":
                ended += 1
                if not re.fullmatch(pattern, answer["generated_text"]):
                    raise RuntimeError(f"{pattern} gave {answer['generated_text']!r}")
        for names in (["string", "integer"], ["boolean", "string", "string"], ["integer"] * 4):
            fields = {f"field_{i}": name for i, name in enumerate(names)}
            limits = {"string": {"maxLength": 10}, "integer": {"minimum": 0, "maximum": 9999}, "boolean": {}}
            properties = {key: {"type": name} | limits[name] for key, name in fields.items()}
            schema = {"type": "object", "properties": properties, "required": list(fields), "additionalProperties": False}
            answer = generate(server, "A record: ", grammar={"type": "json", "value": schema}, **warm, max_new_tokens=120)
            if answer["details"]["finish_reason"] == "eos_token":
                ended += 1
                found = json.loads(answer["generated_text"])
                if {key: type(value) for key, value in found.items()} != {key: TYPES[name] for key, name in fields.items()}:
                    raise RuntimeError(f"{fields} gave {found}")
    return ended


def check_prompt(server):
    """Tokens of a prompt with their log-probabilities."""
    prefill = generate(server, "The capital of France is Paris, a city on the Seine.", decoder_input_details=True, max_new_tokens=1)
    prefill = prefill["details"]["prefill"]
    if len(prefill) < 8 or prefill[0]["logprob"] is not None or any(not token["logprob"] <= 0 for token in prefill[1:]):
        raise RuntimeError(f"prefill: {prefill}")
    return len(prefill)


def shard_of(server):
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            parent = int(stat.read_text().rsplit(")", 1)[1].split()[1])
            if parent == server.process.pid and os.readlink(stat.parent / "exe").endswith("/text-generation-shard"):
                return int(stat.parent.name)
    raise RuntimeError("the launcher has no shard")


def check_recovery(server, new_tokens):
    """(streams with the text of a quiet server, seconds from the shard's death to the last stream's next token)."""
    prompts = [f"Story number {i}: once upon a time" for i in range(STREAMS)]
    quiet = [generate(server, prompt, max_new_tokens=new_tokens)["generated_text"] for prompt in prompts]
    answers, moments = [None] * STREAMS, [[] for _ in range(STREAMS)]

    def stream(i):
        connection = HTTPConnection("127.0.0.1", server.port, timeout=120)
        body = {"inputs": prompts[i], "parameters": {"max_new_tokens": new_tokens, "details": True}}
        connection.request("POST", "/generate_stream", json.dumps(body), {"Content-Type": "application/json"})
        for line in connection.getresponse():
            if line.startswith(b"data:"):
                moments[i].append(time.perf_counter())
                answers[i] = json.loads(line[5:])["generated_text"]

    threads = [threading.Thread(target=stream, args=(i,)) for i in range(STREAMS)]
    for thread in threads:
        thread.start()
    while any(len(seen) < 5 for seen in moments):
        time.sleep(0.001)
    os.kill(shard_of(server), signal.SIGKILL)
    died = time.perf_counter()
    for thread in threads:
        thread.join()
    if None in answers:
        raise RuntimeError(f"streams without an end: {answers}")
    after = [min((moment for moment in seen if moment > died + 0.05), default=died) for seen in moments]
    return sum(a == b for a, b in zip(answers, quiet)), max(after) - died


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--bin", type=Path, default=HERE)
    parser.add_argument("--rounds", type=int, default=6, help="of constrained answers; the first is greedy")
    parser.add_argument("--new-tokens", type=int, default=300, help="of a stream")
    parser.add_argument("flags", nargs="*")
    args = parser.parse_args()
    server = Server(args.bin / "text-generation-launcher", args.model, args.flags)
    try:
        server.ready()
        print(f"constrained: {check_grammars(server, args.rounds)} answers ended, all within their grammar")
        print(f"prompt: {check_prompt(server)} tokens have log-probabilities")
        same, seconds = check_recovery(server, args.new_tokens)
        print(f"kill -9: {STREAMS} streams went on after {seconds:.2f} s, {same} with the text of a quiet server")
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
