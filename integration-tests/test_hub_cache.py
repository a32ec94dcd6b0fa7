"""Python's huggingface_hub on the launcher's cache: each finds and completes what the other has fetched."""

import re
import subprocess
import sys

from fake_hub import COMMIT
from hub_case import (  # noqa: F401 - fixtures
    MODEL,
    NEEDED,
    SHARDS,
    check_snapshot,
    environment,
    home,
    hub,
    snapshot,
    succeeds,
    tiny_files,
    written,
)
from server import LAUNCHER, PATIENCE, clean_env, until

SEES = """
import os, sys
from huggingface_hub import hf_hub_download, scan_cache_dir, snapshot_download, try_to_load_from_cache
folder = snapshot_download("o/tiny", local_files_only=True)
assert sorted(os.listdir(folder)) == sorted(sys.argv[1:]), os.listdir(folder)
for name in sys.argv[1:]:
    path = hf_hub_download("o/tiny", name, local_files_only=True)
    assert path == try_to_load_from_cache("o/tiny", name) == os.path.join(folder, name)
info = scan_cache_dir()
assert not info.warnings, info.warnings
(repository,) = info.repos
(revision,) = repository.revisions
assert revision.refs == {"main"} and len(revision.files) == len(sys.argv) - 1
print(revision.commit_hash)
"""

FETCHES = """
import sys
from huggingface_hub import snapshot_download
print(snapshot_download("o/tiny", allow_patterns=sys.argv[1:] or None))
"""


def python(hub, home, script, *args, **more):
    env = clean_env(environment(hub, home, HF_HUB_DISABLE_XET="1", **more))
    done = subprocess.run([sys.executable, "-c", script, *args], env=env, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_python_finds_what_we_fetched(hub, home):
    succeeds(hub, home)
    assert python(hub, home, SEES, *NEEDED, HF_HUB_OFFLINE="1") == COMMIT
    sent = hub.bytes_sent()
    python(hub, home, FETCHES, *NEEDED)
    assert hub.bytes_sent() == sent, "Python had nothing to fetch"


def test_we_find_what_python_fetched(hub, home):
    folder = python(hub, home, FETCHES)
    assert folder == str(snapshot(home))
    sent = hub.bytes_sent()
    assert succeeds(hub, home).strip().splitlines()[-1] == folder
    assert succeeds(None, home, HF_HUB_OFFLINE="1").strip().splitlines()[-1] == folder
    assert hub.bytes_sent() == sent, "we had nothing to fetch"


def test_we_complete_what_python_began_and_the_reverse(hub, home, tmp_path):
    python(hub, home, FETCHES, "config.json", SHARDS[0])
    succeeds(hub, home)
    check_snapshot(hub, home)
    assert len(hub.downloads(SHARDS[0])) == 1
    other = tmp_path / "other"
    hub.trouble.stall = {name: [3000] for name in SHARDS}
    process = subprocess.Popen([LAUNCHER, "download-weights", MODEL], env=clean_env(environment(hub, other)))
    until(lambda: written(other) == 6000, "both shards stall")
    process.kill()
    process.wait()
    folder = python(hub, other, FETCHES)
    assert re.fullmatch(rf".*/snapshots/{COMMIT}", folder)
    assert (snapshot(other) / SHARDS[1]).read_bytes() == hub.files[MODEL][SHARDS[1]].data
