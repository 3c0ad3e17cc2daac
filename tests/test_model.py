"""The whole way of the data on the `debug` preset: what users call, and what they may rely on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PILImage

from codi2.chat import Chat
from codi2.errors import ConfigError, PromptError
from codi2.heads.loss import codi2_loss
from codi2.model import CoDi2, Options
from codi2.prompt.layout import Layout, Message, collate
from codi2.prompt.parts import Audio, Image, Text


@pytest.fixture(scope="module")
def model() -> CoDi2:
    return CoDi2.from_pretrained("debug")


@pytest.fixture(scope="module")
def media() -> tuple[Image, Image, Audio]:
    draw = np.random.default_rng(0)
    noise = PILImage.fromarray(draw.integers(0, 255, (48, 80, 3), dtype=np.uint8))
    return (
        Image(PILImage.new("RGB", (50, 90), "red")),
        Image(noise),
        Audio(draw.normal(0, 0.1, 30_000).astype(np.float32), 22_050),
    )


def pixels(image: Image) -> np.ndarray:
    return np.asarray(image.pixels).astype(int)


def test_reply_holds_what_was_wanted(model: CoDi2, media: tuple[Image, Image, Audio]) -> None:
    red, _, sound = media
    reply = model.generate(
        "Draw [image0] as it sounds: [audio0]", red, sound, want=["image", "audio"], max_new_tokens=3
    )
    assert [part.modality for part in reply.parts[:2]] == ["image", "audio"]
    assert reply.images[0].pixels.size == (64, 64)
    assert reply.sounds[0].rate == 16_000
    assert len(reply.sounds[0].samples) == 40_960
    assert reply.recipe["seed"] == 0
    assert set(reply.recipe["seconds"]) == {"read", "write", "decode"}


def test_a_clip_without_a_source_starts_from_a_picture(
    media: tuple[Image, Image, Audio], monkeypatch: pytest.MonkeyPatch
) -> None:
    red, model = media[0], CoDi2.from_pretrained("debug")
    clips, pictures = model.decoders["video"], model.decoders["image"]
    clips.config = replace(clips.config, first_frame=True)
    sources: list[object] = []
    state, generate = clips.sampler_state, pictures.generate
    monkeypatch.setattr(clips, "sampler_state", lambda *a: sources.append(a[2].sources) or state(*a))
    looks: list[torch.Tensor] = []  # features of the pictures
    monkeypatch.setattr(pictures, "generate", lambda f, seeds: looks.append(f) or generate(f, seeds))
    settings = {"want": "video", "max_new_tokens": 1, "num_inference_steps": 1}
    model.generate("A cat runs.", seed=4, **settings)
    model.generate("It runs: [image0]", red, **settings)
    assert isinstance(sources[0][0], Image) and sources[1] == [red]
    assert len(looks) == 1 and looks[0].shape == (1, 3, 16)
    model.decoders = {"video": clips}  # no decoder of pictures: from nothing, as before
    model.generate("A cat runs.", **settings)
    assert sources[2] == [None]


def test_text_only_reply(model: CoDi2) -> None:
    reply = model.generate("Hello", want="text", max_new_tokens=4)
    assert [type(part) for part in reply.parts] == [Text] and reply.text


def test_a_temperature_near_zero_is_greedy(model: CoDi2) -> None:
    settings = {"want": "text", "max_new_tokens": 12}
    assert model.generate("Go on", temperature=1e-38, **settings).text == model.generate("Go on", **settings).text


def test_callback_sees_every_step(model: CoDi2) -> None:
    seen: list[tuple[str, int, int]] = []
    model.generate(
        "Draw", want="image", num_inference_steps=3, max_new_tokens=1, callback=lambda *step: seen.append(step)
    )
    assert [step for step in seen if step[0] == "decode"][1:-1] == [("decode", n, 3) for n in (1, 2, 3)]
    assert [stage for stage, step, _ in seen if step == 0] == ["read", "write", "decode"]


def test_named_media(model: CoDi2, media: tuple[Image, Image, Audio]) -> None:
    by_name = model.generate(
        "Turn [image0] into [image1]", image1=media[1], image0=media[0], want="image", max_new_tokens=1
    )
    in_order = model.generate("Turn [image0] into [image1]", media[0], media[1], want="image", max_new_tokens=1)
    assert np.array_equal(pixels(by_name.images[0]), pixels(in_order.images[0]))


def test_seed_and_negative_prompt_change_the_picture(model: CoDi2) -> None:
    def draw(**settings: object) -> np.ndarray:
        return pixels(model.generate("A cat", want="image", max_new_tokens=1, **settings).images[0])

    assert np.array_equal(draw(seed=3), draw(seed=3))
    assert not np.array_equal(draw(seed=3), draw(seed=4))
    assert not np.array_equal(draw(seed=3), draw(seed=3, negative_prompt="blurry"))
    assert not np.array_equal(draw(seed=3), draw(seed=3, guidance_scale=1.0))


def test_the_source_reaches_the_picture(model: CoDi2, media: tuple[Image, Image, Audio]) -> None:
    with_source = model.generate("Edit [image0]", media[1], want="image", max_new_tokens=1)
    without_source = model.generate("Edit [image0]", media[1], want="image", max_new_tokens=1, source="none")
    assert not np.array_equal(pixels(with_source.images[0]), pixels(without_source.images[0]))


def test_a_batch_gives_what_single_runs_give(model: CoDi2, media: tuple[Image, Image, Audio]) -> None:
    red, noise, sound = media
    conversations = [
        [Message("user", (Text("Draw "), noise, Text(" again, but larger please")))],
        [Message("user", (Text("Sing"),))],
        [Message("user", (red, Text(" and "), sound, Text(" and "), noise))],
        [Message("user", (red,)), Message("assistant", (Text("So."), noise)), Message("user", (Text("Again"),))],
    ]
    options = [
        Options(want="image", seed=1, max_new_tokens=5),
        Options(want="audio", seed=2, max_new_tokens=5),
        Options(want="image", seed=3, max_new_tokens=5),
        Options(want="image", seed=3, max_new_tokens=5),
    ]
    together = model.answer(conversations, options)
    for conversation, option, reply in zip(conversations, options, together, strict=True):
        (alone,) = model.answer([conversation], [option])
        assert reply.text == alone.text
        for a, b in zip(reply.images, alone.images, strict=True):
            assert np.abs(pixels(a) - pixels(b)).max() <= 2
        for c, d in zip(reply.sounds, alone.sounds, strict=True):
            assert np.abs(c.samples - d.samples).max() < 1e-3


def test_diffusion_loss_reaches_lora(model: CoDi2) -> None:
    """The gradient of L_DM flows through the regressed feature into the LoRA weights (section 3.2)."""
    mllm, decoder = model.mllm, model.decoders["image"]
    trained = {name: p for name, p in mllm.named_parameters() if "lora_" in name}
    target = Image(PILImage.new("RGB", (64, 64), "blue"))
    layout: Layout = model.layout
    batch = collate([layout([Message("user", (Text("Draw"),)), Message("assistant", (target,))])], mllm.backbone.pad_id)
    features = model.encode(batch.items)
    for p in trained.values():
        p.requires_grad_(True)
    taught = mllm(batch, features)
    predicted = taught.prediction[None]  # one answer
    latents = decoder.codec.encode(decoder.codec.to_tensor([target]))
    t = torch.tensor([500])
    denoising = decoder.loss(
        latents, torch.ones_like(latents), t, predicted, torch.zeros_like(t), torch.zeros_like(latents)
    )
    only_diffusion = codi2_loss(
        model.config.heads, taught.prediction.detach(), taught.target, taught.logits.detach(), taught.labels, denoising
    )
    only_diffusion["loss"].backward()
    # B of a fresh LoRA is zero, so its gradient is where learning begins
    moved = [p.grad.abs().sum() for name, p in trained.items() if "lora_B" in name and p.grad is not None]
    assert moved
    assert min(moved) > 0
    for p in trained.values():
        p.requires_grad_(False)
        p.grad = None


def test_a_saved_model_comes_back(tmp_path: Path) -> None:
    model = CoDi2.from_pretrained("debug")
    model.decoders["image"].unet.conv_out.bias.fill_(0.25)  # weights that were trained since then come back, too
    model.save_pretrained(tmp_path / "model")
    loaded = CoDi2.from_pretrained(tmp_path / "model")
    assert loaded.config == model.config
    state, loaded_state = model.mllm.state_dict(), loaded.mllm.state_dict()
    assert state.keys() == loaded_state.keys()
    assert all(
        torch.allclose(state[name].float(), loaded_state[name].float(), atol=2e-3) for name in state
    )  # kept as fp16
    for modality, decoder in model.decoders.items():
        state, loaded_state = decoder.state_dict(), loaded.decoders[modality].state_dict()
        assert state.keys() == loaded_state.keys()
        assert all(torch.allclose(state[name], loaded_state[name], atol=2e-3) for name in state)
    reply = loaded.generate("Draw", want="image", max_new_tokens=1)
    assert reply.images[0].pixels.size == (64, 64)


def test_a_saved_model_is_readable_by_others(model: CoDi2, tmp_path: Path) -> None:
    """By the user that a server runs as; safetensors lets only the owner read its files."""
    model.save_pretrained(tmp_path / "model")
    model.save_pretrained(tmp_path / "model")  # over the first
    files = [path for path in (tmp_path / "model").rglob("*") if path.is_file()]
    assert any(path.suffix == ".safetensors" for path in files)
    assert {path.stat().st_mode & 0o777 for path in files} == {0o644}


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither a preset"):
        CoDi2.from_pretrained(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": 3}, "there is no option 'num_steps'; expected want, seed, num_inference_steps, "),
        ({"num_inference_steps": 0}, "num_inference_steps is 0; expected an integer from 1 to 1000"),
        ({"num_inference_steps": 2.5}, "num_inference_steps is 2.5; expected an integer"),
        ({"temperature": None}, "temperature is None; expected a number from 0 to 2"),
        ({"num_inference_steps": True}, "num_inference_steps is True; expected an integer"),
        ({"temperature": -1}, "temperature is -1; expected a number from 0 to 2"),
        ({"top_p": "high"}, "top_p is 'high'; expected a number from 0 to 1"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan; expected a number from 0"),
        ({"seed": -1}, "seed is -1; expected an integer from 0"),
    ],
)
def test_settings_that_do_not_exist_or_are_out_of_range(model: CoDi2, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        model.generate("Draw a cat.", **settings)
    with pytest.raises(PromptError, match=message):
        Chat(model).send("Draw a cat.", **settings)


def test_media_beside_a_prompt_of_parts_are_refused(model: CoDi2, media: tuple[Image, Image, Audio]) -> None:
    prompt = [Text("Draw "), media[0]]
    for call in (model.generate, Chat(model).send):
        with pytest.raises(PromptError, match="add the media to the parts"):
            call(prompt, media[1])
        with pytest.raises(PromptError, match="add the media to the parts"):
            call(prompt, image0=media[1])


def test_placeholder_without_media(model: CoDi2) -> None:
    with pytest.raises(PromptError, match="image1"):
        model.generate("Turn [image0] into [image1]", Image(PILImage.new("RGB", (8, 8))))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_decoders_run_in_half_precision(dtype: str) -> None:
    model = CoDi2.from_pretrained("debug", dtype=dtype)
    drawing = Image(PILImage.new("RGB", (40, 30), (200, 90, 10)))
    tone = Audio(np.sin(np.arange(16_000) * 0.2).astype(np.float32), 16_000)
    for want, source in (("image", drawing), ("audio", tone)):
        for negative in (None, "blurry"):
            reply = model.generate((Text("again "), source), want=want, negative_prompt=negative)
            assert [part.modality for part in reply.parts if not isinstance(part, Text)] == [want]
