"""`codi2 new`: a model with other components, which doctor, train and generate take."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from task_set import write_task_set
from typer.testing import CliRunner, Result

from codi2 import CoDi2
from codi2.checkpoint import locate
from codi2.cli import app
from codi2.config import DEBUG, FORMAT, LANGUAGE, PAPER, TINY
from codi2.derive import derived, kept_parts, with_untrained
from codi2.diffuse.load import save_decoder
from codi2.errors import ConfigError, WeightsError
from codi2.media import load
from codi2.sizes import check_fresh

TESTS = Path(__file__).parents[1]


def helpers(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, TESTS / path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def settings(values: dict[str, Any]) -> list[str]:
    return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Small random components of published classes, as folders: the fields that name them."""
    from codi2.llm.backbone import byte_tokenizer, random_llm

    folder = tmp_path_factory.mktemp("published")
    random_llm().save_pretrained(folder / "llm")
    byte_tokenizer().save_pretrained(folder / "llm")
    towers, pipelines = helpers("encode/small_towers.py"), helpers("diffuse/families/published.py")
    unclip = pipelines.unclip_pipeline(folder / "unclip", 16)
    for name, part in unclip.components.items():
        if name in (
            "unet",
            "vae",
            "image_normalizer",
            "image_noising_scheduler",
            "scheduler",
            "tokenizer",
            "text_encoder",
        ):
            part.save_pretrained(folder / "unclip" / name)
    (folder / "unclip" / "model_index.json").write_text('{"_class_name": "StableUnCLIPImg2ImgPipeline"}')
    return {
        "llm.kind": "hub",
        "llm.id": str(folder / "llm"),
        "encoder.kind": "towers",
        "encoder.towers.image": str(towers.picture_tower(folder / "siglip")),
        "encoder.towers.audio": str(towers.sound_tower(folder / "clap")),
        "encoder.reads_words": "false",
        "heads.feature_dim": "28",
        "encoder.num_features": '{"image":1,"audio":1,"video":1,"phrase":1}',
        "heads.num_slots": '{"image":1,"audio":1,"video":1}',
        "joint": "null",
        "decoders.image.kind": "pipeline",
        "decoders.image.id": str(folder / "unclip"),
        "decoders.image.feature_norm": "null",
    }


@pytest.mark.slow
def test_published_components_are_exchanged_and_the_model_answers(published: dict[str, str], tmp_path: Path) -> None:
    done = run("new", tmp_path / "mine", "--from", "debug", *settings(published))
    assert done.exit_code == 0, done.stderr
    assert "takes embeddings of 16 numbers, and features of 28 reach it through a linear map" in done.stdout
    written = json.loads((tmp_path / "mine" / "config.json").read_text())
    assert written["format_version"] == FORMAT and written["name"] == "mine"
    assert written["untrained"] == [LANGUAGE, "image", "audio", "video"]

    done = run("doctor", "--model", tmp_path / "mine", "--json", tmp_path / "doctor.json")
    assert done.exit_code == 0, done.output
    figures = json.loads((tmp_path / "doctor.json").read_text())
    assert len(figures["fit"]) == 1 and {finding["state"] for finding in figures["weights"]} == {"found", "missing"}

    media = TESTS.parent / "examples" / "media"
    generate = ("generate", "Draw [image0].", media / "tiger.png", "--want", "image", "--model", tmp_path / "mine")
    done = run(*generate, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert load(tmp_path / "out" / "reply-0.png").modality == "image"
    assert "the projections of 'mine' are untrained" in done.stderr and "codi2 transfer" in done.stderr

    transfer = ("transfer", media / "crow.wav", "--model", tmp_path / "mine", "--out", tmp_path / "out")
    done = run(*transfer, "--to", "image")
    assert done.exit_code == 2 and "head that is not trained yet" in done.stderr
    done = run(*transfer, "--to", "video")
    assert done.exit_code == 2 and "no space that holds both audio and video" in done.stderr

    # with a training run of the decoder, its head is there
    save_decoder(CoDi2.from_pretrained(tmp_path / "mine").decoders["image"], tmp_path / "run")
    part = ("--part", f"image={tmp_path / 'run'}")
    done = run("new", tmp_path / "taught", "--from", "debug", *settings(published), *part)
    assert done.exit_code == 0 and "linear map" not in done.stdout and "copied image" in done.stdout
    done = run("transfer", media / "tiger.png", "--to", "image", "--model", tmp_path / "taught", "--out", tmp_path)
    assert done.exit_code == 0, done.stderr
    done = run("new", tmp_path / "more", "--from", "debug", *settings(published), "--part", f"image={tmp_path}")
    assert done.exit_code == 2 and "holds no trained.safetensors" in done.stderr
    done = run("new", tmp_path / "more", "--from", "debug", "--part", "image=x")
    assert done.exit_code == 2 and "write MODALITY=FOLDER" in done.stderr


@pytest.mark.slow
def test_a_derived_model_trains_and_what_is_trained_loads(rich_home: Path, tmp_path: Path) -> None:
    from codi2.train.config import TrainConfig
    from codi2.train.loop import train
    from codi2.train.parts import llm

    changed = {"heads.hidden": 24, "llm.lora_rank": 2, "decoders.image.num_inference_steps": 1}
    assert run("new", tmp_path / "mine", "--from", "debug", *settings(changed)).exit_code == 0
    data = write_task_set(rich_home, tmp_path / "tasks", 24)
    options = {"model": str(tmp_path / "mine"), "data": data, "held_out": data, "diffusion_share": 0.0}
    config = TrainConfig("llm", 2, 4, 1e-3, warmup_steps=1, num_workers=0, trackers=[], options=options)
    train(llm.build(config), config, tmp_path / "run")
    config, folder = locate(tmp_path / "run" / "export")
    assert config.untrained == ("image", "audio", "video") and folder is not None
    model = CoDi2.from_pretrained(folder)
    assert model.generate("Draw a cat.", want="image").images
    assert model.config.heads.hidden == 24

    # from it, what still fits is copied
    done = run("new", tmp_path / "next", "--from", folder, "--set", "llm.max_length=512")
    assert done.exit_code == 0 and "copied language, encoder" in done.stdout
    a, b = (CoDi2.from_pretrained(path).mllm.output_projection.state_dict() for path in (folder, tmp_path / "next"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_saving_a_whole_model_leaves_nothing_untrained(tmp_path: Path) -> None:
    assert run("new", tmp_path / "mine", "--from", "debug").exit_code == 0
    CoDi2.from_pretrained(tmp_path / "mine").save_pretrained(tmp_path / "saved")
    config, _ = locate(tmp_path / "saved")
    assert config.untrained == ()
    assert CoDi2.from_pretrained(tmp_path / "saved").generate("Hello", want="audio").sounds


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"llm.idd": "x"}, "llm.idd"),
        ({"lm.id": "x"}, "the config has no lm"),
        ({"llm.id.x": "x"}, "llm.id is a value without fields"),
        ({"llm.lora_rank": "many"}, "llm.lora_rank"),
        (
            {"heads.feature_dim": 17},
            "gives vectors of 28 numbers, and heads.feature_dim is 17; set heads.feature_dim=28",
        ),
        ({"encoder.num_features.depth": 1, "llm.senses": '["depth"]', "heads.groups.depth": "image"}, "'depth', but"),
        ({"encoder.num_features.image": 5}, "set encoder.num_features.image=1"),
        ({"decoders.audio.kind": "pipeline", "decoders.audio.id": "@decoders.image.id"}, "which makes image"),
        ({"decoders.image.id": "@llm.id"}, "a folder without model_index.json"),
        ({"decoders.image.id": "/no/where"}, "neither a folder nor owner/name"),
        ({"llm.id": "@encoder.towers.image"}, "which is no causal language model"),
        ({"llm.chat_template": "x"}, "llm.chat_template"),
        ({"encoder.towers.image": "@llm.id"}, "a llama; choose one of"),
    ],
)
def test_what_does_not_fit_is_one_sentence_and_writes_nothing(
    changes: dict[str, Any], sentence: str, published: dict[str, str], tmp_path: Path
) -> None:
    values = {k: published[v[1:]] if str(v).startswith("@") else v for k, v in changes.items()}
    done = run("new", tmp_path / "mine", "--from", "debug", *settings({**published, **values}))
    assert done.exit_code == 2, done.output
    assert sentence in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "mine").exists()


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    done = run("new", tmp_path / "mine", "--from", "debug")
    assert done.exit_code == 2 and "exists" in done.stderr and not list((tmp_path / "mine").iterdir())


def test_parts_that_fit_are_kept() -> None:
    trained = replace(DEBUG, untrained=("audio",))
    assert kept_parts(trained, trained) == [LANGUAGE, "image", "video", "encoder"]
    other_llm = derived(trained, ["llm.kind=hub", "llm.id=x"], "x")
    assert kept_parts(trained, other_llm) == ["image", "video", "encoder"]
    other_decoder = derived(trained, ["decoders.image.kind=pipeline"], "x")
    assert kept_parts(trained, other_decoder) == [LANGUAGE, "video", "encoder"]
    assert with_untrained(trained, other_decoder, weights=True)[0].untrained == ("image", "audio")
    assert kept_parts(trained, derived(trained, ["heads.feature_dim=8"], "x")) == []
    with pytest.raises(ConfigError, match="decoder of kind 'tiny' has no weights"):
        with_untrained(TINY, derived(TINY, ["heads.num_slots.image=2"], "x"), weights=True)
    with pytest.raises(ConfigError, match="the encoder 'tiny'"):
        with_untrained(TINY, derived(TINY, ["heads.feature_dim=8"], "x"), weights=True)


def test_entries_are_taken_out_by_null() -> None:
    still = derived(PAPER, ["decoders.video=null", "joint=null", "untrained=[]"], "still")
    assert list(still.decoders) == ["image", "audio"] and still.joint is None
    assert still.decoders["image"].id == PAPER.decoders["image"].id


def test_a_model_of_an_older_format_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    about = json.loads(DEBUG.to_json())
    older = {
        **about,
        "heads": {**about["heads"], "copies": 8},
        "format_version": 1,
    }  # with a key that is no longer known
    (tmp_path / "old" / "config.json").write_text(json.dumps(older))
    with pytest.raises(ConfigError, match="format_version is 1, this version of codi2 reads 2"):
        locate(tmp_path / "old")
    for command in (
        ["generate", "A cat", "--out", tmp_path / "out"],
        ["doctor"],
        ["serve", "--data", tmp_path / "data"],
    ):
        done = run(*command, "--model", tmp_path / "old")
        (sentence,) = done.stderr.strip().splitlines()
        assert done.exit_code == 2 and str(tmp_path / "old") in sentence
        assert "format_version is 1" in sentence and "use the version that wrote the model" in sentence


def test_a_large_part_without_weights_is_refused(tmp_path: Path) -> None:
    assert run("new", tmp_path / "mine", "--from", "debug").exit_code == 0
    path = tmp_path / "mine" / "config.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "llm": {**about["llm"], "lora_rank": 1_000_000}}))
    with pytest.raises(WeightsError, match=r"llm\.lora_rank is 1,000,000, at most"):
        CoDi2.from_pretrained(tmp_path / "mine")
    with pytest.raises(WeightsError, match=r"the config of x asks for more than .* numbers in parts that have no"):
        check_fresh(lambda: torch.nn.Linear(1_000_000, 1_000_000), "the config of x")
    check_fresh(lambda: torch.nn.Linear(10_000, 10_000), "the config of x")
