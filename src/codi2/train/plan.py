"""The parameters, memory and time of a run, before it starts: `codi2 train CONFIG --plan`.

Nothing is trained. A step of every phase runs on the virtual GPU, whose tensors have no values, and the sizes of live
tensors are added up. On machines without the weights of `paper`, its networks are built without weights at their
published sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from codi2.errors import ConfigError, WeightsError
from codi2.train.config import TrainConfig

MANY = 8  # number of processes that is planned in addition to one
FULL_SIZE = {
    "llm": ("full_size", "FullSize"),
    "published": ("full_size_decoders", "FullDecoder"),
    "captions": ("full_size_decoders", "FullCaptions"),
    "joint": ("full_size_decoders", "FullJoint"),
}
"""Part → module and class of its recipe without weights and data."""
SEARCHED = 400  # last steps of a run that are searched for its phases


@dataclass(frozen=True)
class Plan:
    """Parameters by component, and the cost."""

    trained: Mapping[str, int]
    frozen: Mapping[str, int]
    memory: Mapping[str, str]  # processes → a sentence about the memory of each of their GPUs
    samples: int
    hours: str
    how: str


def plan(config: TrainConfig, build: Any) -> Plan:
    """`build` makes the part's recipe. Raises ConfigError and DataError as training would."""
    try:
        # samples drawn from the corpus have the same sizes in every step, so one step is encoded
        return _of_recipe(config, build(config if "data" in config.options else replace(config, steps=1)))
    except (WeightsError, ConfigError):  # the training machine may have the weights, or bitsandbytes
        from codi2.config import PRESETS

        model = config.options.get("model", "tiny")
        if config.part not in FULL_SIZE or model not in PRESETS or PRESETS[model].llm.kind != "hub":
            raise
        return _of_paper(config)


def _of_recipe(config: TrainConfig, recipe: Any) -> Plan:
    from codi2.train.rehearsal import as_worker
    from codi2.train.shares import Share

    trained, frozen = counted(recipe)
    batches = {}
    for phase, step in _steps(config, recipe).items():
        for processes in _divisible(config, recipe):
            share = Share(0, processes * config.accumulate)
            recipe.batch(step, share)  # fills the caches
            with nullcontext() if recipe.needs_values else as_worker():
                batches[phase, processes] = recipe.batch(step, share)
    how = "computed from a step of each phase on tensors without numbers, in float32"
    return _planned(config, recipe, trained, frozen, batches, None, how)


def _of_paper(config: TrainConfig) -> Plan:
    """The plan of the paper's system at its published sizes."""
    from importlib import import_module

    from codi2.dry_run.parts import BY_NAME, count
    from codi2.train.full_size import LABELS, POSITIONS

    module, name = FULL_SIZE[config.part]
    recipe = getattr(import_module(f"codi2.train.{module}"), name)(config)
    trained, frozen = counted(recipe)
    if config.part != "captions":  # which counts it among the networks of its loss
        frozen["imagebind"] = count(BY_NAME["imagebind"])
    counts = [n for n in (1, MANY) if config.batch_size % (n * config.accumulate) == 0]
    batches = {(phase, n): recipe.fabricated(phase, n) for n in counts for phase in recipe.phases}
    how = "computed from a step of each phase on tensors without numbers, at the published sizes, autocast in bfloat16"
    if config.part == "llm":
        how += f"; {POSITIONS} positions and {LABELS} labels a sample are assumed (docs/paper.md)"
    return _planned(config, recipe, trained, frozen, batches, torch.bfloat16, how)


def _planned(
    config: TrainConfig,
    recipe: Any,
    trained: dict[str, int],
    frozen: dict[str, int],
    batches: Mapping[tuple[str, int], Any],
    low: torch.dtype | None,
    how: str,
) -> Plan:
    from codi2.dry_run.estimate import GPUS, RUNTIME_GB, UTILISATION
    from codi2.train.rehearsal import rehearse

    rehearsals = {key: rehearse(recipe, config, batch, low) for key, batch in batches.items()}
    memory: dict[str, str] = {}
    for processes in dict.fromkeys(n for _, n in rehearsals):
        by_phase = {phase: each for (phase, n), each in rehearsals.items() if n == processes}
        phase = max(by_phase, key=lambda name: by_phase[name].peak)
        worst = by_phase[phase]
        # with several processes each has a second copy of the gradients, in the buckets that are exchanged
        peak = worst.peak / 1e9 + RUNTIME_GB + (worst.trained / 1e9 if processes > 1 else 0)
        parts = f"{worst.model / 1e9:.1f} of the model, {worst.states / 1e9:.1f} of Adam's moments"
        name = "1 process" if processes == 1 else f"{processes} processes"
        where = f", in the phase {phase}" if phase else ""
        memory[name] = f"{peak:.1f} GB on its GPU at the peak{where}: {parts}"
        if processes > 1 and hasattr(recipe, "mllm"):
            sharded = worst.model + worst.trained + worst.states + worst.average
            saved = sharded * (1 - 1 / processes) - gathered(recipe)
            memory[f"{name}, FSDP2"] = f"{worst.peak / 1e9 + RUNTIME_GB - saved / 1e9:.1f} GB"
        fits = [gpu.name for gpu in GPUS if gpu.memory_gb >= peak]
        memory[name] += f"; fits on {', '.join(fits)}" if fits else "; fits on none of the GPUs that are known here"
    fewest = min(n for _, n in rehearsals)
    operations = {phase: each.operations * config.accumulate for (phase, n), each in rehearsals.items() if n == fewest}
    weights = config.options.get("phases") or {}
    shares = {phase: weights.get(phase, 1.0) for phase in operations}
    mean = sum(operations[p] * share for p, share in shares.items()) / sum(shares.values())
    hours = [f"{config.steps * mean * fewest / (g.peak * UTILISATION) / 3600:,.1f} h on one {g.name}" for g in GPUS]
    return Plan(trained, frozen, memory, config.steps * config.batch_size, "; ".join(hours), how)


def _steps(config: TrainConfig, recipe: Any) -> dict[str, int]:
    """A late step of each phase, which has all losses; for a part without phases, the first step."""
    if not hasattr(recipe, "examples"):
        return {"": 0}
    steps: dict[str, int] = {}
    for step in range(config.steps - 1, max(-1, config.steps - 1 - SEARCHED), -1):
        steps.setdefault(recipe.examples.phase(step), step)
    return steps


def _divisible(config: TrainConfig, recipe: Any) -> list[int]:
    """The planned numbers of processes by which the run's batches can be divided."""
    numbers = [config.batch_size // config.accumulate, *recipe.divisible_counts.values()]
    return [n for n in (1, MANY) if n == 1 or (recipe.divides and all(number % n == 0 for number in numbers))]


def gathered(recipe: Any) -> int:
    """Bytes that FSDP2 gathers at once: the parameters of the root and two layers, of which one is prefetched."""
    from codi2.train.rehearsal import size

    layers = recipe.mllm.backbone.model.base_model.layers
    each = [size(layer.parameters()) for layer in layers]
    return size(recipe.model.parameters()) - sum(each) + 2 * max(each)


def counted(recipe: Any) -> tuple[dict[str, int], dict[str, int]]:
    """Trained and frozen parameters by component, with the decoders of L_DM and the other frozen networks."""
    trained, frozen = counts(recipe.model)
    own_ids = {id(p) for p in recipe.model.parameters()}
    others = {f"{name} decoder, for L_DM": module for name, module in getattr(recipe, "decoders", {}).items()}
    if recipe.frozen is not None:
        others = {"networks that the loss runs through": recipe.frozen}
    for name, module in others.items():
        if number := sum(p.numel() for p in module.parameters() if id(p) not in own_ids):
            frozen[name] = number
    return trained, frozen


def counts(model: nn.Module) -> tuple[dict[str, int], dict[str, int]]:
    """Trained and frozen parameters by component."""
    trained: dict[str, int] = {}
    frozen: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        side = trained if parameter.requires_grad else frozen
        component = _component(name)
        side[component] = side.get(component, 0) + getattr(parameter, "numbers", parameter.numel())
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


def show(config: TrainConfig, plan: Plan) -> None:
    """Prints a plan."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table("component", "parameters", "", title=f"{config.part}: {config.steps:,} steps", title_justify="left")
    for name, size in plan.trained.items():
        table.add_row(name, f"{size:,}", "trained")
    for name, size in plan.frozen.items():
        table.add_row(name, f"{size:,}", "frozen")
    console.print(table)
    console.print(f"trained {sum(plan.trained.values()):,}, frozen {sum(plan.frozen.values()):,}")
    for processes, words in plan.memory.items():
        console.print(f"memory, {processes}: {words}", soft_wrap=True)
    console.print(f"samples: {plan.samples:,}; time: {plan.hours}", soft_wrap=True)
    console.print(f"[dim]{plan.how}[/]", soft_wrap=True)
