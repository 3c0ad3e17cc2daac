"""The sound of a clip that is given, and files that say how they were made."""

from __future__ import annotations

import io
import struct
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image as PILImage

from codi2.errors import MediaWarning
from codi2.media import load, mp4_bytes, picture_bytes, read_recipe, sound_bytes, webp_bytes
from codi2.media.provenance import SOURCE_TYPE
from codi2.prompt.parts import Audio, Video
from codi2.prompt_json import from_base64, from_wire, to_wire
from codi2.serve import wire
from codi2.serve.decoder_process import blocks_of, decode, describe, restore

FRAMES = tuple(PILImage.new("RGB", (64, 48), (40 * i, 90, 200)) for i in range(5))
TONE = Audio((0.5 * np.sin(np.arange(16_000) * 0.2)).astype(np.float32), 16_000)
HEARD = mp4_bytes(Video(FRAMES, 10), None, TONE)


def loudness(sound: Audio) -> float:
    return float(np.sqrt(np.mean(np.square(sound.samples))))


def test_a_clip_has_its_sound_for_as_long_as_it_lasts():
    clip = load(HEARD)
    assert isinstance(clip, Video) and clip.sound is not None
    assert clip.sound.seconds == pytest.approx(0.5, abs=0.01), "cut where the frames end"
    assert loudness(clip.sound) == pytest.approx(loudness(TONE), rel=0.1)


def test_clips_without_a_sound_have_none():
    silence = Audio(np.zeros(8000, np.float32), 16_000)
    for data in (
        mp4_bytes(Video(FRAMES, 10), None),
        mp4_bytes(Video(FRAMES, 10), None, silence),
        webp_bytes(Video(FRAMES, 10)),
    ):
        clip = load(data)
        assert isinstance(clip, Video) and clip.sound is None
    clip = load(HEARD, with_sound=False)
    assert isinstance(clip, Video) and clip.sound is None


def test_frames_of_a_clip_are_read_though_its_sound_is_broken(monkeypatch: pytest.MonkeyPatch):
    from codi2.errors import MediaError
    from codi2.media import clips

    def broken(data: bytes, name: str) -> Audio:
        raise MediaError("this sound is broken.")

    monkeypatch.setattr(clips, "track", broken)
    with pytest.warns(MediaWarning, match="read without its sound"):
        clip = load(HEARD)
    assert isinstance(clip, Video) and len(clip.frames) == 5 and clip.sound is None


def test_the_sound_of_a_clip_travels_with_it():
    clip = load(HEARD)
    assert isinstance(clip, Video) and clip.sound is not None
    (again,) = from_wire(to_wire((clip,)))
    assert isinstance(again, Video) and again.sound is not None
    assert np.array_equal(again.sound.samples, clip.sound.samples)
    there = restore(describe(clip), io.BytesIO(b"".join(blocks_of(clip))))
    assert isinstance(there, Video) and there.sound is not None
    assert np.array_equal(there.sound.samples, clip.sound.samples)
    (message,) = wire.conversation([_user([wire.to_part(clip)])]).messages
    (part,) = message[1]
    assert isinstance(part, wire.EncodedMedium) and part.sound is not None
    sound = decode(part.sound.file.kind, part.sound.file.data)
    assert isinstance(sound, Audio) and np.array_equal(sound.samples, clip.sound.samples)


def test_a_client_can_leave_the_sound_of_a_clip_out():
    url = f"data:video/mp4;base64,{wire.b64(HEARD)}"
    for sound in (None, False):
        value = {"url": url} if sound is None else {"url": url, "sound": sound}
        ((_, (part,)),) = wire.conversation([_user([{"type": "video_url", "video_url": value}])]).messages
        assert isinstance(part, wire.EncodedMedium)
        clip = decode(part.file.kind, part.file.data)
        assert isinstance(clip, Video) and (clip.sound is None) == (sound is False)


def _user(content: list[dict[str, object]]) -> wire.ChatMessage:
    return wire.ChatMessage(role="user", content=content)


RECIPE = {"model": "debug", "seed": 3, "negative_prompt": 'a "dog" & <cat>, é'}
FILES = {
    "a.png": picture_bytes(FRAMES[0], "PNG", RECIPE),
    "a.jpg": picture_bytes(FRAMES[0], "JPEG", RECIPE),
    "a.webp": picture_bytes(FRAMES[0], "WEBP", RECIPE),
    "clip.webp": webp_bytes(Video(FRAMES, 10), RECIPE),
    "clip.mp4": mp4_bytes(Video(FRAMES, 10), RECIPE, TONE),
    "a.wav": sound_bytes(TONE, "WAV", RECIPE),
    "a.flac": sound_bytes(TONE, "FLAC", RECIPE),
    "a.ogg": sound_bytes(TONE, "OGG", RECIPE),
    "a.mp3": sound_bytes(TONE, "MP3", RECIPE),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_says_how_it_was_made_and_is_read_as_before(name: str):
    data = FILES[name]
    assert read_recipe(data) == RECIPE and SOURCE_TYPE.encode() in data
    media = load(data)
    assert media.modality == {"png": "image", "jpg": "image", "mp4": "video"}.get(
        name.rpartition(".")[2], media.modality
    )
    if isinstance(media, Audio):
        assert media.seconds == pytest.approx(1, abs=0.1)


def packet(name: str, data: bytes) -> bytes:
    """The XMP where its standard has it."""
    if name.endswith((".png", ".jpg", ".webp")):
        info = PILImage.open(io.BytesIO(data)).info
        packet = info["XML:com.adobe.xmp"].encode() if name.endswith(".png") else info["xmp"]
        return bytes(packet)
    at, sizes, kind = (0, ">", 0) if name.endswith(".mp4") else (12, "<", 4)
    while at < len(data):  # boxes: size and name; chunks: name and size
        (size,) = struct.unpack(f"{sizes}I", data[at + kind : at + kind + 4])
        if name.endswith(".mp4"):
            if data[at + 4 : at + 24] == b"uuid" + bytes.fromhex("be7acfcb97a942e89c71999491e3afac"):
                return data[at + 24 : at + size]
            at += size
        elif data[at : at + 4] == b"_PMX":
            return data[at + 8 : at + 8 + size]
        else:
            at += 8 + size + size % 2
    raise AssertionError(f"{name} has no XMP")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "clip.webp", "clip.mp4", "a.wav"])
def test_xmp_names_the_digital_source_type(name: str):
    tree = ElementTree.fromstring(packet(name, FILES[name]).decode())
    (about,) = tree.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    assert about.get("{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType") == SOURCE_TYPE


def test_pictures_that_no_model_made_say_nothing():
    for kind in ("PNG", "JPEG", "WEBP"):
        assert b"trainedAlgorithmicMedia" not in picture_bytes(FRAMES[0], kind)
    assert b"trainedAlgorithmicMedia" not in HEARD


@pytest.mark.parametrize("text", ["aGk", "aGk=", "aGk==", " a\nG\r\nk= ", "aGk=\n"])
def test_base64_without_padding_and_in_lines(text: str):
    assert from_base64(text) == b"hi"


@pytest.mark.parametrize("text", ["a", "aGk*", "aG=k", "é"])
def test_what_is_no_base64(text: str):
    with pytest.raises(ValueError):
        from_base64(text)


def test_both_alphabets_of_base64():
    assert from_base64("-_8=") == from_base64("+/8") == b"\xfb\xff"


def test_threads_can_save_one_picture_in_two_ways(monkeypatch: pytest.MonkeyPatch):
    """Pillow keeps a save's options in the picture: a marked file and one that is kept would lose theirs."""
    picture = FRAMES[0].copy()
    monkeypatch.setattr(picture, "save", None)  # that nobody saves the picture itself
    for kind in ("PNG", "JPEG", "WEBP"):
        assert read_recipe(picture_bytes(picture, kind, RECIPE)) == RECIPE
    assert picture_bytes(picture) and webp_bytes(Video((picture, *FRAMES), 10))
