"""`clips`: do they show the right thing, do they move as real ones do, and no more than these from frame to frame?
`together`: does what a reply shows move when what it lets hear is loud?
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np

from codi2.data import motions
from codi2.data.record import decode_pieces
from codi2.data.tasks import captions, clips, edits
from codi2.data.tasks.sampler import Task, TaskSampler
from codi2.decoding import joint_layers
from codi2.errors import WeightsError
from codi2.evaluate.bench import BATCH, Bench
from codi2.evaluate.case import Case, System
from codi2.evaluate.closeness import FRAMES, closeness
from codi2.evaluate.figure import Example, Figure, Findings, mean
from codi2.evaluate.suites.answers import ours, words_alone
from codi2.media.prepare import spread
from codi2.model import CoDi2, Options
from codi2.prompt.layout import Message
from codi2.prompt.parts import Audio, Part, Video

HELD_OUT = ("test_family", "test_rendering", "val")
NUMBER, QUICK, EXAMPLES = 24, 3, 4
TASKS: dict[str, Task] = {
    "from words": captions.from_words("video"),
    "from a picture": clips.animated,
    "edit by instruction": edits.instructed("video"),
    "edit by examples": edits.shown("video"),
}
MOST = 2.0  # times as much as real clips move, or as little
TIMED = 40  # clips with sound
OTHERS_SOUND = "with another reply's sound"


def cases(bench: Bench, quick: bool) -> list[Case]:
    """Tasks on clips that training has not seen; another true clip of the task stands beside each."""
    sampler, made = TaskSampler(bench.corpus, bench.splits(*HELD_OUT)), []
    for name, task in TASKS.items():
        rolled = []
        for i in range(QUICK if quick else NUMBER):
            turns = task(sampler, np.random.default_rng((bench.seed, 41, i))).turns
            prompt, (target,) = (decode_pieces(pieces) for _, pieces in turns)
            given = [part for part in prompt if part.modality == "video"]
            rolled.append((prompt, target, given[-1] if given else still(target)))
        for i, (prompt, target, source) in enumerate(rolled):
            truth = {"target": target, "source": source, "other": rolled[(i + 1) % len(rolled)][1]}
            made.append(Case(f"{name.replace(' ', '-')}-{i:03d}", prompt, "video", truth, name))
    return made


def still(clip: Part) -> Video:
    """The first frame, again and again."""
    assert isinstance(clip, Video)
    return Video(clip.frames[:1] * len(clip.frames), clip.fps)


def repeated(bench: Bench, some: Sequence[Case]) -> list[Part]:
    """The first frame of the truth, again and again."""
    return [still(case.target) for case in some]


def of_another(bench: Bench, some: Sequence[Case]) -> list[Part]:
    """A true clip, of something else."""
    return [case.truth["other"] for case in some]


def copied(bench: Bench, some: Sequence[Case]) -> list[Part]:
    """What was given; where no clip was, as `repeated`."""
    return [case.truth["source"] for case in some]


SYSTEMS: dict[str, System] = {
    "ours": ours,
    "another clip": of_another,
    "first frame repeated": repeated,
    "copy of what is given": copied,
    "text-to-video from the words": words_alone,
}


def score(bench: Bench, asked: Sequence[Case], outputs: Mapping[str, Sequence[Part]]) -> Findings:
    """By task: likeness to the truth, motion, and flicker."""
    main, *others = outputs
    targets = [case.target for case in asked]
    near = {name: closeness(bench, targets, parts) for name, parts in outputs.items()}
    shown = {**outputs, "real": targets}
    moved = {name: np.array([motion(part).mean() for part in parts]) for name, parts in shown.items()}
    shaken = {name: np.array([flicker(part) for part in parts]) for name, parts in shown.items()}
    figures: list[Figure] = []
    for group in dict.fromkeys(case.group for case in asked):
        rows = [i for i, case in enumerate(asked) if case.group == group]
        beside = {name: near[name][rows] for name in others}
        like = mean(f"{group}: EffNet-sim of frames", near[main][rows], beside, seed=bench.seed)
        if rival := like.baselines.get("another clip"):
            like = like.judged("above another clip, beyond the interval", bool(rival.ahead and rival.ahead[0] > 0))
        pace, real = moved[main][rows], moved["real"][rows]
        moves = mean(f"{group}: motion", pace, {"real": real, "still": np.zeros(len(rows))}, seed=bench.seed)
        within = real.mean() / MOST <= pace.mean() <= real.mean() * MOST
        moves = moves.judged(f"real clips' within a factor of {MOST:g}", within)
        jitter = mean(f"{group}: flicker", shaken[main][rows], {"real": shaken["real"][rows]}, seed=bench.seed)
        figures += [
            like,
            moves,
            jitter.judged("no more than real clips'", jitter.value <= jitter.baselines["real"].value),
        ]
    examples = [
        Example(case.id, case.prompt, {"target": case.target, **{name: parts[i] for name, parts in outputs.items()}})
        for i, case in enumerate(asked)
        if int(case.id[-3:]) < EXAMPLES
    ]
    return Findings(figures, examples)


def motion(clip: Part) -> np.ndarray:
    """Mean difference of neighbouring frames, in grey levels of 255 [FRAMES - 1]."""
    return motions.motion(_frames(clip))


def flicker(clip: Part) -> float:
    """Mean second difference of the frames: what goes there and back again."""
    return float(np.abs(np.diff(_frames(clip), n=2, axis=0)).mean())


def _frames(clip: Part) -> np.ndarray:
    assert isinstance(clip, Video)
    return np.stack([np.asarray(frame.convert("RGB"), dtype=np.float32) for frame in spread(clip.frames, FRAMES)])


# with sound


def timed_cases(bench: Bench, quick: bool) -> list[Case]:
    """Things that hop whenever they are heard: a clip and a sound are wanted of each, two cases of one thread."""
    sampler, made = TaskSampler(bench.corpus, bench.splits(*HELD_OUT)), []
    for i in range(QUICK if quick else TIMED):
        turns = clips.in_time(sampler, np.random.default_rng((bench.seed, 43, i))).turns
        prompt, parts = (decode_pieces(pieces) for _, pieces in turns)
        for part in parts:
            made.append(Case(f"{i:03d}-{part.modality}", prompt, part.modality, {"target": part}, thread=f"{i:03d}"))
    return made


def drawn(bench: Bench, some: Sequence[Case]) -> list[Part]:
    """Replies with a clip and its sound."""
    threads: dict[str, list[Case]] = {}
    for case in some:
        threads.setdefault(case.thread, []).append(case)
    pairs, made = list(threads.values()), dict[str, Part]()
    for start in range(0, len(pairs), BATCH):
        batch = pairs[start : start + BATCH]
        options = [
            Options(want=tuple(case.want for case in pair), seed=bench.seed + start + i, max_new_tokens=1)
            for i, pair in enumerate(batch)
        ]
        replies = bench.model.answer([[Message("user", pair[0].prompt)] for pair in batch], options)
        for pair, reply in zip(batch, replies, strict=True):
            by_kind = {part.modality: part for part in reply.parts}
            made |= {case.id: by_kind[case.want] for case in pair}
    return [made[case.id] for case in some]


def together(bench: Bench, some: Sequence[Case]) -> list[Part]:
    """As the model draws them. Raises WeightsError: it has no layers between its decoders."""
    if bench.model.joint is None:
        raise WeightsError(f"{bench.model.config.name} draws what it answers one by one: its config has no [joint]")
    return drawn(bench, some)


def apart(bench: Bench, some: Sequence[Case]) -> list[Part]:
    """The same replies, features, noise and steps, but neither decoder knows of the other."""
    with deaf(bench.model):
        return drawn(bench, some)


@contextmanager
def deaf(model: CoDi2) -> Iterator[None]:
    """While it lasts, what decoders tell each other is nothing."""
    joint = joint_layers(model)
    assert joint is not None
    layers = [layer for attend in joint.attend.values() for layer in attend.children()]
    forwards = [layer.register_forward_hook(lambda _layer, given, _added: given[0]) for layer in layers]
    try:
        yield
    finally:
        for handle in forwards:
            handle.remove()


TIMED_SYSTEMS: dict[str, System] = {"ours": together, "apart": apart}


def timing(bench: Bench, asked: Sequence[Case], outputs: Mapping[str, Sequence[Part]]) -> Findings:
    """Correlation of motion and loudness over the pairs of neighbouring frames."""
    rows: dict[str, dict[str, int]] = {}
    for i, case in enumerate(asked):
        rows.setdefault(case.thread, {})[case.want] = i
    pairs = list(rows.values())

    def of(clips_: Sequence[Part], sounds: Sequence[Part], shift: int = 0) -> np.ndarray:
        heard = [pair["audio"] for pair in (*pairs[shift:], *pairs[:shift])]
        seen = [pair["video"] for pair in pairs]
        return np.array([in_step(clips_[i], sounds[j]) for i, j in zip(seen, heard, strict=True)])

    targets = [case.target for case in asked]
    main = next(iter(outputs))
    beside: dict[str, np.ndarray] = {name: of(parts, parts) for name, parts in outputs.items() if name != main}
    beside |= {OTHERS_SOUND: of(outputs[main], outputs[main], 1), "real": of(targets, targets)}
    figure = mean("correlation of motion and loudness", of(outputs[main], outputs[main]), beside, seed=bench.seed)
    rivals = [figure.baselines[name] for name in ("apart", OTHERS_SOUND) if name in figure.baselines]
    if len(rivals) == 2:  # one timing for all would be in step with any sound
        ahead = all(rival.ahead is not None and rival.ahead[0] > 0 for rival in rivals)
        figure = figure.judged(f"above apart and {OTHERS_SOUND}, beyond the intervals", ahead)
    examples = [
        Example(case.id, case.prompt, {"target": case.target, **{name: parts[i] for name, parts in outputs.items()}})
        for i, case in enumerate(asked[: 4 * EXAMPLES])
    ]
    return Findings([figure], examples)


def in_step(clip: Part, sound: Part) -> float:
    """Pearson's correlation of a clip's motion and the sound's loudness over neighbouring frames; 0 where one stays."""
    assert isinstance(sound, Audio)
    return motions.in_step(_frames(clip), sound.samples)
