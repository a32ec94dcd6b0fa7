"""Downloads from the Hub: the real launcher against a Hub on loopback.

Most cases run `download-weights`, which is the download that a start does, without the serving after it.
"""

import json
import random
import subprocess
import threading
import time

import pytest
import trustme

from fake_hub import COMMIT, FakeHub
from hub_case import (  # noqa: F401 - fixtures
    INDEX,
    MODEL,
    NEEDED,
    SHARDS,
    check_snapshot,
    download,
    environment,
    fails,
    home,
    hub,
    repository,
    snapshot,
    succeeds,
    tiny_files,
    written,
)
from server import BIN, LAUNCHER, PATIENCE, Server, clean_env, run_launcher, until


def test_download_and_serve(hub, home, tiny):
    env = environment(hub, home)
    with Server("--model-id", MODEL, "--quantize", "awq", env=env) as server:
        assert server.generate("Hello", max_new_tokens=8) == tiny.generate("Hello", max_new_tokens=8)
        assert server.get("/info").json()["model_id"] == MODEL
        output = server.output()
    for line in ("Starting check and download process for o/tiny", f"Downloaded {SHARDS[0]}",
                 "-- ETA: 0", "Successfully downloaded weights for o/tiny"):  # fmt: skip
        assert line in output
    check_snapshot(hub, home)
    assert (repository(home) / "refs" / "main").read_text() == COMMIT
    asked = {s.path.rsplit("/", 1)[-1] for s in hub.seen if "/api/" not in s.path}
    assert asked == NEEDED, "nothing else was asked for"
    sent = hub.bytes_sent()
    with Server("--model-id", MODEL, env=env) as server:
        assert "Files are already present on the host. Skipping download." in server.output()
    assert hub.bytes_sent() == sent, "nothing was fetched twice"


def test_the_program_that_tgi_calls(hub, home):
    command = [BIN / "text-generation-server", "download-weights", MODEL, "--revision", "v1.0", "--extension", ".safetensors",
               "--auto-convert", "--logger-level", "INFO", "--json-output", "--trust-remote-code"]  # fmt: skip
    done = subprocess.run(command, env=clean_env(environment(hub, home)), capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(json.loads(line)["level"] for line in done.stdout.splitlines())
    check_snapshot(hub, home)
    assert (repository(home) / "refs" / "v1.0").read_text() == COMMIT


@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/1", COMMIT])
def test_revisions(hub, home, revision):
    succeeds(hub, home, "--revision", revision)
    check_snapshot(hub, home)
    assert (repository(home) / "refs" / revision).exists() == (revision != COMMIT)
    before = len(hub.seen)
    succeeds(hub, home, "--revision", revision)
    # A commit can never change: nobody is asked about it again.
    assert len(hub.seen) - before == (0 if revision == COMMIT else 1)


def test_no_such_revision(hub, home):
    fails(hub, home, "has no revision v9", "--revision", args=("--revision", "v9"))


def test_cache_folders(hub, tmp_path):
    for variable, folder in (("HF_HUB_CACHE", "a"), ("HUGGINGFACE_HUB_CACHE", "b")):
        succeeds(hub, tmp_path / "unused", **{variable: str(tmp_path / folder)})
        assert (tmp_path / folder / "models--o--tiny" / "snapshots" / COMMIT / "config.json").exists()
    assert not (tmp_path / "unused").exists()


def test_a_connection_cut_at_random_bytes(hub, home):
    """Three cuts of each shard; every byte is fetched once."""
    rng = random.Random(7)
    sizes = [len(hub.files[MODEL][name].data) for name in SHARDS]
    hub.trouble.cuts = {name: [rng.randrange(1, min(sizes) // 4) for _ in range(3)] for name in SHARDS}
    output = succeeds(hub, home)
    check_snapshot(hub, home)
    assert output.count("trying again") == 6 and "cut after" in output
    assert hub.bytes_sent() == sum(len(hub.files[MODEL][name].data) for name in NEEDED)


def test_a_process_killed_at_a_random_byte(hub, home):
    """Three processes die in the middle of the weights; the fourth goes on where the last one stopped."""
    rng = random.Random(11)
    succeeded = 0
    for _ in range(3):
        hub.trouble.stall = {name: [rng.randrange(1, 20_000)] for name in SHARDS}
        process = subprocess.Popen([LAUNCHER, "download-weights", MODEL], env=clean_env(environment(hub, home)),
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
        before = len(hub.downloads(SHARDS[0])) + len(hub.downloads(SHARDS[1]))
        until(lambda: len(hub.downloads(SHARDS[0])) + len(hub.downloads(SHARDS[1])) == before + 2, "both shards stall")
        until(lambda: written(home) == succeeded + sum(s.sent for s in last(hub, 2)), "all bytes are on the disk")
        succeeded = written(home)
        process.kill()
        process.communicate()
    hub.trouble.stall = {}
    output = succeeds(hub, home)
    assert output.count("Resuming model-") == 2
    check_snapshot(hub, home)
    assert hub.bytes_sent() == sum(len(hub.files[MODEL][name].data) for name in NEEDED)


def last(hub, n):
    return [s for s in hub.downloads() if "model-" in s.path][-n:]


def test_a_silent_connection_is_given_up(hub, home):
    hub.trouble.stall = {SHARDS[0]: [1000]}
    output = succeeds(hub, home, HF_HUB_DOWNLOAD_TIMEOUT="1")
    assert "cut after 1000 of" in output
    check_snapshot(hub, home)


def test_a_hub_that_cannot_resume(hub, home):
    hub.trouble.ignore_range = True
    hub.trouble.cuts = {SHARDS[0]: [5000], SHARDS[1]: [5000]}
    succeeds(hub, home)
    check_snapshot(hub, home)


def test_a_wrong_hash_is_refused(hub, home):
    file = hub.files[MODEL][SHARDS[1]]
    file.served = bytes([file.data[0] ^ 1]) + file.data[1:]
    fails(hub, home, SHARDS[1], "sha256", file.etag)
    assert not (repository(home) / "blobs" / file.etag).exists() and not (snapshot(home) / SHARDS[1]).exists()
    assert not list(repository(home).rglob(f"{file.etag}*incomplete")), "the wrong bytes are not kept"
    file.served = None
    succeeds(hub, home)
    check_snapshot(hub, home)


def test_a_wrong_git_hash_is_refused(hub, home):
    file = hub.files[MODEL]["config.json"]
    file.served = file.data.replace(b"{", b"[", 1)
    fails(hub, home, "config.json", "git hash", file.etag)


def test_a_wrong_size_is_refused(hub, home):
    file = hub.files[MODEL][SHARDS[0]]
    file.served = file.data + b"more"
    fails(hub, home, SHARDS[0], f"has {len(file.data) + 4} bytes, the Hub announced {len(file.data)}")


def test_rubbish_of_an_earlier_download_is_replaced(hub, home):
    file = hub.files[MODEL][SHARDS[0]]
    blobs = repository(home) / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{file.etag}.incomplete").write_bytes(b"rubbish")
    output = succeeds(hub, home)
    assert "does not fit" in output
    check_snapshot(hub, home)


def test_a_truncated_blob_is_fetched_again(hub, home):
    succeeds(hub, home)
    blob = repository(home) / "blobs" / hub.files[MODEL][SHARDS[0]].etag
    blob.write_bytes(blob.read_bytes()[:100])
    succeeds(hub, home)
    check_snapshot(hub, home)


@pytest.mark.parametrize(
    "trouble, words",
    [
        ({"token": "right"}, ["is not on", "private (401)", "HF_TOKEN"]),
        ({"gated": True}, ["is gated", "Accept it on", "/o/tiny", "set HF_TOKEN"]),
    ],
)
def test_no_access(hub, home, trouble, words):
    for name, value in trouble.items():
        setattr(hub.trouble, name, value)
    fails(hub, home, *words)


@pytest.mark.parametrize(
    "trouble, words",
    [
        ({"token": "right"}, ["does not let this token read", "(401"]),
        ({"gated": True}, ["is gated", "with the account that your token belongs to"]),
    ],
)
def test_a_token_that_may_not(hub, home, trouble, words):
    for name, value in trouble.items():
        setattr(hub.trouble, name, value)
    output = fails(hub, home, *words, HF_TOKEN="hf_wrong_secret")
    assert "hf_wrong_secret" not in output


def test_no_such_repository(hub, home):
    fails(hub, home, "o/other is not on", "Check the spelling", model="o/other")
    fails(hub, home, "o/other", "(404)", model="o/other", HF_TOKEN="x")


def test_forbidden(hub, home):
    hub.trouble.answers = [(403, {"X-Error-Message": "no egress"})]
    fails(hub, home, "forbids access", "403", "no egress")


@pytest.mark.parametrize("where", ["answers", "file_answers"])
@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_busy_hub_is_asked_again(hub, home, where, status):
    setattr(hub.trouble, where, [(status, {"Retry-After": "0"})] * 3)
    output = succeeds(hub, home)
    assert output.count("trying again") == 3 and str(status) in output
    check_snapshot(hub, home)


def test_a_hub_that_stays_busy_is_given_up(hub, home):
    hub.trouble.answers = [(503, {"Retry-After": "0"})] * 50
    fails(hub, home, "answered 503", "6 attempts in a row", "--model-id")
    hub.trouble.answers = []
    hub.trouble.file_answers = [(429, {"RateLimit": '"resolvers";r=0;t=0'})] * 50
    fails(hub, home, "asks to slow down (429)", "6 attempts in a row")


def test_the_wait_that_the_hub_asks_for(hub, home):
    hub.trouble.answers = [(429, {"Retry-After": "1"})]
    started = time.monotonic()
    succeeds(hub, home)
    assert time.monotonic() - started >= 1


def test_no_hub_at_all(home):
    fails(None, home, "cannot be reached", "HF_ENDPOINT", "--model-id")


def test_encrypted_and_trusted(hub, home, tmp_path):
    """Certificates are checked: against the built-in ones, or those of SSL_CERT_FILE."""
    authority, other = trustme.CA(), trustme.CA()
    for name, ca in (("ours", authority), ("other", other)):
        ca.cert_pem.write_to_path(str(tmp_path / name))
    hub.encrypt(authority.issue_cert("127.0.0.1", "localhost"))
    for more in ({}, {"SSL_CERT_FILE": str(tmp_path / "other")}):
        output = fails(hub, home, "cannot be reached", "certificate", "SSL_CERT_FILE", **more)
        assert "trying again" not in output, "a wrong certificate will not become right"
    fails(hub, home, "nowhere", SSL_CERT_FILE=str(tmp_path / "nowhere"))
    succeeds(hub, home, SSL_CERT_FILE=str(tmp_path / "ours"))
    check_snapshot(hub, home)


def test_a_token_goes_to_the_hub_alone(hub, home):
    """The storage behind the redirect is another host."""
    hub.trouble.token = "hf_secret"
    output = succeeds(hub, home, HF_TOKEN="hf_secret")
    assert {s.authorization for s in hub.seen if s.path.startswith("/storage/")} == {None}
    assert {s.authorization for s in hub.seen if not s.path.startswith("/storage/")} == {"Bearer hf_secret"}
    assert "hf_secret" not in output
    (home / "token").write_text("hf_secret\n")
    succeeds(hub, home, "--revision", "v1.0")


def test_children_do_not_see_the_token(hub, home):
    hub.trouble.token = "hf_secret"
    with Server("--model-id", MODEL, env=environment(hub, home, HF_TOKEN="hf_secret")) as server:
        for pid in server.family():
            with open(f"/proc/{pid}/environ", "rb") as environ:
                assert b"hf_secret" not in environ.read()
        assert "hf_secret" not in server.output()


def test_a_model_that_does_not_fit_on_the_disk(hub, home):
    hub.files[MODEL][SHARDS[0]].announced = 2**60
    output = fails(hub, home, "1152921.5 TB must still be fetched", "are free on the disk", "HF_HOME")
    assert not hub.downloads(SHARDS[0]) and not hub.downloads(SHARDS[1]), output


def test_two_launchers_at_once(hub, home):
    hub.gate = threading.Event()
    command = [LAUNCHER, "download-weights", MODEL]
    both = [
        subprocess.Popen(command, env=clean_env(environment(hub, home)), stdout=subprocess.PIPE, text=True,
                         stderr=subprocess.STDOUT)
        for _ in range(2)
    ]  # fmt: skip
    # Both want the vocabulary at least, which is held back; one of them waits for the other.
    until(lambda: len([s for s in hub.seen if "/revision/" in s.path]) == 2, "both have begun")
    until(lambda: hub.downloads(), "one of them fetches")
    hub.gate.set()
    outputs = [p.communicate(timeout=PATIENCE)[0] for p in both]
    assert [p.returncode for p in both] == [0, 0], outputs
    check_snapshot(hub, home)
    assert hub.bytes_sent() == sum(len(hub.files[MODEL][name].data) for name in NEEDED), "each byte came once"


def test_offline(hub, home):
    fails(None, home, "revision main is not in the cache", "HF_HUB_OFFLINE", HF_HUB_OFFLINE="1")
    succeeds(hub, home)
    output = succeeds(None, home, HF_HUB_OFFLINE="1")
    assert "Files are already present on the host. Skipping download." in output
    (snapshot(home) / SHARDS[1]).unlink()
    fails(None, home, "incomplete", SHARDS[1], HF_HUB_OFFLINE="1")


def test_offline_serving(hub, home):
    succeeds(hub, home)
    env = environment(None, home, HF_HUB_OFFLINE="1")
    with Server("--model-id", MODEL, env=env) as server:
        assert server.generate("Hello", max_new_tokens=2)["generated_text"] is not None


def test_a_hub_that_is_down_does_not_stop_a_cached_model(hub, home):
    succeeds(hub, home)
    output = succeeds(None, home)
    assert "cannot be reached" in output and "Serving the snapshot in the cache" in output
    hub.trouble.answers = [(503, {})]
    assert "answered 503" in succeeds(hub, home)


def test_a_new_commit_is_fetched(hub, home, tiny_files):
    succeeds(hub, home)
    changed = dict(tiny_files)
    changed["generation_config.json"] = tiny_files["generation_config.json"] + b"\n"
    commit = "f" * 40
    with FakeHub({MODEL: changed}, commit) as newer:
        succeeds(newer, home)
        assert {s.path.rsplit("/", 1)[-1] for s in newer.downloads()} == {"generation_config.json"}
    assert (repository(home) / "refs" / "main").read_text() == commit
    assert (repository(home) / "snapshots" / commit / SHARDS[0]).read_bytes() == tiny_files[SHARDS[0]]


def test_a_mirror_without_sizes(hub, home):
    hub.trouble.bare_listing = True
    succeeds(hub, home)
    check_snapshot(hub, home)


@pytest.mark.parametrize("name", ["../evil.safetensors", "/etc/evil", "a/../../evil", "..\\evil"])
def test_names_that_lead_out_of_the_folder(hub, home, name):
    hub.files[MODEL][name] = hub.files[MODEL]["config.json"]
    fails(hub, home, "no path inside it; refused", "evil")
    assert not home.exists() or not [p for p in home.parent.rglob("*evil*")]


@pytest.mark.parametrize("name", ["../evil.safetensors", "/evil.safetensors", "sub/model.safetensors", "pytorch_model.bin"])
def test_indices_that_lead_out_of_the_folder(tiny_files, home, name):
    index = json.dumps({"weight_map": {"x": name}}).encode()
    with FakeHub({MODEL: tiny_files | {INDEX: index}}) as hub:
        fails(hub, home, "index.json" if name[0] not in "./" else "no path inside it")


@pytest.mark.parametrize(
    "drop, words",
    [
        (("config.json",), ["no config.json"]),
        (("qwen.tiktoken",), ["neither tokenizer.json nor qwen.tiktoken"]),
        ((INDEX, *SHARDS, "sub/model.safetensors"), ["Pickle can run code"]),
    ],
)
def test_repositories_that_cannot_be_served(tiny_files, home, drop, words):
    with FakeHub({MODEL: {n: d for n, d in tiny_files.items() if n not in drop}}) as hub:
        fails(hub, home, *words)
        assert not hub.downloads()


def test_contradictions_are_found_before_the_weights_are_fetched(hub, home):
    env = environment(hub, home)
    code, output = run_launcher("--model-id", MODEL, "--quantize", "gptq", "--port", 0, env=env)
    assert code == 1 and "`quantize` is gptq but the checkpoint is quantised with awq" in output
    code, output = run_launcher("--model-id", MODEL, "--max-total-tokens", 100_000, "--port", 0, env=env)
    assert code == 1 and "100000" in output.strip().splitlines()[-1]
    assert not hub.downloads(SHARDS[0]) and not hub.downloads(SHARDS[1])


def test_a_signal_ends_a_download_without_error(hub, home):
    hub.trouble.stall = {name: [3000] for name in SHARDS}
    server = Server("--model-id", MODEL, env=environment(hub, home)).start()
    until(lambda: written(home) == 6000, "both shards stall")
    assert server.stop() == 0
    assert written(home) == 6000, "what has arrived is kept"
