#!/usr/bin/env python3
"""Makes the small GGUF files and expected results that the Rust tests of `convert` compare with.

    gguf_goldens.py OUT [--wide]        OUT is launcher/src/convert/testdata

Writes, from fixed seeds:

* ``TYPE.bin``: a few blocks of each tensor type, then their float32 values by the gguf package;
* ``llama.gguf`` and ``qwen2.gguf``: two-layer models of random weights in several types;
* ``expected.txt``: sha256 of each file of each folder that ``export_hf.py`` and ``awq_quantize.py`` make of them.

``--wide`` makes models of 256 features, to try the 256-element block types too, and keeps the folders.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import GGUFWriter
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize

HERE = Path(__file__).resolve().parent
TYPES = (T.F32, T.F16, T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.Q4_K, T.Q5_K, T.Q6_K)
# Byte positions of the float16 factors in a block: random bits there would often be infinite.
FACTORS = {T.Q4_0: (0,), T.Q4_1: (0, 2), T.Q5_0: (0,), T.Q5_1: (0, 2), T.Q8_0: (0,)}
FACTORS |= {T.Q4_K: (0, 2), T.Q5_K: (0, 2), T.Q6_K: (208,)}
N_BLOCKS, GROUP, LAYERS, HEADS, KV_HEADS, VOCAB = 4, 32, 2, 2, 1, 48
TEMPLATE = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% endfor %}é\t\"\\"


def blocks(rng, kind, n):
    """``n`` blocks of random bits with small finite factors, one of them subnormal."""
    if kind == T.F32:
        return rng.standard_normal(n, np.float32).view(np.uint8)
    if kind == T.F16:
        return rng.standard_normal(n, np.float32).astype(np.float16).view(np.uint8)
    raw = rng.integers(0, 256, (n, GGML_QUANT_SIZES[kind][1]), np.uint8)
    if kind == T.BF16:
        return quantize(rng.standard_normal(n, np.float32), kind).ravel()
    for at in FACTORS[kind]:
        factor = (rng.standard_normal(n) * 0.002).astype(np.float16)
        factor[0] = 3e-6
        raw[:, at : at + 2] = factor.view(np.uint8).reshape(n, 2)
    return raw.ravel()


def add(writer, rng, name, shape, kind):
    """One tensor of random weights, stored as ``kind``."""
    n = int(np.prod(shape))
    if kind in FACTORS and GGML_QUANT_SIZES[kind][0] == 256:
        raw = blocks(rng, kind, n // 256).reshape(*shape[:-1], -1)
    else:
        raw = quantize((rng.standard_normal(shape) * 0.1).astype(np.float32), kind)
    if kind in (T.F32, T.F16):
        writer.add_tensor(name, raw)
    else:
        writer.add_tensor(name, raw.view(np.uint8), raw_dtype=kind)


def add_vocabulary(writer, pre):
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + ["Ġ", "é", '"', "\\"]
    merges = ["Ġ a", "t h", "th e", "i n", "a n", "a n", "é \\"]
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *letters]
    tokens += ["Ġa", "th", "the", "in", "an", "<tool>", "<|late|>"]
    tokens += [f"[PAD{i}]" for i in range(VOCAB - len(tokens))]
    kinds = {"<tool>": 4}
    types = [3 if t.startswith("<|") else 5 if t.startswith("[PAD") else kinds.get(t, 1) for t in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)


def model(path, arch, hidden, ff, kinds, seed):
    """A model whose linear weights take their types from ``kinds`` in turn."""
    rng, writer = np.random.default_rng(seed), GGUFWriter(path, arch)
    head_dim, turn = hidden // HEADS, iter(kinds * 9 * LAYERS)
    writer.add_block_count(LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(ff)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    add_vocabulary(writer, "smollm" if arch == "llama" else "qwen2")
    if arch == "llama":
        writer.add_bos_token_id(1)
        writer.add_add_bos_token(True)
        writer.add_pad_token_id(2)
        writer.add_unk_token_id(0)
    else:
        writer.add_rope_freq_base(1000000.0)
    kv = KV_HEADS * head_dim
    weights = {"attn_q": (hidden, hidden), "attn_k": (kv, hidden), "attn_v": (kv, hidden)}
    weights |= {"attn_output": (hidden, hidden), "ffn_gate": (ff, hidden), "ffn_up": (ff, hidden)}
    weights |= {"ffn_down": (hidden, ff)}
    add(writer, rng, "token_embd.weight", (VOCAB, hidden), T.Q8_0)
    for i in range(LAYERS):
        for name, shape in weights.items():
            add(writer, rng, f"blk.{i}.{name}.weight", shape, next(turn))
            if arch == "qwen2" and name in ("attn_q", "attn_k", "attn_v"):
                add(writer, rng, f"blk.{i}.{name}.bias", shape[:1], T.F32)
        add(writer, rng, f"blk.{i}.attn_norm.weight", (hidden,), T.F32)
        add(writer, rng, f"blk.{i}.ffn_norm.weight", (hidden,), T.F32)
    if arch == "qwen2":
        add(writer, rng, "output.weight", (VOCAB, hidden), T.F16)
    add(writer, rng, "output_norm.weight", (hidden,), T.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def reference(gguf, folder):
    """Folders by the reference scripts: format to path."""
    fp16, awq = folder / f"{gguf.stem}-fp16", folder / f"{gguf.stem}-awq"
    scripts = (("export_hf.py", gguf, fp16), ("awq_quantize.py", fp16, awq, "--group-size", str(GROUP)))
    for script, *args in scripts:
        subprocess.run([sys.executable, HERE / script, *args], check=True, stdout=subprocess.DEVNULL)
    return (fp16, awq)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--wide", action="store_true", help="models of 256 features, folders kept")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    for kind in TYPES:
        raw = blocks(rng, kind, N_BLOCKS)
        values = dequantize(raw, kind).astype("<f4")
        (args.out / f"{kind.name}.bin").write_bytes(raw.tobytes() + values.tobytes())
    hidden, ff, kinds = (256, 512, TYPES) if args.wide else (64, 96, TYPES[1:8])
    lines = []
    with tempfile.TemporaryDirectory() as scratch:
        for seed, arch in enumerate(("llama", "qwen2")):
            gguf = args.out / f"{arch}.gguf"
            model(gguf, arch, hidden, ff, list(kinds), seed)
            for folder in reference(gguf, args.out if args.wide else Path(scratch)):
                for path in sorted(folder.iterdir()):
                    digest = hashlib.sha256(path.read_bytes()).hexdigest()
                    lines.append(f"{digest} {folder.name} {path.name}")
    (args.out / "expected.txt").write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
