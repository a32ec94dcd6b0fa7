"""Files that would become far larger than they are: each program refuses them in one line and within a bounded memory.

Peaks are what the kernel says of the process that has ended, its children included, and of every page it touched, those
of the mapped file among them.
"""

import base64
import json
import shutil
import struct
import subprocess
import sys

import pytest

from server import BIN, LAUNCHER, PATIENCE, clean_env

MIB = 1 << 20
# As README says: of what reads a model's folder, and of the router, whose vocabularies may have a million tokens.
MOST_MIB, MOST_ROUTER_MIB = 512, 1024

PLAN = (BIN / "text-generation-shard", "plan", "--model-path")
SERVE = (LAUNCHER, "--port", 0, "--model-id")

# A process's peak begins with its parent's, so the parent is a small one: this, in an interpreter of its own.
MEASURE = """
import json, os, subprocess, sys, threading
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
limit = threading.Timer(300, process.kill)
limit.start()
output = process.stdout.read()
limit.cancel()
_, status, usage = os.wait4(process.pid, 0)
print(json.dumps([os.waitstatus_to_exitcode(status), usage.ru_maxrss / 1024, output.decode(errors="replace")]))
"""


def run(*command):
    """Exit code, peak MiB and output."""
    measure = [sys.executable, "-IS", "-c", MEASURE, *map(str, command)]
    done = subprocess.run(measure, capture_output=True, text=True, timeout=2 * PATIENCE, env=clean_env(), check=True)
    return json.loads(done.stdout)


def refused(command, most_mib, words):
    code, peak, output = run(*command)
    last = output.strip().splitlines()[-1]
    assert code == 1 and last.startswith("Error: ") and "panicked" not in output, output[-2000:]
    assert len(last) < 1000 and all(word in last for word in words), last
    assert peak < most_mib, f"{peak:.0f} MiB: {last}"


@pytest.fixture
def folder(models, tmp_path):
    return shutil.copytree(models.tiny_v1_awq(), tmp_path / "model")


def listing(n_bytes, item=b"0,"):
    return b"[" + item * (n_bytes // len(item)) + b"0]"


def members(n, value, quote=b'"%d":'):
    return b"{" + b",".join(quote % i + value for i in range(n)) + b"}"


EMPTY = b'{"dtype":"F16","shape":[0],"data_offsets":[0,0]}'
HEADERS = {
    "a length beyond the file": (2**62, b"{}"),
    "100 MB": (None, b" " * (100 * MIB)),
    "nested lists": (None, b"[" * (30 * MIB)),
    "nested objects": (None, b'{"a":' * (6 * MIB)),
    "a shape of millions": (None, b'{"a":{"dtype":"F16","shape":' + listing(30 * MIB) + b',"data_offsets":[0,0]}}'),
    "millions of tensors": (None, members(550_000, EMPTY)),
    "one tensor millions of times": (None, b"{" + b",".join([b'"a":' + EMPTY] * 550_000) + b"}"),
    "millions of metadata": (None, b'{"__metadata__":' + members(2_500_000, b'""') + b"}"),
    "as many tensors as are allowed": (None, members(131_000, EMPTY)),
}


@pytest.mark.parametrize("what", HEADERS)
def test_headers(folder, what):
    length, header = HEADERS[what]
    length = len(header) if length is None else length
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", length) + header)
    refused([*PLAN, folder], MOST_MIB, [str(folder)])
    refused([*SERVE, folder], MOST_MIB, [])


JSON = {
    "a list of millions": lambda sound: sound[:-1] + b',"x":' + listing(60 * MIB) + b"}",
    "objects of one member": lambda sound: sound[:-1] + b',"x":' + listing(60 * MIB, b'{"":0},') + b"}",
    "millions of members": lambda sound: sound[:-1] + b',"x":' + members(4_000_000, b"0") + b"}",
    "nested lists": lambda sound: b"[" * (60 * MIB),
    "100 MB": lambda sound: b" " * (100 * MIB) + sound,
    "one long text": lambda sound: b'{"architectures":["x"],"weight_map":1,"quant_method":"' + b"x" * (60 * MIB) + b'"}',
}


@pytest.mark.parametrize("what", JSON)
@pytest.mark.parametrize("name", ["config.json", "quant_config.json", "model.safetensors.index.json"])
def test_configurations_and_indices(folder, name, what):
    path = folder / name
    if name.endswith("index.json"):
        path.write_bytes(b'{"weight_map":{"a":"a.safetensors"}}')
        (folder / "model.safetensors").unlink()
    path.write_bytes(JSON[what](path.read_bytes().rstrip()))
    for command in (PLAN, SERVE):
        refused([*command, folder], MOST_MIB, [name] if name == "config.json" else [])


def test_an_index_of_as_many_tensors_as_are_allowed(folder):
    (folder / "model.safetensors").unlink()
    index = b'{"weight_map":' + members(1_000_000, b'"a.safetensors"', b'"model.layers.%d":') + b"}"
    (folder / "model.safetensors.index.json").write_bytes(index)
    refused([*PLAN, folder], MOST_MIB, ["a.safetensors"])


def tiktoken(n):
    return b"\n".join(base64.b64encode(b"%08d" % i) + b" %d" % i for i in range(n))


def numbered(n):
    return b"{" + b",".join(b'"t%d":%d' % (i, i) for i in range(n)) + b"}"


BYTES = b',"decoder":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true}'


def library(vocabulary, merges=b"[]", more=b""):
    model = b'{"type":"BPE","vocab":' + vocabulary + b',"merges":' + merges + b"}"
    return b'{"version":"1.0","added_tokens":[],"model":' + model + more + b"}"


VOCABULARIES = {
    "qwen.tiktoken": {
        "more ranks than any": lambda: tiktoken(2_000_000),
        "one long token": lambda: base64.b64encode(b"x" * (45 * MIB)) + b" 0",
        "100 MB": lambda: b"a" * (100 * MIB),
        "a rank of its own": lambda: b"AA== 18446744073709551615",
        "a rank twice": lambda: b"AA== 0\nAQ== 0",
    },
    "tokenizer.json": {
        "100 MB": lambda: b" " * (100 * MIB) + b"{}",
        "nested lists": lambda: b"[" * (60 * MIB),
        "a list of millions": lambda: library(b"{}", more=b',"decoder":' + listing(60 * MIB)),
        "a list of as many as are allowed": lambda: library(b"{}", more=b',"decoder":' + listing(8_000_000)),
        "as many tokens as are allowed, one twice": lambda: library(numbered(1_000_000)[:-1] + b',"u":0}', more=BYTES),
        "more tokens than any": lambda: library(numbered(3_000_000), more=BYTES),
        "an id of its own": lambda: library(b'{"a":4294967295}'),
        "an id twice": lambda: library(b'{"a":0,"b":0}'),
        "millions of merges": lambda: library(b'{"a":0}', listing(40 * MIB, b'"a a",')),
        "one long token": lambda: library(b'{"' + b"x" * (60 * MIB) + b'":4294967295}'),
    },
}


@pytest.mark.parametrize(("name", "what"), [(name, what) for name, cases in VOCABULARIES.items() for what in cases])
def test_vocabularies(folder, name, what):
    (folder / "qwen.tiktoken").unlink()
    (folder / name).write_bytes(VOCABULARIES[name][what]())
    router = [BIN / "text-generation-router", "--port", 0, "--master-shard-uds-path", folder / "shard.sock"]
    refused([*router, "--tokenizer-name", folder], MOST_ROUTER_MIB, [name])
