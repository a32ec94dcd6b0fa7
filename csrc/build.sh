#!/usr/bin/env bash
# Builds the CUDA kernels, without a GPU: the one place that knows how nvcc is found and called.
#   csrc/build.sh [OUT]             libquern_kernels.a, kernel_tests and kernel_bench; default OUT: target/csrc
#   csrc/build.sh --library [OUT]   the library alone; called by backend/build.rs
#   csrc/build.sh --toolkit         prints the folder of the CUDA toolkit: CUDA_HOME, CUDA_PATH, nvcc's on PATH,
#                                   .cuda/cuda of the checkout (make cuda-toolkit), /usr/local/cuda
# QUERN_CUDA_ARCHS picks architectures (default "80 86 89 90a compute_90", the last one PTX for GPUs to come; "90a"
# while developing). Fails on register spills, local memory and serialised wgmma. Compiles only what changed, on all cores.
set -euo pipefail
shopt -s inherit_errexit

readonly csrc=$(cd "$(dirname "$0")" && pwd)

find_toolkit() {
  local folder on_path
  on_path=$(command -v nvcc || true)
  [ -z "$on_path" ] || on_path=$(dirname "$(dirname "$(realpath "$on_path")")")
  for folder in "${CUDA_HOME:-}" "${CUDA_PATH:-}" "$on_path" "$csrc/../.cuda/cuda" /usr/local/cuda; do
    if [ -n "$folder" ] && [ -x "$folder/bin/nvcc" ]; then
      realpath "$folder"
      return
    fi
  done
  echo "build.sh: no nvcc in CUDA_HOME, CUDA_PATH, PATH, .cuda/cuda or /usr/local/cuda: run \`make cuda-toolkit\`" >&2
  return 1
}

cuda=$(find_toolkit)
export csrc cuda
what=all
case ${1:-} in
--toolkit) echo "$cuda"; exit ;;
--library) what=library; shift ;;
esac
export out=${1:-$csrc/../target/csrc}

gencode=
for arch in ${QUERN_CUDA_ARCHS:-80 86 89 90a compute_90}; do
  case $arch in
  compute_*) gencode+=" -gencode arch=$arch,code=$arch" ;;
  *) gencode+=" -gencode arch=compute_$arch,code=sm_$arch" ;;
  esac
done
# No libstdc++ in the library: the shard then needs libc, libm and libgcc_s alone.
readonly library_flags="-std=c++17 -O3 -fPIC -fno-exceptions -fno-rtti -fno-threadsafe-statics -Wall -Wextra"
# CPU references take most of a test's time; the machines with these GPUs all have AVX2.
readonly test_flags="-std=c++17 -O3 $([ "$(uname -m)" != x86_64 ] || echo -march=x86-64-v3) -Wall -Wextra"
# Compressed, line tables and five architectures take a tenth of the space (nvcc 12.8 or newer).
export nvcc_flags="-std=c++17 -O3 -lineinfo -t 0 --compress-mode=size $gencode ${QUERN_NVCC_FLAGS:-}
  -Xcompiler -fPIC,-Wall,-fno-exceptions,-fno-rtti,-fno-threadsafe-statics -Xptxas --warn-on-spills,--warn-on-local-memory-usage"
export includes="-I$csrc/include -I$csrc/src -isystem $cuda/include -isystem $cuda/include/cccl"

# compile SOURCE FLAGS: to OBJECT, unless it is newer than the source, every header and the flags.
compile() {
  local source=$1 flags=$2 object folders
  object=$out/$(basename "$(dirname "$source")")-$(basename "$source").o
  folders=("$csrc/include" "$csrc/src")
  case $source in "$csrc"/tests/*) folders+=("$csrc/tests") ;; esac
  if [ -f "$object" ] && [ -z "$(find "$out/flags" "${folders[@]}" -newer "$object" \
      \( -name flags -o -name '*.h' -o -name '*.cuh' -o -path "$source" \) -print -quit)" ]; then
    return
  fi
  echo "  $(basename "$source")"
  # shellcheck disable=SC2086
  case $source in
  *.cu) "$cuda/bin/nvcc" $nvcc_flags $includes -I"$csrc/tests" -c "$source" -o "$object.part" 2>"$object.log" ;;
  *.cpp) g++ $flags $includes -I"$csrc/tests" -c "$source" -o "$object.part" 2>"$object.log" ;;
  esac || { cat "$object.log" >&2; return 1; }
  if grep -Ei 'spill|local memory|serializ' "$object.log" >&2; then
    echo "build.sh: $source: register spills, local memory or serialised wgmma" >&2
    return 1
  fi
  cat "$object.log" >&2
  mv "$object.part" "$object"
}
export -f compile

# compile_all FLAGS SOURCE...: in parallel, the largest first so that none is left for the end
compile_all() {
  local flags=$1
  shift
  # shellcheck disable=SC2016
  ls -S "$@" | xargs -d '\n' -P "${NUM_JOBS:-$(nproc)}" -I{} bash -euo pipefail -c 'compile "$1" "$2"' compile {} "$flags"
}

objects() { # objects SOURCE...: the names that compile gives
  local source
  for source in "$@"; do echo "$out/$(basename "$(dirname "$source")")-$(basename "$source").o"; done
}

mkdir -p "$out"
exec 9>"$out/lock"
flock 9 # cargo may build two profiles at once
readonly all_flags="$cuda $nvcc_flags $includes $library_flags $test_flags"
[ "$(cat "$out/flags" 2>/dev/null)" = "$all_flags" ] || echo "$all_flags" >"$out/flags"

readonly library=$out/libquern_kernels.a
kernels=("$csrc"/src/*.cu "$csrc"/src/*/*.cpp)
compile_all "$library_flags" "${kernels[@]}"
rm -f "$library"
mapfile -t kernel_objects < <(objects "${kernels[@]}")
ar rcs "$library" "${kernel_objects[@]}"
[ $what = all ] || exit 0

shared=("$csrc"/tests/{awq,linear_case,attention_case,sample_reference}.cpp)
tests=("$csrc"/tests/test_*.cpp)
benches=("$csrc"/tests/bench_*.{cu,cpp})
compile_all "$test_flags" "${shared[@]}" "${tests[@]}" "${benches[@]}"
link() { # link PROGRAM SOURCE...
  local program=$1
  shift
  mapfile -t program_objects < <(objects "$@" "${shared[@]}")
  g++ "${program_objects[@]}" "$library" -L"$cuda/lib64" -L"$cuda/lib" -lcudart_static -lpthread -ldl -lrt -o "$out/$program"
}
link kernel_tests "${tests[@]}"
link kernel_bench "${benches[@]}"
