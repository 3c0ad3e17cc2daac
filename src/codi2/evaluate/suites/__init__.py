"""The suites by name: those on the `tiny` corpus, and those on data that the user names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from codi2.evaluate.backbones import Backbones
from codi2.evaluate.context import EvalContext
from codi2.evaluate.suite import Suite
from codi2.evaluate.suites import (
    audio_edit,
    chats,
    clips,
    coco_edit,
    cost,
    dreambench,
    edit_cases,
    edits,
    from_words,
    language,
    prior,
    retrieval,
    rounds,
    subjects,
    texts,
    true_pictures,
    vocoder,
)
from codi2.metrics.audio import FLOOR_DB

COMPONENTS = "aiSFX-FD is the Fréchet distance in 32 principal components of training sounds."
EDITS = (
    "Edits with continuous values: kinds and values that training has, values that it never has, kinds that it never "
    "has. Each is requested by instruction and by 1 to 4 examples, of the same item, with the same noise. Features "
    "are those that the decoder gets; feature arithmetic adds the mean of (after - before) to those of the source. The "
    "six are the true answer, the source, and four other edits of it."
)
CORPUS_SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            "cost",
            "Speed and memory",
            "Single replies of a warm model. The peak memory is that of the process: it is a user's only where this "
            "suite is measured first, and without another model.",
            cost.score,
        ),
        Suite(
            "retrieval",
            "Retrieval in the joint space",
            "Cosine of the encoder's joint vectors; one item a concept, 20 seeded draws of rivals a query.",
            retrieval.score,
        ),
        Suite(
            "true-pictures",
            "Pictures from their true features",
            "Held-out families; no language model takes part. The decoder takes its own number of steps "
            f"(12 in `tiny`), and {true_pictures.STEPS} beside it. Sharpness is the mean absolute difference of "
            "neighbouring pixels over that of the true pictures.",
            true_pictures.score,
            true_pictures.cases,
            true_pictures.SYSTEMS,
        ),
        Suite(
            "vocoder",
            "Vocoder",
            f"Held-out sounds from their own log-mel spectrograms. LSD floors both power spectra at {FLOOR_DB:g} dB "
            "below the target's strongest bin; a wrong gain counts.",
            vocoder.score,
            vocoder.cases,
            vocoder.SYSTEMS,
        ),
        Suite(
            "language",
            "What the language model keeps",
            "Adapters on; the base model is the same one with them off.",
            language.score,
            language.cases,
            language.SYSTEMS,
        ),
        Suite(
            "prior",
            "Features of edits, sampled",
            "Held-out items. The cosine is of all features together; a copy is of the source's features; feature "
            "arithmetic adds the mean difference of the examples to these; regression is what the language model "
            "predicts without the prior. Nothing is decoded.",
            prior.score,
        ),
        Suite(
            "edits",
            "Edits of pictures",
            f"Pictures of held-out families. {EDITS} Likeness is EffNet-sim, where the edit can be seen (a copy is "
            "below .9); right answers among six are determined by the mean colours of 16 × 16 cells.",
            edits.score,
            edit_cases.cases("image"),
            edits.SYSTEMS,
        ),
        Suite(
            "sound-edits",
            "Edits of sounds",
            f"Held-out recordings. {EDITS} Right answers among six are determined by LSD. {COMPONENTS}",
            edits.score,
            edit_cases.cases("audio"),
            edits.SYSTEMS,
        ),
        Suite(
            "pictures",
            "Pictures from words",
            f"Captions of held-out pictures, {from_words.SEEDS} seeds each: of concepts that training has in other "
            "renderings, and of families that it does not have. EfficientNet-Lite2 judges; Lite2-FD is the Fréchet "
            "distance of its features to held-out pictures, in 32 principal components of training pictures. Sharpness "
            "is over that of the true pictures. Regression decodes the features that the language model regresses.",
            from_words.score,
            from_words.cases("image"),
            from_words.SYSTEMS,
        ),
        Suite(
            "sounds",
            "Sounds from words",
            f"Captions of held-out recordings, {from_words.SEEDS} seeds each. A concept is recognised where the answer "
            "is nearer to its held-out recording than to all but four of at most 60, by aiSFX. aiSFX-FD is "
            "in 32 principal components of training sounds.",
            from_words.score,
            from_words.cases("audio"),
            from_words.SYSTEMS,
        ),
        Suite(
            "audio-edit",
            "Sounds added, removed, replaced",
            f"Mixes of held-out recordings at 16 kHz, 2.56 s. {audio_edit.LSDS} SDEdit runs on the same decoder, 20 "
            f"steps, towards the caption of the result. {COMPONENTS}",
            audio_edit.score,
            audio_edit.corpus_cases,
            audio_edit.systems(),
            quoted=audio_edit.QUOTED,
        ),
        Suite(
            "rounds",
            "Five rounds of edits",
            "Held-out pictures; each round edits the answer before once more. Targets have all edits so far.",
            rounds.score,
            rounds.cases,
            rounds.SYSTEMS,
        ),
        Suite(
            "chat",
            "Chats: which modalities a message is answered with",
            "Conversations of three rounds about held-out things, in wordings of no template; the earlier rounds have "
            "true replies. A reply is right that has exactly the media that are requested, or words alone.",
            chats.score,
            chats.cases,
            chats.SYSTEMS,
        ),
        Suite(
            "caption",
            "Captions",
            "Held-out renderings and recordings of known concepts; CIDEr-D with the one true caption, and whether the "
            f"true caption is among the 5 nearest of {texts.NUMBER} by MiniLM's vectors.",
            texts.score("caption"),
            texts.caption_cases,
            texts.SYSTEMS,
        ),
        Suite(
            "perceive",
            "What changed between two",
            "Held-out media before and after an edit; the answer is a sentence, measured as captions are.",
            texts.score("difference"),
            texts.perceive_cases,
            texts.SYSTEMS,
        ),
        Suite(
            "subject",
            "The same individual again",
            "Held-out individuals in one to three pictures; another pose, or a light or ground that is requested.",
            subjects.score,
            subjects.cases("subject"),
            subjects.SYSTEMS,
        ),
        Suite(
            "compose",
            "Composition of things and a scene",
            "Things of held-out families on scenes; the true composition is exact.",
            subjects.score,
            subjects.cases("compose"),
            subjects.SYSTEMS,
        ),
        Suite(
            "clips",
            "Clips from words, from a picture, and edited",
            "Held-out clips, 8 frames of 64 pixels in 2.56 s. Frames are compared one by one; motion is the mean "
            "difference of neighbouring frames, flicker that of second differences, sharpness that of neighbouring "
            "pixels; each over that of the true clips.",
            clips.score,
            clips.cases,
            clips.SYSTEMS,
        ),
        Suite(
            "together",
            "Clip and sound generated together",
            "Held-out things that hop whenever they are heard, one to three times in 2.56 s; features, noise and steps "
            "are the same together and apart. Loudness is the root mean square over a frame.",
            clips.timing,
            clips.timed_cases,
            clips.TIMED_SYSTEMS,
        ),
    )
}
SOURCE_SUITES: dict[str, Callable[[Path, Backbones, EvalContext], Suite]] = {
    "dreambench": dreambench.suite,
    "coco-edit": coco_edit.suite,
    "audio-edit": audio_edit.suite,
}
"""Of the folder with the data, the judging networks and the context. Raise DataError: the folder does not hold them."""
