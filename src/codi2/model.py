"""CoDi-2: prompt → encode → enter → LLM → leave → diffuse → reply (figure 2 of the paper).

Letters: B conversations, N media items, T features of an item, K slots of a generated one, D joint width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from codi2.checkpoint import load_parts, locate, place, save
from codi2.config import CoDi2Config
from codi2.diffuse.sampling import Progress, sample
from codi2.encode.contract import Encoder
from codi2.errors import PromptError
from codi2.heads.recall import Recall
from codi2.llm.decode import FeatureSegment, Listener, ReplyOptions, Segment, text_of
from codi2.llm.mllm import MLLM, stack_features
from codi2.llm.reading import Past, Reading, items_of, write
from codi2.notes import notes_of
from codi2.pcm import rounded
from codi2.placement import ON_CPU, Placement, check, within_memory
from codi2.prompt.grammar import assigned, check_not_empty, parse
from codi2.prompt.layout import Message, layout_for
from codi2.prompt.parts import Audio, Media, Part, Phrase, Prompt, Text
from codi2.prompt.sources import LAST, NONE, check_source, numbered, renamed, source_of
from codi2.reply import Callback, Options, Reply, Stopwatch
from codi2.stopping import check_stop
from codi2.tensors import OnDemand

if TYPE_CHECKING:  # what draws is imported when something is drawn: it takes a second
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
        joint_networks: Mapping[str, nn.Module] | None = None,
        recall: Recall | None = None,
        prior: Prior | None = None,
    ) -> None:
        super().__init__()
        self.config, self.encoder, self.mllm, self.recall = config, encoder, mllm, recall
        self.joint, self.prior = joint, prior
        self.decoders: Mapping[str, Decoder] = decoders
        # so that they move and count with the model
        self._registered = decoders.loaded if isinstance(decoders, OnDemand) else nn.ModuleDict(decoders)
        self.joint_networks: Mapping[str, nn.Module] = joint_networks or {}
        """Modality → the network that draws in its decoder's place where several media are drawn together."""
        networks = self.joint_networks
        self._beside = networks.loaded if isinstance(networks, OnDemand) else nn.ModuleDict(networks)
        self.offload = False  # see `Placement`
        self.layout = layout_for(config, mllm.backbone.tokenizer)
        self.eval()

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path = "tiny", on_demand: bool = False, **placement: Any) -> CoDi2:
        """A preset (`tiny`, `debug`, `paper`) or a folder that `save_pretrained` wrote.

        Args:
            on_demand: the encoder's trunks and the decoders of a trained model are loaded when they are first used, for
                programs that make a few replies. An error in their files then comes with the reply.
            placement: fields of `Placement`: `device="cuda"`, `dtype="bfloat16"`, `bits=4`, `offload=True`, …
        Raises:
            ConfigError: no such preset or folder.
            WeightsError: a weight file is missing, damaged, or of another shape.
        """
        chosen = Placement(**placement)
        check(chosen)
        return cls.build(*locate(name_or_path), chosen, on_demand)

    @classmethod
    def build(
        cls, config: CoDi2Config, folder: Path | None = None, placement: Placement = ON_CPU, on_demand: bool = False
    ) -> CoDi2:
        """The model of a config with the trained parts in `folder`; None: with random weights.

        Raises as `from_pretrained`.
        """
        model = cls(config, **load_parts(config, folder, placement, on_demand)).requires_grad_(False)
        place(model, placement)
        return model

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes config, adapter and one safetensors file per trained part; frozen parts are named, not copied."""
        save(self, Path(folder))

    def push_to_hub(self, repo: str, private: bool = False, message: str = "A model of codi2") -> str:
        """Uploads what `save_pretrained` writes to `owner/name`; `from_pretrained("owner/name")` gives it back.

        Raises WeightsError: nobody is logged in (`hf auth login`), or the hub does not answer.
        """
        import tempfile

        from codi2.hub import push_folder

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return push_folder(Path(folder), repo, private, message)

    @property
    def device(self) -> torch.device:
        """Where features and tokens are; with `offload`, where the big parts come to."""
        return next(self.mllm.leave.parameters()).device

    @property
    def joint_layers(self) -> JointAttention | None:
        """`joint`, loaded where it was left for when it is needed."""
        return self.joint["joint"] if isinstance(self.joint, OnDemand) else self.joint

    @contextmanager
    def resident(self, part: nn.Module) -> Iterator[None]:
        """While it lasts, `part` is on the device."""
        if self.offload:
            part.to(self.device)
        try:
            yield
        finally:
            if self.offload:
                part.to("cpu")

    def generate(self, prompt: str | Prompt, *media: Media, callback: Callback | None = None, **settings: Any) -> Reply:
        """Answers one interleaved prompt.

        Args:
            prompt: words with placeholders such as `[image0]`, or parts.
            media: what the placeholders stand for, in order, by modality.
            settings: fields of `Options` (`want="image"`, `seed=1`), or media by name (`image0=…`, `text0="a cat"`).
        Raises:
            PromptError: prompt and media do not fit together, or the prompt is empty.
        """
        named = {key: settings.pop(key) for key in list(settings) if key not in Options.__dataclass_fields__}
        if media and named:
            raise PromptError(
                f"give media in order or by name, not both: {next(iter(named))!r} came beside {len(media)} in order"
            )
        options = Options(**settings)
        if isinstance(prompt, str):
            self.layout.check_length([Message("user", (Text(prompt),))])
            names = assigned(prompt, named or media)
            prompt = parse(prompt, names)
            options = replace(options, source=renamed(options.source, names, numbered(prompt)))
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
        """Answers B conversations at once: the one way in which replies are made.

        A reply is a function of its conversation's parts and of its options. It does not depend on what `pasts` kept of
        the conversations; on the others of its batch it depends by rounding only.

        Args:
            callback: may raise, which ends the work.
            listen: see `llm.decode.Listener`.
            pasts: of each conversation, what was kept of it since its last reply.
        Raises:
            PromptError: a conversation cannot be laid out, or a modality is wanted that this model does not make.
        """
        for conversation, one in zip(conversations, options, strict=True):
            self.check_options(conversation, one)
        watch = Stopwatch(callback or (lambda stage, step, total: None))
        with watch("encode"):
            readings = self.read(conversations, pasts)
        with watch("think"):
            written = self.think(readings, options, listen)
        with watch("diffuse"):
            replies = self.diffuse(written, conversations, options, watch.callback)
        return [
            Reply(tuple(parts), self.recipe(o, watch.seconds), self.notes(segments, o))
            for parts, segments, o in zip(replies, written, options, strict=True)
        ]

    def notes(self, segments: Sequence[Segment], options: Options) -> tuple[str, ...]:
        """What the user should know of how a reply was made."""
        groups = [[segments[n].modality for n in group] for group in self._drawn_together(segments)]  # type: ignore[union-attr]
        tokens = sum(len(segment.ids) for segment in segments if not isinstance(segment, FeatureSegment))
        return notes_of(self.config, options, groups, tokens)

    @within_memory("it read the prompt")
    @torch.no_grad()
    def read(
        self,
        conversations: Sequence[Sequence[Message]],
        pasts: Sequence[Past] | None = None,
        progress: Progress | None = None,
    ) -> list[Reading]:
        """B conversations, each to be answered, with the features of their items.

        Each item is encoded by itself: beside others its features would differ in their last bits. `progress` is called
        with each that is done, and may raise.
        """
        pasts = pasts or [Past() for _ in conversations]
        sequences = [self.layout(messages, reply=True) for messages in conversations]
        known = {key: value for past in pasts for key, value in past.features.items()}
        wanted = [dict(items_of(sequence)) for sequence in sequences]
        new = {key: item for items in wanted for key, item in items.items() if key not in known}
        with self.resident(self.encoder) if new else nullcontext():
            for i, (key, item) in enumerate(new.items(), start=1):
                check_stop()
                known[key] = item, self.encoder([item], key[2]).values[0, : key[2]].to(self.device)
                if progress:
                    progress(i, len(new))
        for past, items in zip(pasts, wanted, strict=True):
            past.features = {key: known[key] for key in items}
        return [
            Reading(messages, sequence.stretches(), past.features, past)
            for messages, sequence, past in zip(conversations, sequences, pasts, strict=True)
        ]

    @within_memory("the language model wrote the reply")
    @torch.no_grad()
    def think(
        self, readings: Sequence[Reading], options: Sequence[Options], listen: Listener | None = None
    ) -> list[list[Segment]]:
        """What the language model answers to each conversation: stretches of text, features of media."""
        wants = [self.reply_options(o) for o in options]
        with self.resident(self.mllm.backbone):
            written = write(self.mllm, readings, wants, listen)
        return [
            self._settled(segments, reading, asked) if self.prior is None else self._sampled(segments, reading, asked)
            for segments, reading, asked in zip(written, readings, options, strict=True)
        ]

    def _sampled(self, segments: Sequence[Segment], reading: Reading, asked: Options) -> list[Segment]:
        """One reply with its features as the prior samples them."""
        assert self.prior is not None and self.config.heads.prior is not None
        from codi2.llm.sampled import items_read, sampled

        return sampled(self.prior, self.config.heads.prior, segments, items_read(reading), asked.seed)

    def _settled(self, segments: Sequence[Segment], reading: Reading, asked: Options) -> list[Segment]:
        """What the decoders are told of one reply: an edit as far from its source's features as `edit_scale` has it;
        what nothing given shows, as training items are (`recall`), unless more is known of what is drawn with it.
        """
        told = list(segments)
        given = {
            id(item): values
            for (modality, _, count), (item, values) in reading.features.items()
            if count == self.layout.num_features[modality]
        }
        for numbers in self._drawn_together(segments):
            media = [(n, segment) for n in numbers if isinstance(segment := segments[n], FeatureSegment)]
            sources = [self._source(reading.messages, LAST, medium.modality) for _, medium in media]
            unseen = [medium for (_, medium), source in zip(media, sources, strict=True) if source is None]
            recall = self.recall
            if recall is not None and any(recall.told_more(medium.modality, medium.features) for medium in unseen):
                recall = None
            for (n, medium), source in zip(media, sources, strict=True):
                features, chosen = medium.features, self.config.decoders[medium.modality]
                recalled = source is None and recall is not None and medium.modality in recall.items
                if source is None and recall is not None:
                    features = recall(medium.modality, features, chosen.recall)
                else:
                    edited = self._source(reading.messages, asked.source, medium.modality)
                    start = given.get(id(edited))
                    if start is not None and len(start) >= len(features):
                        start = start[: len(features)]
                        features = start + chosen.edit_scale * (features - start)
                told[n] = FeatureSegment(medium.modality, features, recalled and chosen.recall > 0, medium.states)
        return told

    def encode(self, items: Sequence[Part], counts: Sequence[int] | None = None) -> Tensor:
        """Media of mixed modalities [N] → features [N, T, D], zero beyond an item's own.

        `counts` [N] says how many features an item has: T of what is given, K of what is regressed.
        """
        features: list[Tensor] = [torch.empty(0)] * len(items)
        with self.resident(self.encoder):
            kinds = [(part.modality, counts[i] if counts else None) for i, part in enumerate(items)]
            for kind in dict.fromkeys(kinds):
                check_stop()
                rows = [i for i, other in enumerate(kinds) if other == kind]
                values = self.encoder([items[i] for i in rows], kind[1]).values.to(self.device)
                for i, value in zip(rows, values, strict=True):
                    features[i] = value
        return stack_features(features, self.encoder.dim).to(self.device)

    @within_memory("it drew media")
    def diffuse(
        self,
        written: Sequence[Sequence[Segment]],
        conversations: Sequence[Sequence[Message]],
        options: Sequence[Options],
        callback: Callback,
    ) -> list[list[Part]]:
        """Turns the regressed features of the replies to B conversations into media.

        What one reply has of several modalities is drawn together; all of one kind and one setting run in one batch.
        """
        replies: list[list[Part | None]] = [[None] * len(segments) for segments in written]
        jobs: dict[tuple[Any, ...], list[tuple[int, Sequence[int]]]] = {}
        for b, segments in enumerate(written):
            for n, segment in enumerate(segments):
                if not isinstance(segment, FeatureSegment):
                    replies[b][n] = text_of(segment, self.mllm.backbone.tokenizer)
            for numbers in self._drawn_together(segments):
                modalities = tuple(segments[n].modality for n in numbers)  # type: ignore[union-attr]
                jobs.setdefault((modalities, *_sampling(options[b])), []).append((b, numbers))
        for (modalities, *_), places in jobs.items():
            rows = {m: [(b, numbers[k]) for b, numbers in places] for k, m in enumerate(modalities)}
            made = self._draw(rows, written, conversations, options, lambda done, of: callback("diffuse", done, of))
            for modality, parts in made.items():
                for (b, n), part in zip(rows[modality], parts, strict=True):
                    # a sound is what its file will hold, so that it is the same wherever it is kept or sent
                    replies[b][n] = rounded(part, 16) if isinstance(part, Audio) else part
        return [[part for part in parts if part is not None] for parts in replies]

    def _drawn_together(self, segments: Sequence[Segment]) -> list[Sequence[int]]:
        """The media of a reply in the groups that are drawn together: all, where each is of another modality."""
        numbers = [n for n, segment in enumerate(segments) if isinstance(segment, FeatureSegment)]
        kinds = [segments[n].modality for n in numbers]  # type: ignore[union-attr]
        together = self.config.joint.modalities if self.config.joint and self.joint is not None else ()
        known = set(kinds) <= set(together)
        return [numbers] if known and len(set(kinds)) == len(kinds) > 1 else [[n] for n in numbers]

    @torch.no_grad()
    def _draw(
        self,
        rows: Mapping[str, Sequence[tuple[int, int]]],
        written: Sequence[Sequence[Segment]],
        conversations: Sequence[Sequence[Message]],
        options: Sequence[Options],
        progress: Progress,
    ) -> dict[str, list[Part]]:
        """Media of one setting, by modality: segment n of reply b for each (b, n) of `rows`."""
        with ExitStack() as stack:
            drawings = {}
            for modality, places in rows.items():
                decoder = self._joint_decoder(modality) if len(rows) > 1 else self.decoders[modality]
                stack.enter_context(self.resident(decoder))
                drawings[modality] = self._drawing(decoder, places, written, conversations, options, len(rows) > 1)
            courses = {
                m: d.decoder.course(d.features, d.seeds, sources=d.sources, **d.settings) for m, d in drawings.items()
            }
            if len(rows) > 1:
                from codi2.diffuse.joint import sample_together

                joint = self.joint_layers
                assert joint is not None and self.config.joint is not None
                decoders = {m: d.decoder for m, d in drawings.items()}
                latents = sample_together(joint, decoders, courses, progress, self.config.joint.lead)
            else:
                latents = {modality: sample(course, progress) for modality, course in courses.items()}
            return {modality: self._finished(drawing, latents[modality]) for modality, drawing in drawings.items()}

    def _drawing(
        self,
        decoder: Decoder,
        places: Sequence[tuple[int, int]],
        written: Sequence[Sequence[Segment]],
        conversations: Sequence[Sequence[Message]],
        options: Sequence[Options],
        together: bool,
    ) -> Drawing:
        """What `decoder` is to draw: segment n of reply b for each (b, n) of `places`, all of one setting."""
        asked, chosen = options[places[0][0]], self.config.decoders[decoder.modality]
        features = torch.stack([written[b][n].features for b, n in places])  # type: ignore[union-attr]
        seeds = [options[b].seed + n for b, n in places]
        sources = [self._source(conversations[b], options[b].source, decoder.modality) for b, _ in places]
        if decoder.sampling.first_frame and "image" in decoder.codec.reads:
            sources = self._first_frames(features, seeds, sources)
        unwanted = asked.negative_prompt or chosen.negative_prompt
        steps = self.config.joint.num_inference_steps if self.config.joint and together else None
        settings = {
            "negative": self.read_words(decoder, [unwanted] * len(places)) if unwanted else None,
            "num_inference_steps": asked.num_inference_steps or steps,
            "guidance_scale": asked.guidance_scale,
            "source_guidance_scale": asked.source_guidance_scale,
        }
        # of all that it might be, the steps of what is drawn together choose; what is foretold is the mean of that
        guessed = [
            together and source is None and not written[b][n].recalled  # type: ignore[union-attr]
            for (b, n), source in zip(places, sources, strict=True)
        ]
        return Drawing(decoder, features, seeds, sources, settings, guessed)

    def _finished(self, drawing: Drawing, latents: Tensor) -> list[Part]:
        """Latents [B, …] → media, of which each keeps more of its source, and looks or sounds more as it was told."""
        decoder, sources = drawing.decoder, drawing.sources
        if decoder.sampling.kept and any(source is not None for source in sources):
            own, rows = (
                torch.zeros_like(drawing.features),
                [i for i, source in enumerate(sources) if source is not None],
            )
            own[rows] = self.encode([sources[i] for i in rows], [own.shape[1]] * len(rows))  # type: ignore[misc]
            latents = decoder.with_kept(latents, sources, own, drawing.seeds, **drawing.settings)
        share = self.config.decoders[decoder.modality].agreement

        def agree(maps: Tensor) -> Tensor:
            known = ~torch.tensor(drawing.guessed, device=maps.device).view(-1, *[1] * (maps.ndim - 1))
            return torch.where(known, self.encoder.agree(decoder.modality, maps, drawing.features, share), maps)

        with self.resident(self.encoder) if share else nullcontext():
            made = decoder.media(latents, sources, agree if share else None)
        return [
            decoder.codec.perceptible(part) if guessed else part
            for part, guessed in zip(made, drawing.guessed, strict=True)
        ]

    def _joint_decoder(self, modality: str) -> Decoder:
        """A decoder as it draws beside others."""
        assert self.config.joint is not None
        decoder = self.decoders[modality]
        network = self.joint_networks.get(modality, decoder.unet)
        return decoder.with_network(network, motion_scale=self.config.joint.motion_scale)

    def _first_frames(
        self, features: Tensor, seeds: Sequence[int], sources: Sequence[Part | None]
    ) -> list[Part | None]:
        """The sources of clips [B, K, D]; where there is none, a picture of what the feature says, but for motion."""
        rows = [i for i, source in enumerate(sources) if source is None]
        made = list(sources)
        if rows and "image" in self.decoders:
            from codi2.diffuse.decoder import first_frames

            decoder = self.decoders["image"]
            with self.resident(decoder):
                pictures = first_frames(decoder, features[rows], [seeds[i] for i in rows])
            for i, picture in zip(rows, pictures, strict=True):
                made[i] = picture
        return made

    def _source(self, conversation: Sequence[Message], source: str, modality: str) -> Part | None:
        """What a reply in `modality` edits."""
        return source_of(conversation, source, self.decoders[modality].codec.reads)

    def check_options(self, conversation: Sequence[Message], options: Options) -> None:
        """Raises PromptError: a reply to the conversation cannot be made so."""
        self.reply_options(options)
        if options.source in (NONE, LAST):
            return  # no decoder is asked, which may not be loaded yet
        reads = {modality: decoder.codec.reads for modality, decoder in self.decoders.items()}
        check_source(conversation, options.source, options.media, reads)

    def reply_options(self, options: Options) -> ReplyOptions:
        """What the step loop is told. Raises PromptError: a modality is wanted that this model does not make."""
        want = options.wanted
        missing = sorted(set(want or ()) - {"text", *self.decoders})
        if missing:
            raise PromptError(
                f"this model makes {', '.join(self.decoders)} and text, not {missing[0]}; ask for one of these"
            )
        return ReplyOptions(
            want=want,
            makes=tuple(self.decoders),
            max_new_tokens=options.max_new_tokens,
            temperature=options.temperature,
            top_p=1.0 if options.top_p is None else options.top_p,
            seed=options.seed,
            stop=tuple(options.stop or ()),
        )

    def read_words(self, decoder: Decoder, prompts: Sequence[str]) -> Tensor:
        """What words are to a decoder, [n, …]: its own text encoder's states, zeros behind, or their joint vectors."""
        states = [decoder.conditioner.read_words(prompt) for prompt in prompts]
        if any(state is None for state in states):
            return self.encode([Phrase(prompt) for prompt in prompts])[:, 0]
        return nn.utils.rnn.pad_sequence([state[0] for state in states], batch_first=True).to(self.device)  # type: ignore[index]

    def recipe(self, options: Options, seconds: Mapping[str, float]) -> dict[str, Any]:
        """How a reply was made."""
        chosen = {key: value for key, value in vars(options).items() if value is not None}
        return {"model": self.config.name, **chosen, "seconds": {stage: round(s, 3) for stage, s in seconds.items()}}


def _sampling(options: Options) -> tuple[Any, ...]:
    return (options.num_inference_steps, options.guidance_scale, options.source_guidance_scale, options.negative_prompt)


@dataclass(frozen=True)
class Drawing:
    """What one decoder draws at once: B media of one modality."""

    decoder: Decoder
    features: Tensor  # [B, K, D]
    seeds: Sequence[int]
    sources: Sequence[Part | None]
    settings: Mapping[str, Any]  # of `Decoder.course`
    guessed: Sequence[bool]  # whose looks and level nothing given or recalled tells
