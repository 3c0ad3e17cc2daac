"""Features → media: the segments of B replies are decoded in one run for each modality and setting.

Letters: B replies, n media of one run, K features of a medium, D joint width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from codi2.diffuse.sampling import Progress, SampleOptions, sample
from codi2.llm.generation import FeatureSegment, Segment, text_of
from codi2.pcm import rounded
from codi2.prompt.layout import Message
from codi2.prompt.parts import Audio, Part, Phrase
from codi2.prompt.sources import LAST, NONE, check_source, source_of
from codi2.reply import Options
from codi2.tensors import loaded

if TYPE_CHECKING:
    from codi2.diffuse.decoder import Decoder
    from codi2.model import CoDi2


@dataclass(frozen=True)
class MediaRequest:
    """One medium of a reply, to be decoded."""

    place: tuple[int, int]  # reply, segment
    segment: FeatureSegment
    source: Part | None
    options: Options

    @property
    def modality(self) -> str:
        return self.segment.modality

    @property
    def seed(self) -> int:
        """The seed of the noise, another one for each medium of a reply."""
        return self.options.seed + self.place[1]

    @property
    def settings(self) -> tuple[Any, ...]:
        """Requests with different settings cannot run in one batch."""
        o = self.options
        return self.modality, o.num_inference_steps, o.guidance_scale, o.source_guidance_scale, o.negative_prompt


def decode(
    model: CoDi2,
    written: Sequence[Sequence[Segment]],
    conversations: Sequence[Sequence[Message]],
    options: Sequence[Options],
    progress: Progress,
) -> list[list[Part]]:
    """The parts of B replies. See `CoDi2.decode`."""
    tokenizer = model.mllm.backbone.tokenizer
    replies: list[list[Any]] = [
        [None if isinstance(segment, FeatureSegment) else text_of(segment, tokenizer) for segment in segments]
        for segments in written
    ]
    batches: dict[Any, list[list[MediaRequest]]] = {}
    for b, segments in enumerate(written):
        for group in media_groups(model, segments):
            requests = []
            for n, segment in group:
                reads = model.decoders[segment.modality].codec.reads
                source = source_of(conversations[b], options[b].source, reads)
                requests.append(MediaRequest((b, n), segment, source, options[b]))
            batches.setdefault(tuple(request.settings for request in requests), []).append(requests)
    for groups in batches.values():
        by_modality = list(zip(*groups, strict=True))
        for row, parts in zip(by_modality, _decode_batch(model, by_modality, progress), strict=True):
            for request, part in zip(row, parts, strict=True):
                b, n = request.place
                # rounded as in its file, so that the sound is the same where it is stored or sent
                replies[b][n] = rounded(part, 16) if isinstance(part, Audio) else part
    return [[part for part in parts if part is not None] for parts in replies]


def check_options(model: CoDi2, conversation: Sequence[Message], options: Options) -> None:
    """Raises PromptError: a reply to the conversation cannot be made with these options."""
    options.generation_options(tuple(model.decoders))
    if options.source not in (NONE, LAST):  # only then, as it loads decoders that are loaded on demand
        reads = {modality: decoder.codec.reads for modality, decoder in model.decoders.items()}
        check_source(conversation, options.source, options.media, reads)


def media_groups(model: CoDi2, segments: Sequence[Segment]) -> list[list[tuple[int, FeatureSegment]]]:
    """The media of a reply with their places, in groups that are decoded with joint attention.

    One group of all media, if each has another modality and the joint attention has all of them; else single media.
    """
    media = [(n, segment) for n, segment in enumerate(segments) if isinstance(segment, FeatureSegment)]
    modalities = [segment.modality for _, segment in media]
    joint = model.config.joint.modalities if model.config.joint and model.joint is not None else ()
    if len(media) > 1 and len(set(modalities)) == len(modalities) and set(modalities) <= set(joint):
        return [media]
    return [[medium] for medium in media]


@torch.no_grad()
def _decode_batch(model: CoDi2, batch: Sequence[Sequence[MediaRequest]], progress: Progress) -> list[list[Part]]:
    """Media of one setting: a sequence of requests for each modality; several modalities attend to each other."""
    joint = model.config.joint if len(batch) > 1 else None
    with ExitStack() as stack:
        decoders, states = {}, {}
        for requests in batch:
            modality = requests[0].modality
            decoder = decoders[modality] = model.decoders[modality]
            stack.enter_context(model.resident(decoder))
            features = torch.stack([request.segment.features for request in requests])
            options = _sample_options(model, decoder, requests, joint.num_inference_steps if joint else None)
            states[modality] = decoder.sampler_state(features, [request.seed for request in requests], options)
        if joint:
            from codi2.diffuse.joint import sample_together

            assert model.joint is not None
            latents = sample_together(loaded(model.joint), decoders, states, progress, joint.lead)
        else:
            latents = {modality: sample(state, progress) for modality, state in states.items()}
        return [decoder.media(latents[modality]) for modality, decoder in decoders.items()]


def _sample_options(
    model: CoDi2, decoder: Decoder, requests: Sequence[MediaRequest], steps: int | None
) -> SampleOptions:
    """The options of one batch; `steps` are those of media that are decoded together."""
    options = requests[0].options
    negative_prompt = options.negative_prompt or model.config.decoders[decoder.modality].negative_prompt
    starts_from_picture = decoder.config.first_frame and "image" in decoder.codec.reads
    return SampleOptions(
        sources=_first_frames(model, requests) if starts_from_picture else [request.source for request in requests],
        negative=read_words(decoder, [negative_prompt] * len(requests), model.encode) if negative_prompt else None,
        num_inference_steps=options.num_inference_steps or steps,
        guidance_scale=options.guidance_scale,
        source_guidance_scale=options.source_guidance_scale,
    )


def _first_frames(model: CoDi2, requests: Sequence[MediaRequest]) -> list[Part | None]:
    """The sources of clips. A clip without a source starts from a picture that is decoded from its feature without the
    motion.
    """
    sources = [request.source for request in requests]
    without = [i for i, source in enumerate(sources) if source is None]
    if without and "image" in model.decoders:
        from codi2.diffuse.decoder import first_frames

        decoder = model.decoders["image"]
        features = torch.stack([requests[i].segment.features for i in without])
        with model.resident(decoder):
            pictures = first_frames(decoder, features, [requests[i].seed for i in without])
        for i, picture in zip(without, pictures, strict=True):
            sources[i] = picture
    return sources


def read_words(decoder: Decoder, prompts: Sequence[str], encode: Callable[[Sequence[Part]], Tensor]) -> Tensor:
    """A decoder's conditions for n texts: states [n, L, W] of its own text encoder, padded with zeros, or joint vectors
    [n, D].

    Args:
        encode: n items → features [n, T, D].
    """
    states = [state[0] for prompt in prompts if (state := decoder.conditioner.read_words(prompt)) is not None]
    if not states:
        return encode([Phrase(prompt) for prompt in prompts])[:, 0]
    return nn.utils.rnn.pad_sequence(states, batch_first=True)
