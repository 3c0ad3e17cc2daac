"""The four steps to a new data builder, done as CONTRIBUTING.md says."""

from __future__ import annotations

import ast
import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from PIL import Image as PILImage

from codi2.data.build import Settings, build
from codi2.data.builders import BUILDERS
from codi2.data.sets import load_report
from codi2.data.shards import open_shards

from .pages import ROOT, blocks

TEXT = (ROOT / "CONTRIBUTING.md").read_text()


def test_each_guide_has_four_steps_and_a_file_to_copy():
    for title in ("data builder", "decoder family", "modality", "metric"):
        (section,) = re.findall(rf"^## A new {title}\n(.*?)(?=^## )", TEXT, re.DOTALL | re.MULTILINE)
        assert re.findall(r"^(\d)\. ", section, re.MULTILINE) == list("1234"), title
        (copied,) = re.findall(r"\*\*Copy\*\* .*?`(src/codi2/[\w/]+\.py)`", section)
        assert (ROOT / copied).is_file()


@pytest.fixture
def flickr8k(tmp_path: Path) -> Path:
    """The data set in its official form, with a line that is no record and a picture that is absent."""
    source = tmp_path / "flickr8k"
    (source / "Images").mkdir(parents=True)
    for n in range(3):
        PILImage.effect_noise((96, 64 + n), 60).convert("RGB").save(source / "Images" / f"{n}.jpg")
    lines = ["image,caption", "0.jpg,a dog runs", '1.jpg,"two dogs, on grass"', "2.jpg,a cat", "9.jpg,a bird", "no"]
    (source / "captions.txt").write_text("\n".join(lines) + "\n")
    return source


def test_a_builder_by_the_four_steps(flickr8k: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    code, line = blocks(ROOT / "CONTRIBUTING.md", "python")[:2]
    registered = ast.literal_eval("{" + line.strip() + "}")
    ((name, place),) = registered.items()
    module_name = f"codi2.data.builders.{place.partition(':')[0]}"
    file = tmp_path / f"{place.partition(':')[0]}.py"
    file.write_text(code)  # step 1
    spec = spec_from_file_location(module_name, file)
    assert spec and spec.loader
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, module_name, module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(BUILDERS, name, place)  # step 2

    out = tmp_path / "out"
    build(Settings(name, str(flickr8k), str(out), 0, {}), max_bad=0.5)  # step 3
    report = load_report(out)
    records = [record for shard in open_shards(out, report) for record in shard]
    assert sorted({record.task for record in records}) == ["caption_image", "image_from_caption"]
    assert len(records) == 6 and {record.meta["image"] for record in records} == {"0.jpg", "1.jpg", "2.jpg"}
    assert any("two dogs, on grass" in str(record.turns) for record in records)
    assert (report["bad"], report["left_out"]) == ({"malformed": 1}, {"absent": 1})
