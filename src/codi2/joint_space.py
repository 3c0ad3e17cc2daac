"""Media to media through the joint space: the encoder and one decoder, without the language model and without training.

Media of one thing have similar joint vectors in every modality. So a decoder can decode the joint vector of a medium of
another modality, or a sum of several vectors (ImageBind, arXiv:2305.05665, sections 4.4 and 5).

Letters: N input items, D joint width, K slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from codi2.checkpoint import load_encoder, load_one_decoder, locate
from codi2.config import CoDi2Config
from codi2.decoding import read_words
from codi2.diffuse.decoder import Decoder, first_frames
from codi2.diffuse.load import has_head
from codi2.diffuse.sampling import SampleOptions
from codi2.encode.contract import Encoder
from codi2.errors import ConfigError, PromptError
from codi2.model import CoDi2
from codi2.pcm import rounded
from codi2.placement import Placement, check, within_memory
from codi2.prompt.parts import Audio, Part
from codi2.reply import Callback, Options, Reply, Stopwatch

SMALLEST = 1e-3  # least length of a sum of unit vectors, relative to the weights, that still has a direction


@dataclass(frozen=True)
class JointSpace:
    """The parts of a model that transfer needs; with clips, the decoder of pictures for their first frames."""

    config: CoDi2Config
    encoder: Encoder
    decoders: dict[str, Decoder]

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, to: str, **placement: Any) -> JointSpace:
        """The encoder and the decoder of `to` of a preset or folder.

        Args:
            placement: `device`, `dtype`, `compile` of `Placement`.
        Raises:
            PromptError: `to` is text, or the model does not make it.
            ConfigError: the decoder's head is untrained.
            WeightsError: a weight file is missing, damaged, or of another shape.
        """
        placed = Placement(**placement)
        check(placed)
        config, folder = locate(name_or_path)
        _check_target(config, to)
        torch.manual_seed(0)
        needed = {"image", to} if config.decoders[to].first_frame else {to}
        decoders = {m: load_one_decoder(m, config, folder and folder / m) for m in sorted(needed & {*config.decoders})}
        if to in config.untrained and has_head(decoders[to]):
            raise ConfigError(
                f"the {to} decoder of {config.name!r} reads features through a head that is not trained yet; name the "
                f"folder of a model whose head is, or train it (docs/paper.md)"
            )
        encoder, dtype = load_encoder(config, folder), getattr(torch, placed.dtype)
        encoder.to(placed.device, dtype if encoder.supports_half else torch.float32)
        for decoder in decoders.values():
            decoder.to(placed.device, dtype)
        if placed.compile:
            decoders[to].unet.compile()
        return cls(config, encoder, decoders)

    @property
    def device(self) -> torch.device:
        return next(parameter.device for decoder in self.decoders.values() for parameter in decoder.parameters())

    @within_memory("it encoded the items")
    def direction(self, to: str, items: Sequence[Part], weights: Sequence[float]) -> Tensor:
        """The weighted sum of the items' unit joint vectors, at their mean length [D].

        Raises PromptError: the encoder does not read an item, shares no space between it and `to`, or the sum is zero.
        """
        vectors = []
        for item in items:
            if item.modality not in self.encoder.modalities:
                read = ", ".join(self.encoder.modalities)
                raise PromptError(f"the encoder of {self.config.name} reads {read}, not {item.modality}; leave it out")
            vector = self.encoder.within(self._encode([item])[:, 0].float(), to)[0]
            if not vector.any():
                raise PromptError(
                    f"the encoder of {self.config.name} has no space that holds both {item.modality} and {to}; "
                    "transfer needs a model whose encoder does, such as ImageBind"
                )
            vectors.append(vector)
        joint = torch.stack(vectors)  # [N, D]
        total = (F.normalize(joint, dim=-1) * torch.tensor(weights).to(joint)[:, None]).sum(0)
        if total.norm() < SMALLEST * sum(map(abs, weights)):
            raise PromptError("the weighted sum of these items is zero; change --weights, or leave one of them out")
        return F.normalize(total, dim=0) * joint.norm(dim=-1).mean()

    @within_memory("it drew media")
    def draw(self, to: str, joint: Tensor, options: Options, watch: Stopwatch) -> Part:
        """A medium of modality `to`, decoded from a joint vector [D]."""
        decoder, features = self.decoders[to], joint[None, None].to(self.device)
        sources: list[Part] | None = None
        if decoder.config.first_frame and "image" in self.decoders:
            sources = first_frames(self.decoders["image"], features, [options.seed])
        negative_prompt = options.negative_prompt or self.config.decoders[to].negative_prompt
        sampling = SampleOptions(
            sources=sources,
            negative=read_words(decoder, [negative_prompt], self._encode) if negative_prompt else None,
            num_inference_steps=options.num_inference_steps,
            guidance_scale=options.guidance_scale,
        )
        progress = partial(watch.callback, "decode")
        (part,) = decoder.generate(features, [options.seed], sampling, progress)
        return rounded(part, 16) if isinstance(part, Audio) else part

    def _encode(self, items: Sequence[Part]) -> Tensor:
        """Joint vectors [n, 1, D] of items of one modality."""
        return self.encoder(items, 1)


@torch.no_grad()
def transfer(
    *items: Part,
    to: str,
    minus: Sequence[Part] = (),
    weights: Sequence[float] = (),
    model: str | Path | JointSpace | CoDi2 = "tiny",
    callback: Callback | None = None,
    **settings: Any,
) -> Reply:
    """A medium of modality `to` with the common content of `items`, without the language model.

    Each item is encoded to its joint vector. The unit vectors of `items` are added, those of `minus` subtracted, and
    the decoder of `to` decodes the sum.

    Args:
        items: media, or `Phrase("by night")` for text.
        weights: one for each of `items`, then one for each of `minus`, by default 1 each.
        model: a preset, a folder, or a loaded `JointSpace` or `CoDi2`.
        settings: `seed`, `num_inference_steps`, `guidance_scale`, `negative_prompt` of `Options`; where `model` is a
            name, `device`, `dtype` and `compile` of `Placement`.
    Raises:
        PromptError: `to` is text, the model does not read or make a modality, or weights and items differ in number.
        ConfigError: the decoder's head is untrained.
    """
    placement = {key: settings.pop(key) for key in ("device", "dtype", "compile") if key in settings}
    all_items = [*items, *minus]
    scales = check_weights(len(items), len(minus), weights)
    options, watch = Options(want=to, **settings), Stopwatch(callback or (lambda stage, step, total: None))
    if isinstance(model, CoDi2):
        model = JointSpace(model.config, model.encoder, dict(model.decoders))
    space = model if isinstance(model, JointSpace) else JointSpace.from_pretrained(model, to, **placement)
    _check_target(space.config, to)
    with watch("read"):
        joint = space.direction(to, all_items, scales)
    with watch("decode"):
        part = space.draw(to, joint, options, watch)
    chosen = {key: getattr(options, key) for key in ("seed", *settings)}
    recipe = {
        "model": space.config.name,
        "transfer": to,
        "of": [getattr(item, "name", "") or getattr(item, "text", item.modality) for item in all_items],
        "weights": scales,
        **chosen,
        "seconds": {stage: round(seconds, 3) for stage, seconds in watch.seconds.items()},
    }
    return Reply((part,), recipe)


def check_weights(items: int, minus: int, weights: Sequence[float]) -> list[float]:
    """The factor of each item, negative for items that are subtracted.

    Raises PromptError: no item to add, another number of weights than of items, or a weight that is not above 0.
    """
    if not items:
        raise PromptError("there is nothing to transfer; give at least one file, or words as text=…")
    if weights and len(weights) != items + minus:
        raise PromptError(f"there are {len(weights)} weights for {items + minus} items; give one for each")
    if wrong := [w for w in weights if not 0 < w < float("inf")]:
        raise PromptError(f"a weight is {wrong[0]:g}; expected a number above 0 (minus subtracts)")
    return [w * sign for w, sign in zip(weights or [1.0] * (items + minus), [1] * items + [-1] * minus, strict=True)]


def _check_target(config: CoDi2Config, to: str) -> None:
    if to == "text":
        raise PromptError("transfer draws media, and text needs the language model; use `codi2 generate --want text`")
    if to not in config.decoders:
        raise PromptError(f"{config.name} draws {', '.join(config.decoders)}, not {to}; ask for one of these")
