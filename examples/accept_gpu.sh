#!/usr/bin/env bash
# Checks the paper preset where its weights and a GPU are: what docs/paper.md lists as never run.
#
#   examples/accept_gpu.sh [FOLDER]        results go to FOLDER, by default out/accept
#
# It needs imagebind_huge.pth (or imagebind_huge.safetensors) in the working folder, access to meta-llama/Llama-2-7b-chat-hf, and 24 GB of
# GPU memory. Environment: BITS=4 or 8 for a smaller language model, OFFLOAD=1 to keep idle parts in main memory, DEVICE (cuda).
set -euo pipefail
out=${1:-out/accept}
mkdir -p "$out"
here=$(cd "$(dirname "$0")" && pwd)

echo "1. all weights are there and have the right shapes"
codi2 doctor --preset paper --json "$out/doctor.json"

echo "2. the components at full size, weighed on this machine"
codi2 doctor --preset paper --dry-run --json "$out/dry_run.json"

echo "3. norms, replies, a training step"
python "$here/accept_gpu.py" "$out"
