#!/usr/bin/env bash
# Real checkpoints for `run.sh compare`, in parts that fit one transfer each.
#   models.sh pack FOLDER OUT     one checkpoint folder as OUT/NAME.tar.xz.aa, .ab, ... of at most 50 MB
#   models.sh keep PARTS STORE    on the GPU machine: copies parts to STORE and unpacks each checkpoint that is complete
# The list of parts (NAME.parts) travels with each of them.
set -euo pipefail
shopt -s inherit_errexit nullglob

pack() {
  local folder name out=$2
  folder=$(realpath "$1")
  name=$(basename "$folder")
  mkdir -p "$out"
  rm -f "$out/$name".*
  # The dictionary spans the whole checkpoint: an output head that repeats the embedding costs nothing.
  tar -ch -C "$(dirname "$folder")" "$name" | xz -T1 --lzma2=preset=1,dict=256MiB | split -b 50M - "$out/$name.tar.xz."
  (cd "$out" && sha256sum "$name".tar.xz.* >"$name.parts")
  ls -l "$out/$name".*
}

keep() {
  local parts=$1 store=$2 list name
  mkdir -p "$store/parts"
  cp "$parts"/*.parts "$parts"/*.tar.xz.* "$store/parts"
  for list in "$store"/parts/*.parts; do
    name=$(basename "$list" .parts)
    if [ -d "$store/$name" ]; then
      continue
    elif (cd "$store/parts" && sha256sum --check --quiet "$name.parts" 2>/dev/null); then
      cat "$store/parts/$name".tar.xz.* | tar -xJ -C "$store"
      echo "$name: unpacked"
    else
      echo "$name: not complete yet"
    fi
  done
}

case ${1:-} in
pack) pack "$2" "$3" ;;
keep) keep "$2" "$3" ;;
*) sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
