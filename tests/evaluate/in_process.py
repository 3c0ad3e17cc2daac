"""One process of a launch: the command line with judges that need no download. `test_processes` starts it."""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import nn

from codi2 import processes
from codi2.cli import main
from codi2.encode import trunks
from codi2.evaluate import context
from codi2.evaluate.judge import Judge
from codi2.media import to_clip


def hear(sounds):
    waves = np.stack([to_clip(sound) for sound in sounds])
    loud = np.sqrt((waves.reshape(len(waves), 8, -1) ** 2).mean(-1))
    return loud, loud[:, :5] * 10


def count_letters(texts):
    return torch.tensor([[text.lower().count(letter) + 0.01 for letter in "abcdefghij"] for text in texts])[:, None]


torch.set_num_threads(1)
stub = nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten(1), nn.Unflatten(1, (27, 1, 1)))
context.load_judge = lambda *_: Judge(stub)
context.load_sound_judge = lambda *_: hear
trunks.load_trunk = lambda kind: count_letters
expected = os.environ.get("EXPECTED_PROCESSES")
if expected is not None:  # a launcher that quietly starts one process would prove nothing
    real = processes.join

    def join():
        assert os.environ.get("WORLD_SIZE") == expected, f"{os.environ.get('WORLD_SIZE')} processes"
        return real()

    processes.join = join
main()
