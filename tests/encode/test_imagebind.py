"""Parity with ImageBind's published code.

`golden/imagebind.json` holds what that code (facebookresearch/ImageBind, `ImageBindModel`) gives at small sizes for
weights and inputs made by `noise` below; `golden/imagebind_huge.txt.gz` the names and shapes of `imagebind_huge()`.
Both were computed with a copy of that code, which is not part of this repository: its licence is non-commercial.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from codi2.encode.imagebind import load_network
from codi2.encode.imagebind.network import ImageBind, ImageBindConfig, TowerSize
from codi2.errors import WeightsError

GOLDEN = Path(__file__).parent / "golden"
SMALL = ImageBindConfig(
    dim=16,
    vision=TowerSize(32, 2, 4),
    text=TowerSize(24, 2, 4),
    audio=TowerSize(24, 2, 3),
    depth=TowerSize(16, 2, 2),
    thermal=TowerSize(24, 2, 3),
    imu=TowerSize(16, 2, 2),
)
PUBLISHED = {  # parameters of each tower
    "vision": 632_829_440,
    "text": 354_032_641 - 1,  # without its scale
    "audio": 86_235_648,
    "depth": 21_871_872,
    "thermal": 86_211_072,
    "imu": 19_600_384,
}


def noise(count: int, phase: float) -> Tensor:
    """Numbers in [-1, 1) that any language can compute."""
    x = torch.sin(torch.arange(count, dtype=torch.float64) * 12.9898 + phase) * 43758.5453
    return (x - x.floor()) * 2 - 1


def media(*shape: int, phase: float) -> Tensor:
    return (noise(torch.Size(shape).numel(), phase) * 1.7).float().view(shape)


@pytest.fixture(scope="module")
def small() -> ImageBind:
    """ImageBind at small sizes with the weights of the golden outputs."""
    model = ImageBind(SMALL).eval().requires_grad_(False)
    for i, (name, p) in enumerate(sorted(model.named_parameters())):
        wave = noise(p.numel(), i)
        if "log_logit" in name:
            wave = torch.full_like(wave, 2.0)
        elif p.ndim == 1:
            wave = wave * 0.1 + name.endswith("weight")
        else:
            wave = wave * ((3.0 / (p.numel() / p.shape[0])) ** 0.5 if p.shape[0] > 1 else 0.3)
        p.copy_(wave.view(p.shape))
    return model


def inputs() -> dict[str, Tensor]:
    ids = torch.zeros(2, 77, dtype=torch.long)
    ids[0, :5] = torch.tensor([49406, 320, 1125, 539, 49407])
    ids[1, :8] = torch.tensor([49406, 1, 2, 3, 40000, 7, 9, 49407])
    return {
        "vision": media(2, 3, 224, 224, phase=0.37),
        "text": ids,
        "audio": media(2, 3, 1, 128, 204, phase=0.011),
        "depth": media(2, 1, 224, 224, phase=0.23),
        "thermal": media(2, 1, 224, 224, phase=0.29),
        "imu": media(2, 6, 2000, phase=0.031),
        "video": media(2, 2, 3, 2, 224, 224, phase=0.017),
    }


@pytest.mark.parametrize("name", ["vision", "text", "audio", "depth", "thermal", "imu", "video"])
def test_every_modality_agrees_with_the_published_code(small: ImageBind, name: str) -> None:
    x = inputs()[name]
    modality = "vision" if name == "video" else name
    if name in ("audio", "video"):  # several clips, whose vectors are averaged
        vectors = small(modality, x.flatten(0, 1))[0].unflatten(0, x.shape[:2]).mean(1)
    else:
        vectors = small(modality, x)[0]
    truth = torch.tensor(json.loads((GOLDEN / "imagebind.json").read_text())[name])
    assert float((vectors - truth).norm() / truth.norm()) < 1e-4


def test_the_joint_vector_is_the_first_token_and_a_text_ends_in_it(small: ImageBind) -> None:
    joint, tokens = small("vision", inputs()["vision"])
    assert tokens.shape == (2, 257, 16)
    assert torch.equal(tokens[:, 0], joint)
    assert torch.allclose(joint.norm(dim=-1), torch.ones(2))
    joint, tokens = small("text", inputs()["text"])
    assert torch.equal(joint, torch.stack([tokens[0, 4], tokens[1, 7]]))


def test_names_and_shapes_are_those_of_the_published_checkpoint() -> None:
    with torch.device("meta"):
        huge = ImageBind()
    names = sorted(f"{n} {'x'.join(map(str, v.shape)) or 'scalar'}" for n, v in huge.state_dict().items())
    published = gzip.decompress((GOLDEN / "imagebind_huge.txt.gz").read_bytes()).decode().split("\n")
    assert names == sorted(published)
    parts = (huge.modality_preprocessors, huge.modality_trunks, huge.modality_heads)
    counts = {name: sum(p.numel() for part in parts for p in part[name].parameters()) for name in PUBLISHED}
    assert counts == PUBLISHED


def test_a_checkpoint_loads_exactly_or_not_at_all(small: ImageBind, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = small.state_dict()
    torch.save(state, tmp_path / "small.pth")
    save_file({n: v.clone() for n, v in state.items()}, tmp_path / "small.safetensors")
    for file in ("small.pth", "small.safetensors"):
        loaded = load_network(tmp_path / file, SMALL)
        assert torch.equal(loaded("imu", inputs()["imu"])[0], small("imu", inputs()["imu"])[0])

    name = "modality_trunks.audio.blocks.1.mlp.fc1.weight"
    renamed = {("audio_fc" if n == name else n): v for n, v in state.items()}
    for wrong, words in (
        (renamed, [name, "missing", "audio_fc", "unknown"]),
        ({**state, name: state[name][:5]}, [name, "(5, 24)", "(96, 24)"]),
    ):
        torch.save(wrong, tmp_path / "wrong.pth")
        with pytest.raises(WeightsError) as error:
            load_network(tmp_path / "wrong.pth", SMALL)
        assert all(word in str(error.value) for word in words), error.value
    (tmp_path / "half.pth").write_bytes((tmp_path / "small.pth").read_bytes()[:1000])
    with pytest.raises(WeightsError, match="damaged"):
        load_network(tmp_path / "half.pth", SMALL)
    with pytest.raises(WeightsError, match="is expected"):
        load_network(tmp_path / "small.pth")
