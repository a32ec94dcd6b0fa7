#!/usr/bin/env bash
# Installs a pinned CUDA 13.0 compiler and libclang into .cuda/ of the checkout, from PyPI wheels; needs python3 with
# venv and pip, no GPU and no root. Called by `make cuda-toolkit`, CI and csrc/build.sh; does nothing when it is there.
# All five NVIDIA wheels are pinned: nvcc's own dependencies are not, and pip would put newer headers beside it.
set -euo pipefail

readonly root=$(cd "$(dirname "$0")/.." && pwd)
readonly toolkit=$root/.cuda
readonly stamp="nvcc 13.0.88 runtime 13.0.96 cccl 13.0.85 libclang 18.1.1"

if [ "$(cat "$toolkit/installed" 2>/dev/null)" = "$stamp" ] && [ -x "$toolkit/cuda/bin/nvcc" ]; then
  exit 0
fi

rm -rf "$toolkit"
python3 -m venv "$toolkit"
"$toolkit/bin/python" -m pip install -q --disable-pip-version-check --no-deps \
  nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 \
  nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85 libclang==18.1.1
site=$("$toolkit/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
# Relative links, so that the checkout can be moved; nvcc's own link step looks in lib64.
ln -sfn "$(realpath --relative-to="$toolkit" "$site/nvidia/cu13")" "$toolkit/cuda"
ln -sfn "$(realpath --relative-to="$toolkit" "$site/clang/native")" "$toolkit/libclang"
ln -sfn lib "$toolkit/cuda/lib64"
"$toolkit/cuda/bin/nvcc" --version | grep -q 'V13\.0\.88' || { echo "toolkit.sh: nvcc 13.0.88 does not run" >&2; exit 1; }
echo "$stamp" > "$toolkit/installed"
