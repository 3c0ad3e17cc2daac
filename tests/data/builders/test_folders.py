"""Folders as people have them: texts of any encoding, names of any case, what systems leave there, odd formats."""

from __future__ import annotations

import io
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image as PILImage

from codi2.data.build import Settings, build
from codi2.data.builders.laion import _tar_samples
from codi2.data.checks import BadRecord
from codi2.data.record import Record
from codi2.data.texts import decode
from codi2.errors import DataError

from . import official
from .records import words

Built = Callable[..., list[Record]]
HEIC = Path(__file__).parents[2] / "media" / "files" / "photo_rot.heic"


def put(folder: Path, files: dict[str, bytes | str]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder


def captions(records: list[Record]) -> list[tuple[str, str]]:
    """The suffix that shards have of each picture, and its caption."""
    return sorted((r.media[0].suffix, words(r, 1)) for r in records if r.task == "caption_image")


TEXTS = {
    "a café, crème": "a café, crème".encode(),
    "a mark": b"\xef\xbb\xbfa mark",
    "of Notepad é": "of Notepad é".encode("utf-16"),
    "turned é": b"\xfe\xff" + "turned é".encode("utf-16-be"),
    "without a mark": "without a mark".encode("utf-16-le"),
    "wide é": "wide é".encode("utf-32"),
    "old “café”": "old “café”".encode("cp1252"),
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_what_a_person_reads(text: str) -> None:
    assert decode(TEXTS[text]) == text


@pytest.mark.parametrize(
    "data",
    [
        "кот на столе".encode("cp1251"),
        "猫がいる".encode("shift-jis"),
        b"\x81\x8d",
        b"\xff\xfea",
        bytes(8),
        b"\xff\xd8\xff\xe0",
    ],
    ids=repr,
)
def test_bytes_that_are_no_text_are_never_words(data: bytes) -> None:
    try:
        assert not decode(data).strip("\0"), "nothing is made up"
    except BadRecord as error:
        assert error.reason == "no text"


def test_each_picture_of_a_folder_comes_once_with_its_caption(tmp_path: Path, built: Built) -> None:
    picture = [official.photo(n) for n in range(20)]
    png = official.photo(3, kind="PNG")
    files: dict[str, bytes | str] = {
        "IMG_1.JPG": picture[0], "IMG_1.TXT": "in capitals",
        "disguise.png": picture[1], "disguise.txt": "a jpeg",
        "other.jpg": official.photo(2, kind="WEBP"), "other.txt": "a webp",
        "photo.v1.png": png, "photo.v1.txt": "version one", "photo.v2.jfif": picture[4], "photo.v2.txt": "version two",
        "scan.TIFF": official.photo(5, kind="TIFF"), "scan.txt": "a tiff",
        "old.bmp": official.photo(6, kind="BMP"), "old.txt": "a bitmap",
        "new.avif": official.photo(7, kind="AVIF"), "new.txt": "an avif",
        "still.gif": official.photo(8, kind="GIF"), "still.txt": "a gif that stands still",
        "my goose 🪿.png": png, "my goose 🪿.txt": "a goose", "ga\u0308nse.png": png, "g\u00e4nse.txt": "geese",
        "lines.jpg": picture[9], "lines.txt": "two\r\nlines", "cafe.jpg": picture[10], "cafe.txt": TEXTS["old “café”"],
        "bad.jpg": picture[11], "bad.txt": "кот на столе".encode("cp1251"),
        "twin.jpg": picture[12], "twin.png": official.photo(13, kind="PNG"), "twin.txt": "a twin",
        "alone.jpg": picture[14], "lonely.txt": "no picture", "drawing.psd": b"8BPS", "drawing.txt": "a drawing",
        "._IMG_1.JPG": b"Mac", "._photo.v1.png": b"Mac", ".DS_Store": b"Mac", "sub/Thumbs.db": b"Windows",
        "__MACOSX/x.jpg": b"Mac", "__MACOSX/x.txt": "Mac", ".cache/y.jpg": picture[15], ".cache/y.txt": "hidden",
        "LICENSE": "free", "notes.md": "# notes",
    }  # fmt: skip
    records = built("folder", put(tmp_path / "mine", files), max_bad=0.1)
    assert captions(records) == sorted([
        ("jpg", "in capitals"), ("jpg", "a jpeg"), ("webp", "a webp"), ("png", "version one"), ("jpg", "version two"),
        ("png", "a tiff"), ("png", "a bitmap"), ("png", "an avif"), ("png", "a gif that stands still"),
        ("png", "a goose"), ("png", "geese"), ("jpg", "two lines"), ("jpg", "old “café”"), ("jpg", "a twin"),
        ("png", "a twin"),
    ])  # fmt: skip
    report = json.loads(next(tmp_path.glob("out-*/build.json")).read_text())
    assert report["left_out"] == {"no caption": 1, "no medium": 1, "format not read": 1}
    assert report["bad"] == {"no text": 1}


def test_heic_is_read_or_counted_as_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: Built) -> None:
    files = {"a.heic": HEIC.read_bytes(), "a.txt": "a phone's", "b.jpg": HEIC.read_bytes(), "b.txt": "renamed"}
    folder = put(tmp_path / "mine", {**files, "c.jpg": official.photo(0), "c.txt": "a disc"})
    try:
        import pillow_heif  # noqa: F401
    except ImportError:
        pass
    else:
        assert captions(built("folder", folder)) == [("jpg", "a disc"), ("png", "a phone's"), ("png", "renamed")]
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    report = build(Settings("folder", str(folder), str(tmp_path / "out")))
    assert report["left_out"] == {"format not read": 2} and report["records"] == 2
    assert "pip install 'codi2[heif]'" in (tmp_path / "out" / "quarantine.jsonl").read_text()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252", "utf-8"])
@pytest.mark.parametrize("between", [",", ";", "\t"])
def test_a_table_of_any_spreadsheet_is_read_whole(encoding: str, between: str, tmp_path: Path, built: Built) -> None:
    rows = ["file_name,text", *(f'p{n}.jpg,"a goose called Zoë, {n}\nand more"' for n in range(3))]
    table = "\r\n".join(row.replace(",", between, 1) for row in rows) + "\r\n"
    files: dict[str, bytes | str] = {f"p{n}.jpg": official.photo(n) for n in range(3)}
    records = built("folder", put(tmp_path / "mine", files | {"metadata.csv": table.encode(encoding)}))
    assert [text for _, text in captions(records)] == [f"a goose called Zoë, {n} and more" for n in range(3)]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "utf-8"])
def test_lines_of_any_encoding_are_read_whole(encoding: str, tmp_path: Path, built: Built) -> None:
    # 上 and Ċ have a byte 0x0A in UTF-16
    lines = [json.dumps({"file_name": f"p{n}.jpg", "text": f"上 Ċ {n}"}, ensure_ascii=False) for n in range(3)]
    files: dict[str, bytes | str] = {f"p{n}.jpg": official.photo(n) for n in range(3)}
    folder = put(tmp_path / "mine", files | {"metadata.jsonl": "\r\n".join(lines).encode(encoding)})
    assert [text for _, text in captions(built("folder", folder))] == [f"上 Ċ {n}" for n in range(3)]


def test_a_table_that_is_cut_within_a_character_is_one_sentence(tmp_path: Path) -> None:
    text = '{"file_name": "a.jpg", "text": "a"}\n'.encode("utf-16")[:-1]
    folder = put(tmp_path / "mine", {"metadata.jsonl": text, "a.jpg": official.photo(0)})
    with pytest.raises(DataError, match=r"metadata\.jsonl is damaged or cut off"):
        build(Settings("folder", str(folder), str(tmp_path / "out")))


def test_a_line_in_another_script_is_quarantined_and_the_others_are_read(tmp_path: Path, built: Built) -> None:
    lines = (
        b'{"file_name": "p0.jpg", "text": "a disc"}\n{"file_name": "p1.jpg", "text": "' + "кот".encode("cp1251") + b'"}'
    )
    folder = put(tmp_path / "mine", {"metadata.jsonl": lines, "p0.jpg": official.photo(0), "p1.jpg": official.photo(1)})
    report = build(Settings("folder", str(folder), str(tmp_path / "out")), max_bad=0.5)
    assert report["bad"] == {"no text": 1} and report["records"] == 2


def test_names_in_tars_may_have_points_in_them(tmp_path: Path, built: Built) -> None:
    files = {}
    for n, stem in enumerate(("a/photo.v1", "a/photo.v2", "b/photo.v2", "./c.d.e")):
        files |= {f"{stem}.JPG": official.photo(n), f"{stem}.txt": f"number {n}".encode()}
    files |= {"._a.jpg": b"Mac", "f.avif": official.photo(9, kind="AVIF"), "f.txt": "“é” of cp1252".encode("cp1252")}
    path = official.tar(tmp_path / "laion" / "00000.tar", files)
    assert Counter(len(sample[1]) for sample in _tar_samples(path)) == {2: 5}  # type: ignore[index]
    found = captions(built("laion", tmp_path / "laion"))
    assert found == [*(("jpg", f"number {n}") for n in range(4)), ("png", "“é” of cp1252")]


def test_a_folder_of_img2dataset_has_files_of_any_case(tmp_path: Path, built: Built) -> None:
    files = {"00000/0.v1.JPG": official.photo(0), "00000/0.v1.txt": b"first", "00000/0.v2.jpeg": official.photo(1)}
    put(tmp_path / "laion", {**files, "00000/0.v2.TXT": "zweites ü".encode("cp1252"), "00000/._0.v1.JPG": b"Mac"})
    assert captions(built("laion", tmp_path / "laion")) == [("jpeg", "zweites ü"), ("jpg", "first")]


def test_lists_of_other_builders_are_not_those_that_a_system_leaves(tmp_path: Path, built: Built) -> None:
    table = "\ufeffvideoid,page_dir,name\r\n1,d,a disc\r\n"
    folder = put(tmp_path / "webvid", {"a.csv": table, "._a.csv": b"Mac", "d/1.mp4": official.clip(0)})
    assert len(built("webvid", folder)) == 2


def test_words_of_half_a_character_are_quarantined(tmp_path: Path) -> None:
    lines = '{"file_name": "p0.jpg", "text": "a \\ud800 b"}\n{"file_name": "p0.jpg", "text": "a disc"}\n'
    folder = put(tmp_path / "mine", {"metadata.jsonl": lines, "p0.jpg": official.photo(0)})
    report = build(Settings("folder", str(folder), str(tmp_path / "out")), max_bad=0.5)
    assert report["bad"] == {"malformed": 1} and report["records"] == 2


def test_pictures_of_known_formats_keep_their_bytes(tmp_path: Path, built: Built) -> None:
    data = io.BytesIO()
    PILImage.new("P", (32, 32), 5).save(data, "PNG")
    (record, _) = built("folder", put(tmp_path / "mine", {"a.png": data.getvalue(), "a.txt": "flat"}))
    assert record.media[0].data == data.getvalue()
