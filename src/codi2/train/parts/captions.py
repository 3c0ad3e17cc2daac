"""Trains the head of a published decoder from captions alone, without media.

The decoder's pipeline computes states of a caption: AudioLDM2's GPT-2 gives 8 states, the CLIP of a text-to-video
pipeline 77. The head learns to predict these states from the encoder's feature of the caption. In a joint space, the
decoder can then be conditioned on the features of media too.

Letters: n captions, D joint width, L states, W their width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import get_worker_info

from codi2.checkpoint import load_encoder, load_one_decoder, locate
from codi2.diffuse.decoder import Decoder
from codi2.diffuse.families.audioldm2 import AudioLDM2Conditioner
from codi2.diffuse.families.text_to_video import TextToVideoConditioner
from codi2.diffuse.load import TRAINED, load_trained
from codi2.diffuse.words import TextStates
from codi2.errors import ConfigError, DataError
from codi2.hub import home, sha256_of
from codi2.prompt.parts import Phrase
from codi2.tensors import device_of, to_device
from codi2.train.config import TrainConfig, options_of
from codi2.train.contract import Recipe
from codi2.train.parts.draw import epoch_order, numpy_at
from codi2.train.parts.published import check_modality, export_decoder
from codi2.train.place import mixed, placement_of, training_device
from codi2.train.shares import WHOLE, Share

VALIDATED = 64  # most held-out captions
ONE_OF = 16  # one of so many captions is held out, by its hash


@dataclass(frozen=True)
class CaptionOptions:
    modality: str  # audio or video
    captions: Sequence[str] = ()  # files of a caption a line: paths, or names under $CODI2_HOME/data
    model: str = "paper"  # preset or folder: its encoder and its decoder
    no_words: float = 0.05  # rate at which the caption is empty and the feature zero, which is the unconditional branch


@dataclass
class CaptionBatch:
    captions: list[str]
    absent: Tensor  # bool [n], those without a feature
    features: Tensor | None = None  # [n, 1, D], after `finish`
    states: Tensor | None = None  # [n, L, W], the target of the head


class CaptionRecipe(Recipe):
    divides = True
    needs_values = True  # `finish` generates tokens, which virtual tensors cannot do

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.options = config, options_of(CaptionOptions, config)
        self.dtype = placement_of(config).dtype
        model, folder = locate(self.options.model)
        modality = self.options.modality
        check_modality(modality, model)
        torch.manual_seed(config.seed)
        decoder = load_one_decoder(modality, model, folder and folder / modality)
        self._take(decoder)
        self.encoder = load_encoder(model, folder)
        self.states, teacher = teacher_of(decoder, model.decoders[modality].id, training_device(config))
        self.frozen: nn.Module = nn.ModuleList([self.encoder, *teacher])
        self.captions, self.held_out = read_captions(self.options.captions)

    def _take(self, decoder: Decoder) -> None:
        """Takes the head of a decoder. Raises ConfigError: captions have no states for this kind of head."""
        if not isinstance(decoder.conditioner, (AudioLDM2Conditioner, TextToVideoConditioner)):
            raise ConfigError(
                f"the {self.options.modality} decoder of {self.options.model!r} has no head that captions can teach; "
                "name a model with AudioLDM2 or a text-to-video pipeline"
            )
        self.decoder, self.head = decoder, decoder.conditioner.head
        self.takes_zeros = isinstance(decoder.conditioner, AudioLDM2Conditioner)  # otherwise words replace a feature
        self.model = nn.ModuleDict({"head": self.head.requires_grad_(True)})

    def batch(self, step: int, share: Share = WHOLE) -> CaptionBatch:
        size = self.config.batch_size
        places, rows = epoch_order(self.config.seed, step, size, len(self.captions)), share.rows(size)
        absent = torch.from_numpy(numpy_at(self.config.seed, step).random(size) < self.options.no_words)[rows]
        batch = CaptionBatch([self.captions[int(places[row])] for row in rows], absent & self.takes_zeros)
        return batch if get_worker_info() else self.finish(batch)

    @torch.no_grad()
    def finish(self, batch: CaptionBatch) -> CaptionBatch:
        """Computes features and states on the device of the frozen networks; a batch that has them is unchanged."""
        if batch.features is not None:
            return batch
        device = device_of(self.encoder)
        texts = ["" if absent else text for text, absent in zip(batch.captions, batch.absent.tolist(), strict=True)]
        with mixed(self.dtype, device):
            features = self.encoder([Phrase(text or " ") for text in texts], 1).float()
            batch.states = self.states(texts).float()
        features = features.masked_fill(batch.absent.to(device)[:, None, None], 0)
        batch.features = self.decoder.rescaled(features)
        return batch

    def losses(self, model: nn.Module, batch: CaptionBatch) -> dict[str, Tensor]:
        assert batch.features is not None and batch.states is not None
        states = self.head(batch.features[:, 0])
        return {"loss": F.mse_loss(states, batch.states.flatten(1))}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """On held-out captions: the squared error, that of another caption's feature, and the share of the states'
        variance that the head explains."""
        count = len(self.held_out)
        batch = self.finish(CaptionBatch(self.held_out, torch.zeros(count, dtype=torch.bool)))
        batch = to_device(batch, device_of(self.head))
        assert batch.features is not None and batch.states is not None
        error = float(self.losses(self.model, batch)["loss"])
        variance = float((batch.states - batch.states.mean(0)).square().mean())
        batch.features = batch.features.roll(1, dims=0)
        others_error = float(self.losses(self.model, batch)["loss"])
        return {"error": error, "others_error": others_error, "explained": 1 - error / max(variance, 1e-12)}

    def provenance(self) -> dict[str, Any]:
        return {"captions_sha256": {Path(name).name: sha256_of(find_captions(name)) for name in self.options.captions}}

    def export(self, folder: Path, provenance: dict[str, Any]) -> None:
        export_decoder(self.decoder, folder, provenance)

    def restore(self, folder: Path) -> None:
        load_trained(self.decoder, folder / TRAINED)


def teacher_of(
    decoder: Decoder, source: str, device: torch.device
) -> tuple[Callable[[Sequence[str]], Tensor], list[nn.Module]]:
    """A function from captions to the states [n, L, W] of the pipeline in `source`, and its networks."""
    condition = decoder.conditioner
    if isinstance(condition, TextToVideoConditioner):
        text = condition.text
        return lambda captions: _clip_states(text, captions), [text.text_encoder]
    assert isinstance(condition, AudioLDM2Conditioner)
    from codi2.diffuse.families.text_pipelines import load_text_pipeline

    count, pipeline = condition.states, load_text_pipeline("audio", source, torch.device("cpu"), torch.float32)
    networks = [pipeline.text_encoder, pipeline.text_encoder_2, pipeline.projection_model, pipeline.language_model]
    pipeline.unet = pipeline.vae = pipeline.vocoder = None  # only the states are needed

    def states(captions: Sequence[str]) -> Tensor:
        """Captions of one length form a batch: GPT-2 continues after T5's padding, which would change its states."""
        groups: dict[int, list[int]] = {}
        for i, caption in enumerate(captions):
            groups.setdefault(len(pipeline.tokenizer_2(caption, truncation=True).input_ids), []).append(i)
        states_of: dict[int, Tensor] = {}
        for rows in groups.values():
            texts = [captions[i] for i in rows]
            states_of |= zip(
                rows, pipeline.encode_prompt(texts, device, 1, False, max_new_tokens=count)[2], strict=True
            )
        return torch.stack([states_of[i] for i in range(len(captions))])

    return states, networks


def _clip_states(text: TextStates, captions: Sequence[str]) -> Tensor:
    """States as from `TextStates`, without its cache."""
    tokens = text.tokenizer(
        list(captions),
        padding="max_length",
        max_length=text.tokenizer.model_max_length,
        truncation=True,
        split_special_tokens=True,
        return_tensors="pt",
    ).to(text.text_encoder.device)
    states: Tensor = text.text_encoder(tokens.input_ids)[0]
    return states


def read_captions(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The captions of files, each once: those for training, and at most VALIDATED held-out ones.

    Raises:
        ConfigError: no file is named.
        DataError: a file is missing or not text, or there are too few captions.
    """
    if not names:
        raise ConfigError("the config of captions names none; options.captions should have files of a caption a line")
    lines: dict[str, None] = {}
    for name in names:
        try:
            text = find_captions(name).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{name} is not UTF-8 text ({error}); save it as UTF-8, one caption per line") from error
        lines |= dict.fromkeys(line.strip() for line in text.splitlines() if line.strip())
    held_out = [line for line in lines if _is_held_out(line)]
    rest = [line for line in lines if not _is_held_out(line)]
    if len(held_out) < 2 or not rest:
        raise DataError(f"{', '.join(names)}: {len(lines)} different captions are too few; give a hundred or more")
    return rest, held_out[:VALIDATED]


def _is_held_out(line: str) -> bool:
    return hashlib.blake2b(line.encode(), digest_size=1).digest()[0] % ONE_OF == 0


def find_captions(name: str) -> Path:
    """The path of a file of captions. Raises DataError: there is no such file."""
    candidates = (Path(name).expanduser(), home() / "data" / name)
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        raise DataError(
            f"there is no file of captions {name}, neither in {Path.cwd()} nor in {candidates[1].parent}; name another"
        )
    return path


def build(config: TrainConfig) -> CaptionRecipe:
    return CaptionRecipe(config)
