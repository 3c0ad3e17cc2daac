"""Sequences to continue: a count, a turn, a growth, a way across; a thing that comes nearer with its sound."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from codi2.data.scene import counted, scaled, turned
from codi2.data.tasks.sampler import Task, TaskExample, TaskSampler, encoded, one_round, pick
from codi2.data.templates import listing, series, write_prompt

LENGTHS = (2, 5)  # pictures that are given, the last excluded
STEPS, MOST = (1, 2), 9  # more things a step, and the most that are drawn
DEGREES = (20.0, 75.0)  # a step, either way
TURNED = 0.75  # size of a thing that turns
GROWTH, SMALL = (1.2, 1.35), (0.3, 0.38)  # times as large a step; the size that begins
REACH, ACROSS = (0.15, 0.3), (0.3, 0.5)  # shares of the side from the middle to either end; size on the way
FAR, NEAR = (0.25, 0.45), 1.0  # sizes of a thing that comes nearer
GIVEN_WITH_SOUND = (2, 4)  # pictures with their sounds that are given, the last excluded

Sequence = Callable[[np.ndarray, int, np.random.Generator], list[np.ndarray]]
"""A thing uint8 [H, W, 3] and a number n → n pictures."""


def counting(thing: np.ndarray, length: int, draw: np.random.Generator) -> list[np.ndarray]:
    """More things with every picture."""
    step = min(int(draw.integers(STEPS[0], STEPS[1] + 1)), (MOST - 1) // (length - 1))
    first = 1 + int(draw.integers(MOST - step * (length - 1)))
    return [counted(thing, first + step * k) for k in range(length)]


def turning(thing: np.ndarray, length: int, draw: np.random.Generator) -> list[np.ndarray]:
    degrees, small = float(draw.uniform(*DEGREES)), scaled(TURNED)(thing)
    return [turned(degrees * k)(small) for k in range(length)]


def growing(thing: np.ndarray, length: int, draw: np.random.Generator) -> list[np.ndarray]:
    first, growth = float(draw.uniform(*SMALL)), float(draw.uniform(*GROWTH))
    return [scaled(first * growth**k)(thing) for k in range(length)]


def crossing(thing: np.ndarray, length: int, draw: np.random.Generator) -> list[np.ndarray]:
    """From one side to the other, in any direction."""
    size, angle = float(draw.uniform(*ACROSS)), float(draw.uniform(0, 2 * np.pi))
    reach = float(draw.uniform(*REACH))
    places = np.linspace(-reach, reach, length)
    return [scaled(size, dx=np.cos(angle) * at, dy=np.sin(angle) * at)(thing) for at in places]


KINDS: dict[str, Sequence] = {"count": counting, "turn": turning, "growth": growing, "way": crossing}


def following(sampler: TaskSampler, draw: np.random.Generator) -> TaskExample:
    """Pictures of a sequence → the next one; sometimes the sequence runs backwards."""
    (item,) = sampler.things(draw, 1)
    kind = str(draw.choice(list(KINDS)))
    pictures = KINDS[kind](sampler.array(item), 1 + int(draw.integers(*LENGTHS)), draw)
    media = [encoded(picture) for picture in (pictures if draw.random() < 0.5 else pictures[::-1])]
    prompt = write_prompt("next", draw, {"shots": series(media[:-1])})
    return one_round("next_image", prompt, [media[-1]], [item], kind=kind)


def approaching(sampler: TaskSampler, draw: np.random.Generator) -> TaskExample:
    """A thing that comes nearer or goes away, larger and louder or smaller and fainter → the next picture and sound."""
    name = pick(draw, sampler.sounding)
    thing, source = pick(draw, sampler.world.by["concept"][name]), pick(draw, sampler.world.sounds_of[name])
    sizes = np.geomspace(draw.uniform(*FAR), NEAR, 1 + int(draw.integers(*GIVEN_WITH_SOUND)))
    sizes = sizes if draw.random() < 0.5 else sizes[::-1]
    pairs = [
        [
            encoded(scaled(float(size))(sampler.array(thing))),
            encoded((sampler.array(source) * size**2).astype(np.int16)),  # amplitudes fall with the square here
        ]
        for size in sizes
    ]
    prompt = write_prompt("next_with_sound", draw, {"shots": listing(pairs[:-1], between=", ", inside=" ")})
    return one_round("next_with_sound", prompt, pairs[-1], [thing, source], nears=bool(sizes[0] < sizes[-1]))


IMAGES: dict[str, Task] = {"next_image": following}
WITH_SOUND: dict[str, Task] = {"next_with_sound": approaching}
