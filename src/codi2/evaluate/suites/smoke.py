"""The suite `smoke`: every figure on held-out items of the `tiny` corpus, within a quarter of an hour on two cores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from codi2.evaluate.bench import Bench
from codi2.evaluate.figure import Findings
from codi2.evaluate.suites import analogies, cost, drawn, features, from_words, modalities, sounds, words


@dataclass(frozen=True)
class Plan:
    """One section: what is measured, and how."""

    title: str
    about: str
    measure: Callable[[Bench], Findings]


TRUE, DRAWN, UNSEEN, SHOWN, EDITED, HEARD, ASKED = 100, 48, 24, 64, 20, 48, 200
"""Items: true features, captions of known and of unseen concepts, analogies, edits of each kind, sounds, conversations.
"""

SMOKE = (
    Plan(
        "Speed and memory",
        "Single replies of a warm model; recorded first, so that memory is that of answering alone.",
        lambda bench: cost.cost(bench, 5),
    ),
    Plan(
        "Retrieval in the joint space",
        "Cosine of the encoder's joint vectors; one item a concept, 20 seeded draws of rivals a query.",
        features.retrieval,
    ),
    Plan(
        "Pictures from their true features",
        "Held-out families; no language model takes part. Sharpness is the mean absolute difference of neighbouring "
        "pixels over that of the true pictures.",
        lambda bench: drawn.from_true_features(bench, TRUE),
    ),
    Plan(
        "Pictures from captions, known concepts",
        "Held-out renderings of concepts that training showed in other renderings. EfficientNet-Lite2 judges.",
        lambda bench: from_words.findings(bench, "test_rendering", DRAWN, seeds=1),
    ),
    Plan(
        "Pictures from captions, unseen concepts",
        "Concepts of which training showed nothing.",
        lambda bench: from_words.findings(bench, "test_family", UNSEEN, seeds=1),
    ),
    Plan(
        "Analogies of pictures",
        "Two renderings of one held-out emoji, then another to change alike; its true rendering is the target. Feature "
        "arithmetic decodes given + after − before through the same decoder and the same source.",
        lambda bench: analogies.analogies(bench, SHOWN),
    ),
    Plan(
        "Add, remove, replace",
        f"Log-spectral distance to the true result on mixes of held-out recordings, lower is better. {sounds.MASKING}",
        lambda bench: sounds.edited(bench, EDITED),
    ),
    Plan(
        "Vocoder",
        f"Held-out sounds from their own log-mel spectrograms. {sounds.MASKING}",
        lambda bench: sounds.vocoder(bench, HEARD),
    ),
    Plan(
        "Modalities of answers",
        "Conversations of two to five rounds with held-out items and phrasings; the model chooses what to answer with.",
        lambda bench: modalities.asked_for(bench, ASKED),
    ),
    Plan("Text", "Adapters on; the base model is the same one with them off.", words.text),
    Plan(
        "Features of pictures",
        "Joint vectors as regressed, before the decoder brings them to the norm of true ones.",
        lambda bench: features.picture_features(bench, DRAWN, SHOWN),
    ),
    Plan("Features of sounds", "As for pictures.", lambda bench: features.sound_features(bench, HEARD)),
)
