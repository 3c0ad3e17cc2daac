"""Systems of several suites: the model itself, and answers without a language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from codi2.evaluate.baselines import from_words
from codi2.evaluate.baselines import instructed as by_instruction
from codi2.evaluate.baselines import round_trip as through_codec
from codi2.evaluate.baselines import silence as nothing_like
from codi2.evaluate.case import Case
from codi2.evaluate.context import BATCH, EvalContext
from codi2.model import Options
from codi2.prompt.layout import Message
from codi2.prompt.parts import Audio, Part, Text
from codi2.prompt.sources import NONE


def seeds_of(context: EvalContext, cases: Sequence[Case]) -> list[int]:
    """One for each case, so that an interval over cases covers the noise too."""
    return [context.seed + case.about.get("seed", 0) for case in cases]


def ours(context: EvalContext, cases: Sequence[Case]) -> list[Part]:
    """The model's replies, batched; text where text is wanted."""
    outputs: list[Part] = []
    for start in range(0, len(cases), BATCH):
        batch = cases[start : start + BATCH]
        options = [
            Options(want=case.want, seed=seed, max_new_tokens=40, source=case.source)
            for case, seed in zip(batch, seeds_of(context, batch), strict=True)
        ]
        replies = context.model.answer([[Message("user", case.prompt)] for case in batch], options)
        for case, reply in zip(batch, replies, strict=True):
            parts = [part for part in reply.parts if part.modality == case.want]
            outputs.append(Text(reply.text.strip()) if case.want == "text" else parts[0])
    return outputs


def without_source(context: EvalContext, cases: Sequence[Case]) -> list[Part]:
    """The model's replies without the fidelity path (`source="none"`): decoded from their features alone."""
    return ours(context, [replace(case, source=NONE) for case in cases])


def copy(context: EvalContext, cases: Sequence[Case]) -> list[Part]:
    """The source."""
    return [case.truth["source"] for case in cases]


def round_trip(context: EvalContext, cases: Sequence[Case]) -> list[Part]:
    """The source through the decoder's codec and back: the least that any output loses."""
    return list(through_codec(context.decoder(cases[0].want), [case.truth["source"] for case in cases]))


def instructed(context: EvalContext, cases: Sequence[Case]) -> list[Part]:
    """The decoder that was trained on instructions alone, with the user's words and the source, as AUDIT and
    InstructPix2Pix edit.
    """
    decoder = context.instructed_decoder(cases[0].want)
    joint, words = context.read_texts(decoder, [prompt_words(case) for case in cases])
    sources = [case.truth["source"] for case in cases]
    return list(by_instruction(decoder, joint, words, sources, seeds_of(context, cases)))


def words_alone(context: EvalContext, cases: Sequence[Case]) -> list[Part]:
    """The published text pipeline on the caption of the true result or, where there is none, on the user's words."""
    texts = [case.about.get("words") or prompt_words(case) for case in cases]
    targets = [case.target for case in cases]
    return from_words(context.published_pipeline(cases[0].want), texts, targets, seeds_of(context, cases))


def prompt_words(case: Case) -> str:
    """The words of a prompt in one line."""
    return " ".join(" ".join(part.text for part in case.prompt if isinstance(part, Text)).split())


def silence(context: EvalContext, cases: Sequence[Case]) -> list[Part]:
    """Silence, as long as the source."""
    return [nothing_like(case.truth["source"]) for case in cases if isinstance(case.truth["source"], Audio)]
