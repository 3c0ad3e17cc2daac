"""From media to the inputs of ImageBind's towers, as in its published data code.

| medium  | input                                                                                                     |
|---------|-----------------------------------------------------------------------------------------------------------|
| picture | shorter side 224 by bicubic, centre crop, CLIP's mean and standard deviation                               |
| clip    | five stretches of 2 s, spread evenly; first and last frame of each, shorter side 224; three crops of each |
| sound   | 16 kHz; three stretches of 2 s, spread evenly; 128 mel bins of 25 ms windows every 10 ms (Kaldi's)         |
| words   | CLIP's byte pairs, begin and end, 77 ids                                                                   |

The vectors of stretches and crops are averaged. Letters: S stretches (and crops) of one sample.
"""

from __future__ import annotations

import html
import math
import re
import warnings
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as PILImage
from torch import Tensor

from codi2.errors import MediaError, MissingDependencyError, WeightsError
from codi2.prompt.parts import Audio, Video

SIZE = 224  # pixels
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's, of [0, 1] pixels
STRETCH = 2  # seconds of a clip or sound that a tower reads at once
SOUND_STRETCHES, CLIP_STRETCHES = 3, 5
RATE, MEL_BINS, MEL_FRAMES = 16_000, 128, 204
MEL_MEAN, MEL_STD = -4.268, 9.138  # of the log energies
WINDOW, HOP, FFT = 400, 160, 512  # samples: 25 ms, 10 ms
CONTEXT = 77  # ids of a text


def read_picture(pixels: PILImage.Image) -> Tensor:
    """float32 [3, 224, 224]."""
    width, height = pixels.size
    short = min(width, height)
    size = (int(SIZE * width / short), int(SIZE * height / short))
    left, top = (round((side - SIZE) / 2) for side in size)
    small = pixels.resize(size, PILImage.Resampling.BICUBIC).crop((left, top, left + SIZE, top + SIZE))
    return _normalised(torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255)


def read_clip(video: Video) -> Tensor:
    """float32 [15, 3, 2, 224, 224]: the first and last frame of each stretch, cropped at the left, middle and right (or
    top, middle and bottom)."""
    seconds, samples = len(video.frames) / video.fps, []
    for start in _starts(seconds, CLIP_STRETCHES):
        first = math.ceil(start * video.fps)
        last = min(math.ceil((start + STRETCH) * video.fps), len(video.frames)) - 1
        frame_pair = [np.array(video.frames[i]) for i in (first, max(first, last))]
        frames = torch.from_numpy(np.stack(frame_pair)).permute(3, 0, 1, 2).float() / 255  # [3, 2, H, W]
        height, width = frames.shape[2:]
        short = min(height, width)
        size = (math.floor(height / short * SIZE), math.floor(width / short * SIZE))
        samples += _three_crops(_normalised(F.interpolate(frames, size=size, mode="bilinear", align_corners=False)))
    return torch.stack(samples)


def read_sound(audio: Audio) -> Tensor:
    """float32 [3, 1, 128, 204].

    Raises:
        MediaError: the sound is shorter than one window of 25 ms.
    """
    import soxr

    samples = soxr.resample(audio.samples, audio.rate, RATE) if audio.rate != RATE else audio.samples
    if len(samples) < WINDOW:
        raise MediaError(
            f"{audio.name or 'a sound'} lasts {audio.seconds * 1000:.0f} ms; ImageBind needs 25 ms or more, give a "
            "longer sound"
        )
    stretches = []
    for start in _starts(len(samples) / RATE, SOUND_STRETCHES):
        energies = _log_mel(samples[int(start * RATE) : int((start + STRETCH) * RATE)])
        stretches.append(F.pad(energies, (0, MEL_FRAMES - energies.shape[1]))[:, :MEL_FRAMES])
    return ((torch.stack(stretches) - MEL_MEAN) / MEL_STD)[:, None]


class TextReader:
    """CLIP's tokenizer, after ImageBind's cleaning.

    Args:
        source: repo id or folder of any CLIP tokenizer; all have the same byte pairs.
    Raises:
        WeightsError: the source has no CLIP tokenizer.
        MissingDependencyError: ftfy is not installed.
    """

    def __init__(self, source: str | Path) -> None:
        from transformers import CLIPTokenizer

        try:
            import ftfy
        except ImportError as error:
            raise MissingDependencyError(
                "ImageBind's text needs the package ftfy, which is not installed; run pip install 'codi2[paper]'"
            ) from error
        self.fix_text = ftfy.fix_text
        try:
            self.tokenizer: Any = CLIPTokenizer.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise WeightsError(
                f"there is no CLIP tokenizer in {str(source)!r} ({str(error).splitlines()[0]}); set encoder.tokenizer "
                "to a repo or folder with one"
            ) from error

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """int64 [B, 77]: begin, at most 75 byte pairs, end, zeros."""
        rows = []
        for text in texts:
            clean = html.unescape(html.unescape(self.fix_text(text)))
            clean = re.sub(r"\s+", " ", clean).strip().lower()
            ids = self.tokenizer(clean, add_special_tokens=False, split_special_tokens=True).input_ids[: CONTEXT - 2]
            row = [self.tokenizer.bos_token_id, *ids, self.tokenizer.eos_token_id]
            rows.append(row + [0] * (CONTEXT - len(row)))
        return torch.tensor(rows)


def _starts(seconds: float, count: int) -> list[Fraction]:
    """Starts of `count` stretches in seconds; all are 0 for media no longer than one stretch."""
    last = Fraction(max(seconds - STRETCH, 0.0))  # with floats a start can be one sample too early
    return [last / (count - 1) * i for i in range(count)]


def _normalised(pixels: Tensor) -> Tensor:
    """Pixels [3, …] in [0, 1] → normalised by CLIP's mean and standard deviation."""
    shape = (3, *[1] * (pixels.ndim - 1))
    return (pixels - torch.tensor(MEAN).view(shape)) / torch.tensor(STD).view(shape)


def _three_crops(frames: Tensor) -> list[Tensor]:
    """[3, F, H, W] → squares at the start, the middle and the end of the longer side."""
    height, width = frames.shape[2:]
    crops = []
    for position in range(3):
        top, left = (
            (0, math.ceil((side - SIZE) / 2), side - SIZE)[position if longer else 1]
            for side, longer in ((height, height > width), (width, height <= width))
        )
        crops.append(frames[:, :, top : top + SIZE, left : left + SIZE])
    return crops


def _log_mel(samples: np.ndarray) -> Tensor:
    """float32 [128, frames]: Kaldi's log filter bank energies of a stretch, whose mean is subtracted first."""
    from transformers.audio_utils import spectrogram, window_function

    energies = spectrogram(
        (samples - samples.mean()).astype(np.float64),
        window_function(WINDOW, "hann", periodic=False),
        frame_length=WINDOW,
        hop_length=HOP,
        fft_length=FFT,
        power=2.0,
        center=False,
        preemphasis=0.97,
        mel_filters=_mel_filters(),
        mel_floor=float(np.finfo(np.float32).eps),
        log_mel="log",
        remove_dc_offset=True,
    )
    return torch.from_numpy(np.asarray(energies, dtype=np.float32))


@lru_cache(maxsize=1)
def _mel_filters() -> np.ndarray:
    from transformers.audio_utils import mel_filter_bank

    # the lowest filters are narrower than a bin of the spectrum and are all zeros, as in Kaldi
    with warnings.catch_warnings(action="ignore"):
        return mel_filter_bank(
            num_frequency_bins=FFT // 2 + 1,
            num_mel_filters=MEL_BINS,
            min_frequency=20,
            max_frequency=RATE / 2,
            sampling_rate=RATE,
            mel_scale="kaldi",
            triangularize_in_mel_space=True,
        )
