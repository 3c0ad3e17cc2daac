"""Small random towers of classes of transformers, as folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def picture_tower(folder: Path, kind: str = "siglip", width: int = 16) -> Path:
    """SigLIP, SigLIP 2 or CLIP: pictures of 16 pixels in patches of 8, words of bytes."""
    import transformers

    from codi2.llm.backbone import byte_tokenizer

    name = {"siglip": "Siglip", "siglip2": "Siglip2", "clip": "CLIP"}[kind]
    tokenizer = letters(kind) if kind != "siglip" else byte_tokenizer()
    sizes = {"hidden_size": width, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 32, **sizes}
    text |= {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    vision = {"patch_size": 8, **sizes}
    vision |= {"num_patches": 4} if kind == "siglip2" else {"image_size": 16}
    config = getattr(transformers, f"{name}Config")(text_config=text, vision_config=vision, projection_dim=width)
    torch.manual_seed(0)
    getattr(transformers, f"{name}Model")(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"siglip": {"size": {"height": 16, "width": 16}}, "siglip2": {"patch_size": 8, "max_num_patches": 4}}
    options = size.get(kind, {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}})
    getattr(transformers, f"{name}ImageProcessorPil")(**options).save_pretrained(folder)
    return folder


def letters(kind: str) -> Any:
    """The tokenizer that transformers takes for SigLIP 2 or CLIP, over letters."""
    from transformers import CLIPTokenizer, Siglip2Tokenizer

    alphabet = "abcdefghijklmnopqrstuvwxyz"
    if kind == "siglip2":
        words = ["<pad>", "<eos>", "<bos>", "<unk>", "▁", *alphabet]
        return Siglip2Tokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[])
    words = [*alphabet, *(f"{letter}</w>" for letter in alphabet), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[])


def sound_tower(folder: Path, width: int = 12) -> Path:
    """CLAP: a fifth of a second at 16 kHz."""
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

    from codi2.llm.backbone import byte_tokenizer

    tokenizer = byte_tokenizer()
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 400, "projection_dim": width,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    audio = {
        "window_size": 4, "num_mel_bins": 16, "spec_size": 64, "patch_size": 4, "patch_stride": [4, 4],
        "num_classes": 2, "hidden_size": 16, "projection_dim": width, "depths": [1, 1], "num_attention_heads": [1, 1],
        "patch_embeds_hidden_size": 8, "enable_fusion": False,
    }  # fmt: skip
    config = ClapConfig(text_config=text, audio_config=audio, projection_dim=width)
    torch.manual_seed(0)
    ClapModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    reader = ClapFeatureExtractor(
        feature_size=16, sampling_rate=16_000, hop_length=160, max_length_s=1, fft_window_size=512,
        frequency_max=8_000, truncation="rand_trunc",
    )  # fmt: skip
    reader.save_pretrained(folder)
    return folder
