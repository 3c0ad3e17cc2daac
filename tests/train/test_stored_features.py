"""Training reads stored features, and refuses stores that do not fit the run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codi2.config import DEBUG
from codi2.errors import DataError
from codi2.processes import ALONE
from codi2.train.features.encode import encode_set
from codi2.train.features.store import FeatureStore

from .stores import encoding, pieces_of


@pytest.fixture
def data(task_set: Path) -> Path:
    return task_set


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
    encode_set(made, ALONE, print_line=lambda _: None)
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
    encode_set(made, ALONE, print_line=lambda _: None)
    one = encoding(data, features=1, out=tmp_path / "one")
    encode_set(one, ALONE, print_line=lambda _: None)
    assert "has 1 features of each image, but debug reads 3; run" in refusal(data, features=str(one.folder))
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
    encode_set(made, ALONE, print_line=lambda _: None)
    for path in (made.folder / "lookup").iterdir():
        np.save(path, np.load(path)[:, :0])
    assert "is in none of" in refusal(data, features=str(made.folder))


def test_a_model_of_one_feature_reads_a_store_of_many(data: Path, tmp_path: Path) -> None:
    from codi2.train.features.use import FeatureStores

    made = encoding(data)
    encode_set(made, ALONE, print_line=lambda _: None)
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
