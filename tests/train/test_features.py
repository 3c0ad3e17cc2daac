"""Features of a data set, encoded once before training: the contents of a store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from task_set import write_task_set

from codi2.config import DEBUG
from codi2.data.sets import load_report
from codi2.data.shards import open_shards
from codi2.errors import ConfigError, DataError, OutputError
from codi2.folders import locked
from codi2.processes import ALONE, Processes
from codi2.train.encoded import items_of
from codi2.train.features import index
from codi2.train.features.encode import EncodingOptions, EncodingRun, encode_set
from codi2.train.features.makers import load_maker
from codi2.train.features.store import EncodingJob, FeatureStore

from .stores import decoded, encoding, names_in, pieces_of


@pytest.fixture
def data(task_set: Path) -> Path:
    return task_set


def test_every_medium_is_in_the_store_once_with_the_features_of_its_encoder(data: Path) -> None:
    made = encoding(data)
    plan = encode_set(made, ALONE, print_line=lambda _: None)
    pieces, names = pieces_of(data), names_in(made.folder)
    occurrences = sum(len(items_of(record, True)) for shard in open_shards(data, load_report(data)) for record in shard)
    assert occurrences > 1.2 * len(pieces)  # or nothing would be learned here of media that occur again
    assert len(names) == len(set(names)) == sum(plan.media.values()) and set(names) == set(pieces)
    store, encoder = FeatureStore(made.folder), load_maker("debug").encoder
    for name, piece in pieces.items():
        value = store.read(name, piece.modality)
        assert value is not None and value.shape == (DEBUG.encoder.num_features[piece.modality], 16)
        assert torch.equal(value, encoder([decoded(piece)])[0].half())
    assert store.read(b"\0" * 16, "image") is None


def test_names_are_found_whatever_the_size_of_shards_and_passes(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "SHARD_BYTES", 500)  # a few media each
    monkeypatch.setattr(index.plan, "__defaults__", (20,))
    made = encoding(data)
    plan = encode_set(made, ALONE, print_line=lambda _: None)
    assert plan.bits >= 3 and len(plan.shards) > 2 * len(load_report(data)["shards"])
    assert all(path.stat().st_size < 4000 for path in (made.folder / "shards").iterdir())
    store, encoder = FeatureStore(made.folder), load_maker("debug").encoder
    for name, piece in pieces_of(data).items():
        assert torch.equal(store.read(name, piece.modality), encoder([decoded(piece)])[0].half())


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_divide_the_media_and_none_is_encoded_twice(
    data: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process in its turn, with the others' shards still missing; and media are read in worker processes."""
    whole = encoding(data, out=tmp_path / "whole")
    encode_set(whole, ALONE, print_line=lambda _: None)
    from codi2.train.features.worker import encode_shards

    made = EncodingRun(whole.job, tmp_path / "divided", EncodingOptions(workers=workers))
    encode_set(made, ALONE, only_plan=True, print_line=lambda _: None)
    shards = [shard for shard, _ in index.shards_of(data)]
    shares = [Processes(rank, 3).share(shards) for rank in range(3)]
    counts = [sum(encode_shards(made.job, made.folder, share, made.how)) for share in shares]
    assert all(counts) and sum(counts) == len(pieces_of(data)) == len(names_in(made.folder))
    files = [{p.name: p.read_bytes() for p in (f / "shards").iterdir()} for f in (whole.folder, made.folder)]
    assert files[0] == files[1]


def test_what_is_finished_stays_and_only_the_rest_is_encoded(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = encoding(data)
    encode_set(made, ALONE, print_line=lambda _: None)
    paths = sorted((made.folder / "shards").iterdir())
    before = {path: path.read_bytes() for path in paths}
    paths[0].unlink()
    paths[1].write_bytes(before[paths[1]][:-7])  # half written, as by a copy that was cut off
    (made.folder / "shards" / ".left.safetensors").write_bytes(b"x")  # by a run that was killed
    calls: list[int] = []
    maker = load_maker("debug")
    make = type(maker).make
    monkeypatch.setattr(type(maker), "make", lambda self, m, n: calls.append(len(n)) or make(self, m, n))
    damage = r"is (missing|damaged or .*); run `codi2 data encode .*tasks --model debug` again"
    with pytest.raises(DataError, match=damage):
        store = FeatureStore(made.folder)
        for name, piece in pieces_of(data).items():
            store.read(name, piece.modality)
    encode_set(made, ALONE, print_line=lambda _: None)
    count = sum(len(v) for p in paths[:2] for k, v in load_file(p).items() if k.endswith(".names"))
    assert sum(calls) == count
    assert {path: path.read_bytes() for path in sorted((made.folder / "shards").iterdir())} == before


def test_a_set_that_has_grown_keeps_its_shards(rich_home: Path, tmp_path: Path) -> None:
    small, large = tmp_path / "set38", tmp_path / "set76"
    write_task_set(rich_home, small, 38)
    first = encoding(small, out=tmp_path / "store")
    encode_set(first, ALONE, print_line=lambda _: None)
    write_task_set(rich_home, large, 76)
    second = encoding(large, out=tmp_path / "store")
    encode_set(second, ALONE, print_line=lambda _: None)
    assert set(names_in(tmp_path / "store")) == set(pieces_of(large))
    assert FeatureStore(tmp_path / "store").job.report == second.job.report


def test_sizes_are_told_before_anything_is_encoded(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    made = encoding(data)
    encode_set(made, ALONE, only_plan=True, print_line=said.append)
    assert not (made.folder / "shards").exists()
    pieces = pieces_of(data)
    need = sum(2 * 16 * DEBUG.encoder.num_features[piece.modality] for piece in pieces.values())
    assert said[0].startswith("About ") and f"{need / 1000:.3g} kB" in said[1]
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": need - 1}))
    with pytest.raises(OutputError, match=r"needs .* kB more, but its disk has .* kB free; choose another --out or"):
        encode_set(made, ALONE, print_line=said.append)


def test_fewer_features_are_the_first(data: Path) -> None:
    three, one = encoding(data), encoding(data, features=1)
    assert three.folder != one.folder and three.folder.parent == data / "features"
    for made in (three, one):
        encode_set(made, ALONE, print_line=lambda _: None)
    stores = FeatureStore(three.folder), FeatureStore(one.folder)
    for name, piece in pieces_of(data).items():
        many, single = (store.read(name, piece.modality) for store in stores)
        assert torch.equal(many[:1], single)
    with pytest.raises(ConfigError, match=r"--features is 4; the encoder 'debug' gives 1 .* to 3"):
        encoding(data, features=4)


def test_imagebind_gives_any_number_of_its_tokens() -> None:
    from codi2.config import PAPER
    from codi2.train.features.makers import counts_for

    assert counts_for(PAPER.encoder, None)["image"] == 1
    assert {m: counts_for(PAPER.encoder, 257)[m] for m in ("image", "audio", "phrase")} == {
        "image": 257, "audio": 229, "phrase": 1,
    }  # fmt: skip
    assert counts_for(PAPER.encoder, 17)["video"] == 17
    job = EncodingJob("laion", "paper", "", {"image": (1, 1024)}, False, "")
    assert 400e6 * job.bytes_of("image") == pytest.approx(0.82e12, rel=0.01)  # as docs/data.md has it


def test_a_set_without_the_media_that_the_encoder_reads_has_an_empty_store(rich_home: Path, tmp_path: Path) -> None:
    data = tmp_path / "pictures"
    write_task_set(rich_home, data, 4, ["compose"])
    run = encoding(data)
    run = replace(run, job=replace(run.job, shapes={"video": (1, 16)}))
    lines: list[str] = []
    plan = encode_set(run, ALONE, print_line=lines.append)
    assert plan.media == {} and "none" in lines[-1] and names_in(run.folder) == []
    assert FeatureStore(run.folder).read(b"\0" * 16, "video") is None


# What cannot be: one sentence with the name and the command.


def test_folders_that_do_not_fit_are_refused(data: Path, tmp_path: Path) -> None:
    made = encoding(data, out=tmp_path / "store")
    encode_set(made, ALONE, print_line=lambda _: None)
    with pytest.raises(DataError, match=r"store holds features by debug .* choose another --out, or delete"):
        encode_set(encoding(data, features=1, out=tmp_path / "store"), ALONE, print_line=lambda _: None)
    with pytest.raises(DataError, match=r"is not empty and is not a store of features; choose another --out"):
        encode_set(encoding(data, out=data), ALONE, print_line=lambda _: None)
    with locked(tmp_path / "store", "an encoding"), pytest.raises(OutputError, match=r"is in use by an encoding"):
        encode_set(made, ALONE, print_line=lambda _: None)
    (tmp_path / "store" / "features.json").unlink()
    with pytest.raises(DataError, match=r"store is not finished .* to the end"):
        FeatureStore(tmp_path / "store")
    (tmp_path / "store" / "features.json").write_text('{"version": 1}')
    with pytest.raises(DataError, match=r"features.json is damaged"):
        FeatureStore(tmp_path / "store")


def test_a_damaged_medium_is_named(data: Path) -> None:
    shard = next(shard for shard, _ in index.shards_of(data) if shard.stem.startswith("image"))
    content = bytearray(shard.read_bytes())
    for at in range(len(content) - 8):
        if content[at : at + 8] == b"\x89PNG\r\n\x1a\n":
            content[at + 60 : at + 64] = b"\xff\xff\xff\xff"
            content[at + 1 : at + 4] = b"XXX"
    shard.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"image-000000.tar has a damaged medium .*; delete the shard and build again"):
        encode_set(encoding(data), ALONE, print_line=lambda _: None)
