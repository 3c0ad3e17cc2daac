"""The start of the terminal beside the imports that no program of these libraries can do without, and its stages.

    python benchmarks/start.py [ROUNDS]

Each is a process of its own; what counts is processor time, since another program on the machine makes both wait. The
bare program imports torch, the language model's class, peft and two networks of diffusers. Prints the ratio of the best
of each for a picture, for the first word, and for a refused prompt; then the stages of one picture as shares of it.
"""

from __future__ import annotations

import gc
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import import_module

LANGUAGE = "from transformers.models.llama.modeling_llama import LlamaForCausalLM; import peft"
BARE = {"words": LANGUAGE, "picture": f"{LANGUAGE}; from diffusers import UNet2DConditionModel, AutoencoderKL"}
REQUESTS = {
    "picture": ["Draw a lighthouse.", "--want", "image", "--max-tokens", "1"],
    "words": ["What is a lighthouse?", "--want", "text", "--max-tokens", "1"],
    "refused": ["[image0]"],
}

STAGES = "stages"  # the argument of the process that prints its stages
IMPORTS = {
    "the command line": ["codi2.cli"],
    "torch": ["torch"],
    "transformers": [
        "transformers",
        "transformers.models.llama.modeling_llama",
        "transformers.models.bert.modeling_bert",
    ],
    "peft": ["peft"],
    "diffusers": ["diffusers.models.unets.unet_2d_condition", "diffusers.models.autoencoders.autoencoder_kl"],
    "codi2": ["codi2.model", "codi2.chat", "codi2.diffuse.load"],
}


def seconds(command: Sequence[str]) -> float:
    """Of the processor, of one process and what it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *command], capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def stages() -> dict[str, float]:
    """Seconds of the processor for each stage of a picture, in this process."""
    gc.disable()  # as the command does while it loads
    spent = {"Python": time.process_time()}

    def ended(stage: str) -> None:
        spent[stage] = spent.get(stage, 0.0) + time.process_time() - sum(spent.values())

    for name, modules in IMPORTS.items():
        for module in modules:
            import_module(module)
        ended(f"import {name}")
    from codi2 import CoDi2

    model = CoDi2.from_pretrained("tiny", on_demand=True)
    ended("load the language model")
    model.generate("Draw a lighthouse.", want="image", max_new_tokens=1, callback=lambda stage, *_: ended(stage))
    return spent


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as out:
        for name, request in REQUESTS.items():
            ours = ["-m", "codi2", "generate", *request, "--out", out]
            bare = ["-c", BARE.get(name, LANGUAGE)]
            seconds(ours), seconds(bare)  # files come into the page cache, weights are fetched
            pairs = [(seconds(ours), seconds(bare)) for _ in range(rounds)]
            a, b = (min(column) for column in zip(*pairs, strict=True))
            print(f"{name}: {a / b:.2f} × the bare imports  ({a:.1f} s, {b:.1f} s of the processor)", flush=True)
    listed = subprocess.run([sys.executable, __file__, STAGES], capture_output=True, text=True, check=True).stdout
    spent: dict[str, float] = json.loads(listed)
    for stage, share in spent.items():
        print(f"{share / sum(spent.values()):5.1%}  {stage}")


if __name__ == "__main__":
    if sys.argv[1:] == [STAGES]:
        print(json.dumps(stages()))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
