"""The start of the terminal beside the imports that no program of these libraries can do without.

    python benchmarks/start.py [ROUNDS]

Each is a process of its own; what counts is processor time, since another program on the machine makes both wait. The
bare program imports torch, the language model's class, peft and one network of diffusers. Prints the ratio of medians
for a picture, for the first word, and for a refused prompt.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence

LANGUAGE = "from transformers.models.llama.modeling_llama import LlamaForCausalLM; import peft"
BARE = {"words": LANGUAGE, "picture": f"{LANGUAGE}; from diffusers import UNet2DConditionModel, AutoencoderKL"}
ASKS = {
    "picture": ["Draw a lighthouse.", "--want", "image", "--max-tokens", "1"],
    "words": ["What is a lighthouse?", "--want", "text", "--max-tokens", "1"],
    "refused": ["[image0]"],
}


def seconds(command: Sequence[str]) -> float:
    """Of the processor, of one process and what it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *command], capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as out:
        for name, ask in ASKS.items():
            ours = ["-m", "codi2", "generate", *ask, "--out", out]
            bare = ["-c", BARE.get(name, LANGUAGE)]
            seconds(ours), seconds(bare)  # files come into the page cache, weights are fetched
            pairs = [(seconds(ours), seconds(bare)) for _ in range(rounds)]
            a, b = (statistics.median(column) for column in zip(*pairs, strict=True))
            print(f"{name}: {a / b:.2f} × the bare imports  ({a:.1f} s, {b:.1f} s of the processor)", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
