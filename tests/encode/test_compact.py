"""Compact features: their shape and scale, and the encoder that appends them to the joint vector."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image as PILImage

from codi2.encode.compact import CompactDecoder, CompactEncoder
from codi2.encode.tiny import TinyEncoder, clip_changes, joint_heads, load_tiny
from codi2.encode.trunks import Trunk
from codi2.errors import WeightsError
from codi2.prompt.parts import Image, Video
from codi2.weight_files import export_module, export_tensors


def small(in_channels: int = 3, latent_shape: tuple[int, int, int] = (3, 4, 4), levels: int = 4) -> CompactEncoder:
    torch.manual_seed(0)
    return CompactEncoder(in_channels, latent_shape, (8,) * levels, dim=16).eval()


def test_features_are_vectors_of_unit_variance_that_decode_to_maps() -> None:
    encoder = small()
    maps = torch.randn(2, 3, 64, 64)
    features = encoder(maps)
    assert features.shape == (2, 3, 16)
    assert torch.allclose(features.flatten(1).var(1, unbiased=False), torch.ones(2), atol=1e-3)
    assert torch.allclose(features.flatten(1).mean(1), torch.zeros(2), atol=1e-5)
    assert CompactDecoder(dict(encoder.config))(features).shape == maps.shape


class StubTrunk(Trunk):
    """Pictures → their mean colour, repeated."""

    def read(self, parts):  # type: ignore[no-untyped-def]
        import numpy as np

        return torch.from_numpy(np.stack([np.asarray(part.pixels) for part in parts]))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.float().mean((1, 2)).repeat(1, 1280 // 3 + 1)[:, None, :1280]


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> TinyEncoder:
    monkeypatch.setattr("codi2.encode.tiny.ImageTrunk", StubTrunk)
    compact = {"image": small(), "video": small(21, (1, 4, 4), levels=3)}
    return TinyEncoder({"image": StubTrunk()}, joint_heads(16), compact).eval()


def picture(colour: str) -> Image:
    return Image(PILImage.new("RGB", (64, 64), colour))


def test_a_picture_has_a_joint_vector_and_compact_features(encoder: TinyEncoder) -> None:
    features = encoder([picture("red"), picture("blue")])
    assert features.shape == (2, 4, 16)
    assert torch.allclose(features[:, 0].norm(dim=-1), torch.full((2,), 4.0), atol=1e-4)
    alone = encoder([picture("red")])
    assert torch.allclose(alone[0], features[0], atol=1e-4)  # a batch gives what single calls give
    assert encoder([picture("red")], 1).shape == (1, 1, 16)


def test_a_clip_has_the_features_of_its_first_frame_and_of_its_motion(encoder: TinyEncoder) -> None:
    frames = [picture(colour).pixels for colour in ("red", "blue", "green", "red", "red", "red", "red", "red")]
    clip, still = (encoder([Video(tuple(pictures), 3.0)]) for pictures in (frames, frames[:1] * 8))
    assert clip.shape == (1, 5, 16)
    assert torch.allclose(clip[0, :4], encoder([picture("red")])[0], atol=1e-4)
    assert torch.equal(clip[:, :4], still[:, :4]) and not torch.allclose(clip[:, 4], still[:, 4])


def test_changes_are_differences_of_adjacent_frames_at_half_the_size() -> None:
    frames = torch.zeros(1, 3, 8, 8, 3, dtype=torch.uint8)
    frames[:, 1:] = 255
    changes = clip_changes(frames)
    assert changes.shape == (1, 6, 4, 4)
    assert torch.allclose(changes[:, :3], torch.tensor(2.0)) and changes[:, 3:].eq(0).all()


def test_trained_parts_are_loaded_and_heads_of_another_width_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codi2.encode.tiny.load_trunk", lambda modality: StubTrunk())
    export_tensors(joint_heads(16).state_dict(), tmp_path / "heads.safetensors", {})
    export_module(small(), tmp_path / "image", {})
    loaded = load_tiny(tmp_path, 16)
    assert torch.allclose(
        loaded.compact["image"](torch.ones(1, 3, 64, 64)), small()(torch.ones(1, 3, 64, 64)), atol=2e-2
    )
    with pytest.raises(WeightsError, match="does not fit"):
        load_tiny(tmp_path, 32)


def test_parts_on_demand_are_loaded_with_what_they_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codi2.encode.tiny.load_trunk", lambda modality: StubTrunk())
    monkeypatch.setattr("codi2.encode.tiny.ImageTrunk", StubTrunk)
    export_tensors(joint_heads(16).state_dict(), tmp_path / "heads.safetensors", {})
    export_module(small(), tmp_path / "image", {})
    whole, partly = load_tiny(tmp_path, 16), load_tiny(tmp_path, 16, on_demand=True)
    assert not partly.trunks.loaded and not partly.compact.loaded
    assert torch.equal(partly([picture("red")], 1), whole([picture("red")], 1))
    assert list(partly.trunks.loaded) == ["image"] and not partly.compact.loaded
    assert torch.equal(partly([picture("red")]), whole([picture("red")]))
    assert list(partly.compact.loaded) == ["image"]
