#!/usr/bin/env python3
"""Write a tiny random checkpoint in the original Qwen's format.

    tiny_qwen_v1.py OUT_DIR [--tiktoken FILE]

Two layers of random weights with *non-zero* ``c_attn`` biases (no small real model with
a clear licence has them), float16. Its vocabulary is the 256 bytes, a few merges and
Qwen's special tokens, so that any text can be sent. The numbers come from one seed:
every run writes the same bytes. Quantise it with ``awq_quantize.py --group-size 32``.
``--tiktoken`` takes another vocabulary (Qwen's own, to test its tokenizer on a server).
"""

import argparse
import base64
import sys
from pathlib import Path

import numpy as np

from checkpoint import save_tensors, write_json
from export_hf import qwen_v1_config
from qwen_vocab import QWEN_SPECIAL, read_tiktoken

SEED = 20
LAYERS, HIDDEN, HEADS, FF = 2, 64, 4, 96
MERGES = (b"th", b"he", b"in", b"er", b"the", b" t", b" the", b"ing")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--tiktoken", type=Path)
    args = parser.parse_args()
    out = args.out
    ranks = [bytes([b]) for b in range(256)] + list(MERGES)
    if args.tiktoken:
        ranks = list(read_tiktoken(args.tiktoken))
    vocab = -(-(len(ranks) + len(QWEN_SPECIAL)) // 64) * 64
    rng = np.random.default_rng(SEED)

    def normal(*shape, scale):
        return (rng.standard_normal(shape) * scale).astype(np.float16)

    def linear(n, k):
        return normal(n, k, scale=k**-0.5)

    tensors = {
        "transformer.wte.weight": normal(vocab, HIDDEN, scale=1.0),
        "transformer.ln_f.weight": (1 + normal(HIDDEN, scale=0.1)).astype(np.float16),
        "lm_head.weight": normal(vocab, HIDDEN, scale=0.3),
    }
    for i in range(LAYERS):
        p = f"transformer.h.{i}."
        tensors |= {
            p + "ln_1.weight": (1 + normal(HIDDEN, scale=0.1)).astype(np.float16),
            p + "ln_2.weight": (1 + normal(HIDDEN, scale=0.1)).astype(np.float16),
            p + "attn.c_attn.weight": linear(3 * HIDDEN, HIDDEN),
            p + "attn.c_attn.bias": normal(3 * HIDDEN, scale=0.5),
            p + "attn.c_proj.weight": linear(HIDDEN, HIDDEN),
            p + "mlp.w1.weight": linear(FF, HIDDEN),
            p + "mlp.w2.weight": linear(FF, HIDDEN),
            p + "mlp.c_proj.weight": linear(HIDDEN, FF),
        }
    dims = {
        "hidden": HIDDEN,
        "ff": FF,
        "head_dim": HIDDEN // HEADS,
        "eps": 1e-6,
        "context": 512,
        "heads": HEADS,
        "layers": LAYERS,
        "theta": 10000.0,
        "vocab": vocab,
    }
    out.mkdir(parents=True, exist_ok=True)
    # seq_length 32: dynamic NTK and log-n attention act on prompts of ordinary length.
    write_json(out / "config.json", qwen_v1_config(dims, 32))
    write_json(
        out / "tokenizer_config.json",
        {"model_max_length": dims["context"], "tokenizer_class": "QWenTokenizer"},
    )
    write_json(
        out / "generation_config.json",
        {
            "chat_format": "chatml",
            "eos_token_id": len(ranks),
            "pad_token_id": len(ranks),
            "do_sample": False,
        },
    )
    lines = (b"%s %d" % (base64.b64encode(t), r) for r, t in enumerate(ranks))
    (out / "qwen.tiktoken").write_bytes(b"\n".join(lines) + b"\n")
    save_tensors(out, tensors)
    return 0


if __name__ == "__main__":
    sys.exit(main())
