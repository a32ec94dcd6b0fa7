#!/usr/bin/env python3
"""A llama-format checkpoint as a Mistral whose every second layer has a sliding window that short prompts outgrow.

    windowed.py FOLDER OUT

OUT holds links to FOLDER's files and a config.json of its own. What the model then says is nonsense, the same on every
device. Called by run.sh and by test_gpu_tools.py.
"""

import json
import sys
from pathlib import Path

WINDOW = 40
KINDS = ("sliding_attention", "full_attention")


def windowed(source, out):
    config = json.loads((source / "config.json").read_text())
    out.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        link = out / path.name
        link.unlink(missing_ok=True)
        if path.name != "config.json":
            link.symlink_to(path.resolve())
    layers = [KINDS[layer % 2] for layer in range(config["num_hidden_layers"])]
    config |= {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": WINDOW}
    (out / "config.json").write_text(json.dumps(config | {"layer_types": layers}, indent=2) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    windowed(*map(Path, sys.argv[1:]))
