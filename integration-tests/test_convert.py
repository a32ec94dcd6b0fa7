"""`text-generation-launcher convert`: byte for byte what the numpy reference writes for the same GGUF."""

import filecmp
import subprocess

import pytest

from server import LAUNCHER, PATIENCE, clean_env


def convert(*args):
    return subprocess.run(
        [LAUNCHER, "convert", *map(str, args)], capture_output=True, text=True, env=clean_env(), timeout=PATIENCE
    )


@pytest.mark.parametrize("flags, expected", [((), "smollm2_awq"), (("--fp16",), "smollm2_fp16")])
def test_smollm2(models, tmp_path, flags, expected):
    out = tmp_path / "out"
    done = convert(models.gguf(), out, *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    reference = getattr(models, expected)()
    names = sorted(p.name for p in reference.iterdir())
    assert sorted(p.name for p in out.iterdir()) == names
    same, different, unreadable = filecmp.cmpfiles(reference, out, names, shallow=False)
    assert (different, unreadable) == ([], [])


def test_truncated_gguf(models, tmp_path):
    cut = tmp_path / "cut.gguf"
    with open(models.gguf(), "rb") as whole:
        cut.write_bytes(whole.read(10_000_000))
    done = convert(cut, tmp_path / "out")
    assert done.returncode == 1 and "cut.gguf" in done.stderr and not (tmp_path / "out").exists()


def test_not_a_gguf(tmp_path):
    (tmp_path / "x").write_text("hello")
    done = convert(tmp_path / "x", tmp_path / "out")
    assert done.returncode == 1 and "GGUF" in done.stderr
