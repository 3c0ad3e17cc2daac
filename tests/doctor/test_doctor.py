"""`codi2 doctor`: the states of weights, counts, measurements, estimates and remedies."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from codi2 import CoDi2
from codi2.cli import app
from codi2.config import DEBUG, PAPER, DecoderConfig, preset
from codi2.doctor.find import find
from codi2.doctor.measure import measure, measure_all
from codi2.dry_run.estimate import GPUS, Language, estimates
from codi2.dry_run.parts import BY_NAME, COMPONENTS, count, flops
from codi2.errors import ConfigError


@pytest.mark.parametrize("name", [part.name for part in COMPONENTS if part.published])
def test_components_have_their_published_sizes(name: str) -> None:
    part = BY_NAME[name]
    assert part.published
    exact = part.published % 1e6  # some round their figure
    assert count(part) == pytest.approx(part.published, rel=0 if exact else 0.005)


@pytest.mark.parametrize("name", [part.name for part in COMPONENTS if part.run])
def test_each_runs_on_meta_so_that_its_shapes_fit(name: str) -> None:
    assert flops(BY_NAME[name]) > 1e9


def test_weights_are_found_missing_or_wrong(tmp_path: Path) -> None:
    """A network of another width under the right name, a damaged file, and nothing at all."""
    config = replace(
        PAPER,
        encoder=replace(PAPER.encoder, id=str(tmp_path / "imagebind_huge.pth")),
        decoders={
            "image": DecoderConfig(kind="pipeline", id=str(tmp_path / "unclip")),
            "audio": DecoderConfig(kind="pipeline", id=str(tmp_path / "audio")),
            "video": DecoderConfig(kind="pipeline", id=str(tmp_path / "none")),
        },
    )
    for folder, name in (("unclip", "StableUnCLIPImg2ImgPipeline"), ("audio", "AudioLDM2Pipeline")):
        (tmp_path / folder / "unet").mkdir(parents=True)
        (tmp_path / folder / "model_index.json").write_text(json.dumps({"_class_name": name}))
    file = "unet/diffusion_pytorch_model.safetensors"
    with torch.device("meta"):
        right = BY_NAME["unclip-unet"].build().state_dict()
    wrong = {n: torch.zeros(3 if n == "conv_out.bias" else 1) for n in list(right)[-2:]}
    save_file(wrong, tmp_path / "unclip" / file)
    (tmp_path / "audio" / file).write_bytes(b"half a file")
    by_part = {finding.part: finding for finding in find(config)}
    assert by_part["image decoder"].state == "wrong" and "where" in by_part["image decoder"].details
    assert by_part["audio decoder"].state == "wrong" and "damaged" in by_part["audio decoder"].details
    assert by_part["video decoder"].state == "missing" and "hf download" in by_part["video decoder"].remedy
    assert by_part["encoder"].state == "missing" and "codi2 convert" in by_part["encoder"].remedy
    assert by_part["language model"].state == "missing"


def test_a_package_that_is_not_pinned_is_reported_with_those_that_are() -> None:
    config = replace(DEBUG, llm=replace(DEBUG.llm, kind="gguf-wheel", id="no-such-model"))
    finding = next(finding for finding in find(config) if finding.part == "language model")
    assert finding.state == "wrong" and finding.source == "no-such-model" and "name one of" in finding.remedy


def test_tiny_is_complete_and_its_norms_are_those_of_its_decoders(tmp_path: Path) -> None:
    CoDi2.from_pretrained("tiny")  # downloads its trunks on a new machine
    assert {finding.state for finding in find(preset("tiny"))} == {"found"}
    out = tmp_path / "doctor.json"
    result = CliRunner().invoke(app, ["doctor", "--json", str(out)])
    assert result.exit_code == 0, result.output
    assert result.stdout.strip().splitlines()[-1] == "Ready: tiny runs on this machine."
    figures = json.loads(out.read_text())
    norms = {norm["modality"]: norm for norm in figures["norms"]["encoder"]}
    assert norms["image"]["mean"] == pytest.approx(16.0, abs=0.01)
    assert [norm["given"] for norm in figures["norms"]["decoders"]] == [16.0, 16.0, 16.0]
    assert all(norm["expected"] == 16.0 for norm in figures["norms"]["decoders"])


def test_a_preset_without_its_weights_ends_in_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["doctor", "--preset", "paper"])
    assert result.exit_code == 2
    assert "hf download meta-llama/Llama-2-7b-chat-hf" in result.output
    last = result.stdout.strip().splitlines()[-1]
    assert last.startswith("Not ready: language model (missing), ") and last.endswith("the lines above say what to do.")


def test_estimates_grow_with_precision_and_are_finite() -> None:
    counts = {part.name: part.published or 1 for part in COMPONENTS}
    rows = estimates({n: int(v) for n, v in counts.items()}, {"imagebind": 1e12, "unclip-unet": 2e12})
    assert len(rows) == len(GPUS) * 3 * 2
    by = {(e.gpu.split(",")[0], e.precision, e.what): e for e in rows}
    assert by["RTX 4090", "int4", "picture"].memory_gb < by["RTX 4090", "int8", "picture"].memory_gb
    assert by["RTX 4090", "int8", "picture"].memory_gb < by["RTX 4090", "bf16", "picture"].memory_gb
    assert by["H100", "bf16", "training step"].fits
    assert all(math.isfinite(e.seconds) and e.seconds > 0 for e in rows)


def test_lora_is_counted_as_peft_counts_it() -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 3, "num_attention_heads": 4}
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(vocab_size=50, **sizes))
        adapted = get_peft_model(model, LoraConfig(r=8, target_modules=list(PAPER.llm.lora_targets)))
    trained = sum(p.numel() for n, p in adapted.named_parameters() if "lora_" in n)
    assert Language(layers=3, width=64, hidden=112, vocabulary=50, rank=8).lora == trained
    assert Language().lora == 319_815_680, "rank 128 on all seven maps of Llama-2-7b, counted by peft"


def test_an_unknown_component_is_refused() -> None:
    with pytest.raises(ConfigError, match="llama-2-7b-chat"):
        list(measure_all(("gpt-5",)))


def test_convert_refuses_tensors_of_other_shapes_and_writes_the_same_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from codi2.encode.imagebind import network

    towers = {name: network.TowerSize(8, 1, 2) for name in network.MODALITIES}
    small = network.ImageBindConfig(dim=8, vocabulary=20, **towers)
    torch.save(network.ImageBind(small).state_dict(), tmp_path / "small.pth")
    arguments = ["convert", str(tmp_path / "small.pth"), "--out", str(tmp_path / "out.safetensors")]
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 2 and not (tmp_path / "out.safetensors").exists()
    plain = network.ImageBind
    monkeypatch.setattr(network, "ImageBind", lambda config=small: plain(config))
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    from codi2.tensors import read_tensors

    state = read_tensors(tmp_path / "out.safetensors")
    assert all(torch.equal(state[n], v) for n, v in torch.load(tmp_path / "small.pth", weights_only=True).items())


@pytest.mark.slow
@pytest.mark.parametrize("name", [part.name for part in COMPONENTS if part.run])
def test_each_component_really_runs_at_full_size(name: str) -> None:
    (measurement,) = measure_all((name,))
    assert measurement.finite
    assert measurement.peak_gb < 20
    assert measurement.run_parameters > 1e8


def test_a_measurement_is_of_this_process() -> None:
    from torch import nn

    def build() -> nn.Module:
        return nn.Linear(1000, 1000)

    def run(model: Any) -> torch.Tensor:
        return model(torch.randn(1, 1000))

    part = replace(BY_NAME["hifigan"], build=build, run=run)
    measurement = measure(part)
    assert measurement.parameters == measurement.run_parameters == 1_001_000
    assert measurement.finite and measurement.run_seconds > 0 and measurement.peak_gb > 0.01


def test_debug_has_nothing_to_fetch() -> None:
    assert list(find(DEBUG)) == []
