"""Fixtures: checkpoint folders (made once) and servers on them (one a module).

The binaries under test are target/release's, or those in $QUERN_BIN; `make test` builds them first.
"""

import json
import shutil
from pathlib import Path

import pytest

from models import Models
from server import Server

GOLDEN = Path(__file__).parent / "golden"

# The launch line that readers of the first model's card use, less model and port.
CARD_FLAGS = (
    "--quantize", "awq", "--max-input-length", 3696, "--max-total-tokens", 4096,
    "--max-batch-prefill-tokens", 4096,
)  # fmt: skip


@pytest.fixture(scope="session")
def models():
    return Models()


@pytest.fixture(scope="session")
def smollm2(models):
    """A server on SmolLM2 in llama format."""
    with Server("--model-id", models.smollm2_awq()) as server:
        yield server


@pytest.fixture(scope="session")
def qwen_v1(models):
    """A server on SmolLM2 in the original Qwen's format, started with the model card's flags."""
    with Server("--model-id", models.smollm2_v1_awq(), *CARD_FLAGS) as server:
        yield server


@pytest.fixture(scope="session")
def tiny(models):
    """A server on the tiny random checkpoint: for tests in which the text does not matter."""
    with Server("--model-id", models.tiny_v1_awq()) as server:
        yield server


def golden(name):
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


def linked(source, folder, overrides):
    """Links to a checkpoint folder's files, and its config.json with `overrides` on top."""
    folder.mkdir()
    for path in source.iterdir():
        if path.name != "config.json":
            (folder / path.name).symlink_to(path)
    config = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **overrides}))
    return folder


def copy_of(folder, parent):
    """A copy of a checkpoint folder that a test may damage."""
    return shutil.copytree(folder, parent / "model")
