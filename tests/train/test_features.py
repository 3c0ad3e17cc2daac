"""Features of a data set, encoded once before training: what a store holds, who encodes what, what training reads."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from codi2.config import DEBUG
from codi2.data.build import Settings, build, load_report
from codi2.data.shards import open_shards
from codi2.errors import ConfigError, DataError, OutputError
from codi2.evaluate.processes import ALONE, Processes
from codi2.folders import locked
from codi2.train.encoded import items_of, name_of
from codi2.train.features import index
from codi2.train.features.encode import EncodingOptions, EncodingRun, default_folder, encode_set, job_of
from codi2.train.features.makers import load_maker
from codi2.train.features.store import EncodingJob, FeatureStore

HERE = EncodingOptions(workers=0)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the data set of this file's tests is kept, once one has built it."""
    return tmp_path_factory.mktemp("set") / "tables"


@pytest.fixture
def data(rich_home: Path, once: Path, tmp_path: Path) -> Path:
    """Pictures, sounds and clips that occur in many records and shards."""
    if not once.is_dir():
        build(Settings("tables", str(rich_home / "data" / "tiny"), str(once), options={"records": 76}))
    return Path(shutil.copytree(once, tmp_path / "tables"))


def encoding(data: Path, kind: str = "features", features: int | None = None, out: Path | None = None) -> EncodingRun:
    job = job_of(kind, data, "debug", features)
    return EncodingRun(job, out or default_folder(job), HERE)


def pieces_of(data: Path, reads_words: bool = True) -> dict[bytes, Any]:
    """Name → medium or phrase of all that the records have."""
    shards = open_shards(data, load_report(data))
    return {name_of(p): p for shard in shards for record in shard for _, p in items_of(record, reads_words)}


def names_in(folder: Path) -> list[bytes]:
    """The names in the shards of a store, as often as they are there."""
    files = [load_file(path) for path in sorted((folder / "shards").glob("*.safetensors"))]
    return [bytes(row.tolist()) for file in files for key in file if key.endswith(".names") for row in file[key]]


def decoded(piece: Any) -> Any:
    return piece.decode() if hasattr(piece, "decode") else piece


def test_every_medium_is_in_the_store_once_with_the_features_of_its_encoder(data: Path) -> None:
    made = encoding(data)
    plan = encode_set(made, ALONE, tell=lambda _: None)
    pieces, names = pieces_of(data), names_in(made.folder)
    occurrences = sum(len(items_of(record, True)) for shard in open_shards(data, load_report(data)) for record in shard)
    assert occurrences > 1.2 * len(pieces)  # or nothing would be learned here of media that occur again
    assert len(names) == len(set(names)) == sum(plan.media.values()) and set(names) == set(pieces)
    store, encoder = FeatureStore(made.folder), load_maker("features", "debug")._encoder
    for name, piece in pieces.items():
        value = store.read(name, piece.modality)
        assert value is not None and value.shape == (DEBUG.encoder.num_features[piece.modality], 16)
        assert torch.equal(value, encoder([decoded(piece)]).values[0].half())
    assert store.read(b"\0" * 16, "image") is None


def test_names_are_found_whatever_the_size_of_shards_and_passes(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "SHARD_BYTES", 500)  # a few media each
    monkeypatch.setattr(index.plan, "__defaults__", (20,))
    made = encoding(data)
    plan = encode_set(made, ALONE, tell=lambda _: None)
    assert plan.bits >= 3 and len(plan.shards) > 2 * len(load_report(data)["shards"])
    assert all(path.stat().st_size < 4000 for path in (made.folder / "shards").iterdir())
    store, encoder = FeatureStore(made.folder), load_maker("features", "debug")._encoder
    for name, piece in pieces_of(data).items():
        assert torch.equal(store.read(name, piece.modality), encoder([decoded(piece)]).values[0].half())


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_divide_the_media_and_none_is_encoded_twice(
    data: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process in its turn, with the others' shards still missing; and media are read in worker processes."""
    whole = encoding(data, out=tmp_path / "whole")
    encode_set(whole, ALONE, tell=lambda _: None)
    from codi2.train.features.worker import encode_shards

    made = EncodingRun(whole.job, tmp_path / "divided", EncodingOptions(workers=workers))
    encode_set(made, ALONE, only_plan=True, tell=lambda _: None)
    shards = [shard for shard, _ in index.shards_of(data)]
    shares = [Processes(rank, 3).share(shards) for rank in range(3)]
    counts = [sum(encode_shards(made.job, made.folder, share, made.how)) for share in shares]
    assert all(counts) and sum(counts) == len(pieces_of(data)) == len(names_in(made.folder))
    files = [{p.name: p.read_bytes() for p in (f / "shards").iterdir()} for f in (whole.folder, made.folder)]
    assert files[0] == files[1]


def test_what_is_finished_stays_and_only_the_rest_is_encoded(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = encoding(data)
    encode_set(made, ALONE, tell=lambda _: None)
    paths = sorted((made.folder / "shards").iterdir())
    before = {path: path.read_bytes() for path in paths}
    paths[0].unlink()
    paths[1].write_bytes(before[paths[1]][:-7])  # half written, as by a copy that was cut off
    (made.folder / "shards" / ".left.safetensors").write_bytes(b"x")  # by a run that was killed
    calls: list[int] = []
    maker = load_maker("features", "debug")
    make = type(maker).make
    monkeypatch.setattr(type(maker), "make", lambda self, m, n: calls.append(len(n)) or make(self, m, n))
    damage = r"is (missing|damaged or .*); run `codi2 data encode .*tables --model debug` again"
    with pytest.raises(DataError, match=damage):
        store = FeatureStore(made.folder)
        for name, piece in pieces_of(data).items():
            store.read(name, piece.modality)
    encode_set(made, ALONE, tell=lambda _: None)
    count = sum(len(v) for p in paths[:2] for k, v in load_file(p).items() if k.endswith(".names"))
    assert sum(calls) == count
    assert {path: path.read_bytes() for path in sorted((made.folder / "shards").iterdir())} == before


def test_a_set_that_has_grown_keeps_its_shards(rich_home: Path, tmp_path: Path) -> None:
    def settings(records: int) -> Settings:
        out = str(tmp_path / f"set{records}")
        return Settings("tables", str(rich_home / "data" / "tiny"), out, options={"records": records})

    build(settings(38))
    small, large = tmp_path / "set38", tmp_path / "set76"
    first = encoding(small, out=tmp_path / "store")
    encode_set(first, ALONE, tell=lambda _: None)
    build(settings(76))
    second = encoding(large, out=tmp_path / "store")
    encode_set(second, ALONE, tell=lambda _: None)
    assert set(names_in(tmp_path / "store")) == set(pieces_of(large))
    assert FeatureStore(tmp_path / "store").job.report == second.job.report


def test_sizes_are_told_before_anything_is_encoded(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    made = encoding(data)
    encode_set(made, ALONE, only_plan=True, tell=said.append)
    assert not (made.folder / "shards").exists()
    pieces = pieces_of(data)
    need = sum(2 * 16 * DEBUG.encoder.num_features[piece.modality] for piece in pieces.values())
    assert said[0].startswith("About ") and f"{need / 1000:.3g} kB" in said[1]
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": need - 1}))
    with pytest.raises(OutputError, match=r"needs .* kB more, but its disk has .* kB free; choose another --out or"):
        encode_set(made, ALONE, tell=said.append)


def test_fewer_features_are_the_first(data: Path) -> None:
    three, one = encoding(data), encoding(data, features=1)
    assert three.folder != one.folder and three.folder.parent == data / "features"
    for made in (three, one):
        encode_set(made, ALONE, tell=lambda _: None)
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
    job = EncodingJob("features", "laion", "paper", "", {"image": (1, 1024)}, False, "")
    assert 400e6 * job.bytes_of("image") == pytest.approx(0.82e12, rel=0.01)  # as docs/data.md has it


@pytest.mark.parametrize("modality", ["image", "audio", "video"])
def test_latents_are_those_of_the_decoders_autoencoder(data: Path, modality: str) -> None:
    made = encoding(data, f"latents-{modality}")
    encode_set(made, ALONE, tell=lambda _: None)
    store, codec = FeatureStore(made.folder), load_maker(made.job.kind, "debug").network
    pieces = {name: piece for name, piece in pieces_of(data).items() if piece.modality == modality}
    assert set(names_in(made.folder)) == set(pieces)
    for name, piece in list(pieces.items())[:10]:
        with torch.inference_mode():
            latents = codec.encode(codec.to_tensor([decoded(piece)]))[0]
        assert torch.equal(store.read(name, modality), latents.half())
    assert made.folder.name.startswith(f"latents-{modality}-") and " --latents`" in store.again


# What cannot be: one sentence with the name and the command.


def test_folders_that_do_not_fit_are_refused(data: Path, tmp_path: Path) -> None:
    made = encoding(data, out=tmp_path / "store")
    encode_set(made, ALONE, tell=lambda _: None)
    with pytest.raises(DataError, match=r"store holds features by debug .* choose another --out, or delete"):
        encode_set(encoding(data, features=1, out=tmp_path / "store"), ALONE, tell=lambda _: None)
    with pytest.raises(DataError, match=r"is not empty and is not a store of features; choose another --out"):
        encode_set(encoding(data, out=data), ALONE, tell=lambda _: None)
    with locked(tmp_path / "store", "an encoding"), pytest.raises(OutputError, match=r"is in use by an encoding"):
        encode_set(made, ALONE, tell=lambda _: None)
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
        encode_set(encoding(data), ALONE, tell=lambda _: None)


def test_the_command_refuses_what_means_nothing(cli: Any, data: Path) -> None:
    for arguments, message in (
        (("--bits", "8"), "--bits has no effect on an encoder; leave it out"),
        (("--latents", "--out", "o"), "leave --out or --latents out"),
    ):
        run = cli("data", "encode", data, "--model", "debug", *arguments)
        assert run.returncode == 2 and message in run.stderr and len(run.stderr.strip().splitlines()) == 1


# Several processes, clusters, kills.


def command(data: Path, out: Path, *options: str) -> list[str]:
    return ["-m", "codi2", "data", "encode", str(data), "--model", "debug", "--out", str(out), *options]


def run_in(processes: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    start = [sys.executable, *(launcher if processes > 1 else []), *arguments]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(start, capture_output=True, text=True, env=env, timeout=300)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "shards").iterdir()}


@pytest.mark.slow
def test_launched_processes_make_the_store_that_one_makes(data: Path, tmp_path: Path) -> None:
    for count in (1, 2):
        done = run_in(count, *command(data, tmp_path / str(count), "--workers", "1"))
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("The features are in") == 1
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert FeatureStore(tmp_path / "2").read(*next((n, p.modality) for n, p in pieces_of(data).items())) is not None


@pytest.mark.slow
def test_ray_makes_the_store_that_one_process_makes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    encode_set(encoding(data, out=tmp_path / "one"), ALONE, tell=lambda _: None)
    done = run_in(1, *command(data, tmp_path / "ray", "--ray", "local"))
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "one") == contents(tmp_path / "ray")


@pytest.mark.slow
def test_a_killed_run_continues_where_it_stopped(data: Path, tmp_path: Path) -> None:
    """Kills at random moments, most of them while shards are written; no finished shard is written again."""
    whole = encoding(data, out=tmp_path / "whole")
    encode_set(whole, ALONE, tell=lambda _: None)
    slow = (
        "import time, sys; from codi2.train.features import worker, index, makers; index.SHARD_BYTES = 2000\n"
        "make = makers.FeatureMaker.make\n"
        "def slowly(*a): time.sleep(0.01); return make(*a)\n"
        "makers.FeatureMaker.make = slowly\n"
        "from codi2.cli import main; main()"
    )
    start = [sys.executable, "-c", slow, *command(data, tmp_path / "cut", "--workers", "1")[2:]]
    env, draw = os.environ | {"OMP_NUM_THREADS": "1"}, random.Random(0)
    written: dict[Path, float] = {}
    shards = tmp_path / "cut" / "shards"
    for _ in range(4):
        run = subprocess.Popen(start, env=env, stdout=subprocess.DEVNULL, start_new_session=True)
        more = len(written) + draw.randint(1, 3)
        while run.poll() is None and len(list(shards.glob("[!.]*"))) < more:
            time.sleep(0.002)
        os.killpg(run.pid, signal.SIGKILL)
        run.wait(timeout=60)
        assert not (tmp_path / "cut" / "features.json").exists()
        now = {path: path.stat().st_mtime_ns for path in shards.glob("[!.]*")}
        assert written.items() <= now.items() and len(now) >= more - 1
        written = now
    assert len(written) >= 4
    done = subprocess.run(start, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert written.items() <= {path: path.stat().st_mtime_ns for path in shards.iterdir()}.items()
    assert not list(shards.glob(".*")) and sorted(names_in(tmp_path / "cut")) == sorted(names_in(whole.folder))
    for name, piece in pieces_of(data).items():
        one, other = (FeatureStore(folder).read(name, piece.modality) for folder in (tmp_path / "cut", whole.folder))
        assert torch.equal(one, other)


# What training reads.


def config_of(data: Path, **options: Any) -> Any:
    from codi2.train.config import TrainConfig

    sets = {str(data): 1.0}
    options = {"model": "debug", "data": sets, "held_out": sets, "lookahead": 2, "diffusion_share": 0.0} | options
    return TrainConfig("llm", 3, 4, 1e-3, warmup_steps=1, num_workers=0, options=options)


@pytest.fixture
def no_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    from codi2.encode.debug import DebugEncoder

    monkeypatch.setattr(DebugEncoder, "forward", lambda *_: pytest.fail("the encoder is asked"))


def test_training_reads_the_store_and_nothing_else(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    from codi2.train.loop import train
    from codi2.train.parts import llm

    plain = train(llm.build(config_of(data)), config_of(data), tmp_path / "plain")
    said = capsys.readouterr().err
    assert said.count("encoded during training") == 1 and f"codi2 data encode {data} --model debug" in said
    made = encoding(data)
    encode_set(made, ALONE, tell=lambda _: None)
    for path in (tmp_path / "home" / "cache" / "encoded").glob("*"):
        path.unlink()
    request.getfixturevalue("no_encoder")
    named = config_of(data, features=str(made.folder))
    for number, config in enumerate((config_of(data), named)):
        assert train(llm.build(config), config, tmp_path / str(number)) == plain
    assert "encoded during training" not in capsys.readouterr().err


def refusal(data: Path, **options: Any) -> str:
    from codi2.train.parts import llm

    with pytest.raises(DataError) as caught:
        recipe = llm.build(config_of(data, **options))
        for step in range(3):
            recipe.batch(step)
    return str(caught.value)


def test_stores_that_do_not_fit_the_run_are_refused(data: Path, rich_home: Path, tmp_path: Path) -> None:
    made = encoding(data, out=tmp_path / "store")
    encode_set(made, ALONE, tell=lambda _: None)
    one = encoding(data, features=1, out=tmp_path / "one")
    encode_set(one, ALONE, tell=lambda _: None)
    latents = encoding(data, "latents-image", out=tmp_path / "latents")
    encode_set(latents, ALONE, tell=lambda _: None)
    assert "has 1 features of each image, but debug reads 3; run" in refusal(data, features=str(one.folder))
    assert "was encoded by an autoencoder" in refusal(data, features=str(latents.folder))
    assert "nowhere holds no features" in refusal(data, features=str(tmp_path / "nowhere"))
    report = made.folder / "features.json"
    about = json.loads(report.read_text())
    report.write_text(json.dumps(about | {"key": "0123456789ab", "model": "paper"}))
    said = refusal(data, features=str(made.folder))
    assert "was encoded by the encoder of paper (key 0123456789ab), but debug reads the features of another" in said
    report.write_text(json.dumps(about | {"report": "0" * 64}))
    said = refusal(data, features=str(made.folder))
    assert "was built again after" in said and "--out" in said
    report.write_text(json.dumps(about | {"report": "0" * 64, "data": "sets/other"}))
    assert "which this run does not read; remove it" in refusal(data, features=str(made.folder))
    report.write_text(json.dumps(about))
    for path in (made.folder / "shards").iterdir():
        path.write_bytes(path.read_bytes()[:-9])
    assert "is damaged or half written" in refusal(data, features=str(made.folder))
    encode_set(made, ALONE, tell=lambda _: None)
    for path in (made.folder / "lookup").iterdir():
        np.save(path, np.load(path)[:, :0])
    assert "is in none of" in refusal(data, features=str(made.folder))


def test_decoders_train_on_stored_latents(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from codi2.train.config import TrainConfig
    from codi2.train.parts.decoder import DecoderRecipe

    monkeypatch.setattr(DecoderRecipe, "_codec", lambda *_: load_maker("latents-image", "debug").network)
    options = {"model": "debug", "data": {str(data): 1.0}, "modality": "image", "channels": (8, 16)}
    config = TrainConfig("image_decoder", 2, 6, 1e-3, options=options)
    plain = DecoderRecipe(config).batch(0)
    encode_set(encoding(data, "latents-image"), ALONE, tell=lambda _: None)
    recipe = DecoderRecipe(config)
    monkeypatch.setattr(type(recipe.decoder.codec), "encode", lambda *_: pytest.fail("a medium is encoded"))
    stored = recipe.batch(0)
    assert plain.source.any() and torch.allclose(stored.source, plain.source, atol=2e-3)
    assert torch.allclose(stored.latents, plain.latents, atol=2e-3) and torch.equal(stored.features, plain.features)
    assert all(torch.isfinite(value) for value in recipe.losses(recipe.model, stored).values())


def test_a_model_of_one_feature_reads_a_store_of_many(data: Path, tmp_path: Path) -> None:
    from codi2.train.features.use import FeatureStores

    made = encoding(data)
    encode_set(made, ALONE, tell=lambda _: None)
    stores = FeatureStores(
        [FeatureStore(made.folder)], dict.fromkeys(("image", "audio", "video", "phrase"), 1), whole=True
    )
    name, piece = next(iter(pieces_of(data).items()))
    assert stores.read(name, piece.modality).shape == (1, 16)


def test_keys_tell_encoders_apart_and_not_their_files() -> None:
    from dataclasses import replace

    from codi2.encode.debug import DebugEncoder
    from codi2.train.features.makers import encoder_key

    config = DEBUG.encoder
    encoders: Sequence[Any] = [DebugEncoder(16, config.num_features, seed) for seed in (0, 0, 1)]
    keys = [encoder_key(encoder, config) for encoder in encoders]
    assert keys[0] == keys[1] != keys[2]
    assert encoder_key(encoders[0], replace(config, norm=2.0)) != keys[0]
    assert encoder_key(encoders[0], replace(config, id="elsewhere")) == keys[0]
