"""A judge that needs no download."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from codi2.evaluate.judge import Judge


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Judge:
    """A judge that sees the colours of nine fields; the suites find it in place of the downloaded one."""
    from torch import nn

    from codi2.evaluate import bench
    from codi2.evaluate.judge import Judge

    stub = Judge(nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten(1), nn.Unflatten(1, (27, 1, 1))))
    monkeypatch.setattr(bench, "load_judge", lambda: stub)
    return stub
