"""CoDi-2 (figure 2 of the paper): prompt → read → write → decode → reply.

Letters: B conversations, N media items, T features of an item, K slots of a generated one, D joint width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from codi2.checkpoint import load_parts, locate, place, push, save
from codi2.config import CoDi2Config
from codi2.decoding import check_options, decode
from codi2.encode.batches import encode_each, encode_mixed
from codi2.encode.contract import Encoder
from codi2.llm import reading
from codi2.llm.generation import Listener, Segment
from codi2.llm.mllm import MLLM
from codi2.llm.reading import Past, Reading
from codi2.llm.sampled import sampled
from codi2.notes import notes_of
from codi2.placement import ON_CPU, Placement, check, on_device, within_memory
from codi2.prompt.grammar import assign_items, check_not_empty, items_of_call, parse
from codi2.prompt.layout import Message, layout_for
from codi2.prompt.parts import Media, Part, Prompt, Text
from codi2.prompt.sources import name_items, rename_source
from codi2.reply import Callback, Options, Reply, Stopwatch, divide_settings
from codi2.tensors import OnDemand

if TYPE_CHECKING:  # prior and decoders are imported with the first medium of a reply: it takes a second
    from codi2.diffuse.decoder import Decoder
    from codi2.diffuse.joint import JointAttention
    from codi2.heads.prior import Prior

__all__ = ["Callback", "CoDi2", "Options", "Reply", "Stopwatch"]


class CoDi2(nn.Module):
    """The whole model. Build one with `from_pretrained`."""

    def __init__(
        self,
        config: CoDi2Config,
        encoder: Encoder,
        mllm: MLLM,
        decoders: Mapping[str, Decoder],
        joint: JointAttention | OnDemand[JointAttention] | None = None,
        prior: Prior | OnDemand[Prior] | None = None,
    ) -> None:
        super().__init__()
        self.config, self.encoder, self.mllm, self.prior = config, encoder, mllm, prior
        self.decoders, self.joint = decoders, joint
        # the decoders move and count with the model
        self._decoders = decoders.loaded if isinstance(decoders, OnDemand) else nn.ModuleDict(decoders)
        self.offload = False  # see `Placement`
        self.layout = layout_for(config, mllm.backbone.tokenizer)
        self.eval()

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path = "tiny", on_demand: bool = False, **placement: Any) -> CoDi2:
        """A preset (`tiny`, `debug`, `paper`) or a folder that `save_pretrained` wrote.

        Args:
            on_demand: load the encoder's trunks and the decoders of a trained model when they are first used, for
                programs that make a few replies. An error in their files is then raised with the reply.
            placement: fields of `Placement`: `device="cuda"`, `dtype="bfloat16"`, `bits=4`, `offload=True`, …
        Raises:
            ConfigError: no such preset or folder.
            WeightsError: a weight file is missing, damaged, or of another shape.
        """
        placed = Placement(**placement)
        check(placed)
        return cls.build(*locate(name_or_path), placed, on_demand)

    @classmethod
    def build(
        cls, config: CoDi2Config, folder: Path | None = None, placement: Placement = ON_CPU, on_demand: bool = False
    ) -> CoDi2:
        """The model of a config, with trained parts in `folder`, None: random weights. Raises as `from_pretrained`."""
        model = cls(config, **load_parts(config, folder, placement, on_demand)).requires_grad_(False)
        place(model, placement)
        return model

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes config, adapter and one safetensors file per trained part; frozen parts are named, not copied."""
        save(self, Path(folder))

    def push_to_hub(self, repo: str, private: bool = False, message: str = "A model of codi2") -> str:
        """Uploads the files of `save_pretrained` to `owner/name`; `from_pretrained("owner/name")` loads them.

        Raises WeightsError: no user is logged in (`hf auth login`), or the hub does not answer.
        """
        return push(self, repo, private, message)

    @property
    def device(self) -> torch.device:
        """The device of features and tokens; with `offload`, the big parts are moved to it while they run."""
        return next(self.mllm.output_projection.parameters()).device

    def resident(self, part: nn.Module) -> AbstractContextManager[None]:
        """A context in which `part` is on the device."""
        return on_device(part, self.device) if self.offload else nullcontext()

    def generate(self, prompt: str | Prompt, *media: Media, callback: Callback | None = None, **settings: Any) -> Reply:
        """Answers one interleaved prompt.

        Args:
            prompt: text with placeholders such as `[image0]`, or parts.
            media: the items of the placeholders, in order, by modality.
            settings: fields of `Options` (`want="image"`, `seed=1`), or media by name (`image0=…`, `text0="a cat"`).
        Raises:
            PromptError: prompt and media do not fit together, an option is unknown or out of range, or the prompt is
                empty.
        """
        chosen, named = divide_settings(settings)
        options, items = Options(**chosen), items_of_call(prompt, media, named)
        if isinstance(prompt, str):
            self.layout.check_length([Message("user", (Text(prompt),))])
            items_by_name = assign_items(prompt, items)
            prompt = parse(prompt, items_by_name)
            options = replace(options, source=rename_source(options.source, items_by_name, name_items(prompt)))
        check_not_empty(prompt)
        return self.answer([[Message("user", prompt)]], [options], callback)[0]

    @torch.no_grad()
    def answer(
        self,
        conversations: Sequence[Sequence[Message]],
        options: Sequence[Options],
        callback: Callback | None = None,
        listen: Listener | None = None,
        pasts: Sequence[Past] | None = None,
    ) -> list[Reply]:
        """Answers B conversations at once. All replies are made here, or by `read`, `write` and `decode`.

        A reply is a function of its conversation's parts and its options. It does not depend on the caches in `pasts`,
        and on the others of its batch only by rounding.

        Args:
            callback: may raise, which ends the work.
            listen: see `llm.generation.Listener`.
            pasts: the cache of each conversation since its last reply.
        Raises:
            PromptError: a conversation cannot be laid out, or a modality is wanted that this model does not make.
        """
        for conversation, reply_options in zip(conversations, options, strict=True):
            check_options(self, conversation, reply_options)
        watch = Stopwatch(callback or (lambda stage, step, total: None))
        with watch("read"):
            readings = self.read(conversations, pasts)
        with watch("write"):
            written = self.write(readings, options, listen)
        with watch("decode"):
            replies = self.decode(written, conversations, options, watch.callback)
        return [
            Reply(tuple(parts), self.recipe(o, watch.seconds), notes_of(self.config, o, segments))
            for parts, segments, o in zip(replies, written, options, strict=True)
        ]

    @within_memory("it read the prompt")
    @torch.no_grad()
    def read(
        self,
        conversations: Sequence[Sequence[Message]],
        pasts: Sequence[Past] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Reading]:
        """B conversations with the features of their items. See `llm.reading.read` and `encode_each`."""

        def encode(items: Sequence[tuple[Part, int]]) -> list[Tensor]:
            with self.resident(self.encoder):
                return [features.to(self.device) for features in encode_each(self.encoder, items, progress)]

        return reading.read(self.layout, encode, conversations, pasts or [Past() for _ in conversations])

    @within_memory("the language model wrote the reply")
    @torch.no_grad()
    def write(
        self, readings: Sequence[Reading], options: Sequence[Options], listen: Listener | None = None
    ) -> list[list[Segment]]:
        """The answer to each conversation: text, and features [K, D] of media, sampled by the prior if there is one."""
        reply_options = [o.generation_options(tuple(self.decoders)) for o in options]
        with self.resident(self.mllm.backbone):
            written = reading.write(self.mllm, readings, reply_options, listen)
        prior, config = self.prior, self.config.heads.prior
        if prior is None or config is None:
            return written
        replies = zip(written, readings, options, strict=True)
        return [sampled(prior, config, segments, conversation, o.seed) for segments, conversation, o in replies]

    @within_memory("it decoded media")
    def decode(
        self,
        written: Sequence[Sequence[Segment]],
        conversations: Sequence[Sequence[Message]],
        options: Sequence[Options],
        callback: Callback,
    ) -> list[list[Part]]:
        """The features of the replies to B conversations → media.

        Media of several modalities in one reply are decoded together, with joint attention. Media with the same
        modalities and settings run in one batch.
        """
        return decode(self, written, conversations, options, lambda done, total: callback("decode", done, total))

    def encode(self, items: Sequence[Part]) -> Tensor:
        """Media of mixed modalities [N] → features [N, T, D]. See `encode_mixed`."""
        with self.resident(self.encoder):
            return encode_mixed(self.encoder, items).to(self.device)

    def recipe(self, options: Options, seconds: Mapping[str, float]) -> dict[str, Any]:
        """The model, options and times of a reply."""
        values = {key: value for key, value in vars(options).items() if value is not None}
        return {"model": self.config.name, **values, "seconds": {stage: round(s, 3) for stage, s in seconds.items()}}
