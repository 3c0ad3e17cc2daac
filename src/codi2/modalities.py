"""The names of the modalities; all lists of them follow from these."""

from __future__ import annotations

from typing import Literal, get_args

Modality = Literal["image", "audio", "video"]
SenseName = Literal["depth", "thermal", "imu"]
MEDIA: tuple[str, ...] = get_args(Modality)
"""Modalities that a model reads and makes."""
SENSES: tuple[str, ...] = get_args(SenseName)
"""Modalities that only some encoders read."""
