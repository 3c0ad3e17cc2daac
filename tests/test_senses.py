"""Depth, thermal pictures and IMU: their files, their way through prompts, and what does not read them."""

from __future__ import annotations

import io
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from codi2 import CoDi2
from codi2.config import DEBUG, CoDi2Config, EncoderConfig
from codi2.encode.imagebind.senses import READINGS, read_depth, read_imu, read_thermal
from codi2.errors import ConfigError, MediaError, PromptError
from codi2.modalities import SENSES
from codi2.prompt.grammar import parse, render
from codi2.prompt.layout import SPECIAL_TOKENS, special_tokens
from codi2.prompt.parts import IMU, Depth, Image, Sense, Thermal
from codi2.prompt_json import from_wire, to_wire
from codi2.senses import load_as, load_files, render_sense, to_bytes

from . import bombs

DEPTH = Depth(np.linspace(0.5, 8, 48 * 64, dtype=np.float32).reshape(48, 64).round(3), "room")
THERMAL = Thermal(np.linspace(0, 1, 48 * 64, dtype=np.float32).reshape(48, 64), "street")
MOVED = IMU(np.sin(np.arange(6 * 900, dtype=np.float32).reshape(6, 900) / 50), 200.0, "walk")


def grey(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    PILImage.fromarray(values).save(file, "PNG")
    return file.getvalue()


def numbers(part: Sense) -> np.ndarray:
    match part:
        case Depth(metres=values) | Thermal(warmth=values) | IMU(readings=values):
            return values


@pytest.mark.parametrize("part", [DEPTH, THERMAL, MOVED], ids=SENSES)
def test_a_sense_survives_its_file_json_and_a_template(part: Sense) -> None:
    again = load_as(part.modality, to_bytes(part), part.name)
    assert type(again) is type(part)
    np.testing.assert_allclose(numbers(again), numbers(part), atol=1e-3)  # type: ignore[arg-type]
    (sent,) = from_wire(json.loads(json.dumps(to_wire((part,)))))
    np.testing.assert_allclose(numbers(sent), numbers(part), atol=1e-3)  # type: ignore[arg-type]
    template, media = render((part,))
    assert template == f"[{part.modality}0]" and parse(template, media) == (part,)
    assert render_sense(part).mode == "RGB"


def test_files_state_their_units(tmp_path: Path) -> None:
    depth = load_as("depth", grey(np.full((4, 4), 1500, np.uint16)))
    assert isinstance(depth, Depth) and depth.metres.max() == 1.5
    thermal = load_as("thermal", grey(np.full((4, 4), 51, np.uint8)))
    assert isinstance(thermal, Thermal) and thermal.warmth.max() == pytest.approx(0.2)
    rows = "\n".join(f"{i / 50},{i},0,0,0,0,1" for i in range(101))  # 50 readings a second, 2 s
    (tmp_path / "walk.csv").write_text(f"seconds,ax,ay,az,gx,gy,gz\n{rows}\n")
    moved = load_as("imu", tmp_path / "walk.csv")
    assert isinstance(moved, IMU) and moved.readings.shape == (6, 401) and moved.rate == 200
    assert moved.readings[0, 1] == pytest.approx(0.25) and moved.readings[5].min() == 1


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        ("depth", grey(np.ones((4, 4), np.uint8)), "has 8 bits; depth is a grey PNG of 16 bits"),
        ("depth", grey(np.zeros((4, 4), np.uint16)), "every number is 0"),
        ("depth", grey(np.zeros((4, 4, 3), np.uint8)), "has colours"),
        ("thermal", b"GIF89a", "is no PNG"),
        ("thermal", grey(np.zeros((64, 64), np.uint8))[:60], "broken PNG"),
        ("imu", b"1,2,3\n4,5,6\n7,8,9", "3 × 3; save it as CSV or .npy with 6 columns"),
        ("imu", b"a,b,c,d,e,f\n1,2,3,4,5,x\n", "no table of numbers"),
        ("imu", b"\x93NUMPY", "broken .npy"),
        ("imu", b"0,1,1,1,1,1,1\n0,1,1,1,1,1,1\n", "do not increase"),
        ("imu", b"1,2,3,4,5,6\n1,2,3,4,5,nan\n", "NaN, infinite"),
        ("imu", b"1,2,3,4,5,6\n1,2,3,4,5,-1e39\n", "beyond 32 bits"),
        ("imu", b"0,1,1,1,1,1,1\n90000,1,1,1,1,1,1\n", "lasts 90000 s"),
        ("imu", b"-1e308,1,1,1,1,1,1\n1e308,1,1,1,1,1,1\n", "lasts inf s"),
    ],
)
def test_wrong_files_get_a_sentence(kind: str, data: bytes, message: str) -> None:
    with pytest.raises(MediaError, match=message):
        load_as(kind, data, "the file")


def test_a_pickle_in_npy_is_not_loaded() -> None:
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(MediaError, match=r"a \.npy file of object; IMU is a table of plain numbers"):
        load_as("imu", file.getvalue())


@pytest.mark.parametrize(
    "chunk", ["gAMA", "cHRM", "tRNS", "iCCP", "pHYs", "acTL", "fcTL", "sRGB", "tEXt", "zTXt", "iTXt"]
)
@pytest.mark.parametrize("size", [0, 1, 3, 9])
def test_a_damaged_chunk_of_a_png_is_no_fault_of_ours(chunk: str, size: int) -> None:
    """The file is read without it, or refused in one sentence."""
    whole = grey(np.full((4, 4), 1500, np.uint16))
    body = chunk.encode() + bytes(size)
    data = whole[:33] + size.to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big") + whole[33:]
    for kind in ("depth", "thermal", ""):
        try:
            load_as(kind, data, "the file")
        except MediaError as error:
            assert "the file is" in str(error)


HEADERS = ["{", '"""', "{'descr': (", "-" * 9000 + "1", "[" * 9000, "\t1\n  2\n 3", "{[]: 1}", "1 2", "007"]
HEADERS += [
    f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': (5, 6)}}" for kind in ("<c16", "<U2", "|V8", "<M8[s]")
]
HEADERS += [
    f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}"
    for shape in ("(-1, 6)", "()", "(0, 6)", "(True, 6)", "5L")
]


@pytest.mark.parametrize("header", HEADERS, ids=[header[:60] for header in HEADERS])
@pytest.mark.parametrize("version", [1, 2, 3])
def test_whatever_the_header_of_an_npy_file_says_is_one_sentence(header: str, version: int) -> None:
    size = len(header).to_bytes(2 if version == 1 else 4, "little")
    data = b"\x93NUMPY" + bytes([version, 0]) + size + header.encode() + bytes(480)
    with pytest.raises(MediaError, match="the file is"):
        load_as("imu", data, "the file")


def test_files_are_named_or_in_order(tmp_path: Path) -> None:
    (tmp_path / "room.png").write_bytes(grey(np.full((4, 4), 1500, np.uint16)))
    assert isinstance(load_files([str(tmp_path / "room.png")])[0], Image)  # type: ignore[index]
    named = load_files([f"depth0={tmp_path / 'room.png'}", f"image0={tmp_path / 'room.png'}"])
    assert isinstance(named, dict) and isinstance(named["depth0"], Depth) and isinstance(named["image0"], Image)
    with pytest.raises(PromptError, match="name all files or none"):
        load_files([f"depth0={tmp_path / 'room.png'}", str(tmp_path / "room.png")])


def test_what_a_tower_reads() -> None:
    depth = read_depth(np.full((100, 300), 2.0, np.float32))
    assert depth.shape == (1, 224, 224)
    assert float(depth.mean()) == pytest.approx((518.857901 * 0.075 / 2 / 75 - 0.0418) / 0.0295, rel=1e-4)
    assert float(read_depth(np.zeros((9, 9), np.float32)).max()) == pytest.approx(-0.0418 / 0.0295, rel=1e-4)
    assert float(read_thermal(np.full((300, 100), 0.3, np.float32)).std()) < 1e-5
    short, long = read_imu(MOVED), read_imu(IMU(np.arange(6 * 9000, dtype=np.float32).reshape(6, 9000), 200.0))
    assert short.shape == long.shape == (3, 6, READINGS)
    assert (short[0, 0, 900:] == short[0, 0, 899]).all()
    assert long[:, 0, 0].tolist() == [0, 3500, 7000]
    assert read_imu(IMU(np.zeros((6, 500), np.float32), 50.0)).shape == (3, 6, READINGS)


def test_tokens_are_those_of_the_senses_that_a_model_has() -> None:
    assert special_tokens(SENSES)[:8] == SPECIAL_TOKENS and len(special_tokens(("imu",))) == 10
    features = {**DEBUG.encoder.num_features, "depth": 1}
    with pytest.raises(ConfigError, match="has no projection for 'depth'"):
        CoDi2Config("odd", DEBUG.llm, EncoderConfig("debug", features), DEBUG.heads, DEBUG.decoders)


def test_an_encoder_without_them_says_so() -> None:
    with pytest.raises(PromptError, match="this model cannot read depth; it can read image, audio, video, phrase"):
        CoDi2.from_pretrained("debug").generate("What is in [depth0]?", depth0=DEPTH, want="text")


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        ("depth", bombs.png(13_000, 13_000, 16, 0, rows=0), "13000 x 13000 pixels, the limit is 64 million"),
        ("thermal", bombs.png(20_000, 20_000, 8, 0, rows=0), "pixels, the limit is 64 million"),
        ("imu", bombs.npy(10**12, 6), "its header names 1000000000000 × 6 numbers"),
        ("imu", b"1,2,3,4,5,6\n" * 1_200_000, "more than 1000000 readings"),
        ("imu", b"1," * 7_100_000, "more than 1000000 readings"),
        ("imu", b"a,b,c,d,e,f\n", "holds no rows of numbers"),
    ],
)
def test_what_unfolds_too_far_is_refused_before_it_is_read(kind: str, data: bytes, reason: str) -> None:
    with pytest.raises(MediaError, match=reason):
        load_as(kind, data, "the file")
