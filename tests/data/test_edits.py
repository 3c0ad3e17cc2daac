"""Edits with continuous values: what they do, what is held out, and what is said of them."""

import hashlib
import inspect
import re
import string
import subprocess
import sys
from math import ceil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from codi2.data import edits
from codi2.data.cache import EDITS_VERSION
from codi2.data.edits import KINDS, Edit, compose, draw, from_json, visible
from codi2.data.edits.kind import HUE, Kind, phrases
from codi2.data.edits.words import colour, direction, turn
from codi2.data.scene import background_mask
from codi2.errors import DataError

MEDIA = Path(__file__).parents[2] / "examples" / "media"
ALL = [pytest.param(modality, kind, id=kind.name) for modality, kinds in KINDS.items() for kind in kinds]


def _pictures() -> list[np.ndarray]:
    cut_outs = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(MEDIA.glob("*.png"))[::2]]
    colours = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
    photo = np.asarray(Image.fromarray(colours).resize((64, 64), Image.Resampling.BICUBIC))
    return [*cut_outs, photo]


def _sounds() -> list[np.ndarray]:
    time = np.arange(40_960) / 16_000
    chirp = 20_000 * np.sin(2 * np.pi * (200 + 600 * time) * time)
    return [
        *(soundfile.read(path, dtype="int16")[0] for path in sorted(MEDIA.glob("*.wav"))[::3]),
        chirp.astype(np.int16),
    ]


REAL = {"image": _pictures(), "audio": _sounds()}
EMPTY = {"image": np.full((64, 64, 3), 255, np.uint8), "audio": np.zeros(40_960, np.int16)}
OTHER = {"image": REAL["image"][0][:40, :56].copy(), "audio": REAL["audio"][0][:12_000].copy()}


def _edits(kind: Kind, count: int, held_out: bool = False) -> list[Edit]:
    rng = np.random.default_rng(7)
    return [from_json(kind.name, kind.draw(rng, held_out)) for _ in range(count)]


def _ranged(kind: Kind) -> bool:
    return any(span.reserved for span in kind.spans.values())


def test_there_are_enough_kinds_and_names_are_unique():
    counts = {modality: len(kinds) for modality, kinds in KINDS.items()}
    held_out = {modality: sum(kind.held_out for kind in kinds) for modality, kinds in KINDS.items()}
    assert counts["image"] >= 40 and counts["audio"] >= 18
    assert held_out["image"] >= 6 and held_out["audio"] >= 3
    names = [kind.name for kinds in KINDS.values() for kind in kinds]
    assert len(set(names)) == len(names) and set(phrases()) == set(names)
    assert {kind.name for kinds in KINDS.values() for kind in kinds if not kind.spans} == {"mirror", "flip", "reverse"}


@pytest.mark.parametrize(("modality", "kind"), ALL)
def test_an_edit_keeps_the_form_and_is_a_pure_function(modality: str, kind: Kind):
    for edit in _edits(kind, 3):
        for medium in (*REAL[modality], EMPTY[modality], OTHER[modality]):
            before = medium.copy()
            after = edit(medium)
            assert after.shape == medium.shape and after.dtype == medium.dtype
            assert after.flags.writeable and not np.shares_memory(after, medium)
            assert np.array_equal(medium, before) and np.array_equal(edit(medium), after)


@pytest.mark.parametrize(("modality", "kind"), ALL)
def test_an_edit_is_visible_at_every_value_on_real_media(modality: str, kind: Kind):
    for edit in (*_edits(kind, 12), *_edits(kind, 6 if _ranged(kind) else 0, held_out=True)):
        assert any(visible(medium, edit(medium)) for medium in REAL[modality]), edit


@pytest.mark.parametrize(("modality", "kind"), ALL)
def test_different_values_give_different_results(modality: str, kind: Kind):
    for name, span in kind.spans.items():
        values = kind.draw(np.random.default_rng(3))
        other = span.low + ceil(0.4 * (span.high - span.low) / span.step) * span.step
        one, two = (from_json(kind.name, values | {name: value}) for value in (span.low, other))
        assert any(not np.array_equal(one(medium), two(medium)) for medium in REAL[modality]), name


@pytest.mark.parametrize(("modality", "kind"), ALL)
def test_training_and_held_out_values_are_disjoint(modality: str, kind: Kind):
    rng = np.random.default_rng(11)
    for _ in range(300):
        values = kind.draw(rng)
        for name, span in kind.spans.items():
            assert span.low <= values[name] <= span.high and not span.holds(values[name])
            assert not (span.gap and span.gap[0] < values[name] < span.gap[1])
    for _ in range(100 if _ranged(kind) else 0):
        values = kind.draw(rng, held_out=True)
        assert [span.holds(values[name]) for name, span in kind.spans.items()].count(True) == 1
    for span in kind.spans.values():
        # inside the range: training draws values on both sides of it
        assert span.reserved is None or span.low < span.reserved[0] <= span.reserved[1] < span.high


@pytest.mark.parametrize("modality", KINDS)
def test_training_never_draws_what_is_held_out(modality: str):
    rng = np.random.default_rng(5)
    kinds = {kind.name: kind for kind in KINDS[modality]}

    def held(edit: Edit) -> bool:
        return any(kinds[edit.kind].spans[name].holds(value) for name, value in edit.values.items())

    training, values, whole = ([draw(modality, rng, part) for _ in range(1500)] for part in ("", "values", "kinds"))
    assert not any(held(edit) or kinds[edit.kind].held_out for edit in training)
    assert all(held(edit) and not kinds[edit.kind].held_out for edit in values)
    assert {edit.kind for edit in training} == {name for name, kind in kinds.items() if not kind.held_out}
    assert {edit.kind for edit in whole} == {name for name, kind in kinds.items() if kind.held_out}


def test_a_draw_is_the_same_for_the_same_seed():
    drawn = [[draw(modality, np.random.default_rng(2)) for modality in KINDS] for _ in range(2)]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(("modality", "kind"), ALL)
def test_words_are_complete(modality: str, kind: Kind):
    known = phrases()[kind.name]
    assert len(set(known.asks)) >= 4
    used = {field for text in (*known.asks, known.words) for _, field, _, _ in string.Formatter().parse(text) if field}
    for edit in _edits(kind, 20):
        said = kind.say(**edit.values)
        assert set(said) == used  # each placeholder is filled, and nothing is said in vain
        for text in (edit.words, *(ask.format(**said) for ask in known.asks)):
            assert text and text == " ".join(text.split()) and not set(text) & set("{}_[]")
            assert not re.search(r"\b(a [aeiou]|an [^aeiou])", text), text


def test_the_version_of_the_edits_is_that_of_their_code():
    """A person decides whether changed code gives other media: what is cached of these takes hours to compute."""
    folder = Path(edits.__file__).parent
    code = [path.read_bytes() for path in sorted(folder.glob("*.py")) if path.name != "words.py"]
    digest = hashlib.sha256(b"".join([*code, inspect.getsource(background_mask).encode()])).hexdigest()[:16]
    known = ("1", "362d6b1f93bc6ce6")
    assert (EDITS_VERSION, digest) == known, "raise EDITS_VERSION if edits give other media; note the new digest"


def test_phrasings_are_drawn():
    rng = np.random.default_rng(0)
    asks = {draw("audio", rng).ask for _ in range(2000)}
    assert {"play it backwards", "reverse it", "turn it around in time"} <= asks


@pytest.mark.parametrize("modality", KINDS)
def test_a_record_names_an_edit(modality: str):
    rng = np.random.default_rng(1)
    for _ in range(100):
        one, two, three = (draw(modality, rng) for _ in range(3))
        for edit in (one, compose(one, two), compose(compose(one, two), three), compose(one, compose(two, three))):
            again = from_json(**edit.to_json())
            assert again == edit
            assert np.array_equal(again(REAL[modality][0]), edit(REAL[modality][0]))


@pytest.mark.parametrize("modality", KINDS)
def test_composed_edits_run_in_their_order(modality: str):
    rng = np.random.default_rng(4)
    for medium in REAL[modality]:
        one, two = draw(modality, rng), draw(modality, rng)
        both = compose(one, two)
        assert np.array_equal(both(medium), two(one(medium)))
        assert both.words == f"{one.words}, {two.words}" and one.ask in both.ask and two.ask in both.ask


def test_a_wrong_record_is_refused_with_the_reason():
    with pytest.raises(DataError, match="'rotat' is unknown"):
        from_json("rotat", {"angle": 3})
    with pytest.raises(DataError, match="expects angle"):
        from_json("rotate", {"angel": 3})
    with pytest.raises(DataError, match=r"each with its number"):
        from_json("rotate+mirror", {"0.angle": 30, "angle": 3})


@pytest.mark.parametrize("code", ["import codi2.data.edits", "scene.background_mask(np.zeros((8, 8, 3), np.uint8))"])
def test_without_scipy_the_error_names_the_extra(code: str):
    head = "import sys; sys.modules['scipy'] = None; import numpy as np; from codi2.data import scene"
    done = subprocess.run([sys.executable, "-c", f"{head}; {code}"], capture_output=True, text=True)
    assert done.returncode and done.stderr.splitlines()[-1].endswith("SciPy: run `pip install 'codi2[data]'`")


def test_what_changes_nothing_is_not_visible():
    picture, sound = REAL["image"][0], REAL["audio"][0]
    assert not visible(picture, picture) and not visible(sound, sound)
    assert not visible(sound, np.zeros_like(sound))  # silence is no edit that anybody with_sound
    photo = REAL["image"][-1]
    assert not visible(photo, from_json("ground", {"hue": 20, "light": 0.5})(photo))


def test_words_say_the_values():
    assert from_json("rotate", {"angle": 45}).words == "turned 45 degrees to the right"
    assert from_json("shrink", {"factor": 0.5}).ask == "shrink it to half its size"
    assert from_json("ground", {"hue": 115, "light": 0.78}).words == "on a light green ground"
    assert from_json("pitch", {"semitones": -12}).ask == "lower its pitch by an octave"
    assert (turn(-90), direction(90), colour(0)) == ("a quarter turn to the left", "down", "red")
    assert len({colour(hue) for hue in range(360) if not HUE.holds(hue)}) >= 10


def test_pictures_are_edited_as_the_words_say():
    disc = np.full((64, 64, 3), 255, np.uint8)
    disc[8:24, 24:40] = (200, 30, 30)  # a red square at the top

    def middle(pixels: np.ndarray) -> tuple[float, float]:
        rows, columns = np.nonzero(pixels.min(-1) < 128)
        return rows.mean() - 31.5, columns.mean() - 31.5

    right = from_json("rotate", {"angle": 90})(disc)
    assert middle(right) == pytest.approx((0, 16), abs=1)
    moved = from_json("shift", {"angle": 90, "distance": 0.25})(disc)
    assert middle(moved) == pytest.approx((0, 0), abs=1)
    small = from_json("shrink", {"factor": 0.5})(disc)
    assert middle(small) == pytest.approx((-8, 0), abs=1)
    assert (small.min(-1) < 128).sum() == pytest.approx(64, abs=12)
    assert np.array_equal(from_json("grey", {"amount": 1})(disc).std(-1), np.zeros((64, 64)))
    darker = from_json("brightness", {"factor": 0.5})(disc)
    assert darker[0, 0, 0] == 128


def test_a_new_ground_leaves_no_white_fringe():
    big = Image.new("RGB", (256, 256), "white")
    big.paste((120, 20, 20), (60, 60, 190, 190))
    picture = np.asarray(big.rotate(20, fillcolor="white").resize((64, 64), Image.Resampling.LANCZOS))
    painted = from_json("ground", {"hue": 120, "light": 0.3})(picture)
    assert (picture.min(-1) > 150).any() and painted.min(-1).max() < 90


def _pitch(sound: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(sound[4000:20_000] * np.hanning(16_000)))
    return float(spectrum.argmax())


def test_sounds_are_edited_as_the_words_say():
    tone = (10_000 * np.sin(2 * np.pi * 440 * np.arange(40_960) / 16_000)).astype(np.int16)
    assert _pitch(from_json("pitch", {"semitones": 12})(tone)) == pytest.approx(880, abs=2)
    assert _pitch(from_json("pitch", {"semitones": -7})(tone)) == pytest.approx(293.7, abs=2)
    assert _pitch(from_json("speed", {"factor": 1.5})(tone)) == pytest.approx(660, abs=2)
    assert _pitch(from_json("tempo", {"factor": 0.6})(tone)) == pytest.approx(440, abs=2)
    burst = np.zeros_like(tone)
    burst[16_000:17_600] = tone[:1600]
    for kind, factor in (("speed", 2.0), ("speed", 0.5), ("tempo", 2.0), ("tempo", 0.6)):
        heard = np.nonzero(np.abs(from_json(kind, {"factor": factor})(burst)) > 2000)[0]
        assert heard.mean() == pytest.approx(16_800 / factor, abs=500), (kind, factor)
    assert np.abs(from_json("loudness", {"decibels": -20})(tone)).max() == 1000
    louder = from_json("loudness", {"decibels": 12})(tone)
    assert np.abs(louder).max() > 20_000
    start = np.nonzero(from_json("later", {"seconds": 1.5})(tone))[0][0]
    assert start == pytest.approx(24_000, abs=10)
    assert not from_json("cut", {"seconds": 0.5})(tone)[8000:].any()


@pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.name) for kind in KINDS["audio"]])
def test_sounds_never_clip_and_mostly_keep_their_level(kind: Kind):
    loud = (REAL["audio"][-1] * 1.6).astype(np.int16)
    for edit in _edits(kind, 5):
        for medium in (*REAL["audio"], loud):
            after, peak = np.abs(edit(medium).astype(int)).max(), np.abs(medium.astype(int)).max()
            assert after <= max(peak, 32_000)
            assert kind.name in ("loudness", "cut") or after <= peak * 1.01 + 1
