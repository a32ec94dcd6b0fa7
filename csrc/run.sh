#!/usr/bin/env bash
# Runs the kernel tests and benches on a GPU machine, from a folder that holds kernel_tests and kernel_bench.
#   run.sh test | sanitize | bench | all      results and logs go to $OUT (default: ./results)
# Every part has its own time limit, and a short table comes last.
set -uo pipefail

readonly here=$(cd "$(dirname "$0")" && pwd)
readonly out=${OUT:-$here/results}
readonly commit=$(cat "$here/commit" 2>/dev/null || echo unknown)
summary=()
status=0
mkdir -p "$out"

# part NAME SECONDS COMMAND...: logs to $out/NAME.log, remembers how it ended
part() {
  local name=$1 limit=$2 started=$SECONDS rc
  shift 2
  timeout "$limit" "$@" >"$out/$name.log" 2>&1
  rc=$?
  summary+=("$(printf '%-18s %s (%d s)' "$name" "$([ $rc = 0 ] && echo ok || echo "FAILED, exit code $rc")" $((SECONDS - started)))")
  [ $rc = 0 ] || { status=1; tail -n 25 "$out/$name.log"; }
}

run_test() { part test 120 "$here/kernel_tests"; }
run_sanitize() {
  local sanitizer=${SANITIZER:-compute-sanitizer} tool
  command -v "$sanitizer" >/dev/null || sanitizer=/usr/local/cuda/bin/compute-sanitizer
  for tool in memcheck racecheck; do
    part "$tool" 120 "$sanitizer" --tool "$tool" --error-exitcode 9 "$here/kernel_tests" --small
  done
}
run_bench() {
  # cuBLAS, for the fp16 ceiling, comes with PyTorch where it is not installed.
  local torch
  torch=$(python3 -c 'import importlib.util as u; print(u.find_spec("nvidia").submodule_search_locations[0])' 2>/dev/null)
  export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}:$torch/cu13/lib:$torch/cublas/lib
  part bench 120 "$here/kernel_bench" --json "$out/kernels.json" --commit "$commit"
}

case ${1:-all} in
test) run_test ;;
sanitize) run_sanitize ;;
bench) run_bench ;;
all) run_test; run_bench; run_sanitize ;;
*) echo "usage: run.sh test | sanitize | bench | all" >&2; exit 2 ;;
esac
cat "$out"/test.log "$out"/bench.log 2>/dev/null
printf '%s\n' "${summary[@]}"
exit $status
