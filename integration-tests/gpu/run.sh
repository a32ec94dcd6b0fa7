#!/usr/bin/env bash
# Runs everything that needs a GPU, from the folder that `make gpu-bundle` makes; needs bash and python3.
#   run.sh test       kernel tests against float64 references
#   run.sh sanitize   the same on small shapes under compute-sanitizer (memcheck, racecheck)
#   run.sh kernels    each kernel's time and its share of what the machine gives
#   run.sh bench      the shard with Qwen-14B-Chat's dimensions and dummy weights
#   run.sh overhead   decode steps against their kernels alone
#   run.sh compare    real checkpoints: the GPU's tokens and logprobs against the CPU's
#   run.sh serve      a server with a real checkpoint of $MODELS: constrained answers, prompts' log-probabilities, kill -9
#   run.sh stack      launcher, router, shard and an HTTP client; compares with the engine's figures of `bench`
#   run.sh plan       what `plan` says beforehand against what the server takes, three configurations
#   run.sh start      start to ready of a checkpoint of Qwen-14B-Chat-AWQ's shape (9.7 GB, made in $CHECKPOINT first)
#   run.sh all        all of them, the most needed first
# Several can be named. Each has a time limit of its own, and together they end within LIMIT seconds (570). Logs, JSON and
# DATE-GPU.json, the figures of all parts in one file, go to $OUT (./results). A short table comes last.
set -uo pipefail

readonly here=$(cd "$(dirname "$0")" && pwd)
readonly out=${OUT:-$here/results}
readonly commit=$(cat "$here/commit" 2>/dev/null || echo unknown)
readonly models=${MODELS:-$here/models}
readonly limit=${LIMIT:-570}
summary=()
status=0
mkdir -p "$out"

# part NAME SECONDS COMMAND...: logs to $out/log.txt, shows the end of what failed, remembers how it ended
part() {
  local name=$1 seconds=$2 started=$SECONDS rc left=$((limit - SECONDS)) result
  shift 2
  if [ $left -lt 10 ]; then
    summary+=("$(printf '%-28s left out, no time' "$name")")
    status=1
    return
  fi
  echo "== $name: $*" >>"$out/log.txt"
  [ $seconds -lt $left ] || seconds=$left
  timeout --kill-after=5 "$seconds" "$@" >"$out/part.txt" 2>&1
  rc=$?
  cat "$out/part.txt" >>"$out/log.txt"
  case $rc in
  0) result=ok; grep -v ' INFO ' "$out/part.txt" | tail -n 60 ;;
  124 | 137) result="FAILED, over its $seconds s" ;;
  *) result="FAILED, exit code $rc" ;;
  esac
  [ $rc = 0 ] || { status=1; tail -n 40 "$out/part.txt"; }
  summary+=("$(printf '%-28s %s (%d s)' "$name" "$result" $((SECONDS - started)))")
  rm -f "$out/part.txt"
}

run_test() { part test 120 "$here/kernel_tests"; }

run_sanitize() {
  local sanitizer=${SANITIZER:-compute-sanitizer} tool
  command -v "$sanitizer" >/dev/null || sanitizer=/usr/local/cuda/bin/compute-sanitizer
  for tool in memcheck racecheck; do
    part "$tool" 120 "$sanitizer" --tool "$tool" --error-exitcode 9 "$here/kernel_tests" --small
  done
}

run_kernels() {
  # cuBLAS, for the fp16 ceiling, comes with PyTorch where it is not installed.
  local torch
  torch=$(python3 -c 'import importlib.util as u; print(u.find_spec("nvidia").submodule_search_locations[0])' 2>/dev/null)
  LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}:$torch/cu13/lib:$torch/cublas/lib \
    part kernels 120 "$here/kernel_bench" --json "$out/kernels.json" --commit "$commit"
}

run_bench() {
  part bench 240 "$here/bench_shard" --model-path "$here/qwen-14b-chat" --json "$out/engine.json" --commit "$commit" \
    --seconds "${ENGINE_SECONDS:-200}" -- --device cuda --dummy-weights
}

run_overhead() {
  part overhead 60 "$here/bench_step" --model-path "$here/qwen-14b-chat" --json "$out/overhead.json" --commit "$commit"
}

run_compare() {
  local folder name windowed=$out/smollm2-135m-windowed
  for folder in "$models"/*/; do
    name=$(basename "$folder")
    [ -f "$here/golden/$name.json" ] || continue
    part "compare $name" 120 "$here/compare_shards" --model-path "$folder" --golden "$here/golden/$name.json" \
      --json "$out/compare-$name.json"
  done
  folder=$models/smollm2-135m-awq-g64
  [ -d "$folder" ] || return 0
  python3 "$here/windowed.py" "$folder" "$windowed"
  part "compare with windows" 120 "$here/compare_shards" --model-path "$windowed" --json "$out/compare-windowed.json" \
    --golden "$here/golden/smollm2-135m-awq-g64.json"
  rm -r "$windowed"
}

run_serve() {
  local folder
  for folder in "$models"/*-awq-*/; do
    part "serve $(basename "$folder")" 120 python3 "$here/serve_check.py" --bin "$here" --model "$folder" -- \
      --device cuda --max-total-tokens 1024
  done
}

run_stack() {
  part stack 150 python3 "$here/stack_bench.py" --bin "$here" --model "$here/qwen-14b-chat" --engine "$out/engine.json" \
    --json "$out/stack.json" --commit "$commit" -- --device cuda --dummy-weights
}

run_plan() {
  part plan 120 python3 "$here/plan_check.py" --bin "$here" --model "$here/qwen-14b-chat" --json "$out/plan.json" \
    --commit "$commit" -- --device cuda --dummy-weights
}

run_start() {
  local checkpoint=${CHECKPOINT:-/tmp/quern-qwen-14b-awq}
  part "make checkpoint" 180 "$here/make_checkpoint" --model-path "$here/qwen-14b-chat" --out "$checkpoint"
  part start 120 python3 "$here/start_check.py" --bin "$here" --model "$checkpoint" --json "$out/start.json" \
    --commit "$commit" -- --device cuda
}

for what in "${@:-help}"; do
  case $what in
  test | sanitize | kernels | bench | overhead | compare | serve | stack | plan | start) "run_$what" ;;
  all) run_test; run_bench; run_overhead; run_stack; run_compare; run_serve; run_plan; run_start; run_kernels; run_sanitize ;;
  *) sed -n '2,16s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
done
python3 "$here/join_results.py" "$out" --commit "$commit"
printf '%s\n' "${summary[@]}"
exit $status
