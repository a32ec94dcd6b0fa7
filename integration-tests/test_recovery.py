"""Faults of the shard while clients wait: killed, stopped, poisoned, gone for good; health and drain meanwhile.

Real binaries, real signals. Only the poison needs a shard without a model (router/examples/fake_shard.rs), since
the real one knows no token that kills it.
"""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import requests
from tokenizers import Tokenizer

from server import BIN, Server, alive, until

FAKE_SHARD = BIN / "examples" / "fake_shard"
SHARD = "text-generation-shard"
PROMPTS = ["The capital of France is", "Once upon a time", "def add(a, b):", "Dear Sir or Madam,", "1, 2, 3,"]
SAMPLED = {"do_sample": True, "temperature": 0.9, "top_k": 50, "seed": 7}
# A chunk of this size is a fraction of a second on any machine: a step's time says whether the shard hangs.
CHUNKS = ("--max-batch-prefill-tokens", 256)


def shard_pid(server):
    """The pid of the running shard, ``None`` between two."""
    for pid in server.family():
        try:
            if os.readlink(f"/proc/{pid}/exe").endswith(("/" + SHARD, "/fake_shard")):
                return pid
        except OSError:
            continue  # it ended meanwhile
    return None


def metrics(server):
    text = requests.get(server.url + "/metrics", timeout=5).text
    return dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))


def status(server, path):
    return requests.get(server.url + path, timeout=5).status_code


class Stream(threading.Thread):
    """One /generate_stream, read to its end; ``times`` are those of its events."""

    def __init__(self, server, body):
        super().__init__(daemon=True)
        self.server, self.body = server, body
        self.events, self.times = [], []
        self.start()

    def run(self):
        for event in self.server.stream("/generate_stream", self.body):
            self.events.append(event)
            self.times.append(time.monotonic())

    def done(self):
        return not self.is_alive()

    def ids(self):
        return [event["token"]["id"] for event in self.events]

    def went_on_since(self, moment):
        return self.done() or (self.times and self.times[-1] > moment)


def bodies(max_new_tokens):
    """Ten requests, greedy and sampled."""
    parameters = [{"max_new_tokens": max_new_tokens, "details": True, **more} for more in ({}, SAMPLED)]
    return [{"inputs": prompt, "parameters": p} for prompt in PROMPTS for p in parameters]


def survive(server, sig, n_faults, n_tokens):
    """50 streams through ``n_faults`` signals to the shard. Returns the seconds from each to the next token."""
    requests_ = bodies(n_tokens)
    solo = [server.post("/generate", body).json() for body in requests_]
    streams = [Stream(server, body) for body in requests_ * 5]
    assert len(streams) == 50
    until(lambda: all(s.events for s in streams), 60, "every stream has begun")
    pauses = []
    for n in range(n_faults):
        assert sum(not s.done() for s in streams) >= 25, f"too few streams left for fault {n}"
        moment = time.monotonic()
        os.kill(until(lambda: shard_pid(server), 5, "a shard"), sig)
        sent = time.monotonic()
        until(lambda: any(s.times[-1] > sent + 0.05 for s in streams), 60, "a token after the fault")
        pauses.append(min(t for s in streams for t in s.times if t > sent + 0.05) - moment)
        until(lambda: all(s.went_on_since(sent + 0.05) for s in streams), 60, "every stream goes on")
    for stream in streams:
        stream.join(120)
        assert stream.done()
    for stream, alone in zip(streams, solo * 5, strict=True):
        assert [e["index"] for e in stream.events] == list(range(1, len(stream.events) + 1))
        assert stream.ids() == [t["id"] for t in alone["details"]["tokens"]], stream.body
        assert stream.events[-1]["generated_text"] == alone["generated_text"]
        assert stream.events[-1]["details"]["finish_reason"] == alone["details"]["finish_reason"]
    return pauses


def show(pauses):
    print(f"{len(pauses)} faults, 50 streams equal their solo answers;", end=" ")
    print(" ".join(f"{pause:.2f}" for pause in pauses), "s from the fault to the next token")


def test_ten_kills_during_fifty_streams(models):
    with Server("--model-id", models.smollm2_awq(), *CHUNKS) as server:
        pauses = survive(server, signal.SIGKILL, 10, 48)
        show(pauses)
        assert max(pauses) < 3
        values = metrics(server)
        assert values['tgi_shard_lost{cause="ended"}'] == values["tgi_shard_recoveries"] == "10"
        assert int(values["tgi_replayed_tokens"]) > 50 * 10
        assert float(values["tgi_shard_last_step_age"]) < 30
    assert "Connected" in server.output()


def test_stopped_shards_are_replaced_too(models):
    timeout = 1.5
    n_stops = int(os.environ.get("QUERN_TEST_STOPS", "3"))
    with Server("--model-id", models.smollm2_awq(), *CHUNKS, "--shard-step-timeout", timeout) as server:
        pauses = survive(server, signal.SIGSTOP, n_stops, 10 + 5 * n_stops)
        show(pauses)
        assert max(pauses) < timeout * 1.25 + 3
        assert int(metrics(server)['tgi_shard_lost{cause="hung"}']) >= n_stops
    assert "Shard 0 was killed: the shard has not answered a step for" in server.output()


def test_an_idle_shard_that_stops_is_found_and_health_tells(models):
    flags = ("--shard-step-timeout", 0.6, "--canary-interval", 0.4)
    with Server("--model-id", models.tiny_v1_awq(), *flags) as server:
        first = shard_pid(server)
        os.kill(first, signal.SIGSTOP)
        until(lambda: status(server, "/health") == 503, 10, "health fails while the shard is stopped")
        assert status(server, "/livez") == 200, "it is being repaired"
        until(lambda: status(server, "/health") == 200, 10, "health returns without a request")
        assert shard_pid(server) not in (first, None)
        assert status(server, "/readyz") == 200
        assert metrics(server)['tgi_shard_lost{cause="hung"}'] == "1"


def test_requests_that_come_while_no_shard_runs_wait_for_it(models):
    with Server("--model-id", models.tiny_v1_awq()) as server:
        alone = server.generate("the thing", max_new_tokens=5)
        with ThreadPoolExecutor(8) as pool:
            os.kill(shard_pid(server), signal.SIGKILL)
            answers = list(pool.map(lambda _: server.generate("the thing", max_new_tokens=5), range(8)))
        assert answers == [alone] * 8


def script(folder, name, text):
    path = folder / name
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


def fake_token(sequence_id, position):
    """The token that the fake shard makes; see `token_at` there."""
    mixed = ((sequence_id << 32 | position) * 0x9E37_79B9_7F4A_7C15) % (1 << 64) >> 32
    return 300 + mixed % (49152 - 300)


def test_a_request_that_kills_the_shard_is_quarantined_and_the_others_go_on(models, tmp_path):
    folder = models.smollm2_awq()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    poison = tokenizer.encode(" zebra").ids[-1]
    shard = script(
        tmp_path,
        "shard",
        'for a; do case "$a" in --uds-path=*) socket="$a" ;; esac; done\n'
        f'exec "{FAKE_SHARD}" "$socket" --step-ms 4 --abort-on {poison}\n',
    )
    n_tokens = 250
    with Server("--model-id", folder, env={"QUERN_SHARD_BIN": str(shard)}) as server:
        body = {"inputs": "I have seen", "parameters": {"max_new_tokens": n_tokens}}
        streams = [Stream(server, body) for _ in range(12)]
        until(lambda: all(s.events for s in streams), 30, "every stream has begun")
        poisoned = {"inputs": "I have seen a zebra", "parameters": {"max_new_tokens": 5}}
        with ThreadPoolExecutor(2) as pool:
            replies = list(pool.map(lambda path: server.post(path, poisoned), ["/generate", "/generate_stream"]))
        for reply in replies:
            assert reply.status_code == 500, reply.text
            assert reply.json()["error_type"] == "generation"
            assert "is not tried again" in reply.json()["error"]
        assert sum(not s.done() for s in streams) == 12, "the others were running all the time"
        n_prompt = len(tokenizer.encode("I have seen").ids)
        found = set()
        for stream in streams:
            stream.join(60)
            ids = stream.ids()
            (sequence,) = [s for s in range(1, 20) if fake_token(s, n_prompt) == ids[0]]
            assert ids == [fake_token(sequence, n_prompt + i) for i in range(n_tokens)]
            found.add(sequence)
        assert len(found) == 12
        values = metrics(server)
        assert 2 <= int(values["tgi_shard_recoveries"]) <= 6
        assert server.generate("I have seen", max_new_tokens=3)["details"]["generated_tokens"] == 3


def test_failures_in_a_row_end_the_service_with_the_shards_words(models, tmp_path):
    """The shard works once; whatever replaces it cannot start. The running stream is told."""
    shard = script(
        tmp_path,
        "shard",
        f'echo >>"{tmp_path}/starts"\n'
        f'[ "$(wc -l <"{tmp_path}/starts")" = 1 ] && exec "{BIN}/{SHARD}" "$@"\n'
        "echo 'Error: the disk is gone' >&2; exit 1\n",
    )
    server = Server(
        "--model-id", models.smollm2_awq(), "--max-shard-restarts", 2, env={"QUERN_SHARD_BIN": str(shard)}
    )
    server.start().ready()
    stream = Stream(server, {"inputs": PROMPTS[0], "parameters": {"max_new_tokens": 3000}})
    until(lambda: stream.events, 30, "the stream has begun")
    family = server.family()
    os.kill(shard_pid(server), signal.SIGKILL)
    assert server.process.wait(30) == 1
    stream.join(10)
    assert stream.events[-1]["error_type"] == "generation", stream.events[-1]
    assert "no other will come" in stream.events[-1]["error"]
    server.reader.join(5)
    last = server.lines[-1]
    expected = 'Error: ShardFailed("the disk is gone (it ended 3 times in a row without an answer between)")'
    assert last == expected, server.output()
    until(lambda: not alive(family), 5, "nothing left")


def test_a_launcher_killed_while_its_shard_is_stopped_leaves_no_orphan(models):
    with Server("--model-id", models.tiny_v1_awq()) as server:
        family = server.family()
        os.kill(shard_pid(server), signal.SIGSTOP)
        server.process.kill()
        until(lambda: not alive(family), 5, "children died with the launcher")


LONG = {"inputs": PROMPTS[1], "parameters": {"max_new_tokens": 3000, "details": True}}


def test_what_still_runs_when_the_grace_ends_gets_a_last_event(models):
    with Server("--model-id", models.smollm2_awq(), "-g", 1) as server:
        stream = Stream(server, LONG)
        with ThreadPoolExecutor(2) as pool:
            openai = {"prompt": PROMPTS[1], "max_tokens": 3000, "temperature": 0, "stream": True}
            chunks = pool.submit(lambda: list(server.stream("/v1/completions", openai)))
            whole = pool.submit(server.post, "/generate", LONG)
            until(lambda: len(stream.events) > 3, 30, "the stream runs")
            server.process.send_signal(signal.SIGTERM)
            until(lambda: status(server, "/health") == 503, 5, "readiness goes first")
            assert status(server, "/livez") == 200
            late = server.post("/generate", LONG)
            assert late.status_code == 503 and late.json()["error"] == "The server is shutting down"
            assert not stream.done() and not whole.done(), "they have their grace"
            assert server.process.wait(10) == 0
        stream.join(5)
        ended = {"error": "The server is shutting down", "error_type": "unavailable"}
        assert stream.events[-1] == ended and len(stream.events) > 4
        assert whole.result().status_code == 503 and whole.result().json() == ended
        *_, error, done = chunks.result()
        assert error["error"]["message"] == ended["error"] and done == "[DONE]"


def test_a_shard_killed_while_draining_is_replaced_for_what_still_runs(models):
    body = {"inputs": PROMPTS[1], "parameters": {"max_new_tokens": 120}}
    with Server("--model-id", models.smollm2_awq()) as server:
        alone = server.post("/generate", body).json()
        stream = Stream(server, body)
        until(lambda: len(stream.events) > 3, 30, "the stream runs")
        server.process.send_signal(signal.SIGTERM)
        os.kill(shard_pid(server), signal.SIGKILL)
        stream.join(30)
        assert stream.events[-1].get("generated_text") == alone["generated_text"], stream.events[-1]
        assert server.process.wait(10) == 0
