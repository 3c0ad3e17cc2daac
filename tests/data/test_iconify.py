import json
from pathlib import Path

import numpy as np
import pytest

from codi2.data.fetch import PACKAGES
from codi2.data.prepare import square
from codi2.data.sources import emoji, iconify
from codi2.data.sources.iconify import EMOJI_SETS, join
from codi2.data.world import ALL_RENDERINGS, STYLES

LEFT = '<path fill="currentColor" d="M0 0h8v16H0z"/>'  # the left half, and a red dot on the right
DOT = '<circle fill="red" cx="14" cy="8" r="2"/>'


@pytest.fixture
def package(sources: Path):
    """Writes the package of a style beside the other sources and reads it."""

    def make(style: str, icons: dict, aliases: dict | None = None, chars: dict | None = None) -> dict:
        folder = sources / EMOJI_SETS[style].folder
        folder.mkdir(parents=True)
        book = {"prefix": "x", "width": 16, "height": 16, "icons": icons, "aliases": aliases or {}}
        (folder / "icons.json").write_text(json.dumps(book))
        (folder / "chars.json").write_text(json.dumps(chars or []))
        (source,) = (one for one in iconify.SOURCES if one.name == style)
        return {raw.key: raw for raw in source.read(sources)}

    return make


def test_icons_are_joined_with_the_other_renderings_by_code_point(package):
    icons = {"kitty": {"body": LEFT}, "flag-egypt": {"body": LEFT}, "medium-skin-tone": {"body": LEFT}}
    chars = {"1f431": "kitty", "1f1ea-1f1ec": "flag-egypt", "1f3fd": "medium-skin-tone"}
    raws = package("fluentmono", icons, chars=chars)
    assert set(raws) == {"1f431"}  # neither flag nor skin tone
    cat = raws["1f431"]
    assert (cat.group, cat.name, cat.caption, cat.style) == ("1f431", "cat face", "a cat face", "fluentmono")
    assert cat.file == "iconify-json-fluent-emoji-high-contrast-1.2.6/package/icons.json:kitty"


def test_packages_without_code_points_are_joined_by_name(package):
    icons = {name: {"body": LEFT} for name in ("cat-face", "one-oclock", "family-man-boy", "aries", "unknown")}
    assert set(package("noto1", icons)) == {"1f431", "1f550", "1f468-200d-1f466", "2648"}


def test_a_package_has_names_of_its_makers(package):
    raws = package("fxemoji", {"cat": {"body": LEFT}, "clock1oclock": {"body": LEFT}, "catside": {"body": LEFT}})
    assert {key: raw.file.rpartition(":")[2] for key, raw in raws.items()} == {"1f431": "cat", "1f550": "clock1oclock"}


def test_of_several_drawings_the_first_is_taken(package):
    raws = package("streamline", {f"cat-face-{number}": {"body": LEFT} for number in (1, 2)})
    assert [raw.file.rpartition(":")[2] for raw in raws.values()] == ["cat-face-1"]


def test_what_a_name_means():
    labels = {"1f3cf": "cricket game", "1f997": "cricket", "1f43b": "bear", "1f1ff-fe0f": "x", "2660": "spade suit"}
    icons = {"cricket-game": "cricket-game", "cricket": "cricket-game", "bear-face": "bear-face", "bear": "bear-face",
             "by-code": "by-code", "blackspadesuit": "blackspadesuit", "pistol": "pistol"}  # fmt: skip
    found = join(labels | {"1f52b": "pistol"}, icons, {"1f1ff": "by-code"}, {"pistol": "-"})
    assert found == {
        "1f3cf": "cricket-game",  # so the alias is no insect
        "1f43b": "bear",
        "1f1ff-fe0f": "by-code",  # with or without the variation selector
        "2660": "blackspadesuit",
    }


def test_an_icon_is_drawn_in_black_where_it_has_no_colour_and_mirrored_where_it_is_an_alias_of_another(package):
    chars = {"1f431": "cat", "1f550": "clock", "2648": "wide"}
    icons = {"cat": {"body": LEFT + DOT}, "wide": {"body": LEFT, "width": 32}}
    raws = package("fluentflat", icons, {"clock": {"parent": "cat", "hFlip": True}}, chars)
    cat, clock = (np.asarray(raws[key].load()) for key in ("1f431", "1f550"))
    assert cat.shape == (256, 256, 4)
    assert cat[128, 60].tolist() == [0, 0, 0, 255] and cat[128, 224].tolist() == [255, 0, 0, 255]
    assert np.array_equal(clock, cat[:, ::-1])
    assert raws["2648"].load().size == (256, 128)
    assert square(raws["1f431"].load()).shape == (64, 64, 3)


def test_every_emoji_set_has_a_licence_a_name_a_pinned_package_and_words_for_it():
    assert [source.name for source in (*emoji.SOURCES, *iconify.SOURCES)] == list(ALL_RENDERINGS)
    assert len(set(STYLES.values())) == len(STYLES)
    notice = (Path(__file__).parents[2] / "NOTICE").read_text(encoding="utf-8")
    pinned = {package.name: package for package in PACKAGES}
    for emoji_set in EMOJI_SETS.values():
        package = pinned[f"@iconify-json/{emoji_set.package}"]
        assert (package.version, package.folder) == (emoji_set.version, emoji_set.folder.removesuffix("/package"))
        assert emoji_set.licence in {"MIT", "Apache-2.0", "CC-BY-4.0", "CC-BY-SA-4.0"}  # derived media may be passed on
        assert any(emoji_set.attribution in line and line.endswith(emoji_set.licence) for line in notice.splitlines())


def test_the_table_of_names_holds_code_points():
    for table in iconify._names().values():
        for code in table.values():
            assert code == "-" or all(int(point, 16) > 0x20 for point in code.split("-"))
