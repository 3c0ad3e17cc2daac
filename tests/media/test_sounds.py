"""Sounds of many codecs, of many channels, and of writers that could not go back to the header."""

import io
import struct
import warnings
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from codi2 import media
from codi2.errors import MediaError, MediaWarning

from .made import sound, tone

FILES = Path(__file__).parent / "files"


def test_gsm_is_a_sound():
    part = media.load(FILES / "gsm.wav")
    assert part.modality == "audio" and part.rate == 8000 and part.seconds == pytest.approx(2.0, abs=0.1)
    assert np.abs(part.samples).max() > 0.1


@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "AIFF", "AU", "CAF", "W64", "RF64", "OGG", "FLAC", "VOC", "NIST"])
def test_each_codec_is_a_sound_or_one_sentence(kind):
    read = 0
    for subtype in soundfile.available_subtypes(kind):
        if not soundfile.check_format(kind, subtype):
            continue
        try:
            data = sound(tone(5), subtype=subtype, kind=kind)
        except soundfile.LibsndfileError:
            continue  # it writes no mono at this rate
        try:
            part = media.load(data, "a.snd")
        except MediaError as error:
            assert str(error).startswith("a.snd is a broken") and "\n" not in str(error)
            continue
        read += 1
        assert part.seconds == pytest.approx(5, abs=0.15), subtype
    assert read


def test_a_codec_that_cannot_be_sought_is_read_by_another_reader(monkeypatch):
    def read(self, *_, **__):
        raise RuntimeError("it cannot be sought")

    data = (FILES / "gsm.wav").read_bytes()
    monkeypatch.setattr(soundfile.SoundFile, "read", read)
    assert media.load(data).seconds == pytest.approx(2.0, abs=0.1)
    with pytest.raises(MediaError, match=r"a\.wav is a broken WAV file"):
        media.load(sound(tone(0.1)), "a.wav")


HEADERS = [(0, 0), (36, 0), (0xFFFF_FFFF, 0xFFFF_FFFF), (0x7FFF_FFFF, 0x7FFF_FFFF), (0xFFFF_FFFF, 0), (0, 0xFFFF_FFFF)]


@pytest.mark.parametrize(("whole", "size"), HEADERS)
@pytest.mark.parametrize("channels", [1, 6])
def test_a_wav_from_a_pipe_is_read_to_its_end(whole, size, channels):
    samples = np.repeat(tone(1.0)[:, None], channels, 1)
    data = bytearray(sound(samples))
    at = data.index(b"data")
    data[4:8], data[at + 4 : at + 8] = struct.pack("<I", whole), struct.pack("<I", size)
    for load in (media.load, media.load_audio):
        part = load(bytes(data))
        assert part.seconds == pytest.approx(1.0) and np.abs(part.samples).max() > 0.4


def test_a_wav_that_is_empty_is_not_made_of_the_chunks_behind():
    data = bytearray(sound(tone(0.1))[: 36 + 8])
    data += b"LIST" + struct.pack("<I", 100) + bytes(100)
    data[4:8], data[40:44] = struct.pack("<I", len(data) - 8), bytes(4)
    with pytest.raises(MediaError, match="zero length"):
        media.load(bytes(data), "a.wav")


LAYOUTS = {
    "mono": "FC", "stereo": "FL FR", "3.0": "FL FR FC", "quad": "FL FR BL BR", "5.0": "FL FR FC BL BR",
    "5.1": "FL FR FC LFE BL BR", "7.1": "FL FR FC LFE BL BR SL SR",
}  # fmt: skip


def in_matroska(layout: str, samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        track = container.add_stream("pcm_s16le", rate=16_000, layout=layout)
        values = np.ascontiguousarray((samples * 32_767).astype(np.int16)).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(values, format="s16", layout=layout)
        frame.rate = 16_000
        container.mux([*track.encode(frame), *track.encode()])
    return file.getvalue()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", ["matroska", "WAV", "FLAC", "OGG"])
def test_speech_in_the_centre_keeps_its_level(layout, form):
    names = LAYOUTS[layout].split()
    samples = np.zeros((16_000, len(names)), np.float32)
    speech = tone(1.0, gain=0.4)
    for name in ["FC"] if "FC" in names else ["FL", "FR"]:  # without one, it stands between both sides
        samples[:, names.index(name)] = speech
    order = list(range(len(names)))
    if form == "OGG":  # Vorbis has an order of its own, and libsndfile writes channels as they come
        order = {"3.0": [0, 2, 1], "5.0": [0, 2, 1, 3, 4], "5.1": [0, 2, 1, 4, 5, 3],
                 "7.1": [0, 2, 1, 6, 7, 4, 5, 3]}.get(layout, order)  # fmt: skip
    data = in_matroska(layout, samples) if form == "matroska" else sound(samples[:, order], kind=form)
    part = media.load_audio(data)
    loud = np.sqrt(np.mean(np.square(part.samples[2000:14_000])) / np.mean(np.square(speech[2000:14_000])))
    assert loud == pytest.approx(1.0, abs=0.06)


def test_channels_of_no_known_place_are_averaged():
    samples = np.zeros((1600, 12), np.float32)
    samples[:, 5] = 0.6
    np.testing.assert_allclose(media.load_audio(sound(samples)).samples, 0.05, atol=1e-3)


@pytest.mark.parametrize("form", ["WAV", "matroska"])
def test_channels_that_cancel_each_other_are_told(form):
    voice = tone(0.5)
    against = np.stack([voice, -voice], 1)
    for samples, warns in ((against, True), (np.stack([voice, 0.3 * voice], 1), False), (0 * against + 1e-9, False)):
        data = in_matroska("stereo", samples) if form == "matroska" else sound(samples)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", MediaWarning)
            media.load_audio(data, "voice.wav")
        assert [w.category for w in caught] == [MediaWarning] * warns
        assert not warns or str(caught[0].message).startswith("voice.wav: its channels cancel each other")
