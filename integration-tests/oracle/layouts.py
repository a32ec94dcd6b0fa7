#!/usr/bin/env python3
"""Write a checkpoint folder in another quantised layout.

    layouts.py AWQ_FOLDER OUT gemv|gemv_fast
    layouts.py FLOAT_FOLDER OUT gptq [--bits 4|8] [--group-size 64] [--asym] [--desc-act] [--v2]

``gemv`` and ``gemv_fast`` move the nibbles of an AWQ "gemm" folder to where AutoAWQ's other versions
have them. ``gptq`` rounds to nearest and packs as AutoGPTQ does; ``--desc-act`` sorts input features
by the size of their weights before it forms groups. `read_*` are the inverses, by which the oracle
reads such folders; moved nibbles are checked to come back.
"""

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np

import checkpoint as awq

FAST_ORDER = np.arange(32).reshape(4, 4, 2).transpose(1, 2, 0).reshape(32)  # source feature by place in 32


def zero_words(k, group):
    """int32 words for a row of zero points: eight groups each, and as AutoAWQ rounds them up."""
    multiple = {64: 2, 32: 4}.get(group, 1)
    return -(-(-(-(k // group) // 8)) // multiple) * multiple


def pack(values, bits, axis):
    """Packs unsigned integers along ``axis`` into int32, lowest first."""
    per_word = 32 // bits
    moved = np.moveaxis(values.astype(np.uint32), axis, -1)
    parts = moved.reshape(*moved.shape[:-1], -1, per_word)
    shifts = np.arange(per_word, dtype=np.uint32) * np.uint32(bits)
    words = np.bitwise_or.reduce(parts << shifts, axis=-1)
    return np.ascontiguousarray(np.moveaxis(words, -1, axis)).view(np.int32)


def unpack(words, bits, axis):
    """The inverse of `pack`."""
    moved = np.moveaxis(np.ascontiguousarray(words).view(np.uint32), axis, -1)
    shifts = np.arange(32 // bits, dtype=np.uint32) * np.uint32(bits)
    values = (moved[..., None] >> shifts) & np.uint32(2**bits - 1)
    return np.moveaxis(values.reshape(*moved.shape[:-1], -1), -1, axis)


# --- AutoAWQ ---------------------------------------------------------------------


def padded(values, width):
    """``[G, N]`` with rows of zeros up to ``width``."""
    return np.concatenate([values, np.zeros((width - len(values), values.shape[1]), values.dtype)])


def gemv(q, zeros, scales, group):
    width = zero_words(len(q), group)
    return {
        "qweight": pack(q.T, 4, 1),
        "qzeros": pack(padded(zeros, 8 * width).T, 4, 1),
        "scales": padded(scales, 8 * width).T,
    }


def read_gemv(tensors, group):
    q = unpack(tensors["qweight"], 4, 1).T
    groups = len(q) // group
    return q, unpack(tensors["qzeros"], 4, 1).T[:groups], tensors["scales"].T[:groups]


def gemv_fast(q, zeros, scales, group):
    (k, n), width = q.shape, zero_words(len(q), group)
    placed = q.T.reshape(n, k // 32, 32)[:, :, FAST_ORDER].reshape(n // 4, 4, k // 64, 64)
    four = placed.transpose(0, 2, 1, 3).reshape(n // 4, k, 4).astype(np.uint16)
    words = four[..., 0] | four[..., 1] << 4 | four[..., 2] << 8 | four[..., 3] << 12
    scaled = -(scales.astype(np.float32) * zeros).astype(np.float16)
    return {
        "qweight": words.view(np.int16),
        "qzeros": padded(scaled, 8 * width),
        "scales": padded(scales, 8 * width),
    }


def read_gemv_fast(tensors, group):
    words = np.ascontiguousarray(tensors["qweight"]).view(np.uint16)
    n, k = 4 * words.shape[0], words.shape[1]
    four = words[..., None] >> np.arange(0, 16, 4, dtype=np.uint16) & 15
    placed = four.reshape(n // 4, k // 64, 4, 64).transpose(0, 2, 1, 3).reshape(n, k // 32, 32)
    q = placed[:, :, np.argsort(FAST_ORDER)].reshape(n, k).T
    scales = tensors["scales"][: k // group]
    divisor = np.where(scales == 0, 1, scales).astype(np.float32)
    return q, np.rint(-tensors["qzeros"][: k // group].astype(np.float32) / divisor), scales


# --- AutoGPTQ --------------------------------------------------------------------


def gptq(weight, bits, group, asym, desc_act, v2):
    """The tensors of one layer ``weight [K, N]``."""
    k, n = weight.shape
    most = 2**bits - 1
    order = np.argsort(-np.abs(weight).sum(axis=1), kind="stable") if desc_act else np.arange(k)
    g_idx = np.empty(k, np.int32)
    g_idx[order] = np.arange(k) // group
    w = weight[order].reshape(k // group, group, n)
    low, high = np.minimum(w.min(axis=1), 0), np.maximum(w.max(axis=1), 0)
    if not asym:
        high = np.maximum(high, -low)
        low = -high
    scales = (np.maximum(high - low, 1e-5) / most).astype(np.float16)
    step = scales.astype(np.float32)
    zeros = np.clip(np.rint(-low / step), 0, most) if asym else np.full(low.shape, (most + 1) // 2)
    q = np.clip(np.rint(weight / step[g_idx]) + zeros[g_idx], 0, most).astype(np.uint32)
    stored = zeros.astype(np.int64) if v2 else (zeros.astype(np.int64) - 1) & most
    return {
        "qweight": pack(q, bits, 0),
        "qzeros": pack(stored, bits, 1),
        "scales": scales,
        "g_idx": g_idx,
    }


def read_gptq(tensors, bits, v2):
    q, zeros = unpack(tensors["qweight"], bits, 0), unpack(tensors["qzeros"], bits, 1)
    return q, zeros if v2 else (zeros + 1) & np.uint32(2**bits - 1), tensors["scales"]


def dequantize(config, tensors, dtype):
    """The float weight ``[K, N]`` of a layer that is not in AWQ's "gemm"."""
    if config["quant_method"] == "gptq":
        q, zeros, scales = read_gptq(tensors, config["bits"], config.get("checkpoint_format") == "gptq_v2")
        groups = tensors["g_idx"]
    else:
        read = {"gemv": read_gemv, "gemv_fast": read_gemv_fast}[config["version"].lower()]
        q, zeros, scales = read(tensors, config["group_size"])
        groups = np.arange(len(q)) // config["group_size"]
    return (q.astype(dtype) - zeros.astype(dtype)[groups]) * scales.astype(dtype)[groups]


# --- Folders ---------------------------------------------------------------------


def moved(source, version, group):
    """All tensors of an AWQ "gemm" checkpoint in another of AutoAWQ's layouts."""
    write, read = {"gemv": (gemv, read_gemv), "gemv_fast": (gemv_fast, read_gemv_fast)}[version]
    tensors = {}
    for name in source.names():
        prefix, _, part = name.rpartition(".")
        if prefix + ".qweight" not in source or part == "bias":
            tensors[name] = source.tensor(name)
        elif part == "qweight":
            stored = {p: source.tensor(f"{prefix}.{p}") for p in ("qweight", "qzeros", "scales")}
            levels = awq.unpack_nibbles(stored["qweight"]), awq.unpack_nibbles(stored["qzeros"]), stored["scales"]
            made = write(*levels, group)
            assert all(np.array_equal(a, b) for a, b in zip(read(made, group), levels)), prefix
            tensors |= {f"{prefix}.{p}": t for p, t in made.items()}
    return tensors


def rounded(source, layer_linear, options):
    """All tensors of a float checkpoint with its layers as AutoGPTQ stores them."""
    tensors = {}
    for name in source.names():
        tensor = source.tensor(name)
        if not layer_linear.match(name):
            tensors[name] = tensor
            continue
        made = gptq(tensor.astype(np.float32).T, *options)
        tensors |= {f"{name.removesuffix('.weight')}.{part}": t for part, t in made.items()}
    return tensors


def main():
    from awq_quantize import LAYER_LINEAR

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("layout", choices=("gemv", "gemv_fast", "gptq"))
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--asym", action="store_true")
    parser.add_argument("--desc-act", action="store_true")
    parser.add_argument("--v2", action="store_true")
    args = parser.parse_args()
    source = awq.Checkpoint(args.source)
    config = dict(source.config)
    if args.layout == "gptq":
        config["quantization_config"] = {
            "quant_method": "gptq", "bits": args.bits, "group_size": args.group_size, "damp_percent": 0.01,
            "desc_act": args.desc_act, "static_groups": False, "sym": not args.asym, "true_sequential": True,
            "model_name_or_path": None, "model_file_base_name": "model",
            "checkpoint_format": "gptq_v2" if args.v2 else "gptq",
        }  # fmt: skip
        options = (args.bits, args.group_size, args.asym, args.desc_act, args.v2)
        tensors = rounded(source, LAYER_LINEAR, options)
    else:
        config["quantization_config"] = {**config["quantization_config"], "version": args.layout}
        tensors = moved(source, args.layout, config["quantization_config"]["group_size"])
    args.out.mkdir(parents=True, exist_ok=True)
    awq.save_tensors(args.out, tensors)
    awq.write_json(args.out / "config.json", config)
    for path in args.source.iterdir():
        if path.name not in ("config.json", "quant_config.json", awq.SINGLE_FILE):
            shutil.copyfile(path, args.out / path.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
