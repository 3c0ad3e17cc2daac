"""`clips`: likeness to the true clips, sharpness, motion and flicker. `together`: does a clip move when its sound is
loud?
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from codi2.data import motions
from codi2.data.record import decode_pieces
from codi2.data.tasks import captions, clips, edits
from codi2.data.tasks.sampler import Task, TaskSampler
from codi2.errors import WeightsError
from codi2.evaluate.case import Case, System
from codi2.evaluate.closeness import FRAMES, SHARP, closeness, sharpness
from codi2.evaluate.context import BATCH, EvalContext
from codi2.evaluate.figure import Example, Figure, Findings, mean
from codi2.evaluate.suites.answers import ours, seeds_of, words_alone
from codi2.media.prepare import spread
from codi2.model import CoDi2, Options
from codi2.prompt.layout import Message
from codi2.prompt.parts import Audio, Part, Video
from codi2.tensors import loaded

if TYPE_CHECKING:
    from codi2.diffuse.joint import JointAttention

HELD_OUT = ("test_family", "test_rendering")
NUMBER, EXAMPLES = 24, 4
TASKS: dict[str, Task] = {
    "from words": captions.from_words("video"),
    "from a picture": clips.animated,
    "edit by instruction": edits.instructed("video"),
    "edit by examples": edits.shown("video"),
}
LEAST = 1e-6  # mean that ratios divide by at least: true clips may not move
MOST = 1.5  # times as much as real clips move, or as little
TIMED = 40  # clips with sound
IN_TIME, OUT_OF_TIME = 0.4, 0.1  # least correlation with the own sound, and most with another one
OTHERS_SOUND = "with another reply's sound"


def cases(context: EvalContext) -> list[Case]:
    """Tasks on held-out clips; another true clip of the task stands beside each."""
    sampler, cases = TaskSampler(context.corpus, context.splits(*HELD_OUT)), []
    for name, task in TASKS.items():
        drawn = []
        for i in range(context.count(NUMBER)):
            turns = task(sampler, np.random.default_rng((context.seed, 41, i))).turns
            prompt, (target,) = (decode_pieces(pieces) for _, pieces in turns)
            sources = [part for part in prompt if part.modality == "video"]
            drawn.append((prompt, target, sources[-1] if sources else still(target)))
        for i, (prompt, target, source) in enumerate(drawn):
            truth = {"target": target, "source": source, "other": drawn[(i + 1) % len(drawn)][1]}
            cases.append(Case(f"{name.replace(' ', '-')}-{i:03d}", prompt, "video", truth, name, {"seed": i}))
    return cases


def still(clip: Part) -> Video:
    """The first frame, repeated."""
    assert isinstance(clip, Video)
    return Video(clip.frames[:1] * len(clip.frames), clip.fps)


def repeated(context: EvalContext, cases: Sequence[Case]) -> list[Part]:
    """The first frame of the truth, repeated."""
    return [still(case.target) for case in cases]


def of_another(context: EvalContext, cases: Sequence[Case]) -> list[Part]:
    """A true clip of another case."""
    return [case.truth["other"] for case in cases]


def copied(context: EvalContext, cases: Sequence[Case]) -> list[Part]:
    """The clip of the prompt; without one, as `repeated`."""
    return [case.truth["source"] for case in cases]


SYSTEMS: dict[str, System] = {
    "ours": ours,
    "another clip": of_another,
    "first frame repeated": repeated,
    "copy of the input": copied,
    "text-to-video from the words": words_alone,
}


def score(context: EvalContext, cases: Sequence[Case], outputs: Mapping[str, Sequence[Part]]) -> Findings:
    """By task: likeness to the truth; sharpness, motion and flicker over those of the true clips."""
    main, *others = outputs
    targets = [case.target for case in cases]
    by_system = {**outputs, "real": targets}
    likeness = {name: closeness(context, targets, parts) for name, parts in outputs.items()}
    sharp = {name: sharpness(parts) for name, parts in by_system.items()}
    motion_by_system = {name: np.array([motion(part).mean() for part in parts]) for name, parts in by_system.items()}
    flicker_by_system = {name: np.array([flicker(part) for part in parts]) for name, parts in by_system.items()}
    figures: list[Figure] = []
    for group in dict.fromkeys(case.group for case in cases):
        rows = [i for i, case in enumerate(cases) if case.group == group]

        def ratio(title: str, values: Mapping[str, np.ndarray], group: str = group, rows: list[int] = rows) -> Figure:
            """Over the mean of the true clips."""
            scale = max(float(values["real"][rows].mean()), LEAST)
            real = {"real": values["real"][rows] / scale}
            return mean(
                f"{group}: {title} over that of real clips", values[main][rows] / scale, real, seed=context.seed
            )

        beside = {name: likeness[name][rows] for name in others}
        like = mean(f"{group}: EffNet-sim of frames", likeness[main][rows], beside, seed=context.seed)
        if rival := like.baselines.get("another clip"):
            like = like.judged("above another clip, beyond the interval", bool(rival.ahead and rival.ahead[0] > 0))
        crisp, pace, jitter = (
            ratio("sharpness", sharp),
            ratio("motion", motion_by_system),
            ratio("flicker", flicker_by_system),
        )
        figures += [
            like,
            crisp.within(*SHARP),
            pace.judged(f"real clips' within a factor of {MOST:g}", 1 / MOST <= pace.value <= MOST),
            jitter.judged("no more than real clips'", jitter.value <= 1),
        ]
    examples = [
        Example(case.id, case.prompt, {"target": case.target, **{name: parts[i] for name, parts in outputs.items()}})
        for i, case in enumerate(cases)
        if int(case.id[-3:]) < EXAMPLES
    ]
    return Findings(figures, examples)


def motion(clip: Part) -> np.ndarray:
    """Mean difference of neighbouring frames, in grey levels of 255 [FRAMES - 1]."""
    return motions.motion(_frames(clip))


def flicker(clip: Part) -> float:
    """Mean second difference of the frames, in grey levels of 255."""
    return float(np.abs(np.diff(_frames(clip), n=2, axis=0)).mean())


def _frames(clip: Part) -> np.ndarray:
    assert isinstance(clip, Video)
    return np.stack([np.asarray(frame.convert("RGB"), dtype=np.float32) for frame in spread(clip.frames, FRAMES)])


# with sound


def timed_cases(context: EvalContext) -> list[Case]:
    """Things that hop whenever they are heard: a clip and a sound are wanted of each, two cases of one thread."""
    sampler, cases = TaskSampler(context.corpus, context.splits(*HELD_OUT)), []
    for i in range(context.count(TIMED)):
        turns = clips.in_time(sampler, np.random.default_rng((context.seed, 43, i))).turns
        prompt, parts = (decode_pieces(pieces) for _, pieces in turns)
        for part in parts:
            name, truth = f"{i:03d}-{part.modality}", {"target": part}
            cases.append(Case(name, prompt, part.modality, truth, about={"seed": i}, thread=f"{i:03d}"))
    return cases


def replies(context: EvalContext, cases: Sequence[Case]) -> list[Part]:
    """Replies with a clip and its sound."""
    threads: dict[str, list[Case]] = {}
    for case in cases:
        threads.setdefault(case.thread, []).append(case)
    pairs, outputs = list(threads.values()), dict[str, Part]()
    for start in range(0, len(pairs), BATCH):
        batch = pairs[start : start + BATCH]
        options = [
            Options(want=tuple(case.want for case in pair), seed=seed, max_new_tokens=1)
            for pair, seed in zip(batch, seeds_of(context, [pair[0] for pair in batch]), strict=True)
        ]
        batch_replies = context.model.answer([[Message("user", pair[0].prompt)] for pair in batch], options)
        for pair, reply in zip(batch, batch_replies, strict=True):
            by_kind = {part.modality: part for part in reply.parts}
            outputs |= {case.id: by_kind[case.want] for case in pair}
    return [outputs[case.id] for case in cases]


def together(context: EvalContext, cases: Sequence[Case]) -> list[Part]:
    """As the model generates them. Raises WeightsError: it has no joint attention."""
    if context.model.joint is None:
        raise WeightsError(f"{context.model.config.name} generates media one by one: its config has no [joint]")
    return replies(context, cases)


def apart(context: EvalContext, cases: Sequence[Case]) -> list[Part]:
    """The same replies, features, noise and steps, but without attention between the decoders."""
    with without_joint_attention(context.model):
        return replies(context, cases)


@contextmanager
def without_joint_attention(model: CoDi2) -> Iterator[None]:
    """While it lasts, the joint attention adds nothing."""
    assert model.joint is not None
    joint: JointAttention = loaded(model.joint)
    layers = [layer for attend in joint.attention_layers.values() for layer in attend.children()]
    forwards = [layer.register_forward_hook(lambda _layer, inputs, _added: inputs[0]) for layer in layers]
    try:
        yield
    finally:
        for handle in forwards:
            handle.remove()


TIMED_SYSTEMS: dict[str, System] = {"ours": together, "apart": apart}


def timing(context: EvalContext, cases: Sequence[Case], outputs: Mapping[str, Sequence[Part]]) -> Findings:
    """Correlation of motion and loudness over the pairs of neighbouring frames."""
    rows: dict[str, dict[str, int]] = {}
    for i, case in enumerate(cases):
        rows.setdefault(case.thread, {})[case.want] = i
    pairs = list(rows.values())

    def of(videos: Sequence[Part], sounds: Sequence[Part], shift: int = 0) -> np.ndarray:
        audio = [pair["audio"] for pair in (*pairs[shift:], *pairs[:shift])]
        video = [pair["video"] for pair in pairs]
        return np.array([synchrony(videos[i], sounds[j]) for i, j in zip(video, audio, strict=True)])

    targets = [case.target for case in cases]
    main = next(iter(outputs))
    beside: dict[str, np.ndarray] = {name: of(parts, parts) for name, parts in outputs.items() if name != main}
    beside |= {OTHERS_SOUND: of(outputs[main], outputs[main], 1), "real": of(targets, targets)}
    figure = mean("correlation of motion and loudness", of(outputs[main], outputs[main]), beside, seed=context.seed)
    rivals = [figure.baselines[name] for name in ("apart", OTHERS_SOUND) if name in figure.baselines]
    if len(rivals) == 2:  # one timing for all would be in step with any sound
        passes = all(rival.ahead is not None and rival.ahead[0] > 0 for rival in rivals)
        passes = passes and figure.value >= IN_TIME and figure.baselines[OTHERS_SOUND].value <= OUT_OF_TIME
        bar = f"≥ {IN_TIME:g}; {OTHERS_SOUND} ≤ {OUT_OF_TIME:g}; above that and apart, beyond the intervals"
        figure = figure.judged(bar, passes)
    examples = [
        Example(case.id, case.prompt, {"target": case.target, **{name: parts[i] for name, parts in outputs.items()}})
        for i, case in enumerate(cases[: 4 * EXAMPLES])
    ]
    return Findings([figure], examples)


def synchrony(clip: Part, sound: Part) -> float:
    """Pearson's correlation of a clip's motion and the sound's loudness over neighbouring frames; 0 where one stays."""
    assert isinstance(sound, Audio)
    return motions.synchrony(_frames(clip), sound.samples)
