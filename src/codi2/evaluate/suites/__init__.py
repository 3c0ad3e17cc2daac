"""The suites by name. Those of `EMBEDDED` need the `tiny` corpus alone."""

from __future__ import annotations

from codi2.evaluate.suite import Suite
from codi2.evaluate.suites import audio_edit, chats, clips, edit_cases, edits, from_words, rounds, subjects, texts

EDITS = (
    "Edits with continuous values: kinds and values that training sees, values that it never sees, kinds that it never "
    "sees. Each is asked for by instruction and by 1 to 4 examples, of the same item, with the same noise. Features "
    "are those that the decoder gets; feature arithmetic adds the mean of (after - before) to those of the source. The "
    "six are the true answer, the source, and four other edits of it."
)
EMBEDDED = {
    suite.name: suite
    for suite in (
        Suite(
            "edits",
            "Edits of pictures",
            f"Pictures of held-out families. {EDITS} Likeness is EffNet-sim, where the edit can be seen (a copy is "
            "below .9); right answers among six are told by the mean colours of 16 × 16 cells.",
            edit_cases.cases("image"),
            edits.SYSTEMS,
            edits.score,
        ),
        Suite(
            "sound-edits",
            "Edits of sounds",
            f"Held-out recordings. {EDITS} Right answers among six are told by LSD. {audio_edit.BIAS}",
            edit_cases.cases("audio"),
            edits.SYSTEMS,
            edits.score,
        ),
        Suite(
            "pictures",
            "Pictures from words",
            f"Captions of held-out pictures, {from_words.SEEDS} seeds each: of concepts that training shows in other "
            "renderings, and of families that it does not show. EfficientNet-Lite2 judges; Lite2-FD is the Fréchet "
            "distance of its features to held-out pictures, biased upwards as every one is: compare equal n. Sharpness "
            "is over that of the true pictures. Regression draws from the features that the language model regresses.",
            from_words.cases("image"),
            from_words.SYSTEMS,
            from_words.score,
        ),
        Suite(
            "sounds",
            "Sounds from words",
            f"Captions of held-out recordings, {from_words.SEEDS} seeds each. A concept is heard where the answer is "
            "nearer to its held-out recording than to all but four of at most 60, by aiSFX. aiSFX-FD is biased "
            "upwards: compare equal n.",
            from_words.cases("audio"),
            from_words.SYSTEMS,
            from_words.score,
        ),
        Suite(
            "audio-edit",
            "Sounds added, removed, replaced",
            f"Mixes of held-out recordings at 16 kHz, 2.56 s. {audio_edit.LSDS} SDEdit runs on the same decoder, 20 "
            f"steps, towards the caption of the result. {audio_edit.BIAS}",
            audio_edit.embedded_cases,
            audio_edit.systems(),
            audio_edit.score,
            quoted=audio_edit.QUOTED,
        ),
        Suite(
            "rounds",
            "Five rounds of edits",
            "Held-out pictures; each round edits the answer before once more. Targets have all edits so far.",
            rounds.cases,
            rounds.SYSTEMS,
            rounds.score,
        ),
        Suite(
            "chat",
            "Chats: which modalities a message is answered with",
            "Conversations of three rounds about held-out things, in wordings of no template; the earlier rounds have "
            "true replies. A reply is right that has exactly the media that are asked for, or words alone.",
            chats.cases,
            chats.SYSTEMS,
            chats.score,
        ),
        Suite(
            "caption",
            "Captions",
            "Held-out renderings and recordings of known concepts; CIDEr-D with the one true caption, and whether the "
            "true caption is among the 5 nearest of at most 100 by MiniLM's vectors.",
            texts.caption_cases,
            texts.SYSTEMS,
            texts.score("caption"),
        ),
        Suite(
            "perceive",
            "What changed between two",
            "Held-out media before and after an edit; the answer is a sentence, measured as captions are.",
            texts.perceive_cases,
            texts.SYSTEMS,
            texts.score("difference"),
        ),
        Suite(
            "subject",
            "The same individual again",
            "Held-out individuals in one to three pictures; another pose, or a light or ground that is asked for.",
            subjects.cases("subject"),
            subjects.SYSTEMS,
            subjects.score,
        ),
        Suite(
            "compose",
            "Composition of things and a scene",
            "Things of held-out families on scenes; the true composition is exact.",
            subjects.cases("compose"),
            subjects.SYSTEMS,
            subjects.score,
        ),
        Suite(
            "clips",
            "Clips from words, from a picture, and edited",
            "Held-out clips, 8 frames of 64 pixels in 2.56 s. Frames are compared one by one; motion is the mean "
            "difference of neighbouring frames in grey levels, flicker that of second differences.",
            clips.cases,
            clips.SYSTEMS,
            clips.score,
        ),
        Suite(
            "together",
            "Clip and sound drawn together",
            "Held-out things that hop whenever they are heard, one to three times in 2.56 s; features, noise and steps "
            "are the same together and apart. Loudness is the root mean square over a frame.",
            clips.timed_cases,
            clips.TIMED_SYSTEMS,
            clips.timing,
        ),
    )
}
