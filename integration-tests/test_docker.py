"""docker/Dockerfile against the checkout: what it copies is there, what Cargo builds is shipped, what it sets the programs read.

Docker itself is not needed; CI runs the build's own commands.
"""

import json
import shlex
import subprocess
import tomllib

import pytest

from server import BIN, PATIENCE, ROOT, clean_env

MEMBERS = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["members"]


@pytest.fixture(scope="module")
def instructions():
    """`[stage, keyword, rest]` of every instruction; a stage begins with FROM."""
    lines = [line for line in (ROOT / "docker" / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    stage, found = -1, []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            keyword, rest = line.split(maxsplit=1)
            stage += keyword == "FROM"
            found.append((stage, keyword, rest))
    assert {keyword for _, keyword, _ in found} == {"FROM", "RUN", "WORKDIR", "COPY", "ENV", "EXPOSE", "ENTRYPOINT", "CMD"}
    return found


def of(instructions, keyword, stage=None):
    return [rest for at, word, rest in instructions if word == keyword and stage in (None, at)]


def sent_as(path):
    """How .dockerignore names a file: by its top folder, but for the few of docker/."""
    return path if path.startswith("docker/") else path.split("/")[0]


def test_what_is_copied_is_there_and_reaches_the_builder(instructions):
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = set()
    for rest in of(instructions, "COPY"):
        *sources, target = shlex.split(rest)
        if sources[0].startswith("--from="):
            continue
        for source in sources:
            assert (ROOT / source).exists(), source
            assert sent_as(source) in sent, f"{source}: .dockerignore keeps it back"
            assert target in (source, "./") or source.startswith("docker/"), rest
            copied.add(source)
    assert {*MEMBERS, "csrc", "Cargo.toml", "Cargo.lock"} <= copied
    assert sent == set(map(sent_as, copied)), "the builder is sent what it does not use"
    tracked = subprocess.run(["git", "ls-files", *sent], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(map(sent_as, tracked.splitlines())) == sent, "only a clean checkout's files are copied"


def test_every_program_is_built_and_shipped(instructions):
    programs = set()
    for member in MEMBERS:
        programs |= {program["name"] for program in tomllib.loads((ROOT / member / "Cargo.toml").read_text()).get("bin", [])}
    assert {"text-generation-launcher", "text-generation-router", "text-generation-shard", "text-generation-quantizer"} <= programs
    (copy,) = of(instructions, "COPY", stage=1)
    stage, *built, target = shlex.split(copy)
    assert stage == "--from=build" and of(instructions, "FROM")[0].endswith(" AS build") and target == "/usr/local/bin/"
    (folder,) = of(instructions, "WORKDIR")
    assert set(built) == {f"{folder}/target/release/{program}" for program in programs}
    assert all((BIN / program).exists() for program in programs)


def test_the_build_is_the_pinned_one(instructions):
    build = of(instructions, "RUN", stage=0)
    assert build[1] == "csrc/toolkit.sh" and "--locked" in build[2] and "--features text-generation-backend/cuda" in build[2]
    image = of(instructions, "FROM")[0].split()[0]
    rust = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["rust-version"]
    version = image.removeprefix("rust:").split("-")[0]
    assert tuple(map(int, version.split("."))) >= tuple(map(int, rust.split(".")))
    # The programs must start with the second stage's C library: both are the same Debian.
    assert image.split("-")[-1] == of(instructions, "FROM")[1].split()[0].removeprefix("debian:").removesuffix("-slim")


def test_it_starts_as_tgis_image_does(instructions):
    last = of(instructions, "FROM")[3]
    assert last == "base", "what is built without --target"
    assert json.loads(of(instructions, "ENTRYPOINT", stage=3)[0]) == ["text-generation-launcher"]
    assert json.loads(of(instructions, "CMD")[0]) == ["--json-output"]
    env = dict(pair.split("=", 1) for pair in shlex.split(of(instructions, "ENV", stage=1)[0]))
    assert (env["PORT"], env["HUGGINGFACE_HUB_CACHE"], of(instructions, "EXPOSE", stage=3)) == ("80", "/data", ["80"])


def test_it_starts_as_sagemaker_expects(instructions, tmp_path):
    """The entry point with SageMaker's argument and variables, before the real launcher."""
    assert of(instructions, "FROM")[2] == "base AS sagemaker"
    (copy,) = of(instructions, "COPY", stage=2)
    script, folder = copy.split()
    assert json.loads(of(instructions, "ENTRYPOINT", stage=2)[0]) == [script.split("/")[-1]] and folder == "/usr/local/bin/"
    assert (ROOT / script).stat().st_mode & 0o111, "it must be executable"

    def start(**variables):
        env = clean_env({"HF_HUB_OFFLINE": "1", "HUGGINGFACE_HUB_CACHE": str(tmp_path), **variables})
        env["PATH"] = f"{BIN}:{env['PATH']}"
        return subprocess.run([ROOT / script, "serve"], env=env, capture_output=True, text=True, timeout=PATIENCE)

    done = start(HF_MODEL_ID="")
    assert done.returncode == 1 and "HF_MODEL_ID must be set" in done.stderr
    done = start(
        HF_MODEL_ID="nobody/nothing", HF_MODEL_REVISION="r1", SM_NUM_GPUS="1", HF_MODEL_QUANTIZE="awq",
        HF_MODEL_TRUST_REMOTE_CODE="true", MAX_TOTAL_TOKENS="100",
    )  # fmt: skip
    assert done.returncode == 1 and "nobody/nothing" in done.stderr
    arguments = done.stdout
    for said in ('Some("nobody/nothing")', 'revision: Some("r1")', "num_shard: Some(1)", "port: 8080,", "Awq", "trust_remote_code: true", "max_total_tokens: Some(100)"):
        assert said in arguments, f"{said} in {arguments}"


def test_the_launcher_reads_what_the_image_sets(tmp_path):
    """Port and cache from the environment, JSON lines by the flag: a model that is not there, asked of no Hub."""
    env = clean_env({"PORT": "80", "HUGGINGFACE_HUB_CACHE": str(tmp_path / "data"), "HF_HUB_OFFLINE": "1"})
    done = subprocess.run(
        [BIN / "text-generation-launcher", "--json-output", "--model-id", "nobody/nothing"],
        env=env, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 1
    arguments = json.loads(done.stdout.splitlines()[0])["fields"]["message"]
    assert "port: 80," in arguments and "json_output: true" in arguments, arguments
    assert f"is not in the cache {tmp_path / 'data'}" in done.stderr
