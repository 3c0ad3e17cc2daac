"""From depth, thermal pictures and IMU readings to the inputs of ImageBind's towers.

The authors published no code for these. Depth is prepared as in their earlier work (Omnivore, arXiv:2201.08377), to
which the paper refers: the disparity of a Kinect, clamped to 75 pixels and normalised by the statistics of SUN RGB-D.
Thermal pictures are not normalised, which in other reproductions came nearest to the published figures. Nor are IMU
readings: 2,000 of them at 200 Hz, for 10 s.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from codi2.encode.imagebind.media import SIZE
from codi2.prompt.parts import IMU

FOCAL, BASELINE = 518.857901, 0.075  # pixels and metres, of a Kinect
NEAREST, FARTHEST = 0.01, 50.0  # metres
MOST_DISPARITY = 75.0  # pixels
MEAN, STD = 0.0418, 0.0295  # of the disparity over MOST_DISPARITY, on SUN RGB-D
IMU_RATE, READINGS, IMU_STRETCHES = 200.0, 2000, 3


def read_depth(metres: np.ndarray) -> Tensor:
    """[H, W] in metres → float32 [1, 224, 224]; unknown depths, 0, count as infinitely far."""
    depth = torch.from_numpy(metres).float()
    disparity = FOCAL * BASELINE / depth.clamp(NEAREST, FARTHEST)
    disparity = torch.where(depth > 0, disparity, 0.0).clamp(max=MOST_DISPARITY) / MOST_DISPARITY
    return (_square(disparity) - MEAN) / STD


def read_thermal(warmth: np.ndarray) -> Tensor:
    """[H, W] in [0, 1] → float32 [1, 224, 224]."""
    return _square(torch.from_numpy(warmth).float())


def read_imu(part: IMU) -> Tensor:
    """float32 [3, 6, 2000]: stretches of 10 s, spread evenly; a shorter recording is extended by its last reading."""
    readings = torch.from_numpy(part.readings).float()
    if part.rate != IMU_RATE:
        count = max(1, round(readings.shape[1] * IMU_RATE / part.rate))
        readings = F.interpolate(readings[None], size=count, mode="linear", align_corners=False)[0]
    readings = F.pad(readings, (0, max(0, READINGS - readings.shape[1])), mode="replicate")
    starts = np.linspace(0, readings.shape[1] - READINGS, IMU_STRETCHES).round().astype(int)
    return torch.stack([readings[:, start : start + READINGS] for start in starts])


def _square(plane: Tensor) -> Tensor:
    """[H, W] → [1, 224, 224]: the shorter side resized to 224, the longer cropped at the centre."""
    height, width = plane.shape
    short = min(height, width)
    size = (max(SIZE, height * SIZE // short), max(SIZE, width * SIZE // short))
    small = F.interpolate(plane[None, None], size=size, mode="bilinear", align_corners=False, antialias=True)[0]
    top, left = ((side - SIZE) // 2 for side in size)
    return small[:, top : top + SIZE, left : left + SIZE]
