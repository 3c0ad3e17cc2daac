"""What building and loading cost beside plain loops over webdataset, on pictures of 256 pixels, and what workers bring.

Prints ratios of medians over alternating runs (for the workers: of whole commands), and where the time goes.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
from alternate import medians
from PIL import Image

from codi2.data.build import Settings, build
from codi2.data.mixture import Mixture, MixturePart
from codi2.data.record import SCHEMA

PICTURES, PER_TAR, ROUNDS, BATCH = 6_000, 1_000, 5, 32


def source(folder: Path) -> Path:
    """Tars as img2dataset writes them: JPEGs of 256 pixels and about 20 kB."""
    draw = np.random.default_rng(0)
    for start in range(0, PICTURES, PER_TAR):
        with tarfile.open(folder / f"{start // PER_TAR:05d}.tar", "w") as archive:
            for i in range(start, start + PER_TAR):
                coarse = Image.fromarray(draw.integers(0, 255, (40, 40, 3), dtype=np.uint8))
                file = io.BytesIO()
                coarse.resize((256, 256), Image.Resampling.BICUBIC).save(file, "JPEG", quality=95)
                about = json.dumps({"url": f"https://example.org/{i}", "key": f"{i:09d}"})
                for suffix, data in (("jpg", file.getvalue()), ("json", about.encode()), ("txt", b"a picture %d" % i)):
                    entry = tarfile.TarInfo(f"{i:09d}.{suffix}")
                    entry.size = len(data)
                    archive.addfile(entry, io.BytesIO(data))
    return folder


def build_set(laion: Path, out: Path) -> dict[str, Any]:
    shutil.rmtree(out, ignore_errors=True)
    return build(Settings("laion", str(laion), str(out)))


def command(laion: Path, out: Path, workers: int) -> None:
    shutil.rmtree(out, ignore_errors=True)
    build = [sys.executable, "-m", "codi2", "data", "build", "laion", "--source", str(laion), "--out", str(out)]
    subprocess.run([*build, "--workers", str(workers)], check=True, capture_output=True)


def plain(laion: Path, out: Path) -> None:
    """Decode each picture and write the same samples: a record either way."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    for tar in sorted(laion.glob("*.tar")):
        pictures = webdataset.TarWriter(str(out / f"image-{tar.name}"), encoder=False)
        captions = webdataset.TarWriter(str(out / f"text-{tar.name}"), encoder=False)
        for sample in webdataset.WebDataset(str(tar), shardshuffle=False):
            Image.open(io.BytesIO(sample["jpg"])).convert("RGB")
            words = sample["txt"].decode()
            about = {"schema": SCHEMA, "task": "x", "source": sample["__key__"], "licence": "unknown", "meta": {}}
            ways = (("user", f"Draw {words}."), ("assistant", 0)), (("user", "Describe it.", 0), ("assistant", words))
            for writer, turns in zip((pictures, captions), ways, strict=True):
                record = {"__key__": sample["__key__"], "json": json.dumps({**about, "turns": turns}).encode()}
                writer.write({**record, "0.jpg": sample["jpg"]})
        pictures.close()
        captions.close()


def load_set(out: Path) -> int:
    """An epoch of records in shuffled batches, media decoded."""
    mixture = Mixture([MixturePart(out)], BATCH)
    return sum(len(record.messages()) for step in range(2 * PICTURES // BATCH) for record in mixture.batch(step))


def load_plain(out: Path) -> int:
    """An epoch of a bare pipeline with a shuffle buffer, media decoded."""
    shards = [str(path) for path in sorted((out / "shards").glob("*.tar"))]
    pipeline = webdataset.WebDataset(shards, shardshuffle=len(shards)).shuffle(1000).decode("pil").batched(BATCH, None)
    return sum(len(batch) for batch in pipeline)


def ratio(ours: Callable[[], Any], theirs: Callable[[], Any]) -> tuple[float, float, float]:
    """Median seconds of each over alternating runs, and the speed of ours over that of theirs."""
    a, b = medians(ours, theirs, ROUNDS)
    return a, b, b / a


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "laion").mkdir()
        laion, out = source(folder / "laion"), folder / "out"
        a, b, speed = ratio(lambda: build_set(laion, out), lambda: plain(laion, folder / "plain"))
        print(f"build: {PICTURES / a:,.0f} pictures a second, plain loop {PICTURES / b:,.0f}: {speed:.2f} of its speed")
        spent = build_set(laion, out)["spent"]
        total = sum(spent.values())
        print("  of it " + ", ".join(f"{what} {100 * seconds / total:.0f} %" for what, seconds in spent.items()))
        a, b, speed = ratio(lambda: load_set(out), lambda: load_plain(out))
        print(f"load: {2 * PICTURES / a:,.0f} records a second, bare pipeline {2 * PICTURES / b:,.0f}: {speed:.2f}")
        a, b, speed = ratio(lambda: command(laion, out, 2), lambda: command(laion, out, 1))
        print(f"two workers: {speed:.2f} times one (whole commands, start included: {a:.1f} s and {b:.1f} s)")


if __name__ == "__main__":
    main()
