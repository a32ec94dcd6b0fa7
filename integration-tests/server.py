"""Starts the real launcher on a free port and stops it; used by every test that needs a server.

A `Server` is a context manager: it waits until /health answers 200, keeps all output lines, and on
exit sends SIGTERM, expects exit code 0 and that no process of its own is left.
"""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import requests

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(os.environ.get("QUERN_BIN", ROOT / "target" / "release"))
LAUNCHER = BIN / "text-generation-launcher"
# Far longer than anything takes that is waited for, also on a slow and busy machine: only a failing test waits for it.
PATIENCE = 600
HIGHEST_PORT = 65_535


def free_port():
    """A port that nobody has, and that no outgoing connection gets before a server has it."""
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    outside = [*range(10_000, low), *range(high + 1, HIGHEST_PORT)] or range(low, high)
    while True:
        port = random.SystemRandom().choice(outside)
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("0.0.0.0", port))
            return port


def clean_env(extra=None):
    """The environment without anything that the launcher would read as a flag."""
    keep = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "TMPDIR", "XDG_CACHE_HOME")
    env = {k: os.environ[k] for k in keep if k in os.environ}
    return {**env, **(extra or {})}


def children_of(pid):
    """Pids of all living descendants of ``pid``."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                stat = (entry / "stat").read_text()
                fields = stat.rsplit(")", 1)[1].split()
                if fields[0] != "Z":
                    parents[int(entry.name)] = int(fields[1])
    found, frontier = set(), {pid}
    while frontier:
        frontier = {p for p, parent in parents.items() if parent in frontier} - found
        found |= frontier
    return found


def alive(pids):
    """Those of ``pids`` that still run (zombies do not)."""
    out = set()
    for pid in pids:
        with contextlib.suppress(OSError, IndexError):
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
                out.add(pid)
    return out


def until(condition, what, seconds=PATIENCE):
    """Polls ``condition`` until it is true; fails after ``seconds``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {what}")


class Server:
    def __init__(self, *args, env=None, port=None, start_seconds=PATIENCE):
        self.start_seconds = start_seconds
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.args = [str(a) for a in args]
        self.env = clean_env(env)
        self.lines = []
        self.process = None

    def start(self):
        self.process = subprocess.Popen(
            [LAUNCHER, "--port", str(self.port), *self.args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=self.env,
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        return self

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def output(self):
        return "\n".join(self.lines)

    def healthy(self):
        with contextlib.suppress(requests.RequestException):
            return requests.get(self.url + "/health", timeout=5).status_code == 200
        return False

    def ready(self):
        def ready_or_dead():
            if self.process.poll() is not None:
                self.reader.join(PATIENCE)
                raise AssertionError(f"the launcher ended with {self.process.returncode}:\n{self.output()}")
            return self.healthy()

        until(ready_or_dead, f"/health of {self.args}", self.start_seconds)
        # The last line of a start: with it everything before is in `lines`, too.
        until(lambda: any("Try: curl" in line for line in self.lines), "the launcher's welcome")
        return self

    def post(self, path, body, **kwargs):
        return requests.post(self.url + path, json=body, timeout=PATIENCE, **kwargs)

    def generate(self, inputs, **parameters):
        """The body of a successful /generate with details."""
        reply = self.post("/generate", {"inputs": inputs, "parameters": {"details": True, **parameters}})
        assert reply.status_code == 200, reply.text
        return reply.json()

    def stream(self, path, body):
        """The JSON events of a stream, in order; `[DONE]` stays a string."""
        with self.post(path, body, stream=True) as reply:
            assert reply.status_code == 200, reply.text
            for line in reply.iter_lines():
                if line.startswith(b"data: "):
                    data = line[6:].decode()
                    yield data if data == "[DONE]" else json.loads(data)

    def get(self, path):
        return requests.get(self.url + path, timeout=PATIENCE)

    def metric(self, series):
        """The value of one series of /metrics, `name` or `name{label="value"}`."""
        lines = self.get("/metrics").text.splitlines()
        return float(next(line for line in lines if line.startswith(series + " ")).rsplit(" ", 1)[1])

    def family(self):
        return children_of(self.process.pid)

    def child(self, *names):
        """The pid of its process whose executable has one of ``names``; ``None`` while there is none."""
        for pid in self.family():
            with contextlib.suppress(OSError):  # it ended meanwhile
                if Path(os.readlink(f"/proc/{pid}/exe")).name in names:
                    return pid
        return None

    def stop(self, sig=signal.SIGTERM):
        """Ends the launcher with a signal; returns its exit code once nothing of it is left."""
        family = self.family()
        self.process.send_signal(sig)
        code = self.process.wait(PATIENCE)
        until(lambda: not alive(family), f"processes left behind: {alive(family)}")
        self.reader.join(PATIENCE)
        return code

    def __enter__(self):
        self.start()
        try:
            return self.ready()
        except BaseException:
            self.process.kill()
            raise

    def __exit__(self, kind, *_):
        if self.process.poll() is None:
            code = self.stop()
            if kind is None:
                assert code == 0, f"exit code {code} after SIGTERM:\n{self.output()}"


def run_launcher(*args, env=None):
    """Runs the launcher to its end: ``(exit code, all output)``. For starts that must fail."""
    done = subprocess.run(
        [LAUNCHER, *map(str, args)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=clean_env(env),
        timeout=PATIENCE,
    )
    return done.returncode, done.stdout
