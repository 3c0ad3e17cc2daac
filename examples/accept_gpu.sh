#!/usr/bin/env bash
# Accepts a machine: runs the product's own commands on its GPU, compares the GPU's outputs with the CPU's, and measures.
#
#   examples/accept_gpu.sh [FOLDER] [OPTIONS]      results go to FOLDER, by default out/accept: accept.json, index.html
#
# Options: --model tiny (or debug, paper, a folder), --device cuda (by default, where there is a GPU), --dtype bfloat16,
# --bits 4, --offload, --steps 20, --recipes "debug tiny". Without a GPU it runs on the CPU, and says in every line
# what was not measured. The parts of `tiny` train on the corpus of `codi2 data build tiny`; `paper` wants its weights
# (docs/paper.md). PYTHON names another interpreter.
set -euo pipefail
folder=out/accept
if [[ $# -gt 0 && $1 != --* ]]; then
    folder=$1
    shift
fi
exec "${PYTHON:-python}" "$(dirname "$0")/accept_gpu.py" "$folder" "$@"
