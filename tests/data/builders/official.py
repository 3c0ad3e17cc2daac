"""A few records of each data set in the form of its official files, made here for the tests: none of their data."""

from __future__ import annotations

import base64
import csv
import io
import json
import tarfile
import tempfile
from pathlib import Path

import av
import numpy as np
import soundfile
from PIL import Image, ImageDraw


def photo(n: int, size: tuple[int, int] = (96, 72), kind: str = "JPEG") -> bytes:
    """A picture that differs with n: a disc on a ground."""
    draw = np.random.default_rng(n)
    ground, disc = (tuple(int(v) for v in draw.integers(40, 255, 3)) for _ in range(2))
    picture = Image.new("RGB", size, ground)
    ImageDraw.Draw(picture).ellipse((10 + n % 20, 8, 60 + n % 20, 58), fill=disc)
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def growing_gif() -> bytes:
    """A GIF of 16 x 16 pixels whose second frame says that it has 20,000 x 20,000."""
    frames = [Image.new("L", (16, 16), n) for n in (0, 255)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=100)
    data = bytearray(file.getvalue())
    second = data.rindex(b"\x21\xf9\x04") + 8  # its descriptor is behind its graphic control extension
    assert data[second] == 0x2C
    data[second + 5 : second + 9] = (20_000).to_bytes(2, "little") * 2
    return bytes(data)


def tone(hertz: float, seconds: float = 1.5, rate: int = 22_050, level: float = 0.5) -> bytes:
    time = np.arange(int(seconds * rate)) / rate
    file = io.BytesIO()
    soundfile.write(file, level * np.sin(2 * np.pi * hertz * time), rate, format="WAV")
    return file.getvalue()


def clip(n: int, frames: int = 12, **options: str) -> bytes:
    """MP4 of a square that moves."""
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        _write_clip(file.name, n, frames, options)
        return Path(file.name).read_bytes()


def _write_clip(path: str, n: int, frames: int, options: dict[str, str]) -> None:
    with av.open(path, "w", format="mp4", options=options) as container:
        stream = container.add_stream("mpeg4", rate=12)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for k in range(frames):
            picture = np.full((48, 64, 3), 30 * (n % 8), np.uint8)
            picture[10:30, 3 * k : 3 * k + 16] = 220
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def put(path: Path, content: bytes | str | object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, (bytes, str)):
        content = json.dumps(content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def parquet(path: Path, columns: dict[str, list], index: list[str] | None = None) -> Path:
    import pandas

    path.parent.mkdir(parents=True, exist_ok=True)
    pandas.DataFrame(columns, index=index).to_parquet(path)
    return path


def tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def laion_tars(folder: Path, shards: int = 2, each: int = 4) -> Path:
    """img2dataset --output_format webdataset: picture, caption and metadata; one whose download failed."""
    for s in range(shards):
        members: dict[str, bytes] = {}
        for i in range(each):
            key = f"{s:05d}{i:04d}"
            about = {
                "url": f"https://example.org/{key}.jpg",
                "caption": f"photo {key}",
                "key": key,
                "status": "success",
            }
            members |= {
                f"{key}.jpg": photo(100 * s + i),
                f"{key}.txt": f"a photo, number {key}".encode(),
                f"{key}.json": json.dumps(about).encode(),
            }
        failed = {"key": f"{s:05d}9999", "status": "failed_to_download", "error_message": "HTTP Error 404"}
        members[f"{s:05d}9999.json"] = json.dumps(failed).encode()
        tar(folder / f"{s:05d}.tar", members)
    return folder


def laion_files(folder: Path) -> Path:
    """img2dataset --output_format files."""
    for i in range(3):
        put(folder / "00000" / f"00000000{i}.jpg", photo(i))
        put(folder / "00000" / f"00000000{i}.txt", f"a disc {i}")
        put(folder / "00000" / f"00000000{i}.json", {"url": f"https://example.org/{i}.jpg"})
    return folder


def laion_parquet(folder: Path) -> Path:
    """img2dataset --output_format parquet."""
    rows = {
        "key": [f"00000000{i}" for i in range(3)],
        "caption": [f"a disc {i}" for i in range(3)],
        "url": [f"https://example.org/{i}.jpg" for i in range(3)],
        "jpg": [photo(i) for i in range(3)],
    }
    parquet(folder / "00000.parquet", rows)
    return folder


ONTOLOGY = [
    {"id": "/m/0jbk", "name": "Animal", "description": "", "child_ids": ["/m/0bt9lr", "/m/01yrx"], "restrictions": []},
    {"id": "/m/0bt9lr", "name": "Dog", "description": "", "child_ids": ["/m/05tny_"], "restrictions": []},
    {"id": "/m/05tny_", "name": "Bark", "description": "", "child_ids": [], "restrictions": []},
    {"id": "/m/01yrx", "name": "Cat", "description": "", "child_ids": [], "restrictions": []},
    {"id": "/m/06mb1", "name": "Rain", "description": "", "child_ids": [], "restrictions": []},
    {"id": "/m/05zppz", "name": "Male speech, man speaking", "description": "", "child_ids": [], "restrictions": []},
]
_LABELS = ["/m/0bt9lr,/m/05tny_", "/m/01yrx", "/m/06mb1", "/m/05zppz"]


def audioset(folder: Path, count: int = 8) -> Path:
    """Segments with their three comment lines, the ontology, and clips; the last one is missing."""
    lines = [
        "# Segments csv created Sun Mar  5 10:54:31 2017",
        f"# num_ytids={count}, num_segs={count}, num_unique_labels=5, num_positive_labels={count}",
        "# YTID, start_seconds, end_seconds, positive_labels",
    ]
    for i in range(count):
        lines.append(f'-vid{i:04d}abc, {30 * i:.3f}, {30 * i + 10:.3f}, "{_LABELS[i % 4]}"')
        if i < count - 1:
            put(folder / "clips" / f"-vid{i:04d}abc.wav", tone(200 + 90 * i))
    put(folder / "balanced_train_segments.csv", "\n".join(lines) + "\n")
    put(folder / "ontology.json", ONTOLOGY)
    return folder


def webvid(folder: Path, count: int = 3) -> Path:
    """results_2M_train.csv and videos/<page_dir>/<videoid>.mp4."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["videoid", "contentUrl", "duration", "page_dir", "name"])
    for i in range(count):
        name = f"A square, moving right, number {i}" if i else 'Square "one"\nmoving'
        rows.writerow([1000 + i, f"https://example.org/{i}.mp4", "PT00H00M01S", f"00000{i}_00000{i}", name])
        put(folder / "videos" / f"00000{i}_00000{i}" / f"{1000 + i}.mp4", clip(i))
    put(folder / "results_2M_train.csv", out.getvalue())
    return folder


EDITS = ["turn the disc into a moon", "turn the disc into a moon", "Make it winter."]


def instruct_pix2pix(folder: Path) -> Path:
    """The released folders: seeds.json, prompt.json, metadata.jsonl, <seed>_0.jpg and <seed>_1.jpg."""
    seeds = []
    for n, edit in enumerate(EDITS):
        name = f"shard-00/{n:07d}"
        prompt = {"input": f"a disc {n}", "edit": edit, "output": f"a moon {n}", "url": ""}
        put(folder / name / "prompt.json", prompt)
        numbers = [1000 * n + k for k in range(2)]
        for seed in numbers:
            put(folder / name / f"{seed}_0.jpg", photo(seed))
            put(folder / name / f"{seed}_1.jpg", photo(seed + 500))
        put(folder / name / "metadata.jsonl", "".join(json.dumps({"seed": s}) + "\n" for s in numbers))
        seeds.append([name, numbers])
    put(folder / "seeds.json", seeds)
    return folder


def instruct_pix2pix_parquet(folder: Path) -> Path:
    """The hub's copy: pictures as the `datasets` library stores them."""
    rows = {
        "original_prompt": ["a disc"] * 5,
        "original_image": [{"bytes": photo(i), "path": None} for i in range(5)],
        "edit_prompt": ["turn it into a moon"] * 4 + ["make it winter"],
        "edited_prompt": ["a moon"] * 5,
        "edited_image": [{"bytes": photo(i + 50), "path": None} for i in range(5)],
    }
    parquet(folder / "data" / "train-00000-of-00001.parquet", rows)
    return folder


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def mimic_it(folder: Path, store: str = "json") -> Path:
    """Spot the difference: two pictures a question, with related ones."""
    data = {
        f"SD_INS_{i:05d}": {
            "instruction": "What changed from the first picture to the second?",
            "answer": f"The disc has another colour, case {i}.",
            "image_ids": [f"SD_IMG_{i}a", f"SD_IMG_{i}b"],
            "rel_ins_ids": [f"SD_INS_{(i + 1) % 3:05d}", "SD_INS_09999"],
        }
        for i in range(3)
    }
    put(
        folder / "SD" / "SD_instructions.json",
        {"meta": {"version": "0.0.1", "time": "2023-06", "author": ""}, "data": data},
    )
    pictures = {f"SD_IMG_{i}{s}": _base64(photo(10 * i + k)) for i in range(3) for k, s in enumerate("ab")}
    if store == "json":
        put(folder / "SD" / "SD.json", json.dumps(pictures).replace("/", "\\/"))
    else:
        parquet(folder / "SD" / "SD.parquet", {"base64": list(pictures.values())}, index=list(pictures))
    return folder


def mimic_it_hub(folder: Path) -> Path:
    """The hub's copy: pictures in the rows."""
    rows = {
        "id": ["CGD_INS_00000", "CGD_INS_00001"],
        "instruction": ["What is different?", "What else?"],
        "answer": ["The colour.", "The place."],
        "images": [[{"bytes": photo(k), "path": None} for k in (i, i + 5)] for i in range(2)],
        "related instructions": [["CGD_INS_00001"], []],
    }
    parquet(folder / "CGD" / "train-00000.parquet", rows)
    return folder


def open_images(folder: Path) -> Path:
    """Localized Narratives, mask CSV and PNGs, class descriptions, pictures; the second caption names no mask."""
    captions = [
        {"dataset_id": "open_images_train", "image_id": "0001eeaf", "annotator_id": 1, "caption": "A cat on a couch."},
        {"dataset_id": "open_images_train", "image_id": "000595fe", "annotator_id": 1, "caption": "It is a nice day."},
    ]
    put(folder / "open_images_train_captions.jsonl", "".join(json.dumps(c) + "\n" for c in captions))
    for n, caption in enumerate(captions):
        put(folder / "train" / f"{caption['image_id']}.jpg", photo(n, (120, 80)))
    put(folder / "oidv7-class-descriptions-boxable.csv", "/m/01yrx,Cat\n/m/02crq1,Couch\n")
    header = "MaskPath,ImageID,LabelName,BoxID,BoxXMin,BoxXMax,BoxYMin,BoxYMax,PredictedIoU,Clicks"
    lines = [header]
    for label, box in (("/m/01yrx", (0.1, 0.5, 0.1, 0.6)), ("/m/02crq1", (0.0, 1.0, 0.5, 1.0))):
        name = f"0001eeaf_{label[1:].replace('/', '')}_ab12.png"
        mask = Image.new("1", (240, 160))  # masks are stored at another size than the picture
        corners = (box[0] * 240, box[2] * 160, box[1] * 240 - 1, box[3] * 160 - 1)
        ImageDraw.Draw(mask).rectangle(corners, fill=1)
        file = io.BytesIO()
        mask.save(file, "PNG")
        put(folder / "masks" / name, file.getvalue())
        sides = ",".join(map(str, (box[0], box[1], box[2], box[3])))
        lines.append(f"{name},0001eeaf,{label},ab12,{sides},0.9,")
    put(folder / "train-annotations-object-segmentation.csv", "\n".join(lines) + "\n")
    return folder


ALPACA = [
    {
        "instruction": "Describe the body of a cat.",
        "input": "",
        "output": "A cat typically has a compact, flexible body, covered in soft fur.",
    },
    {
        "instruction": "Rewrite the sentence.",
        "input": "The dog chased the red ball.",
        "output": "The red ball was chased.",
    },
    {"instruction": "Add.", "input": "1 + 1", "output": "2"},
]


def alpaca(folder: Path) -> Path:
    put(folder / "alpaca_data.json", ALPACA)
    return folder
