"""The launcher's shard in a test's hands: its pid, a script in its place, and the shard without a model.

`fake_shard` (router/examples/fake_shard.rs) makes up a token in a step of any length and never ends an answer by
itself: what a test does while a request runs then does not depend on how fast the machine is.
"""

import os

from server import BIN

FAKE_SHARD = BIN / "examples" / "fake_shard"
SHARD = "text-generation-shard"


def shard_pid(server):
    """The pid of the running shard, ``None`` between two."""
    for pid in server.family():
        try:
            if os.readlink(f"/proc/{pid}/exe").endswith(("/" + SHARD, "/fake_shard")):
                return pid
        except OSError:
            continue  # it ended meanwhile
    return None


def shard_script(folder, text):
    """The environment in which the launcher runs a shell script as its shard."""
    path = folder / "shard"
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return {"QUERN_SHARD_BIN": str(path)}


def exec_fake_shard(*flags):
    """The shell command that becomes the shard without a model, in such a script."""
    socket = 'for a; do case "$a" in --uds-path=*) socket="$a" ;; esac; done'
    return f'{{ {socket}; exec "{FAKE_SHARD}" "$socket" {" ".join(map(str, flags))}; }}'


def fake_shard(folder, *flags):
    """The environment in which the launcher runs the shard without a model."""
    return shard_script(folder, exec_fake_shard(*flags) + "\n")
