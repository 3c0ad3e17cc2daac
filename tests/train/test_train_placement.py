"""The options of `codi2 train` that say where a run is placed: they go before the config's, and change no result."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from codi2.cli import app
from codi2.errors import ConfigError
from codi2.placement import Placement
from codi2.train import run
from codi2.train.config import TrainConfig, load_config
from codi2.train.place import choose_device, placement_of, with_placement
from codi2.train.recipe import is_finished

SMALL = """
part = "audio_features"
steps = 2
batch_size = 4
learning_rate = 1e-3
num_workers = 0
trackers = []

[options]
channels = [8, 8, 8, 8]
latent_channels = 32
"""
PLACED = SMALL + '\n[options.placement]\ndevice = "cpu"\ndtype = "float16"\n'


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Two parts; the second's config says where it is placed."""
    folder = tmp_path / "recipe"
    folder.mkdir()
    (folder / "01_first.toml").write_text(SMALL)
    (folder / "02_second.toml").write_text(PLACED)
    return folder


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[TrainConfig]]:
    """The configs that would be trained, in place of training."""
    configs: list[TrainConfig] = []

    def train(recipe: Any, config: TrainConfig, *others: Any) -> dict[str, float]:
        configs.append(config)
        return {}

    monkeypatch.setattr("codi2.train.loop.train", train)
    yield configs


def trains(*words: Any) -> Any:
    return CliRunner().invoke(app, ["train", *map(str, words)])


def test_options_go_before_the_configs(trained: list[TrainConfig], recipe: Path, home: Path, tmp_path: Path) -> None:
    one = recipe / "02_second.toml"
    for words in ((), ("--dtype", "bfloat16", "--compile")):
        done = trains(one, "--out", tmp_path / "out", *words)
        assert done.exit_code == 0, done.output
    plain, given = map(placement_of, trained)
    assert plain == Placement("cpu", "float16") and given == Placement("cpu", "bfloat16", compile=True)


def test_options_are_of_every_part_of_a_recipe(
    trained: list[TrainConfig], recipe: Path, home: Path, tmp_path: Path
) -> None:
    done = trains(recipe, "--out", tmp_path / "out", "--device", "cpu", "--dtype", "bfloat16", "--steps", 1)
    assert done.exit_code == 0, done.output
    assert [placement_of(config) for config in trained] == [Placement("cpu", "bfloat16")] * 2
    assert [config.steps for config in trained] == [1, 1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--device", "cuda:3"], "the device is 'cuda:3', but PyTorch"),
        (["--device", "tpu"], "the device is 'tpu'; expected cpu, cuda, cuda:1 or mps"),
        (["--offload"], "No such option: --offload"),
        (["--bits", "4"], "bits is 4, but the part audio_features holds no language model; leave --bits"),
    ],
)
def test_what_a_run_cannot_have_is_refused_before_anything_is_loaded(
    words: list[str], says: str, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("codi2.train.import_module", lambda name: pytest.fail("a part was loaded"))
    for config in (recipe, recipe / "01_first.toml"):
        done = trains(config, "--out", tmp_path / "out", *words)
        assert done.exit_code == 2 and says in " ".join(done.output.split()), done.output
    assert not (tmp_path / "out").exists()


def test_what_is_of_one_part_is_refused_for_a_recipe(recipe: Path, tmp_path: Path) -> None:
    for words in (["--start", "weights"], ["--first-step", "2"]):
        done = trains(recipe, "--out", tmp_path / "out", *words)
        assert done.exit_code == 2 and "are for one part" in done.output, done.output


def test_the_shipped_recipe_takes_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = trains("tiny", "--out", tmp_path / "runs", "--device", "cuda")
    assert done.exit_code == 2 and "use the device cpu" in " ".join(done.output.split())


def test_where_a_run_was_placed_is_no_part_of_what_it_computed(home: Path, recipe: Path, tmp_path: Path) -> None:
    out, placed, plain = tmp_path / "out", recipe / "02_second.toml", recipe / "01_first.toml"
    run(placed, out, placement={"dtype": "bfloat16"})
    (report,) = (json.loads(path.read_text()) for path in (out / "export").rglob("training.json"))
    (state,) = (json.loads(path.read_text()) for path in (out / "checkpoints").rglob("state.json"))
    assert "placement" not in report["config"]["options"] and "placement" not in state["config"]["options"]
    assert is_finished(load_config(plain), out) and is_finished(load_config(placed), out)

    plain.write_text(SMALL.replace("steps = 2", "steps = 4"))
    run(plain, out, placement={"device": "cpu"})  # another placement continues
    assert (out / "checkpoints" / "step-0000004").is_dir()
    assert is_finished(load_config(plain), out)


def test_exports_of_earlier_versions_name_the_placement(home: Path, recipe: Path, tmp_path: Path) -> None:
    run(recipe / "01_first.toml", tmp_path / "out")
    (path,) = (tmp_path / "out" / "export").rglob("training.json")
    report = json.loads(path.read_text())
    report["config"]["options"]["placement"] = {"device": "cuda"}
    path.write_text(json.dumps(report))
    assert is_finished(load_config(recipe / "01_first.toml"), tmp_path / "out")


def test_a_plan_is_made_for_a_device_that_is_elsewhere(
    home: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = trains(recipe / "01_first.toml", "--out", tmp_path / "out", "--plan", "--device", "cuda:1")
    assert done.exit_code == 0 and "memory, 1 process" in done.output, done.output


def test_a_plan_of_a_recipe_goes_on_where_a_part_stands_on_one_that_is_not_trained(
    home: Path, recipe: Path, tmp_path: Path
) -> None:
    needs = 'part = "audio_denoiser"\nsteps = 2\nbatch_size = 2\nlearning_rate = 1e-3\n[options]\nvae = "@00_nothing"\n'
    (recipe / "01_first.toml").write_text(needs)
    done = trains(recipe, "--out", tmp_path / "out", "--plan")
    assert done.exit_code == 0, done.output
    assert "01_first: it cannot be planned yet: audio_denoiser needs the export of 00_nothing" in done.output
    assert "memory, 1 process" in done.output
    assert trains(recipe, "--out", tmp_path / "out").exit_code == 2


def test_a_language_model_in_few_bits_is_loaded_onto_the_gpu_of_its_process(
    rich_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from codi2.llm import backbone
    from codi2.train.parts import llm

    class Loaded(Exception):
        pass

    class Quantised:
        def __init__(self, **settings: Any) -> None:
            assert settings["load_in_4bit"]

    def load(config: Any, placement: Placement) -> None:
        raise Loaded(backbone._loading_arguments(config, placement)["device_map"])

    monkeypatch.setitem(sys.modules, "bitsandbytes", ModuleType("bitsandbytes"))
    monkeypatch.setattr("transformers.BitsAndBytesConfig", Quantised)
    monkeypatch.setattr(backbone, "load_backbone", load)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(llm.LLMRecipe, "_data", lambda self: (None, None))
    config = with_placement(TrainConfig("llm", 1, 1, 1.0, options={"model": "debug"}), {"bits": 4})
    monkeypatch.setenv("LOCAL_RANK", "3")
    for placement, device in (({}, "cuda:3"), ({"device": "cuda:1"}, "cuda:1")):
        with pytest.raises(Loaded) as loaded:
            llm.build(with_placement(config, placement))
        assert loaded.value.args == ({"": device},)


@pytest.mark.parametrize("where", ["__init__", "validate", "export"])
def test_memory_that_is_full_outside_of_a_step_is_one_sentence(
    where: str, home: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from codi2.train.parts.autoencoder import AutoencoderRecipe

    def full(*args: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    run(recipe / "01_first.toml", tmp_path / "out", steps=1)
    monkeypatch.setattr(AutoencoderRecipe, where, full)
    done = trains(recipe / "01_first.toml", "--out", tmp_path / "out", "--steps", 2)
    text = " ".join(done.output.split())
    assert done.exit_code and "ran out while audio_features was loaded, validated or exported; raise accumulate" in text
    assert ("step-0000002" if where == "export" else "step-0000001") + " is kept" in text


def test_a_precision_that_a_gpu_lacks_is_one_sentence(
    home: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate import Accelerator

    def lacks(self: Accelerator, **options: Any) -> None:
        raise ValueError("bf16 mixed precision requires a supported device.")

    monkeypatch.setattr(Accelerator, "__init__", lacks)
    with pytest.raises(ConfigError, match=r"^accelerate cannot start as it was launched .bf16 mixed .* change its"):
        run(recipe / "01_first.toml", tmp_path / "out")


def test_accelerate_and_the_options_must_name_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    config = with_placement(TrainConfig("vocoder", 1, 1, 1.0), {"device": "cuda"})
    monkeypatch.setattr("codi2.train.place.check", lambda placement: None)
    choose_device(config)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")  # as `accelerate launch --cpu` sets it
    with pytest.raises(ConfigError, match="'cuda', but accelerate was launched with --cpu; remove one of the two"):
        choose_device(config)
    choose_device(with_placement(config, {"device": "cpu"}))
