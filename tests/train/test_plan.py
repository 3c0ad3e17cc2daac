"""What a run says of itself before it starts."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from task_set import write_task_set

from codi2.dry_run.estimate import Language
from codi2.errors import ConfigError
from codi2.modalities import SENSES
from codi2.prompt.layout import special_tokens
from codi2.train import PARTS
from codi2.train.config import TrainConfig, load_config
from codi2.train.plan import plan, show
from codi2.train.recipe import before_training

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["7_everything"])
def test_the_papers_system_is_counted_at_full_size_without_its_weights(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from codi2.train.full_size import FullSize
    from codi2.train.parts.llm import build

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = before_training(load_config(CONFIGS / "paper" / f"{name}.toml"), tmp_path, CONFIGS / "paper")
    steps = []
    fabricated = FullSize.fabricated

    def noted(self: FullSize, phase: str, ranks: int) -> Any:
        steps.append((phase, ranks))
        return fabricated(self, phase, ranks)

    monkeypatch.setattr(FullSize, "fabricated", noted)
    found = plan(config, build)
    assert sorted(steps) == sorted((phase, n) for phase in ("text", "image", "audio", "video") for n in (1, 8))
    assert found.trained["LoRA"] == Language().lora == 319_815_680
    assert found.trained["rows of the new tokens"] == 2 * len(special_tokens(SENSES)) * 4096 == 2 * 14 * 4096
    assert found.frozen["imagebind"] == 1_200_781_057
    heads = {name: size for name, size in found.trained.items() if name.endswith("decoder's head")}
    assert set(heads) == {f"{modality} decoder's head" for modality in ("image", "audio", "video")}
    assert 85e6 < sum(heads.values()) < 90e6
    assert "H100, 80 GB" in found.memory["8 processes"], found.memory
    show(config, found)
    out = capsys.readouterr().out
    assert "319,815,680" in out and f"samples: {config.steps * config.batch_size:,}" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "trained"), [("2_words_audio", 1025 * 8 * 768), ("2_words_video", 1025 * 77 * 1024), ("8_joint", None)]
)
def test_other_stages_are_planned_at_full_size_before_anything_is_trained(
    name: str, trained: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = before_training(load_config(CONFIGS / "paper" / f"{name}.toml"), tmp_path, CONFIGS / "paper")
    found = plan(config, import_module(f"codi2.train.parts.{PARTS[config.part]}").build)
    assert trained in (None, sum(found.trained.values())) and sum(found.trained.values()) > 0
    assert "H100, 80 GB" in found.memory["8 processes"], found.memory


def test_a_small_run_is_tried(rich_home: Path, tmp_path: Path) -> None:
    from codi2.train.parts import llm

    data = write_task_set(rich_home, tmp_path / "set", 38)
    options = {"model": "debug", "data": data, "held_out": data, "diffusion_share": 1.0}
    config = TrainConfig("llm", 7, 4, 1e-3, options=options)
    recipes = []

    def make(config: TrainConfig) -> llm.LLMRecipe:
        recipes.append(llm.build(config))
        return recipes[-1]

    found = plan(config, make)
    trained = sum(p.numel() for p in recipes[0].model.parameters() if p.requires_grad)
    assert sum(found.trained.values()) == trained and found.samples == 28
    assert "image decoder, for L_DM" in found.frozen and "GB on its GPU" in found.memory["1 process"]
    assert all(p.grad is None and p.is_meta for p in recipes[0].model.parameters())  # nothing was computed
    with pytest.raises(ConfigError, match="unknown key 'speed'"):
        plan(TrainConfig("llm", 7, 4, 1e-3, options={**options, "speed": 3}), make)
