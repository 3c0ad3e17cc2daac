"""What a run will train, hold and take, before it starts: `codi2 train CONFIG --plan`.

Where the weights are, the recipe is built, and two steps are tried without an update. Where those of `paper` are not,
its language model is counted on the meta device, and memory and time are estimated by the rules of `doctor.estimate`.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from codi2.errors import ConfigError, WeightsError
from codi2.train.config import TrainConfig, options_of

TRIED = 2  # steps; the last is timed


@dataclass(frozen=True)
class Plan:
    """Parameters by component, and the cost."""

    trained: Mapping[str, int]
    frozen: Mapping[str, int]
    memory: Mapping[str, str]  # device → what it holds, in words
    samples: int
    hours: str
    how: str  # measured or estimated, and on what


def plan(config: TrainConfig, build: Any) -> Plan:
    """`build` makes the part's recipe. Raises ConfigError and DataError as training would."""
    try:
        return _tried(config, build(config))
    except (WeightsError, ConfigError):  # bitsandbytes, too, may be on the machine that trains
        from codi2.config import PRESETS

        model = config.options.get("model", "tiny")
        if config.part != "llm" or model not in PRESETS or PRESETS[model].llm.kind != "hub":
            raise
        return _estimated(config)


def _tried(config: TrainConfig, recipe: Any) -> Plan:
    from codi2.train.loop import Share

    trained, frozen = counts(recipe.model)
    for name, module in getattr(recipe, "decoders", {}).items():
        held = sum(p.numel() for p in module.parameters() if not p.requires_grad)
        frozen = {**frozen, f"{name} decoder, for L_DM": held}
    began = 0.0
    recipe.model.train()
    for step in range(TRIED):
        began = time.monotonic()
        recipe.losses(recipe.model, recipe.batch(step, Share(0, config.accumulate)))["loss"].backward()
    seconds = (time.monotonic() - began) * config.accumulate
    recipe.model.zero_grad(set_to_none=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**3 if sys.platform == "darwin" else 1024**2)
    states = 2 * 4 * sum(trained.values()) / 1024**3
    return Plan(
        trained,
        frozen,
        {"cpu": f"{peak + states:.1f} GB: {peak:.1f} at the peak of a step, {states:.2f} of Adam's moments"},
        config.steps * config.batch_size,
        f"{config.steps * seconds / 3600:.1f} h at {seconds:.2f} s a step",
        f"measured on a step of {config.batch_size} without an update, in one process",
    )


def counts(model: nn.Module) -> tuple[dict[str, int], dict[str, int]]:
    """Trained and frozen parameters by component."""
    trained: dict[str, int] = {}
    frozen: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        side = trained if parameter.requires_grad else frozen
        component = _component(name)
        side[component] = side.get(component, 0) + parameter.numel()
    return trained, frozen


def _component(name: str) -> str:
    if "lora_" in name:
        return "LoRA"
    if "trainable_tokens_delta" in name:
        return "rows of the new tokens"
    head, _, rest = name.partition(".")
    if head == "mllm":
        part = rest.partition(".")[0]
        return "language model" if part == "backbone" else f"projection, {part}"
    return f"{rest.partition('.')[0]} decoder's head" if head == "decoders" else head


def _estimated(config: TrainConfig) -> Plan:
    """Of the paper's system at its published sizes."""
    import torch

    from codi2.config import PRESETS, Placement
    from codi2.doctor.estimate import GPUS, estimates
    from codi2.doctor.parts import BY_NAME, PARTS, count, flops, llama
    from codi2.heads.projection import Leave, Projection
    from codi2.llm.backbone import adapt
    from codi2.prompt.layout import special_tokens
    from codi2.train.parts.llm import LLMOptions

    options = options_of(LLMOptions, config)
    base = PRESETS[options.model]
    with torch.device("meta"):
        language: Any = llama()
        first = language.get_input_embeddings().num_embeddings
        new = range(first, first + len(special_tokens(base.llm.senses)))
        language.resize_token_embeddings(new.stop, mean_resizing=False)
        adapted = adapt(language, base.llm, list(new))
        width = language.config.hidden_size
        heads = base.heads
        enter, leave = Projection(heads.groups, heads.feature_dim, heads.hidden, width), Leave(heads, width)
        networks = {"image": BY_NAME["unclip-unet"], "audio": BY_NAME["audioldm2-unet"]}
        inputs: dict[str, Any] = {modality: part.build() for modality, part in networks.items()}
    mllm = nn.ModuleDict({"backbone": adapted, "enter": enter, "leave": leave})
    trained, frozen = counts(nn.ModuleDict({"mllm": mllm}))
    if options.decoder_heads:
        for modality, network in inputs.items():
            trained[f"{modality} decoder's way in of a source"] = sum(p.numel() for p in network.conv_in.parameters())
    sizes = {part.name: count(part) for part in PARTS}
    frozen |= {name: size for name, size in sizes.items() if name != "llama-2-7b-chat"}
    bits = Placement(**options.placement).bits
    precision = {0: "bf16", 8: "int8", 4: "int4"}[bits]
    operations = {name: flops(BY_NAME[name]) for name in ("imagebind", "unclip-unet")}
    per_pass = max(1, config.batch_size // (config.accumulate * (8 if config.accumulate == 1 else 1)))
    steps = [e for e in estimates(sizes, operations, batch_size=per_pass) if e.what == "training step"]
    chosen = [e for e in steps if e.precision == precision]
    memory = {e.gpu: f"{e.memory_gb:.0f} GB{'' if e.fits else ', which it has not'}" for e in chosen}
    rates = [f"{config.steps * config.batch_size / per_pass * e.seconds / 3600:,.0f} h on one {e.gpu}" for e in chosen]
    return Plan(
        trained,
        frozen,
        memory,
        config.steps * config.batch_size,
        "; ".join(rates),
        f"estimated by published sizes, {per_pass} samples a pass, language model in {precision}; {len(GPUS)} GPUs "
        "by 40 % of their peak (docs/paper.md)",
    )


def show(config: TrainConfig, found: Plan) -> None:
    """Prints a plan."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table("component", "parameters", "", title=f"{config.part}: {config.steps:,} steps", title_justify="left")
    for name, size in found.trained.items():
        table.add_row(name, f"{size:,}", "trained")
    for name, size in found.frozen.items():
        table.add_row(name, f"{size:,}", "frozen")
    console.print(table)
    console.print(f"trained {sum(found.trained.values()):,}, frozen {sum(found.frozen.values()):,}")
    for device, words in found.memory.items():
        console.print(f"memory, {device}: {words}")
    console.print(f"samples: {found.samples:,}; time: {found.hours}")
    console.print(f"[dim]{found.how}[/]", soft_wrap=True)
