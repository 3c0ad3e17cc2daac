"""Entries a second and core of the builders of large data sets, on media of their size made here; and bytes a record.

The plans of docs/data.md are computed from these.
"""

from __future__ import annotations

import csv
import io
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import soundfile
from data import source as laion

from codi2.data.build import Settings, build

SEGMENTS, CLIPS = 300, 60
WAYS = {"laion": {"ways": "either"}}
LABELS = {f"/m/{n}": f"Sound {n}" for n in range(40)}


def audioset(folder: Path) -> Path:
    """Ten-second stereo clips at 44.1 kHz, OGG."""
    draw, time = np.random.default_rng(0), np.arange(441_000) / 44_100
    rows = ["# a", "# b", "# YTID, start_seconds, end_seconds, positive_labels"]
    (folder / "clips").mkdir()
    for i in range(SEGMENTS):
        wave = sum(np.sin(2 * np.pi * f * time) for f in draw.uniform(80, 6000, 8)) / 10
        wave = np.stack([wave, wave[::-1]], axis=1) + 0.02 * draw.standard_normal((len(time), 2))
        soundfile.write(folder / "clips" / f"v{i:010d}.ogg", wave, 44_100, format="OGG")
        rows.append(f'v{i:010d}, 0.000, 10.000, "/m/{i % 40}"')
    (folder / "unbalanced_train_segments.csv").write_text("\n".join(rows) + "\n")
    ontology = [{"id": key, "name": name, "child_ids": []} for key, name in LABELS.items()]
    (folder / "ontology.json").write_text(json.dumps(ontology))
    return folder


def webvid(folder: Path) -> Path:
    """Ten-second clips of 596 × 336 pixels at 25 frames a second, H.264."""
    draw, table = np.random.default_rng(0), io.StringIO()
    rows = csv.writer(table)
    rows.writerow(["videoid", "contentUrl", "duration", "page_dir", "name"])
    (folder / "page").mkdir()
    for i in range(CLIPS):
        ground = np.kron(draw.integers(0, 255, (21, 38, 3)), np.ones((16, 16, 1)))[:336, :596].astype(np.uint8)
        with av.open(str(folder / "page" / f"{i}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 596, 336, "yuv420p"
            for k in range(250):
                frame = av.VideoFrame.from_ndarray(np.roll(ground, 2 * k, axis=1), format="rgb24")
                for packet in stream.encode(frame):
                    container.mux(packet)
            for packet in stream.encode():
                container.mux(packet)
        rows.writerow([i, "", "PT00H00M10S", "page", f"clip {i}"])
    (folder / "clips.csv").write_text(table.getvalue())
    return folder


def main() -> None:
    wanted = sys.argv[1:]
    builders: dict[str, Callable[[Path], Path]] = {
        "laion": laion, "audioset": audioset, "audio-edits": audioset, "audio-edits-in-context": audioset,
        "webvid": webvid,
    }  # fmt: skip
    for name, make in ((n, m) for n, m in builders.items() if not wanted or n in wanted):
        with tempfile.TemporaryDirectory() as folder:
            source, out = Path(folder) / "source", Path(folder) / "out"
            source.mkdir()
            report = build(Settings(name, str(make(source)), str(out), options=WAYS.get(name, {})))
            size = sum(path.stat().st_size for path in (out / "shards").iterdir())
            seconds = sum(report["spent"].values())
        print(f"{name:<24}{report['entries'] / seconds:8.1f} entries a second and core", end="")
        print(
            f"{size / report['records'] / 1e3:10.1f} kB a record, {report['records'] / report['entries']:.0f} an entry"
        )


if __name__ == "__main__":
    main()
