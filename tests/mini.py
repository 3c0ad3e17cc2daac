"""`mini`: the classes of `paper` (Llama, ImageBind, unCLIP, AudioLDM2, text-to-video) with small random weights, as a
model's folder."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffuse.families import published
from encode.small_towers import sound_tower

from codi2.config import (
    LANGUAGE,
    PAPER,
    SENSES,
    CoDi2Config,
    DecoderConfig,
    EncoderConfig,
    HeadsConfig,
    JointConfig,
    LLMConfig,
)
from codi2.encode import imagebind
from codi2.encode.imagebind.network import ImageBind, ImageBindConfig, TowerSize
from codi2.llm.backbone import byte_tokenizer, random_llm

DIM = 16
TOWERS = {name: TowerSize(16, 1, 2) for name in ("vision", "text", "audio", "depth", "thermal", "imu")}
SIZES = ImageBindConfig(dim=DIM, vocabulary=514, **TOWERS)
LETTERS = "abcdefghijklmnopqrstuvwxyz"


load_imagebind = partial(imagebind.load_encoder, config=SIZES)
"""In place of `imagebind.load_encoder`, which takes ImageBind-Huge alone."""


def write_mini(folder: Path) -> Path:
    """A model's folder without anything that was trained; its components lie beside it."""
    beside = folder.with_name(f"{folder.name}-components")
    random_llm().save_pretrained(beside / "llm")
    byte_tokenizer().save_pretrained(beside / "llm")
    _write_imagebind(beside)
    _write_pipelines(beside)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(mini_config(beside).to_json())
    return folder


def mini_config(beside: Path) -> CoDi2Config:
    counts = {"image": 1, "audio": 1, "video": 1, "phrase": 1, **dict.fromkeys(SENSES, 1)}
    paths = {name: str(beside / name) for name in ("llm", "imagebind", "words", "image", "audio", "video")}
    paper = PAPER.decoders
    few = partial(DecoderConfig, kind="pipeline", num_inference_steps=2, negative_prompt="blurry")
    return replace(
        PAPER,
        name="mini",
        llm=LLMConfig(kind="hub", id=paths["llm"], senses=SENSES, lora_rank=4, lora_alpha=4.0, lora_dropout=0.05),
        encoder=EncoderConfig(
            kind="imagebind", id=paths["imagebind"], tokenizer=paths["words"], num_features=counts, norm=1.0
        ),
        heads=HeadsConfig(DIM, PAPER.heads.num_slots, PAPER.heads.groups, hidden=32, alpha=float(DIM)),
        decoders={
            "image": few(id=paths["image"], size=16, noise_level=paper["image"].noise_level, feature_norm=None),
            "audio": few(id=paths["audio"], length=32),
            "video": few(id=paths["video"], length=3, height=16, size=24),
        },
        joint=JointConfig(("image", "audio", "video"), num_inference_steps=2),
        untrained=(LANGUAGE, "image", "audio", "video"),
    )


def _write_imagebind(beside: Path) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(0)
    (beside / "imagebind").mkdir()
    save_file(ImageBind(SIZES).state_dict(), beside / "imagebind" / "model.safetensors")
    published.clip_tokenizer(beside / "words").save_pretrained(beside / "words")


def _write_pipelines(beside: Path) -> None:
    unclip = published.unclip_pipeline(beside / "clip", DIM)
    read = ("unet", "vae", "image_normalizer", "image_noising_scheduler", "scheduler", "tokenizer", "text_encoder")
    for name in read:
        unclip.components[name].save_pretrained(beside / "image" / name)
    (beside / "image" / "model_index.json").write_text('{"_class_name": "StableUnCLIPImg2ImgPipeline"}')
    published.video_pipeline(beside / "clip").save_pretrained(beside / "video")
    audio_pipeline(beside).save_pretrained(beside / "audio")


def audio_pipeline(folder: Path) -> Any:
    """AudioLDM2 with CLAP, T5 and GPT-2, which make its states of a prompt."""
    from diffusers import AudioLDM2Pipeline, AudioLDM2ProjectionModel
    from transformers import AutoFeatureExtractor, ClapModel, GPT2Config, GPT2Model, RobertaTokenizer, T5Tokenizer

    half = published.audioldm2_pipeline()
    clap = sound_tower(folder / "clap", width=12)
    words = ["<s>", "<pad>", "</s>", "<unk>", "Ġ", *LETTERS]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0), *((letter, -2.0) for letter in LETTERS)]
    torch.manual_seed(0)
    parts = {
        **half.components,
        "text_encoder": ClapModel.from_pretrained(clap),
        "projection_model": AudioLDM2ProjectionModel(12, 16, 12),
        "language_model": GPT2Model(GPT2Config(vocab_size=10, n_positions=200, n_embd=12, n_layer=1, n_head=2)).eval(),
        "tokenizer": RobertaTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=[], model_max_length=77),
        "tokenizer_2": T5Tokenizer(vocab=pieces, model_max_length=64),
        "feature_extractor": AutoFeatureExtractor.from_pretrained(clap),
    }
    return AudioLDM2Pipeline(**parts)
