"""The fast check of a medium refuses what decoding it whole refuses."""

from __future__ import annotations

import pytest

from codi2.data.checks import BadRecord, caption, decoded, verify
from codi2.data.record import Medium
from codi2.errors import CoDi2Error

from .builders import official


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.97])
@pytest.mark.parametrize(
    "whole",
    [Medium("jpg", official.photo(1, (300, 200))), Medium("mp4", official.clip(1, 40, movflags="faststart"))],
    ids=["jpg", "mp4"],
)
def test_cut_media_are_found_by_both(whole: Medium, share: float):
    verify(whole)
    decoded(whole)
    cut = Medium(whole.suffix, whole.data[: int(share * len(whole.data))])
    with pytest.raises(BadRecord) as found:
        verify(cut)
    assert found.value.reason == "undecodable"


def test_media_that_are_not_what_their_name_says():
    for medium in (Medium("jpg", official.photo(0, kind="PNG")), Medium("mp4", official.photo(0))):
        if medium.suffix == "jpg":
            verify(medium)  # a picture all the same: websites name PNGs .jpg
        else:
            with pytest.raises(BadRecord, match="is of modality image, expected video; rename it"):
                verify(medium)


def test_a_caption_is_made_plain():
    assert caption("  a\tcat \n on a couch ") == "a cat on a couch"
    for text, reason in ((None, "no caption"), (7, "no caption"), ("\n", "empty caption"), ("x" * 2001, "absurd size")):
        with pytest.raises(BadRecord) as found:
            caption(text)
        assert found.value.reason == reason
    assert not issubclass(BadRecord, CoDi2Error)  # it never reaches a user as an error
