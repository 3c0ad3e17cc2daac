"""Ctrl-C while a run trains."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from codi2.train.checkpoint import list_checkpoints
from codi2.train.loop import train
from codi2.train.shares import WHOLE, Share

from .test_loop import CONFIG, Line


class Interrupted(Line):
    """The user presses Ctrl-C (or a job is ended) while a step is drawn."""

    def __init__(self, step: int, *numbers: signal.Signals) -> None:
        super().__init__()
        self.at, self.numbers = step, numbers

    def batch(self, step: int, share: Share = WHOLE) -> Tensor:
        if step == self.at:
            for number in self.numbers:
                os.kill(os.getpid(), number)
        return super().batch(step, share)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_step_is_saved_and_the_same_run_continues_as_though_nothing_was(workers, tmp_path: Path, capfd):
    config = replace(CONFIG, num_workers=workers)
    whole = Line()
    train(whole, config, tmp_path / "whole")
    handler = signal.getsignal(signal.SIGINT)
    stopped = Interrupted(12, signal.SIGINT)
    if workers:  # the terminal sends it to all processes of the group, workers too
        stopped.at, losses = -1, stopped.losses

        def pressed(model, x):
            if len(stopped.curve) == 12:
                os.kill(os.getpid(), signal.SIGINT)
            return losses(model, x)

        stopped.losses = pressed  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        train(stopped, config, tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) is handler
    assert list_checkpoints(tmp_path / "run" / "checkpoints")[-1].name.endswith("13")
    said = capfd.readouterr().err
    assert "stopped after step 13 of 30" in said and "run the same command to continue" in said
    assert not (tmp_path / "run" / "export").exists()
    again = Line()
    train(again, config, tmp_path / "run")
    assert stopped.curve + again.curve[:17] == pytest.approx(whole.curve[:30])
    ours, theirs = (torch.load(tmp_path / name / "export" / "model.pt", weights_only=True) for name in ("run", "whole"))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_second_time_ends_it_at_once(tmp_path: Path):
    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(Interrupted(12, signal.SIGINT, signal.SIGINT), CONFIG, tmp_path)
        assert list_checkpoints(tmp_path / "checkpoints")[-1].name.endswith("10"), "as far as it was saved before"
    finally:
        signal.signal(signal.SIGINT, handler)


def test_a_job_that_is_ended_is_saved_and_says_so_by_its_code(tmp_path: Path):
    with pytest.raises(SystemExit) as ended:
        train(Interrupted(7, signal.SIGTERM), CONFIG, tmp_path)
    assert ended.value.code == 143
    assert list_checkpoints(tmp_path / "checkpoints")[-1].name.endswith("8")


def test_an_interrupt_in_the_last_step_lets_the_run_end(tmp_path: Path):
    train(Interrupted(29, signal.SIGINT), CONFIG, tmp_path)
    assert (tmp_path / "export" / "model.pt").is_file()
