#!/usr/bin/env python3
"""Turn a llama-format float16 checkpoint into a Qwen2 one in bfloat16, with q, k and v biases.

    as_qwen2_bf16.py LLAMA_MODEL OUT

The biases are small random numbers (Qwen2 has them, Llama has none) from one seed: every run writes the same bytes.
"""

import argparse
import shutil
import sys
from pathlib import Path

import numpy as np

from checkpoint import Checkpoint, write_bf16, write_json

SEED = 7
SCALE = 0.3


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    source = Checkpoint(args.model)
    rng = np.random.default_rng(SEED)
    tensors = {name: source.tensor(name).astype(np.float32) for name in source.names()}
    for name in list(tensors):
        if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")):
            bias = rng.standard_normal(tensors[name].shape[0]) * SCALE
            tensors[name.replace(".weight", ".bias")] = bias.astype(np.float32)
    args.out.mkdir(parents=True, exist_ok=True)
    for path in args.model.iterdir():
        if path.suffix != ".safetensors" and path.name != "config.json":
            shutil.copy(path, args.out / path.name)
    names = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "torch_dtype": "bfloat16"}
    write_json(args.out / "config.json", {**source.config, **names, "use_sliding_window": False})
    write_bf16(args.out, tensors)
    return 0


if __name__ == "__main__":
    sys.exit(main())
