"""The way of the `paper` preset, end to end, on tiny random parts of the published classes."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from task_set import write_task_set
from virtual_device import virtual_gpu

from codi2 import CoDi2
from codi2.checkpoint import place
from codi2.config import DEBUG, PAPER, DecoderConfig, EncoderConfig, HeadsConfig, LLMConfig
from codi2.diffuse.families.audioldm2 import audioldm2_decoder
from codi2.diffuse.families.text_to_video import text_to_video_decoder
from codi2.diffuse.families.unclip import unclip_decoder
from codi2.diffuse.load import TRAINED, load_trained, trained_state
from codi2.encode.batches import encode_each
from codi2.encode.imagebind import ImageBindEncoder
from codi2.encode.imagebind.network import ImageBind, ImageBindConfig, TowerSize
from codi2.errors import ConfigError, WeightsError
from codi2.heads.loss import codi2_loss
from codi2.llm.backbone import Backbone, byte_tokenizer, load_backbone, random_llm
from codi2.llm.mllm import MLLM
from codi2.modalities import SENSES
from codi2.placement import Placement
from codi2.prompt.layout import MODALITIES, Message, collate
from codi2.prompt.parts import IMU, Audio, Depth, Image, Phrase, Text, Thermal, Video

DIM = 16


def published() -> ModuleType:
    path = Path(__file__).parent / "diffuse" / "families" / "published.py"
    spec = importlib.util.spec_from_file_location("published", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def words(texts: Any) -> torch.Tensor:
    """In place of CLIP's tokenizer: letters, and the end with the highest id."""
    ids = torch.zeros(len(texts), 77, dtype=torch.long)
    for row, text in zip(ids, texts, strict=True):
        codes = [ord(letter) % 400 for letter in text[:75]]
        row[: len(codes) + 1] = torch.tensor([*codes, 500])
    return ids


def build(folder: Path, features: int = 1) -> CoDi2:
    towers = {name: TowerSize(16, 1, 2) for name in ("vision", "text", "audio", "depth", "thermal", "imu")}
    torch.manual_seed(0)
    network = ImageBind(ImageBindConfig(dim=DIM, vocabulary=512, **towers)).eval()
    counts = {"image": features, "audio": features, "video": features, "phrase": 1, **dict.fromkeys(SENSES, 1)}
    encoder = ImageBindEncoder(network, words, counts, norm=1.0)
    slots = dict.fromkeys(("image", "audio", "video"), min(features, 4))
    heads = HeadsConfig(feature_dim=DIM, num_slots=slots, groups=PAPER.heads.groups, hidden=32, alpha=PAPER.heads.alpha)
    sampling, builder = DecoderConfig("pipeline", num_inference_steps=2, guidance_scale=3.0), published()
    pictures, sounds, clips = (
        builder.unclip_pipeline(folder),
        builder.audioldm2_pipeline(),
        builder.video_pipeline(folder),
    )
    decoders = {
        "image": unclip_decoder(dict(pictures.components), replace(sampling, noise_level=499, feature_norm=None)),
        "audio": audioldm2_decoder(dict(sounds.components), DIM, replace(sampling, length=32)),
        "video": text_to_video_decoder(dict(clips.components), DIM, replace(sampling, length=3, height=16, size=24)),
    }
    config = replace(
        PAPER,
        llm=replace(DEBUG.llm, senses=SENSES),
        heads=heads,
        encoder=EncoderConfig(kind="imagebind", num_features=counts, norm=1.0),
        decoders={m: DecoderConfig(kind="pipeline", negative_prompt="blurry") for m in decoders},
    )
    mllm = MLLM(Backbone(random_llm(), byte_tokenizer(), config.llm), heads)
    return CoDi2(config, encoder, mllm, decoders)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> CoDi2:
    return build(tmp_path_factory.mktemp("paper"))


def picture(seed: int = 0) -> Image:
    return Image(PILImage.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 50, 3), dtype=np.uint8)))


def sound() -> Audio:
    return Audio(np.sin(np.arange(32_000) * 0.2).astype(np.float32), 16_000)


def clip() -> Video:
    return Video(tuple(PILImage.new("RGB", (32, 24), (50 * i, 90, 9)) for i in range(5)), 8)


@pytest.mark.parametrize("want", ["image", "audio", "video"])
def test_every_modality_goes_in_and_each_comes_out(model: CoDi2, want: str) -> None:
    senses = (Depth(np.ones((8, 9), np.float32)), Thermal(np.ones((8, 9), np.float32)), IMU(np.ones((6, 20)), 200.0))
    prompt = (Text("As "), picture(), sound(), clip(), *senses, Phrase("a dog"), Text(" so "), picture(1))
    reply = model.generate(prompt, want=want, seed=1)
    (part,) = (p for p in reply.parts if not isinstance(p, Text))
    assert part.modality == want
    if isinstance(part, Image):
        assert part.pixels.size == (16, 16)
    elif isinstance(part, Audio):
        assert part.samples.shape == (32 * 160,) and part.rate == 16_000
    else:
        assert [frame.size for frame in part.frames] == [(24, 16)] * 3


def test_features_have_one_norm_and_the_decoder_gets_its_own(model: CoDi2) -> None:
    for part in (picture(), sound(), clip(), Phrase("a dog")):
        assert float(model.encoder([part])[0, 0].norm()) == pytest.approx(1.0, abs=1e-5)
    decoder = model.decoders["image"]
    expected = decoder.conditioner.expected_norm()
    assert float(decoder.rescaled(torch.randn(1, 1, DIM)).norm()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("features", [5, 257])
def test_patch_tokens_enter_and_several_slots_are_regressed(tmp_path: Path, features: int) -> None:
    model = build(tmp_path, features if features < 229 else 229)
    reply = model.generate((Text("draw "), picture(), Text(" again")), want="image")
    assert len(reply.images) == 1
    values = model.encoder([picture()])
    assert values.shape == (1, min(features, 229), DIM)
    assert torch.allclose(values[0, 0], model.encoder.network("vision", _pixels(picture()))[0][0], atol=1e-5)
    tokens = model.encoder.network("vision", _pixels(picture()))[1][0, 1:]
    assert torch.allclose(values[0, 1:].mean(0), tokens.mean(0), atol=2e-2)
    # what is regressed are pooled tokens of the whole picture, however many of them are read
    regressed = model.encoder([picture()], 4)[0]
    assert torch.allclose(regressed[0], values[0, 0])
    assert torch.allclose(regressed[1:].mean(0), tokens.mean(0), atol=2e-2)
    conversation = [Message("user", (picture(),)), Message("assistant", (picture(),))]
    batch = collate([model.layout(conversation)], model.mllm.backbone.pad_id)
    slots = batch.slot_item.bincount().tolist()
    assert slots[-1] == 4
    encoded = encode_each(model.encoder, list(zip(batch.items, slots, strict=True)))
    assert torch.equal(encoded[-1], regressed)


def _pixels(image: Image) -> torch.Tensor:
    from codi2.encode.imagebind.media import read_picture

    return read_picture(image.pixels)[None]


def test_a_training_step_reaches_language_model_heads_and_input_projection(model: CoDi2) -> None:
    """The three losses of section 3.2 at once; the gradient of L_DM flows through the feature into LoRA."""
    conversation = [Message("user", (Text("draw "), picture())), Message("assistant", (picture(1), sound(), clip()))]
    batch = collate([model.layout(conversation)], model.mllm.backbone.pad_id)
    features = model.encode(batch.items)
    for name, parameter in model.mllm.named_parameters():
        parameter.requires_grad_(
            any(k in name for k in ("lora_", "trainable", "input_projection.", "output_projection."))
        )
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    taught = model.mllm(batch, features)
    loss = codi2_loss(model.config.heads, taught.prediction, taught.target, taught.logits, taught.labels)["loss"]
    loss.backward(retain_graph=True)
    lora = [p for n, p in model.mllm.named_parameters() if "lora_A" in n]
    before = [p.grad.clone() for p in lora]
    for modality, decoder in model.decoders.items():
        state = trained_state(decoder)
        for name, parameter in decoder.named_parameters():
            parameter.requires_grad_(name in state)
        predicted = taught.prediction[batch.slot_modality[batch.predicted] == MODALITIES.index(modality)][None]
        clean = torch.randn(1, *decoder.latent_shape)
        t, level = torch.tensor([500]), torch.zeros(1, dtype=torch.long)
        decoder.loss(clean, torch.randn_like(clean), t, predicted, level, clean).sum().backward(retain_graph=True)
        learned = [p for n, p in decoder.named_parameters() if p.requires_grad]
        assert learned and all(p.grad is not None and p.grad.abs().sum() > 0 for p in learned), modality
    assert any((p.grad - old).abs().sum() > 0 for p, old in zip(lora, before, strict=True))


def test_only_what_was_trained_is_saved_and_comes_back(model: CoDi2, tmp_path: Path) -> None:
    with torch.no_grad():
        model.decoders["audio"].conditioner.head.weight.normal_()
    model.save_pretrained(tmp_path)
    assert sorted(p.name for p in (tmp_path / "audio").iterdir()) == [TRAINED]
    assert (tmp_path / "audio" / TRAINED).stat().st_size < 20_000
    before = model.decoders["audio"].conditioner.head.weight.clone()
    with torch.no_grad():
        model.decoders["audio"].conditioner.head.weight.zero_()
    load_trained(model.decoders["audio"], tmp_path / "audio" / TRAINED)
    assert torch.allclose(model.decoders["audio"].conditioner.head.weight, before, atol=2e-3)
    with pytest.raises(WeightsError, match=r"another decoder.*conditioner"):
        load_trained(model.decoders["video"], tmp_path / "audio" / TRAINED)


def test_offloaded_parts_are_on_the_device_only_while_they_work(model: CoDi2, monkeypatch: pytest.MonkeyPatch) -> None:
    moves: list[tuple[str, str]] = []
    parts = {"encoder": model.encoder, "llm": model.mllm.backbone, "image": model.decoders["image"]}
    for name, part in parts.items():
        to = part.to
        monkeypatch.setattr(
            part, "to", lambda device, to=to, name=name: (moves.append((name, str(device))), to(device))[1]
        )
    monkeypatch.setattr(type(model), "device", property(lambda self: torch.device("cpu", 0)))
    monkeypatch.setattr(model, "offload", True)
    model.generate((Text("draw "), picture()), want="image", negative_prompt=None)
    away = [name for name, device in moves if device == "cpu:0"]
    back = [name for name, device in moves if device == "cpu"]
    assert away == back
    assert away[:2] == ["encoder", "llm"] and away[-1] == "image"


@pytest.mark.parametrize(("dtype", "offload"), [("float32", False), ("bfloat16", False), ("float16", True)])
def test_the_published_components_on_a_gpu(dtype: str, offload: bool, tmp_path: Path) -> None:
    """On a virtual one, which refuses tensors of two devices: ImageBind's towers, each published family of decoders."""
    senses = (Depth(np.ones((8, 9), np.float32)), Thermal(np.ones((8, 9), np.float32)), IMU(np.ones((6, 20)), 200.0))
    prompt = (Text("As "), picture(), sound(), clip(), *senses, Phrase("a dog"), Text(" so "), picture(1))
    with virtual_gpu():
        model = build(tmp_path, features=3)
        place(model, Placement("cuda", dtype, offload=offload))
        for want in model.decoders:
            assert model.generate(prompt, want=want, seed=1, max_new_tokens=2).parts[0].modality == want


def test_a_placement_that_cannot_be_is_refused(model: CoDi2, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="float33"):
        CoDi2.from_pretrained("debug", dtype="float33")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="cuda"):
            CoDi2.from_pretrained("debug", device="cuda")
    if importlib.util.find_spec("bitsandbytes") is None:
        with pytest.raises(ConfigError, match="pip install bitsandbytes"):
            load_backbone(LLMConfig(kind="hub", id="any"), Placement(bits=4))


def test_a_hub_that_does_not_answer_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"no/such-model.*HF_HUB_OFFLINE"):
        load_backbone(LLMConfig(kind="hub", id="no/such-model"))
    with pytest.raises(WeightsError, match=r"imagebind_huge\.pth"):
        CoDi2.from_pretrained("paper")


def test_parts_run_in_half_precision(tmp_path: Path) -> None:
    model = build(tmp_path)
    place(model, Placement(dtype="bfloat16"))
    for want in ("image", "audio", "video"):
        reply = model.generate((Text("draw "), picture(), sound(), clip()), want=want)
        assert [p.modality for p in reply.parts if not isinstance(p, Text)] == [want]


def test_the_published_way_trains_with_its_decoders_heads(
    model: CoDi2, rich_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LoRA, projections and what leads features into published decoders learn together, and load again (B.2)."""
    from codi2.train.config import TrainConfig
    from codi2.train.encoded import Encodings, weights_key
    from codi2.train.loop import train
    from codi2.train.parts import llm

    data = write_task_set(rich_home, tmp_path / "tasks", 57)
    encodings = Encodings(lambda: model.encoder, weights_key(model.encoder), reads_words=False)
    monkeypatch.setattr(llm, "locate", lambda name: (model.config, None))
    monkeypatch.setattr(llm, "encodings_for", lambda config, folder: encodings)
    monkeypatch.setattr(llm, "load_one_decoder", lambda modality, config, folder: model.decoders[modality])
    before = {m: {n: v.clone() for n, v in trained_state(d).items()} for m, d in model.decoders.items()}
    options = {"data": data, "held_out": data, "diffusion_share": 1.0, "decoder_heads": True}
    config = TrainConfig(
        "llm", 4, 4, 1e-3, warmup_steps=1, options={**options, "phases": {"image": 0.5, "audio": 0.5}},
        rates={"decoders": 0.5},
    )  # fmt: skip
    try:
        recipe = llm.build(config)
        frozen = [name for name, p in model.decoders["image"].unet.named_parameters() if p.requires_grad]
        assert frozen and all(name.startswith("conv_in.") for name in frozen)
        train(recipe, config, tmp_path / "out")
        after = {m: trained_state(d) for m, d in model.decoders.items()}
        for modality in ("image", "audio"):
            names = [n for n in before[modality] if not torch.equal(before[modality][n], after[modality][n])]
            assert any(name.startswith("unet.conv_in") for name in names), (modality, names)
        assert any("head" in n and not torch.equal(before["audio"][n], after["audio"][n]) for n in before["audio"])
        assert (tmp_path / "out" / "export" / "audio" / TRAINED).is_file()
        trained = {n: v.clone() for n, v in after["audio"].items()}
        with torch.no_grad():
            for value in trained_state(model.decoders["audio"]).values():
                value.add_(1)
        recipe.restore(tmp_path / "out" / "export")
        for name, value in trained_state(model.decoders["audio"]).items():
            torch.testing.assert_close(value, trained[name], atol=1e-2, rtol=1e-2)
    finally:  # the model is shared by the tests of this file
        for modality, state in before.items():
            for name, value in trained_state(model.decoders[modality]).items():
                value.requires_grad_(False).copy_(state[name])


@pytest.mark.parametrize("workers", [0, 1])
def test_features_of_a_data_set_are_those_of_imagebind(
    workers: int, rich_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Media are read in a worker process; 1, all or pooled tokens are kept, and phrases only where they are read."""
    from codi2.data.sets import load_report
    from codi2.data.shards import open_shards
    from codi2.processes import ALONE
    from codi2.train.encoded import items_of, name_of
    from codi2.train.features import encode, makers, worker
    from codi2.train.features.store import FeatureStore

    encoder = build(tmp_path).encoder
    data = tmp_path / "tasks"
    write_task_set(rich_home, data, 19)
    for features in (1, 5, 257):
        maker = makers.FeatureMaker(encoder, replace(PAPER.encoder, norm=1.0), features)
        for module in (encode, worker):
            monkeypatch.setattr(module, "load_maker", lambda *_, maker=maker: maker)
        job = encode.job_of(data, "paper", features)
        encoding = encode.EncodingRun(job, encode.default_folder(job), encode.EncodingOptions(workers=workers))
        encode.encode_set(encoding, ALONE, print_line=lambda _: None)
        store = FeatureStore(encoding.folder)
        pieces = {name_of(p): p for s in open_shards(data, load_report(data)) for r in s for _, p in items_of(r, False)}
        for name, piece in list(pieces.items())[:12]:
            part = piece.decode() if hasattr(piece, "decode") else piece
            count = min(features, makers.NUM_TOKENS[piece.modality])
            value = store.read(name, piece.modality)
            assert value is not None and value.shape == (count, DIM)
            assert torch.equal(value, encoder([part], count)[0].half())


def test_media_are_encoded_in_batches_on_a_gpu(
    rich_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoder in bfloat16, on a virtual GPU: media arrive there, and their features on the disk."""
    from codi2.processes import ALONE
    from codi2.train.features import encode, makers, worker
    from codi2.train.features.store import FeatureStore

    data = tmp_path / "tasks"
    write_task_set(rich_home, data, 19)
    with virtual_gpu():
        maker = makers.FeatureMaker(build(tmp_path).encoder, replace(PAPER.encoder, norm=1.0), 5)
        for module in (encode, worker):
            monkeypatch.setattr(module, "load_maker", lambda *_: maker)
        job = encode.job_of(data, "paper")
        options = encode.EncodingOptions(Placement("cuda", "bfloat16"), workers=0, batch=4)
        encoding = encode.EncodingRun(job, encode.default_folder(job), options)
        plan = encode.encode_set(encoding, ALONE, print_line=lambda _: None)
        assert plan.media and next(maker.encoder.parameters()).is_cuda
        assert FeatureStore(encoding.folder).job == job
