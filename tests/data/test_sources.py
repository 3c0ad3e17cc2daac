from pathlib import Path

import pytest

from codi2.data.sources import animated, emoji, games, gcompris, scratch, sonic_pi, stamps
from codi2.data.sources.rcc import members
from codi2.errors import DataError


def read(source, root):
    return {raw.key: raw for raw in source.read(root)}


@pytest.mark.parametrize("compressed", [False, True])
def test_a_resource_archive_gives_back_its_files(tmp_path: Path, make_rcc, compressed: bool):
    files = {"a/one.txt": b"1" * 500, "a/b/two.svg": b"<svg/>", "three.bin": bytes(range(256))}
    (tmp_path / "x.rcc").write_bytes(make_rcc(files, compressed))
    assert dict(members(tmp_path / "x.rcc")) == files


def test_a_file_that_is_no_resource_archive(tmp_path: Path):
    (tmp_path / "x.rcc").write_bytes(b"PK\x03\x04 something else altogether")
    with pytest.raises(DataError, match=r"x\.rcc is not a Qt resource archive"):
        list(members(tmp_path / "x.rcc"))


def test_the_renderings_of_one_emoji_share_concept_and_group(sources: Path):
    found = [read(source, sources) for source in emoji.SOURCES]
    assert [set(raws) for raws in found] == [{"1f431", "1f550", "1f468-200d-1f466", "2648"}] * 4
    assert {raws["1f431"].style for raws in found} == {"openmoji", "google", "twitter", "fluent3d"}
    assert {(raws["1f431"].group, raws["1f431"].name, raws["1f431"].caption) for raws in found} == {
        ("1f431", "cat face", "a cat face")
    }
    captions = {key: raw.caption for key, raw in found[0].items()}
    assert captions["1f550"] == "a clock showing one o’clock"
    assert captions["1f468-200d-1f466"] == "a family of a man and a boy"
    assert captions["2648"] == "an aries symbol"
    assert all(raws["1f431"].load().mode == "RGBA" for raws in found)


def test_emoji_that_move_share_the_group_of_their_pictures(sources: Path):
    found = read(animated.SOURCE, sources)
    assert set(found) == {"1f431", "1f550", "2648"}
    assert (found["1f431"].modality, found["1f431"].caption, found["1f431"].group) == ("video", "a cat face", "1f431")
    assert len(found["1f431"].load()) == 8 and len(found["2648"].load()) == 1


def test_stamps_leave_speech_and_symbols_out(sources: Path):
    raws = read(stamps.SOURCE, sources)
    assert set(raws) == {"animals/cat", "animals/cat.ogg", "space/moon_big"}
    assert (raws["animals/cat"].caption, raws["animals/cat"].style) == ("a kitten", "photo")
    assert raws["animals/cat.ogg"].caption == "a cat meowing"
    assert (raws["space/moon_big"].name, raws["space/moon_big"].style) == ("moon big", "drawing")
    samples, rate = raws["animals/cat.ogg"].load()
    assert (len(samples), rate) == (22_050, 44_100)


def test_poses_of_one_individual_share_the_subject(sources: Path):
    raws = read(scratch.SOURCE, sources)
    dogs = [raws["costume/dog1-a"], raws["costume/dog1-b"]]
    assert {dog.subject for dog in dogs} == {"scratch/dog1"}
    assert {dog.caption for dog in dogs} == {"a dog"}
    assert raws["costume/boy4-walking-a"].caption == "a boy walking"
    assert raws["costume/anna-1"].subject == "scratch/anna"
    assert (raws["background/beach-malibu"].name, raws["background/beach-malibu"].category) == ("beach", "background")
    assert {key for key, raw in raws.items() if raw.modality == "audio"} == {"sound/Dog1", "sound/Dog2"}


def test_an_instrument_is_drawn_and_heard(sources: Path):
    raws = read(gcompris.SOURCE, sources)
    assert [(raw.modality, raw.caption, raw.style) for raw in raws.values()] == [
        ("image", "a tuba", "drawing"),
        ("audio", "a tuba playing", "recorded"),
    ]
    assert next(iter(raws.values())).load().width == 256


def test_samples_are_named_by_their_prefix(sources: Path):
    raws = read(sonic_pi.SOURCE, sources)
    assert raws["bd_808"].caption == "a bass drum hit"
    assert (raws["elec_blip2"].name, raws["elec_blip2"].caption) == ("electronic sound", "an electronic blip")


def test_game_sounds_are_named_without_number_and_outcome(tmp_path: Path):
    sounds = tmp_path / "wesnoth-1.16-data/usr/share/games/wesnoth/1.16/data/core/sounds"
    arcade = tmp_path / "arcade-3.3.3/arcade/resources/assets/sounds"
    for path in ("magic-holy-miss-2.ogg", "bow-puny-fire-miss.ogg", "ambient/birds3.ogg", "gamestart.ogg"):
        (sounds / path).parent.mkdir(parents=True, exist_ok=True)
        (sounds / path).touch()
    arcade.mkdir(parents=True)
    (arcade / "coin1.wav").touch()
    names = {raw.key: raw.name for source in (games.WESNOTH, games.ARCADE) for raw in source.read(tmp_path)}
    bow = {"bow-puny-fire-miss": "bow and arrow"}
    assert names == {"magic-holy-miss-2": "magic", "birds3": "bird", "coin1": "coin"} | bow
