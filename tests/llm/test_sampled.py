"""A model with a prior: samples depend on conversation and seed, not on the batch; the prior is saved and loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from codi2.config import DEBUG, CoDi2Config
from codi2.errors import ConfigError, WeightsError
from codi2.llm.generation import FeatureSegment, Segment
from codi2.llm.sampled import context_of, items_read
from codi2.model import CoDi2, Options
from codi2.prompt.layout import MODALITIES, Message
from codi2.prompt.parts import Image, Part, Text

STEPS = 2  # of the prior of `debug`


@pytest.fixture(scope="module")
def model() -> CoDi2:
    return CoDi2.from_pretrained("debug")


def picture(colour: str) -> Image:
    from PIL import Image as PILImage

    return Image(PILImage.new("RGB", (64, 64), colour))


def request(*parts: Part | str) -> list[Message]:
    return [Message("user", tuple(Text(part) if isinstance(part, str) else part for part in parts))]


def features(segments: list[Segment]) -> list[Tensor]:
    return [segment.features for segment in segments if isinstance(segment, FeatureSegment)]


def sampled_features(
    model: CoDi2, conversations: list[list[Message]], seeds: list[int], want: tuple[str, ...]
) -> list[Tensor]:
    options = [Options(want=want, seed=seed, max_new_tokens=0) for seed in seeds]
    return [torch.stack(features(s)) for s in model.write(model.read(conversations), options)]


def test_a_seed_samples_the_same_thing_and_another_seed_another(model: CoDi2) -> None:
    prompt = request("Draw a fish.")
    (one,), (again,), (other,) = (sampled_features(model, [prompt], [seed], ("image",)) for seed in (4, 4, 5))
    assert torch.equal(one, again) and not torch.allclose(one, other, atol=1e-2)


def test_a_sample_depends_on_the_items_and_on_what_was_sampled_before(model: CoDi2) -> None:
    red, blue = (
        sampled_features(model, [request(picture(c), "Like this.")], [0], ("image", "audio"))[0]
        for c in ("red", "blue")
    )
    assert not torch.allclose(red[0], blue[0], atol=1e-2)
    reading = model.read([request(picture("red"), "Like this.")])[0]
    (segments,) = model.write([reading], [Options(want=("image", "audio"), max_new_tokens=0)])
    first, second = (segment for segment in segments if isinstance(segment, FeatureSegment))
    assert second.states is not None and model.prior is not None
    sizes = model.prior.config
    alone = context_of(second.states, "audio", items_read(reading), sizes["num_items"], sizes["num_slots"])
    behind = [*items_read(reading), ("image", first.features)]
    both = context_of(second.states, "audio", behind, sizes["num_items"], sizes["num_slots"])
    seed = 1 if isinstance(segments[1], FeatureSegment) else 2
    assert torch.equal(model.prior.sample(both, [seed], STEPS)[0], second.features)
    assert not torch.allclose(model.prior.sample(alone, [seed], STEPS)[0], second.features, atol=1e-3)


def test_a_batch_samples_what_single_replies_sample(model: CoDi2) -> None:
    prompts = [
        request("Draw a fish."),
        request(picture("red"), "Make it blue."),
        request("Draw a much larger fish, please."),
    ]
    together = sampled_features(model, prompts, [3, 4, 5], ("image",))
    for prompt, seed, features_in_batch in zip(prompts, (3, 4, 5), together, strict=True):
        assert torch.allclose(sampled_features(model, [prompt], [seed], ("image",))[0], features_in_batch, atol=1e-4)


def test_the_context_has_the_latest_item_first() -> None:
    states = torch.randn(2, 8)
    items = [("image", torch.ones(3, 4)), ("phrase", 2 * torch.ones(1, 4)), ("audio", 3 * torch.ones(3, 4))]
    context = context_of(states, "video", items, num_items=2, num_slots=3)
    assert context.items[0, :, 0, 0].tolist() == [3, 2] and context.items[0, 1, 1:].eq(0).all()
    assert context.item_modality.tolist() == [[MODALITIES.index("audio"), MODALITIES.index("phrase")]]
    assert context.modality.tolist() == [MODALITIES.index("video")]


def test_the_prior_is_saved_and_loaded_with_the_model(model: CoDi2, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "model")
    again = CoDi2.from_pretrained(tmp_path / "model")
    prompt = request(picture("red"), "Make it blue.")
    (original,), (reloaded,) = (sampled_features(m, [prompt], [1], ("image",)) for m in (model, again))
    assert torch.allclose(original, reloaded, atol=0.05)  # weights are kept in half precision
    assert len(list((tmp_path / "model" / "prior").glob("*.safetensors"))) == 1
    (tmp_path / "model" / "prior" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(WeightsError, match="prior"):
        CoDi2.from_pretrained(tmp_path / "model")


def test_a_prior_of_another_model_is_refused(model: CoDi2, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "model")
    from codi2.heads.prior import random_prior
    from codi2.weight_files import export_module

    export_module(random_prior(8, 64, 3), tmp_path / "model" / "prior", {})
    with pytest.raises(WeightsError, match="for features of width 8"):
        CoDi2.from_pretrained(tmp_path / "model")


def test_a_model_without_a_prior_draws_the_regressed_features(model: CoDi2) -> None:
    plain = CoDi2(model.config, model.encoder, model.mllm, model.decoders, model.joint)
    prompt = request("Draw a fish.")
    (one,), (other,) = (sampled_features(plain, [prompt], [seed], ("image",)) for seed in (4, 5))
    assert torch.equal(one, other)
    assert not torch.allclose(one, sampled_features(model, [prompt], [4], ("image",))[0], atol=1e-2)


def test_a_prior_without_steps_is_refused() -> None:
    wrong = json.loads(DEBUG.to_json())
    wrong["heads"]["prior"]["num_inference_steps"] = 0
    with pytest.raises(ConfigError, match=r"heads\.prior\.num_inference_steps"):
        CoDi2Config.from_json(json.dumps(wrong))
