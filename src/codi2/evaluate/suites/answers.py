"""Systems that every suite knows: the model itself, and answers that take no thought."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from codi2.evaluate.baselines import from_words
from codi2.evaluate.baselines import instructed as by_instruction
from codi2.evaluate.baselines import round_trip as through_codec
from codi2.evaluate.baselines import silence as nothing_like
from codi2.evaluate.bench import BATCH, Bench
from codi2.evaluate.case import Case
from codi2.model import Options
from codi2.prompt.layout import Message
from codi2.prompt.parts import Audio, Part, Text
from codi2.prompt.sources import NONE


def ours(bench: Bench, some: Sequence[Case]) -> list[Part]:
    """The model's replies, batched; text where text is wanted."""
    made: list[Part] = []
    for start in range(0, len(some), BATCH):
        batch = some[start : start + BATCH]
        seeds = [bench.seed + case.about.get("seed", 0) for case in batch]
        options = [
            Options(want=case.want, seed=seed, max_new_tokens=40, source=case.source)
            for case, seed in zip(batch, seeds, strict=True)
        ]
        replies = bench.model.answer([[Message("user", case.prompt)] for case in batch], options)
        for case, reply in zip(batch, replies, strict=True):
            parts = [part for part in reply.parts if part.modality == case.want]
            made.append(Text(reply.text.strip()) if case.want == "text" else parts[0])
    return made


def without_source(bench: Bench, some: Sequence[Case]) -> list[Part]:
    """The model's replies without the fidelity path (`source="none"`): drawn from their features alone."""
    return ours(bench, [replace(case, source=NONE) for case in some])


def copy(bench: Bench, some: Sequence[Case]) -> list[Part]:
    """The source as it was given."""
    return [case.truth["source"] for case in some]


def round_trip(bench: Bench, some: Sequence[Case]) -> list[Part]:
    """The source through the decoder's codec and back: the least that any output loses."""
    return list(through_codec(bench.decoder(some[0].want), [case.truth["source"] for case in some]))


def instructed(bench: Bench, some: Sequence[Case]) -> list[Part]:
    """The decoder that is told the user's words and sees the source: AUDIT's way, and InstructPix2Pix's."""
    decoder = bench.instructed_decoder(some[0].want)
    joint, words = bench.told(decoder, [asked_words(case) for case in some])
    sources = [case.truth["source"] for case in some]
    return list(by_instruction(decoder, joint, words, sources, [bench.seed + i for i in range(len(some))]))


def words_alone(bench: Bench, some: Sequence[Case]) -> list[Part]:
    """The published text pipeline on the caption of the wished result or, where there is none, on the user's words."""
    texts = [case.about.get("words") or asked_words(case) for case in some]
    seeds = [bench.seed + i for i in range(len(some))]
    return from_words(bench.words_pipeline(some[0].want), texts, [case.target for case in some], seeds)


def asked_words(case: Case) -> str:
    """The words of a prompt in one line."""
    return " ".join(" ".join(part.text for part in case.prompt if isinstance(part, Text)).split())


def silence(bench: Bench, some: Sequence[Case]) -> list[Part]:
    """Nothing, as long as the source."""
    return [nothing_like(case.truth["source"]) for case in some if isinstance(case.truth["source"], Audio)]
