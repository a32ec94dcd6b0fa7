"""A tiny repository on a Hub on loopback, and what tests of downloads ask of the launcher and find in the cache.

Used by ``test_hub`` and ``test_hub_cache``, which import its fixtures; knows no test.
"""

import contextlib
import json
import os

import pytest
from safetensors.numpy import load_file, save

from fake_hub import COMMIT, FakeHub
from server import PATIENCE, run_launcher

MODEL = "o/tiny"
SHARDS = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="session")
def tiny_files(models):
    """The tiny checkpoint as a repository has it: in two shards, among files that nobody needs."""
    folder = models.tiny_v1_awq()
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    half = len(names) // 2
    parts = {SHARDS[0]: names[:half], SHARDS[1]: names[half:]}
    files = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "model.safetensors"}
    for file, part in parts.items():
        files[file] = save({name: tensors[name] for name in part}, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
    files[INDEX] = json.dumps(index).encode()
    useless = ("README.md", "pytorch_model.bin", "modeling_qwen.py", "training_args.bin", "onnx/model.onnx",
               "consolidated.safetensors", "sub/model.safetensors")  # fmt: skip
    return files | {name: b"nobody needs this" for name in useless}


NEEDED = {"config.json", "generation_config.json", "quant_config.json", "qwen.tiktoken", "tokenizer_config.json",
          INDEX, *SHARDS}  # fmt: skip


@pytest.fixture
def hub(tiny_files):
    with FakeHub({MODEL: tiny_files}) as hub:
        yield hub


@pytest.fixture
def home(tmp_path):
    return tmp_path / "hf"


def environment(hub, home, **more):
    """However slow the machine is, nobody gives up a connection that a test does not mean to be given up."""
    endpoint = hub.url if hub else "http://127.0.0.1:9"
    return {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DOWNLOAD_TIMEOUT": str(PATIENCE), **more}


def download(hub, home, *args, model=MODEL, **more):
    """``(exit code, output)`` of download-weights."""
    return run_launcher("download-weights", model, *args, env=environment(hub, home, **more))


def succeeds(*args, **kwargs):
    code, output = download(*args, **kwargs)
    assert code == 0, output
    return output


def fails(hub, home, *words, args=(), **kwargs):
    code, output = download(hub, home, *args, **kwargs)
    assert code == 1, output
    last = output.strip().splitlines()[-1]
    assert last.startswith('Error: DownloadError("') and "panicked" not in output, output
    for word in words:
        assert word in last, f"{word!r} not in {last}"
    return output


def repository(home, id=MODEL):
    return home / "hub" / ("models--" + id.replace("/", "--"))


def snapshot(home, id=MODEL):
    return repository(home, id) / "snapshots" / COMMIT


def check_snapshot(hub, home, names=NEEDED, id=MODEL):
    """The snapshot has exactly ``names``, each a link to a blob of its hash with the right bytes."""
    folder = snapshot(home, id)
    assert {p.name for p in folder.iterdir()} == set(names)
    for name in names:
        file = hub.files[id][name]
        assert os.readlink(folder / name) == f"../../blobs/{file.etag}"
        assert (folder / name).read_bytes() == file.data
    assert not list(repository(home, id).rglob("*.incomplete")) and not list(repository(home, id).rglob("*.tmp"))


def written(home):
    """Bytes of unfinished files; small files come and go meanwhile."""
    sizes = 0
    for path in (repository(home) / "blobs").glob("*.incomplete"):
        with contextlib.suppress(FileNotFoundError):
            sizes += path.stat().st_size
    return sizes
