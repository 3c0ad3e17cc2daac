"""CIDEr-D (Vedantam et al. 2015, arXiv:1411.5726): how much a caption says what the references say.

Mean over n-grams of 1 to 4 words of the cosine of their tf-idf vectors, counts clipped at the reference's, times a
Gaussian of the difference in length (sigma 6), times 10. Document frequencies are those of the references given.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from codi2.errors import DataError

LONGEST, SIGMA = 4, 6.0
_WORD = re.compile(r"[\w’'-]+")


def cider(captions: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """[n]: the score of each caption against its one reference, 0 to 10. Raises DataError: counts differ, or none."""
    if len(captions) != len(references) or not references:
        raise DataError(f"CIDEr needs one reference a caption, not {len(references)} for {len(captions)}")
    candidates, truth = ([_grams(text) for text in texts] for texts in (captions, references))
    documents = Counter(gram for grams in truth for gram in {g for of in grams for g in of})
    log_count = np.log(max(len(references), 1))

    def weights(grams: Counter[tuple[str, ...]]) -> dict[tuple[str, ...], float]:
        return {gram: count * (log_count - np.log(max(1, documents[gram]))) for gram, count in grams.items()}

    scores = []
    for candidate, reference in zip(candidates, truth, strict=True):
        length = sum(candidate[0].values()) - sum(reference[0].values())
        cosines = []
        for grams, true in zip(candidate, reference, strict=True):
            a, b = weights(grams), weights(true)
            norm = np.sqrt(sum(v * v for v in a.values()) * sum(v * v for v in b.values()))
            shared = sum(min(value, b[gram]) * b[gram] for gram, value in a.items() if gram in b)
            cosines.append(shared / norm if norm else 0.0)
        scores.append(10 * float(np.mean(cosines)) * float(np.exp(-(length**2) / (2 * SIGMA**2))))
    return np.array(scores)


def _grams(text: str) -> list[Counter[tuple[str, ...]]]:
    """Counts of n-grams, n from 1 to 4."""
    words = _WORD.findall(text.lower())
    return [Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1)) for n in range(1, LONGEST + 1)]
