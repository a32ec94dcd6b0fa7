"""Faults of the shard while clients wait: killed, stopped, poisoned, gone for good; health and drain meanwhile.

Real binaries, real signals. Clients of the real shard send one request after the other until a test has seen
enough; where one request has to run on, or to kill the shard, it is the shard without a model. So no test depends on
how fast answers end.
"""

import contextlib
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from tokenizers import Tokenizer

from server import PATIENCE, Server, alive, until
from shards import ENDLESS, SLOW_STEPS, exec_fake_shard, fake_shard, shard_pid, shard_script

PROMPTS = ["The capital of France is", "Once upon a time", "def add(a, b):", "Dear Sir or Madam,", "1, 2, 3,"]
SAMPLED = {"do_sample": True, "temperature": 0.9, "top_k": 50, "seed": 7}
# On the shard without a model, also with quicker steps: minutes long.
LONG = {"inputs": "I have seen", "parameters": ENDLESS}
STEPS = ("--step-ms", 50)
CHUNKS = ("--max-batch-prefill-tokens", 256)


def metrics(server):
    text = server.get("/metrics").text
    return dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))


def status(server, path):
    return server.get(path).status_code


class Stream(threading.Thread):
    """One /generate_stream, read to its end or until ``enough``."""

    def __init__(self, server, body):
        super().__init__(daemon=True)
        self.server, self.body = server, body
        self.events, self.enough = [], threading.Event()
        self.start()

    def run(self):
        with contextlib.closing(self.server.stream("/generate_stream", self.body)) as events:
            for event in events:
                self.events.append(event)
                if self.enough.is_set():
                    return

    def done(self):
        return not self.is_alive()

    def ids(self):
        return [event["token"]["id"] for event in self.events]


class Client(threading.Thread):
    """One /generate_stream after the other until ``enough``; ``times`` are those of all events."""

    def __init__(self, server, body):
        super().__init__(daemon=True)
        self.server, self.body = server, body
        self.answers, self.times, self.enough, self.error = [], [], threading.Event(), None
        self.start()

    def run(self):
        try:
            while not self.enough.is_set():
                events = []
                for event in self.server.stream("/generate_stream", self.body):
                    events.append(event)
                    self.times.append(time.monotonic())
                self.answers.append(events)
        except Exception as error:  # noqa: BLE001 - told by whoever waits
            self.error = error

    def n_events(self):
        assert self.error is None, self.error
        return len(self.times)

    def finish(self):
        """The answers, once the last one has ended."""
        self.enough.set()
        self.join(PATIENCE)
        assert self.error is None and not self.is_alive(), self.error
        return self.answers


def go_on(clients):
    """Waits until every client has got more events than it has now."""
    seen = [client.n_events() for client in clients]
    until(lambda: all(c.n_events() > n + 1 for c, n in zip(clients, seen, strict=True)), "every client gets more")


def bodies(max_new_tokens):
    """Ten requests, greedy and sampled."""
    parameters = [{"max_new_tokens": max_new_tokens, "details": True, **more} for more in ({}, SAMPLED)]
    return [{"inputs": prompt, "parameters": p} for prompt in PROMPTS for p in parameters]


def check_answer(events, alone):
    """A stream's events against the whole answer to the same request."""
    assert [e["index"] for e in events] == list(range(1, len(events) + 1))
    assert [e["token"]["id"] for e in events] == [t["id"] for t in alone["details"]["tokens"]]
    assert events[-1]["generated_text"] == alone["generated_text"]
    assert events[-1]["details"]["finish_reason"] == alone["details"]["finish_reason"]


def longest_silence(clients, since):
    """Seconds without an event for anybody."""
    times = sorted(t for client in clients for t in client.times if t > since)
    return max(b - a for a, b in zip([since, *times], times))


def survive(server, sig, n_clients, n_faults, n_tokens):
    """Clients of all kinds through signals to the shard; says how long each silenced them all."""
    kinds = bodies(n_tokens)
    solo = [server.post("/generate", body).json() for body in kinds]
    clients = [Client(server, kinds[i % len(kinds)]) for i in range(n_clients)]
    go_on(clients)
    pauses = []
    for _ in range(n_faults):
        recoveries, moment = server.metric("tgi_shard_recoveries"), time.monotonic()
        os.kill(until(lambda: shard_pid(server), "a shard"), sig)
        until(lambda: server.metric("tgi_shard_recoveries") > recoveries, "the shard is replaced")
        go_on(clients)
        pauses.append(longest_silence(clients, moment))
    n_answers = 0
    for i, client in enumerate(clients):
        for events in client.finish():
            check_answer(events, solo[i % len(kinds)])
            n_answers += 1
    assert n_answers >= n_clients
    print(f"{n_faults} faults, {n_answers} streams equal their solo answers;", end=" ")
    print(" ".join(f"{pause:.2f}" for pause in pauses), "s without a token")


@pytest.mark.parametrize(
    ("model", "n_clients", "n_kills", "n_tokens"), [("tiny_v1_awq", 50, 10, 200), ("smollm2_awq", 20, 3, 48)]
)
def test_kills_during_many_streams(models, model, n_clients, n_kills, n_tokens):
    begun = time.monotonic()
    with Server("--model-id", getattr(models, model)(), *CHUNKS) as server:
        survive(server, signal.SIGKILL, n_clients, n_kills, n_tokens)
        values = metrics(server)
        assert values['tgi_shard_lost{cause="ended"}'] == values["tgi_shard_recoveries"] == str(n_kills)
        assert int(values["tgi_replayed_tokens"]) > n_clients * n_kills
        assert 0 <= float(values["tgi_shard_last_step_age"]) <= time.monotonic() - begun
    assert "Connected" in server.output()


def test_stopped_shards_are_replaced_too(models):
    """On the tiny model, whose steps are so short that none is taken for a hang, on any machine."""
    n_stops = int(os.environ.get("QUERN_TEST_STOPS", "3"))
    with Server("--model-id", models.tiny_v1_awq(), *CHUNKS, "--shard-step-timeout", 2) as server:
        survive(server, signal.SIGSTOP, 50, n_stops, 200)
        assert int(metrics(server)['tgi_shard_lost{cause="hung"}']) >= n_stops
    assert "Shard 0 was killed: the shard has not answered a step for" in server.output()


def test_an_idle_shard_that_stops_is_found_and_health_tells(models):
    flags = ("--shard-step-timeout", 4, "--canary-interval", 0.5)
    with Server("--model-id", models.tiny_v1_awq(), *flags) as server:
        first = shard_pid(server)
        os.kill(first, signal.SIGSTOP)
        until(lambda: status(server, "/health") == 503, "health fails while the shard is stopped")
        assert status(server, "/livez") == 200, "it is being repaired"
        until(lambda: status(server, "/health") == 200, "health returns without a request")
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


def fake_token(sequence_id, position):
    """The token that the fake shard makes; see `token_at` there."""
    mixed = ((sequence_id << 32 | position) * 0x9E37_79B9_7F4A_7C15) % (1 << 64) >> 32
    return 300 + mixed % (49152 - 300)


def end_fake(stream, tokenizer):
    """Ends a stream of `LONG` and answers its sequence id; every token must be the fake shard's for it."""
    stream.enough.set()
    stream.join(PATIENCE)
    n_prompt, ids = len(tokenizer.encode(LONG["inputs"]).ids), stream.ids()
    (sequence,) = [s for s in range(1, 20) if fake_token(s, n_prompt) == ids[0]]
    assert ids == [fake_token(sequence, n_prompt + i) for i in range(len(ids))]
    return sequence


def test_a_request_that_kills_the_shard_is_quarantined_and_the_others_go_on(models, tmp_path):
    folder = models.smollm2_awq()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    poison = tokenizer.encode(" zebra").ids[-1]
    env = fake_shard(tmp_path, *STEPS, "--abort-on", poison)
    with Server("--model-id", folder, "--canary-interval", 0, env=env) as server:
        streams = [Stream(server, LONG) for _ in range(12)]
        until(lambda: all(s.events for s in streams), "every stream has begun")
        poisoned = {"inputs": "I have seen a zebra", "parameters": {"max_new_tokens": 5}}
        with ThreadPoolExecutor(2) as pool:
            replies = list(pool.map(lambda path: server.post(path, poisoned), ["/generate", "/generate_stream"]))
        for reply in replies:
            assert reply.status_code == 500, reply.text
            assert reply.json()["error_type"] == "generation"
            assert "is not tried again" in reply.json()["error"]
        seen = [len(s.events) for s in streams]
        went_on = lambda: all(len(s.events) >= n + 20 for s, n in zip(streams, seen, strict=True))  # noqa: E731
        until(went_on, "every other stream goes on")
        assert len({end_fake(stream, tokenizer) for stream in streams}) == 12
        values = metrics(server)
        assert 2 <= int(values["tgi_shard_recoveries"]) <= 6
        assert server.generate(LONG["inputs"], max_new_tokens=3)["details"]["generated_tokens"] == 3


def test_failures_in_a_row_end_the_service_with_the_shards_words(models, tmp_path):
    """The shard works once; whatever replaces it cannot start. The running stream is told."""
    env = shard_script(
        tmp_path,
        f'echo >>"{tmp_path}/starts"\n'
        f'[ "$(wc -l <"{tmp_path}/starts")" = 1 ] && {exec_fake_shard(*SLOW_STEPS)}\n'
        "echo 'Error: the disk is gone' >&2; exit 1\n",
    )
    server = Server("--model-id", models.smollm2_awq(), "--max-shard-restarts", 2, env=env)
    server.start().ready()
    stream = Stream(server, LONG)
    until(lambda: stream.events, "the stream has begun")
    family = server.family()
    os.kill(shard_pid(server), signal.SIGKILL)
    assert server.process.wait(PATIENCE) == 1
    stream.join(PATIENCE)
    assert stream.events[-1]["error_type"] == "generation", stream.events[-1]
    assert "no other will come" in stream.events[-1]["error"]
    server.reader.join(PATIENCE)
    last = server.lines[-1]
    expected = 'Error: ShardFailed("the disk is gone (it ended 3 times in a row without an answer between)")'
    assert last == expected, server.output()
    until(lambda: not alive(family), "nothing left")


def test_a_launcher_killed_while_its_shard_is_stopped_leaves_no_orphan(models):
    with Server("--model-id", models.tiny_v1_awq()) as server:
        family = server.family()
        os.kill(shard_pid(server), signal.SIGSTOP)
        server.process.kill()
        until(lambda: not alive(family), "children died with the launcher")


def test_a_drain_refuses_what_is_new_and_lets_the_rest_run(models, tmp_path):
    env = fake_shard(tmp_path, *STEPS)
    with Server("--model-id", models.smollm2_awq(), "-g", 3600, env=env) as server:
        stream = Stream(server, LONG)
        until(lambda: len(stream.events) > 3, "the stream runs")
        server.process.send_signal(signal.SIGTERM)
        until(lambda: status(server, "/health") == 503, "readiness goes first")
        assert status(server, "/livez") == 200
        late = server.post("/generate", LONG)
        assert late.status_code == 503 and late.json()["error"] == "The server is shutting down"
        seen = len(stream.events)
        until(lambda: len(stream.events) > seen, "it has its grace")
        assert "error" not in stream.events[-1]
        stream.enough.set()
        stream.join(PATIENCE)
        assert server.process.wait(PATIENCE) == 0, "the last one has left"


def test_what_still_runs_when_the_grace_ends_gets_a_last_event(models, tmp_path):
    env = fake_shard(tmp_path, *STEPS)
    with Server("--model-id", models.smollm2_awq(), "-g", 1, env=env) as server:
        stream = Stream(server, LONG)
        with ThreadPoolExecutor(2) as pool:
            openai = {"prompt": LONG["inputs"], "max_tokens": ENDLESS["max_new_tokens"], "temperature": 0, "stream": True}
            chunks = pool.submit(lambda: list(server.stream("/v1/completions", openai)))
            whole = pool.submit(server.post, "/generate", LONG)
            until(lambda: len(stream.events) > 3 and server.metric("tgi_request_count") == 3, "all three run")
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(PATIENCE) == 0
        stream.join(PATIENCE)
        ended = {"error": "The server is shutting down", "error_type": "unavailable"}
        assert stream.events[-1] == ended and len(stream.events) > 4
        assert whole.result().status_code == 503 and whole.result().json() == ended
        *_, error, done = chunks.result()
        assert error["error"]["message"] == ended["error"] and done == "[DONE]"


def test_a_shard_killed_while_draining_is_replaced_for_what_still_runs(models, tmp_path):
    folder = models.smollm2_awq()
    env = fake_shard(tmp_path, *STEPS)
    with Server("--model-id", folder, "-g", 3600, env=env) as server:
        stream = Stream(server, LONG)
        until(lambda: len(stream.events) > 3, "the stream runs")
        server.process.send_signal(signal.SIGTERM)
        os.kill(shard_pid(server), signal.SIGKILL)
        until(lambda: server.metric("tgi_shard_recoveries") == 1, "the shard is replaced")
        seen = len(stream.events)
        until(lambda: len(stream.events) > seen + 20, "the stream goes on")
        end_fake(stream, Tokenizer.from_file(str(folder / "tokenizer.json")))
        assert server.process.wait(PATIENCE) == 0
