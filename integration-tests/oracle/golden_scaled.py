#!/usr/bin/env python3
"""Golden cases for rotary scalings and the sliding window, on one llama-format model.

    golden_scaled.py LLAMA_MODEL OUT.json

Each case lists the config keys to override; lengths are so small that a prompt of ordinary length shows the rule. What
the model then says is nonsense where it was not trained so, and just as exact.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from chat import Chat
from golden import user, write_json_compact
from golden_long import QUESTION, TEXT
from oracle import Model, Settings

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
CASES = {
    "linear": {"rope_scaling": {"type": "linear", "factor": 2.0}},
    "dynamic": {"max_position_embeddings": 64, "rope_scaling": {"type": "dynamic", "factor": 4.0}},
    "llama3": {"rope_scaling": {**LLAMA3, "original_max_position_embeddings": 256}},
    "yarn": {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}},
    "yarn_near": {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64}},
    "window": {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 40},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--max-tokens", type=int, default=24)
    args = parser.parse_args()
    chat, model, cases = Chat(args.model), Model(args.model), []
    config = model.config
    prompt = chat.render([user(TEXT + QUESTION)])
    ids = chat.encode(prompt)
    for name, overrides in CASES.items():
        model.s = Settings({**config, **overrides})
        steps = model.generate(ids, args.max_tokens, chat.stop_ids)
        out = [s["id"] for s in steps]
        cases.append(
            {
                "name": name,
                "config_overrides": overrides,
                "prompt": prompt,
                "prompt_ids": ids,
                "ids": out,
                "text": chat.decode(out),
                "margin": min(round(s["top"][0][1] - s["top"][1][1], 6) for s in steps),
                "logprobs": [s["logprob"] for s in steps],
                "top": [s["top"] for s in steps],
            }
        )
        print(f"{name:9} {len(ids)} prompt tokens, margin {cases[-1]['margin']}: {chat.decode(out)!r}")
    head = {"model": args.model.name, "dtype": np.dtype(model.dtype).name, "max_tokens": args.max_tokens}
    write_json_compact(args.out, head, cases)
    return 0


if __name__ == "__main__":
    sys.exit(main())
