#!/usr/bin/env python3
"""Times llama.cpp on one GGUF and prints one JSON object; run by bench_cpu.py in the peer's own venv.

    peer_llamacpp.py GGUF --threads 2 --prompt 512 --decode 128 --sequences 8 --batch-prompt 128 --batch-decode 64

Calls the C functions, without the Python package's copying of logits, so that no step pays for Python.
"""

import argparse
import json
import resource
import time

import llama_cpp


class Peer:
    """A model and a context for ``sequences`` sequences of at most ``longest`` tokens each."""

    def __init__(self, path, threads, sequences, longest):
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(
            path.encode(), llama_cpp.llama_model_default_params()
        )
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = sequences * (-(-longest // 256) * 256)
        params.n_batch = params.n_ubatch = 512
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError(f"{path}: llama.cpp cannot make a context of {params.n_ctx} tokens")
        self.batch = llama_cpp.llama_batch_init(512, 0, 1)

    def forget(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), False)

    def step(self, tokens):
        """One forward pass over ``(token, position, sequence, wants logits)``; seconds."""
        batch = self.batch
        batch.n_tokens = len(tokens)
        for i, (token, position, sequence, logits) in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, logits
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
        start = time.perf_counter()
        if llama_cpp.llama_decode(self.context, batch) != 0:
            raise RuntimeError("llama_decode failed")
        llama_cpp.llama_synchronize(self.context)
        return time.perf_counter() - start

    def prompt(self, n, sequence=0):
        """Seconds for ``n`` tokens of a new sequence, at most 512 a pass."""
        token = lambda i: (i * 7919 + 1000 * (sequence + 1)) % 24000 + 100
        tokens = [(token(i), i, sequence, i == n - 1) for i in range(n)]
        return sum(self.step(tokens[i : i + 512]) for i in range(0, n, 512))

    def decode(self, sequences, position, n):
        """Seconds for ``n`` more tokens of each sequence."""
        rows = lambda i: [(100 + (i * 31 + s) % 20000, position + i, s, True) for s in range(sequences)]
        return sum(self.step(rows(i)) for i in range(n))


def measure(args):
    start = time.perf_counter()
    longest = max(args.prompt + args.decode, args.batch_prompt + args.batch_decode)
    alone = Peer(args.gguf, args.threads, 1, longest)
    load = time.perf_counter() - start
    alone.prompt(32)
    alone.decode(1, 32, 2)
    alone.forget()
    prompt = alone.prompt(args.prompt)
    decode = alone.decode(1, args.prompt, args.decode)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    together = Peer(args.gguf, args.threads, args.sequences, args.batch_prompt + args.batch_decode)
    for sequence in range(args.sequences):
        together.prompt(args.batch_prompt, sequence)
    batch = together.decode(args.sequences, args.batch_prompt, args.batch_decode)
    return {
        "load_s": load,
        "prompt_tok_s": args.prompt / prompt,
        "decode_tok_s": args.decode / decode,
        "batch_decode_tok_s": args.sequences * args.batch_decode / batch,
        "peak_rss_mb": peak,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gguf")
    for name, default in (
        ("threads", 2), ("prompt", 512), ("decode", 128), ("sequences", 8), ("batch-prompt", 128), ("batch-decode", 64)
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    print(json.dumps(measure(parser.parse_args())))


if __name__ == "__main__":
    main()
