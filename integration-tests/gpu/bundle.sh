#!/usr/bin/env bash
# Packs what a GPU machine without Rust needs into one folder; called by `make gpu-bundle` after everything is built.
#   bundle.sh OUT
# The three programs, kernel tests and benches, the shard's bench and comparison, Qwen-14B-Chat's configuration with a
# made-up vocabulary, the goldens and run.sh. Fails above 60 MB: QUERN_CUDA_ARCHS=90a makes the programs smaller.
set -euo pipefail
shopt -s inherit_errexit

readonly root=$(cd "$(dirname "$0")/../.." && pwd)
readonly here=$root/integration-tests/gpu
readonly out=${1:?usage: bundle.sh OUT}
readonly release=$root/target/release
readonly most_mb=60

rm -rf "$out"
mkdir -p "$out/golden"
for program in text-generation-{launcher,router,shard} examples/{bench_shard,bench_step,compare_shards,make_checkpoint}; do
  strip -o "$out/$(basename "$program")" "$release/$program"
done
for program in kernel_tests kernel_bench; do strip -o "$out/$program" "$root/target/csrc/$program"; done
cp "$here"/{run.sh,stack_bench.py,plan_check.py,start_check.py,serve_check.py,join_results.py,windowed.py,models.sh} "$out"
cp "$root"/integration-tests/golden/smollm2-{*-awq-g64,135m-qwen2-bf16}.json "$out/golden"
python3 "$here/qwen14b.py" "$out/qwen-14b-chat"
git -C "$root" describe --always --dirty --abbrev=12 >"$out/commit"

mb=$(du -sm --apparent-size "$out" | cut -f1)
echo "$out: $mb MB, commit $(cat "$out/commit")"
[ "$mb" -le $most_mb ] || { echo "bundle.sh: over $most_mb MB; build with QUERN_CUDA_ARCHS=90a" >&2; exit 1; }
