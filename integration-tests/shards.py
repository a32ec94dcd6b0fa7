"""The launcher's shard in a test's hands: its pid, a script in its place, and the shard without a model.

`fake_shard` (router/examples/fake_shard.rs) makes up a token in a step of any length and never ends an answer by
itself: what a test does while a request runs then does not depend on how fast the machine is.
"""

from server import BIN

FAKE_SHARD = BIN / "examples" / "fake_shard"
# With steps so slow an answer of so many tokens outlasts everything that a test waits for.
SLOW_STEPS = ("--step-ms", 500)
ENDLESS = {"max_new_tokens": 3000}


def shard_pid(server):
    """The pid of the running shard, ``None`` between two."""
    return server.child("text-generation-shard", FAKE_SHARD.name)


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
