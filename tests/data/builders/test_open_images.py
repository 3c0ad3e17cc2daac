"""Open Images: pictures composed of their parts, cut out by masks or by a segmenter."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from codi2.data.builders.segmenter import segment
from codi2.errors import ConfigError, DataError

from . import official
from .records import Built, report, words


def test_a_picture_composed_of_its_parts(tmp_path: Path, built: Built):
    records = built("open-images", official.open_images(tmp_path / "oi"))
    (record,) = records
    assert record.task == "compose" and record.meta["parts"] == ["cat", "couch"]
    cat, couch, whole = record.media
    assert whole.data == official.photo(0, (120, 80))
    assert cat.decode().pixels.size == (48, 40) and couch.decode().pixels.size == (120, 40)  # cropped to the masks
    assert "@ on @" in words(record)
    assert report(tmp_path / "out-open-images-0")["left_out"] == {"too few parts": 1}


def test_parts_by_a_segmenter(tmp_path: Path, built: Built):
    model = _small_clipseg(tmp_path / "clipseg")
    source = official.open_images(tmp_path / "oi")
    (source / "train-annotations-object-segmentation.csv").unlink()
    with pytest.raises(DataError, match="or name a segmenter with --set segmenter"):
        built("open-images", source)
    records = built("open-images", source, segmenter=str(model), threshold=0.0)  # of random weights: everything
    assert [record.meta["parts"] for record in records] == [["cat", "couch"]]
    assert records[0].media[0].decode().pixels.size == (120, 80)


def test_entities_are_segmented_in_batches(tmp_path: Path, built: Built, monkeypatch: pytest.MonkeyPatch):
    """A network sees the entities of several pictures at once, and finds what it finds in one alone."""
    from transformers import CLIPSegForImageSegmentation

    model = _small_clipseg(tmp_path / "clipseg")
    source = official.open_images(tmp_path / "oi")
    (source / "train-annotations-object-segmentation.csv").unlink()
    lines = [
        {"image_id": name, "caption": words}
        for name, words in (
            ("0001eeaf", "A cat on a couch."),
            ("gone", "A dog on a bed."),
            ("000595fe", "A cup on a red book."),
        )
    ]
    official.put(source / "open_images_train_captions.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    sizes: list[int] = []
    forward = CLIPSegForImageSegmentation.forward

    def seen(self, **inputs):
        sizes.append(len(inputs["pixel_values"]))
        return forward(self, **inputs)

    monkeypatch.setattr(CLIPSegForImageSegmentation, "forward", seen)
    chosen = {"segmenter": str(model), "threshold": 0.0}
    together = built("open-images", source, **chosen, batch=3)
    assert sizes == [3, 1]
    alone = built("open-images", source, **chosen, batch=1)
    assert sizes[2:] == [1] * 4
    assert [r.meta["parts"] for r in together] == [r.meta["parts"] for r in alone]
    assert [m.data for r in together for m in r.media] == [m.data for r in alone for m in r.media]
    assert len(together) == 2 and report(tmp_path / "out-open-images-0")["left_out"]["absent"] == 1
    pictures = [PILImage.open(io.BytesIO(official.photo(n, (120, 80)))) for n in (0, 1)]
    wanted = [(picture, text) for picture in pictures for text in ("a", "red b")]
    for threshold in (0.45, 0.5, 0.55):
        masks = [np.stack(list(segment(str(model), wanted, "cpu", size, threshold))) for size in (1, 4)]
        assert masks[0].shape == (4, 80, 120) and (masks[0] == masks[1]).mean() > 0.999
    with pytest.raises(ConfigError, match="the device is 'cuda"):
        built("open-images", source, **chosen, device="cuda:9")


def _small_clipseg(folder: Path) -> Path:
    """The real classes at a small size, with random weights."""
    from transformers import (
        CLIPSegConfig,
        CLIPSegForImageSegmentation,
        CLIPSegProcessor,
        CLIPTokenizer,
        ViTImageProcessor,
    )

    small = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    text = {**small, "num_hidden_layers": 2, "vocab_size": 60, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    vision = {**small, "num_hidden_layers": 3, "image_size": 32, "patch_size": 16}
    config = CLIPSegConfig(
        text_config=text, vision_config=vision, projection_dim=16, extract_layers=[1, 2], reduce_dim=8,
        decoder_num_attention_heads=2, decoder_intermediate_size=16,
    )  # fmt: skip
    CLIPSegForImageSegmentation(config).save_pretrained(folder)
    letters = [*"abcdefghijklmnopqrstuvwxyz", *(f"{c}</w>" for c in "abcdefghijklmnopqrstuvwxyz")]
    vocab = {token: i for i, token in enumerate(["<|startoftext|>", "<|endoftext|>", *letters])}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    CLIPSegProcessor(ViTImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder
