#!/usr/bin/env python3
"""Writes a model folder with Qwen-14B-Chat's dimensions and no weights, for `--dummy-weights`.

    qwen14b.py OUT

config.json and the files beside it say what the published 4-bit AWQ checkpoint says. The vocabulary is made up: as many
ranks as Qwen's, the 256 bytes first and then words of plain letters, so that any text can be sent and that whatever a model
with random weights answers is readable. Standard library only; every run writes the same bytes.
"""

import base64
import json
import string
import sys
from pathlib import Path

RANKS = 151_643

CONFIG = {
    "architectures": ["QWenLMHeadModel"],
    "model_type": "qwen",
    "bf16": False,
    "fp16": True,
    "fp32": False,
    "hidden_size": 5120,
    "intermediate_size": 27392,
    "kv_channels": 128,
    "layer_norm_epsilon": 1e-06,
    "max_position_embeddings": 8192,
    "no_bias": True,
    "num_attention_heads": 40,
    "num_hidden_layers": 40,
    "rotary_emb_base": 10000,
    "rotary_pct": 1.0,
    "scale_attn_weights": True,
    "seq_length": 2048,
    "tie_word_embeddings": False,
    "tokenizer_class": "QWenTokenizer",
    "torch_dtype": "float16",
    "use_cache": True,
    "use_dynamic_ntk": True,
    "use_logn_attn": True,
    "vocab_size": 152064,
    "quantization_config": {
        "quant_method": "awq",
        "bits": 4,
        "group_size": 128,
        "version": "gemm",
        "zero_point": True,
    },
}
TOKENIZER = {"model_max_length": 8192, "tokenizer_class": "QWenTokenizer"}
GENERATION = {"chat_format": "chatml", "eos_token_id": RANKS, "pad_token_id": RANKS, "do_sample": False}


def word(i):
    """The i-th word: a space and four letters."""
    letters = []
    for _ in range(4):
        i, letter = divmod(i, 26)
        letters.append(string.ascii_lowercase[letter])
    return " " + "".join(reversed(letters))


def vocabulary():
    tokens = [bytes([byte]) for byte in range(256)]
    return tokens + [word(i).encode() for i in range(RANKS - len(tokens))]


def main():
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("config.json", CONFIG),
        ("tokenizer_config.json", TOKENIZER),
        ("generation_config.json", GENERATION),
    ):
        (out / name).write_text(json.dumps(content, indent=2) + "\n")
    lines = (b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(vocabulary()))
    (out / "qwen.tiktoken").write_bytes(b"".join(lines))


if __name__ == "__main__":
    main()
