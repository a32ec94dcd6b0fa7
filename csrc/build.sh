#!/usr/bin/env bash
# Builds the kernel library and its test and bench programs, without cargo and without a GPU.
#   csrc/build.sh [OUT]        default OUT: target/csrc
# QUERN_CUDA_ARCHS picks architectures (default "80 86 89 90a"; "90a" while developing), NVCC the compiler (default:
# the toolkit of toolkit.sh). Fails on any register spill or serialised wgmma. Compiles only what changed.
set -euo pipefail
shopt -s inherit_errexit

readonly csrc=$(cd "$(dirname "$0")" && pwd)
readonly out=${1:-$csrc/../target/csrc}
readonly cuda=${CUDA_HOME:-$csrc/../.cuda/cuda}
readonly nvcc=${NVCC:-$cuda/bin/nvcc}
read -ra archs <<<"${QUERN_CUDA_ARCHS:-80 86 89 90a}"
# CPU references take most of a test's time; the machines with these GPUs all have AVX2.
readonly host_flags=(-std=c++17 -O3 -march=x86-64-v3 -Wall -Wextra -isystem "$cuda/include" -isystem "$cuda/include/cccl")

[ -x "$nvcc" ] || "$csrc/toolkit.sh"
mkdir -p "$out"
gencode=()
for arch in "${archs[@]}"; do gencode+=(-gencode "arch=compute_$arch,code=sm_$arch"); done

# compile OBJECT SOURCE: skipped when the object is newer than every source and header.
compile() {
  local object=$1 source=$2
  if [ -f "$object" ] && [ -z "$(find "$csrc/include" "$csrc/src" "$csrc/tests" -newer "$object" \
      \( -name '*.h' -o -name '*.cuh' -o -path "$source" \) -print -quit)" ]; then
    return
  fi
  echo "  $(basename "$source")"
  case $source in
  *.cu)
    if ! "$nvcc" -std=c++17 -O3 -lineinfo -Xcompiler -fPIC,-Wall,-fno-threadsafe-statics -t 0 "${gencode[@]}" ${QUERN_NVCC_FLAGS:-} \
      -Xptxas --warn-on-spills,--warn-on-local-memory-usage -I"$csrc/include" -I"$csrc/src" -I"$csrc/tests" \
      -c "$source" -o "$object.part" 2>"$object.log"; then
      cat "$object.log" >&2
      return 1
    fi
    if grep -Ei 'spill|local memory|serializ' "$object.log" >&2; then
      echo "build.sh: $source: register spills, local memory or serialised wgmma" >&2
      return 1
    fi
    cat "$object.log" >&2
    mv "$object.part" "$object"
    ;;
  *.cpp) g++ "${host_flags[@]}" -I"$csrc/include" -I"$csrc/src" -I"$csrc/tests" -c "$source" -o "$object" ;;
  esac
}

objects() { # objects DIRECTORY PATTERN...: compiles, then lists
  local directory=$1 source
  shift
  for source in "$@"; do
    compile "$out/$directory-$(basename "$source").o" "$source" >&2 || return 1  # a substitution ignores set -e
    echo "$out/$directory-$(basename "$source").o"
  done
}

kernel_objects=$(objects src "$csrc"/src/*.cu "$csrc"/src/*/*.cpp)
shared_objects=$(objects tests "$csrc"/tests/{awq,linear_case,attention_case,sample_reference}.cpp)
test_objects=$(objects tests "$csrc"/tests/test_*.cpp)
bench_objects=$(objects tests "$csrc"/tests/bench_*.{cu,cpp})
rm -f "$out/libquern_kernels.a"
# shellcheck disable=SC2086
ar rcs "$out/libquern_kernels.a" $kernel_objects
readonly libraries=("$out/libquern_kernels.a" -L"$cuda/lib" -lcudart_static -lpthread -ldl -lrt)
# shellcheck disable=SC2086
g++ $test_objects $shared_objects "${libraries[@]}" -o "$out/kernel_tests"
# shellcheck disable=SC2086
g++ $bench_objects $shared_objects "${libraries[@]}" -o "$out/kernel_bench"
