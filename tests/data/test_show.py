"""The page of a data set, looked at in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from codi2.data.build import Settings, build
from codi2.data.show import write_show
from codi2.errors import DataError

from .builders import official


def mixed(tmp_path: Path) -> Path:
    """A user's pictures, sounds and clips, one of them broken."""
    folder = tmp_path / "mine"
    lines = []
    for n, (name, data) in enumerate(
        {"a.jpg": official.photo(1), "b.wav": official.tone(500), "c.mp4": official.clip(1), "d.jpg": b"no"}.items()
    ):
        official.put(folder / name, data)
        lines.append({"file_name": name, "text": f"thing <{n}>", "licence": "CC0"})
    lines.append(
        {"prompt": "Like [image0], with [text0].", "answer": "[image0]", "media": {"image0": "a.jpg", "text0": "fur"}}
    )
    official.put(folder / "metadata.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    build(Settings("folder", str(folder), str(tmp_path / "out")), max_bad=0.5)
    return tmp_path / "out"


def test_the_page_shows_samples_and_what_is_in_it(tmp_path: Path):
    page = write_show(mixed(tmp_path), tmp_path / "page.html", samples=2, preset="debug").read_text()
    for task in ("image_from_caption", "caption_audio", "video_from_caption", "own"):
        assert f"<h2>{task}</h2>" in page
    assert page.count("<audio controls") == 2 and 'alt="spectrogram of the sound"' in page
    assert "&lt;image&gt;···&lt;/image&gt;" in page and "thing &lt;0&gt;" in page and "<0>" not in page
    assert "&lt;feature&gt;·&lt;/feature&gt;" in page
    assert re.search(r"undecodable</td><td>1<", page) and "CC0</td><td>6" in page
    assert "sound, Hz (least – median – most)</td><td>22,050 – 22,050 – 22,050" in page
    assert "http://" not in page and "https://" not in page  # nothing is requested


def test_the_command_and_its_errors(tmp_path: Path, cli: Callable[..., subprocess.CompletedProcess[str]]):
    out = mixed(tmp_path)
    run = cli("data", "show", out, "--out", tmp_path / "p.html", "--preset", "debug")
    assert run.returncode == 0 and "p.html" in run.stdout
    (out / "shards" / "image-000000.npy").unlink()
    run = cli("data", "show", out, "--out", tmp_path / "p.html", "--preset", "debug")
    assert run.returncode == 2 and "build the data set again" in run.stderr
    with pytest.raises(DataError, match="is not a data set"):
        write_show(tmp_path, tmp_path / "page.html", 1, "debug")


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's chromium")
def test_the_page_in_chromium(tmp_path: Path):
    page = write_show(mixed(tmp_path), tmp_path / "page.html", samples=1, preset="debug")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    shown = subprocess.run(
        ["chromium", *options, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120
    )
    assert shown.stdout.count("<figure>") >= 6
    picture = tmp_path / "page.png"
    subprocess.run(
        ["chromium", *options, "--window-size=1000,2000", f"--screenshot={picture}", page.as_uri()],
        capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    from PIL import Image

    colours = Image.open(picture).convert("RGB").getcolors(10**6)
    assert colours is not None and len(colours) > 500  # pictures and spectrograms are drawn
