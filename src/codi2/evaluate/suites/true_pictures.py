"""`true-pictures`: what an image decoder generates from the true features of held-out pictures.

No language model takes part, so this is the ceiling of every answer with a picture. The ceiling of the decoder itself
is the round trip through its autoencoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from codi2.diffuse.sampling import SampleOptions
from codi2.evaluate.case import Case, System
from codi2.evaluate.closeness import SHARP, closeness, sharpness
from codi2.evaluate.context import BATCH, EvalContext
from codi2.evaluate.figure import Example, Findings, mean
from codi2.evaluate.suites.answers import round_trip
from codi2.prompt.parts import Part, Text

NUMBER, EXAMPLES = 100, 12
STEPS = 20  # of the system that shows what more steps bring
OTHER_SEED = 10_000  # distance of the second seed of a picture to its first
AGAIN, ROUND_TRIP = "another seed", "codec round trip"
LIKE, LIKE_CODEC = 0.5, 0.8  # least EffNet-sim of drawn pictures, and of the codec's round trip


def cases(context: EvalContext) -> list[Case]:
    """Pictures of held-out families."""
    pictures = [context.part(item) for item in context.draw("image", "test_family", context.count(NUMBER))]
    return [
        Case(
            f"{i:03d}",
            (Text("Reproduce "), picture, Text(".")),
            "image",
            {"target": picture, "source": picture},
            about={"seed": i},
        )
        for i, picture in enumerate(pictures)
    ]


def generated(steps: int | None = None, offset: int = 0) -> System:
    """The decoder on true features, without a source.

    Args:
        steps: of denoising; None: as many as the decoder takes by default.
        offset: of the seeds.
    """

    def answer(context: EvalContext, cases: Sequence[Case]) -> list[Part]:
        decoder, slots = context.decoder("image"), context.num_slots("image")
        options, pictures = SampleOptions(num_inference_steps=steps), list[Part]()
        for start in range(0, len(cases), BATCH):
            batch = cases[start : start + BATCH]
            features = context.encode([case.target for case in batch])[:, :slots]
            seeds = [context.seed + offset + case.about["seed"] for case in batch]
            pictures += decoder.generate(features, seeds, options)
        return pictures

    return answer


SYSTEMS: dict[str, System] = {
    "ours": generated(),
    f"{STEPS} steps": generated(STEPS),
    AGAIN: generated(offset=OTHER_SEED),
    ROUND_TRIP: round_trip,
}


def score(context: EvalContext, cases: Sequence[Case], outputs: Mapping[str, Sequence[Part]]) -> Findings:
    """EffNet-sim to the true pictures and between two seeds, and sharpness over that of the true pictures."""
    main, *others = outputs
    targets = [case.target for case in cases]
    likeness = {name: closeness(context, targets, parts) for name, parts in outputs.items()}
    likeness["another picture"] = closeness(context, targets, [*targets[1:], targets[0]])
    scale = sharpness(targets).mean()
    sharp = {name: sharpness(parts) / scale for name, parts in outputs.items()}
    like = mean("EffNet-sim", likeness.pop(main), likeness, seed=context.seed)
    crisp = mean("sharpness", sharp[main], {name: sharp[name] for name in others}, seed=context.seed)
    figures = [like.judged(f"≥ {LIKE:g}", like.value >= LIKE), crisp.within(*SHARP)]
    if ROUND_TRIP in outputs:
        codec = mean(f"EffNet-sim of the {ROUND_TRIP}", likeness[ROUND_TRIP], seed=context.seed)
        figures.append(codec.judged(f"≥ {LIKE_CODEC:g}", codec.value >= LIKE_CODEC))
    if AGAIN in outputs:
        alike = closeness(context, outputs[main], outputs[AGAIN])
        figures.append(mean("EffNet-sim between two seeds", alike, seed=context.seed))
    examples = [
        Example(case.target.name, case.prompt, {"target": case.target, **{name: outputs[name][i] for name in outputs}})  # type: ignore[union-attr]
        for i, case in enumerate(cases[:EXAMPLES])
    ]
    return Findings(figures, examples)
