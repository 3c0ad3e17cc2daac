"""`vocoder`: held-out sounds from their own log-mel spectrograms, beside the Griffin-Lim algorithm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from codi2.diffuse.codec import AudioCodec
from codi2.evaluate.case import Case, System
from codi2.evaluate.closeness import closeness
from codi2.evaluate.context import EvalContext
from codi2.evaluate.figure import Example, Findings, mean
from codi2.media.mel import griffin_lim
from codi2.prompt.parts import Audio, Part, Text

NUMBER, EXAMPLES = 48, 4
GRIFFIN_LIM = "Griffin-Lim"


def cases(context: EvalContext) -> list[Case]:
    """Held-out recordings."""
    items = context.draw("audio", "test_rendering", context.count(NUMBER))
    sounds = [context.part(item) for item in items]
    return [
        Case(f"{i:03d}", (Text("Reproduce "), sound, Text(".")), "audio", {"target": sound})
        for i, sound in enumerate(sounds)
    ]


def vocoded(context: EvalContext, cases: Sequence[Case]) -> list[Part]:
    """By the vocoder of the audio decoder."""
    codec = _codec(context)
    with torch.no_grad():
        return codec.to_parts(codec.to_tensor([case.target for case in cases]))


def inverted(context: EvalContext, cases: Sequence[Case]) -> list[Part]:
    """By Griffin-Lim."""
    codec = _codec(context)
    log_mel = codec.to_tensor([case.target for case in cases])
    generator = torch.Generator().manual_seed(context.seed)
    waves = griffin_lim(codec.mel, codec.mel.magnitude(log_mel.float()), generator=generator)
    return [Audio(wave.clip(-1, 1), codec.mel.rate) for wave in waves.cpu().numpy()]


SYSTEMS: dict[str, System] = {"ours": vocoded, GRIFFIN_LIM: inverted}


def score(context: EvalContext, cases: Sequence[Case], outputs: Mapping[str, Sequence[Part]]) -> Findings:
    """Log-spectral distance to the recordings."""
    main, *others = outputs
    targets = [case.target for case in cases]
    distances = {name: closeness(context, targets, sounds) for name, sounds in outputs.items()}
    figure = mean("LSD", distances[main], {name: distances[name] for name in others}, seed=context.seed)
    if rival := figure.baselines.get(GRIFFIN_LIM):
        figure = figure.judged(f"below {GRIFFIN_LIM}", figure.value < rival.value)
    examples = [
        Example(case.target.name, case.prompt, {"target": case.target, **{name: outputs[name][i] for name in outputs}})  # type: ignore[union-attr]
        for i, case in enumerate(cases[:EXAMPLES])
    ]
    return Findings([figure], examples)


def _codec(context: EvalContext) -> AudioCodec:
    codec = context.decoder("audio").codec
    assert isinstance(codec, AudioCodec)
    return codec
