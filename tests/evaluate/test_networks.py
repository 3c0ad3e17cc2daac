"""The networks of published figures agree with the packages that the field uses, on drawn weights."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.audio_utils import mel_filter_bank

from codi2.errors import WeightsError
from codi2.evaluate.inception import Inception, load_inception
from codi2.evaluate.panns import Cnn14, load_panns
from codi2.media import load_image
from codi2.prompt.parts import Audio

GOLDEN = json.loads((Path(__file__).parent / "golden" / "networks.json").read_text())
COUNTER, FILTERS = "num_batches_tracked", "logmel_extractor.melW"


def names_of(state):
    return {name: list(value.shape) for name, value in state.items() if not name.endswith(COUNTER)}


def drawn(names):
    """Tensors as the goldens' script drew them: each by its place among the sorted names."""
    out = {}
    for i, (name, shape) in enumerate(sorted(names.items())):
        draw = np.random.default_rng(i)
        if name.endswith("running_var"):
            values = draw.uniform(0.5, 1.5, shape)
        elif name.endswith(("running_mean", "bias")):
            values = draw.normal(size=shape) * 0.1
        elif ".bn" in name or name.startswith("bn"):
            values = draw.uniform(0.8, 1.2, shape)
        else:
            values = draw.normal(size=shape) * (2 / max(1, np.prod(shape[1:]))) ** 0.5
        out[name] = torch.tensor(np.asarray(values), dtype=torch.float32)
    return out


def digest(names):
    return hashlib.sha256(json.dumps(sorted(names.items())).encode()).hexdigest()


def test_inception_is_that_of_torch_fidelity(tmp_path):
    golden, names = GOLDEN["inception"], names_of(Inception().state_dict())
    assert (len(names), digest(names)) == (golden["names"], golden["names_sha256"])
    torch.save({**drawn(names), "fc.weight": torch.zeros(1008, 2048)}, tmp_path / "pt_inception.pth")
    network = load_inception(tmp_path / "pt_inception.pth")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 299, 299)).astype(np.float32)
    with torch.inference_mode():
        found = network((torch.from_numpy(pixels) - 128) / 128)
    np.testing.assert_allclose(found[:, ::128], golden["every_128th"], rtol=1e-4, atol=1e-4)


def test_pictures_of_any_shape_are_brought_to_the_size_that_fid_means(media):
    network = Inception().eval()
    assert network.pictures([load_image(path) for path in sorted(media.glob("*.png"))[:2]]).shape == (2, 2048)


def panns_file(path):
    names = names_of(Cnn14().state_dict())
    assert (len(names), digest(names)) == (GOLDEN["panns"]["names"], GOLDEN["panns"]["names_sha256"])
    del names[FILTERS]
    mel = mel_filter_bank(257, 64, 50.0, 8000.0, 16_000, norm="slaney", mel_scale="slaney")
    extra = {
        FILTERS: torch.tensor(mel, dtype=torch.float32),
        "spectrogram_extractor.stft.conv_real.weight": torch.ones(1),
    }
    torch.save({"model": {**drawn(names), **extra}, "iteration": 1}, path)
    return path


def test_cnn14_is_that_of_panns(tmp_path):
    network = load_panns(panns_file(tmp_path / "Cnn14_16k.pth"))
    t = np.arange(40_960) / 16_000
    noise = np.random.default_rng(1).normal(size=40_960) * 0.1
    sounds = [Audio(wave.astype(np.float32), 16_000) for wave in (np.sin(2 * np.pi * 440 * t * (1 + t)) * 0.3, noise)]
    embeddings, logits = network.sounds(sounds)
    for found, golden in ((embeddings[:, ::128], "every_128th"), (logits[:, ::31], "logits_every_31st")):
        np.testing.assert_allclose(found, GOLDEN["panns"][golden], rtol=2e-3, atol=2e-2)
    alone = network.sounds(sounds[1:])[0]
    np.testing.assert_allclose(alone[0], embeddings[1], rtol=1e-4, atol=1e-4)


def test_short_sounds_and_sounds_of_other_rates_are_heard(tmp_path):
    network = load_panns(panns_file(tmp_path / "Cnn14_16k.pth"))
    wave = np.random.default_rng(2).normal(size=8_000).astype(np.float32) * 0.1
    embeddings, logits = network.sounds([Audio(wave, 8_000), Audio(np.zeros(100, np.float32), 44_100)])
    assert embeddings.shape == (2, 2048) and logits.shape == (2, 527) and np.isfinite(logits).all()


@pytest.mark.parametrize("load", [load_inception, load_panns])
def test_weights_of_another_network_are_refused(tmp_path, load):
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="does not fit"):
        load(tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="is missing"):
        load(tmp_path / "none.pth")
