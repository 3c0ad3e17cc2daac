"""An encoder of published towers of transformers: one for pictures, clips and words, one for sounds and words.

| modality | tower               | joint vector                                     |
|----------|---------------------|--------------------------------------------------|
| image    | SigLIP, SigLIP 2, CLIP | [picture, 0]                                  |
| video    | the same            | [mean over frames, 0]                            |
| audio    | CLAP                | [0, mean over stretches]                         |
| phrase   | both                | [words by the image tower, by the audio tower]   |

The towers were not trained together, so their vectors are concatenated: D = D_image + D_audio. Only words have both
halves. All vectors have one norm.

Letters: B parts, F frames, S stretches of a sound, D joint width, d width of a tower.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as PILImage
from torch import Tensor, nn

from codi2.config import EncoderConfig
from codi2.encode.contract import Encoder
from codi2.errors import ConfigError, MediaError
from codi2.hub import hub_errors
from codi2.prompt.parts import Audio, Image, Part, Phrase, Video
from codi2.sizes import check_layers, check_size
from codi2.untrusted import check_folder, parse_json
from codi2.weight_files import check_loaded

FRAMES = 8  # of a clip, spread evenly
STRETCHES = 3  # of a sound that is longer than the tower's input, spread evenly


class Tower(nn.Module):
    """A network of transformers with its feature extractor and its tokenizer."""

    reads: tuple[str, ...]  # modalities, besides words
    longest = 77  # tokens of a text
    masks_padding = True  # whether the network gets the mask of a text's padding

    def __init__(self, network: Any, reader: Any, tokenizer: Any) -> None:
        super().__init__()
        self.network, self.reader, self.tokenizer = network, reader, tokenizer
        self.dim: int = self.words(["a"]).shape[1]

    @property
    def like(self) -> Tensor:
        return next(self.network.parameters())

    def media(self, part: Part) -> Tensor:
        """Unit vectors [n, d] of the frames or stretches of a part."""
        raise NotImplementedError

    def words(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors [B, d]."""
        text = self.network.config.text_config
        # SigLIP was trained on words in lower case, padded to its full length
        tokens = self.tokenizer(
            [t.lower() for t in texts],
            padding="max_length",
            truncation=True,
            max_length=min(text.max_position_embeddings, self.longest),
            split_special_tokens=True,
            return_tensors="pt",
        ).to(self.like.device)
        inputs = {"input_ids": tokens.input_ids}
        if self.masks_padding:
            inputs["attention_mask"] = tokens.attention_mask
        return _unit(self.network.get_text_features(**inputs))


class PictureTower(Tower):
    reads = ("image", "video")

    def media(self, part: Part) -> Tensor:
        if isinstance(part, Image):
            pictures = [part.pixels]
        else:
            assert isinstance(part, Video)
            rows = np.linspace(0, len(part.frames) - 1, min(FRAMES, len(part.frames))).round().astype(int)
            pictures = [part.frames[row] for row in rows]
        return self.pictures(pictures)

    def pictures(self, pictures: Sequence[PILImage.Image]) -> Tensor:
        """[F, d]."""
        inputs = self.reader(images=list(pictures), return_tensors="pt").to(self.like.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self.like.dtype)
        return _unit(self.network.get_image_features(**inputs))


class SiglipTower(PictureTower):
    masks_padding = False
    longest = 64


class SoundTower(Tower):
    reads = ("audio",)

    def media(self, part: Part) -> Tensor:
        """Raises MediaError: the sound is shorter than a window of the spectrogram."""
        import soxr

        assert isinstance(part, Audio)
        rate, most = self.reader.sampling_rate, self.reader.nb_max_samples
        samples = soxr.resample(part.samples, part.rate, rate) if part.rate != rate else part.samples
        if len(samples) < self.reader.hop_length:
            raise MediaError(
                f"{part.name or 'a sound'} lasts {part.seconds * 1000:.0f} ms; its tower needs "
                f"{self.reader.hop_length / rate * 1000:.0f} ms or more, give a longer sound"
            )
        # the extractor cuts longer sounds at random, but the same sound must give the same features
        starts = np.linspace(0, max(0, len(samples) - most), STRETCHES if len(samples) > most else 1).astype(int)
        stretches = [samples[start : start + most] for start in starts]
        read = self.reader(stretches, sampling_rate=rate, return_tensors="pt")
        spectrograms = read["input_features"].to(self.like.device, self.like.dtype)
        longer = torch.zeros(len(spectrograms), 1, dtype=torch.bool, device=spectrograms.device)
        return _unit(self.network.get_audio_features(input_features=spectrograms, is_longer=longer))


TOWERS: dict[str, type[Tower]] = {
    "siglip": SiglipTower,
    "siglip2": SiglipTower,
    "clip": PictureTower,
    "clap": SoundTower,
}
"""`model_type` of transformers → the class of the tower."""


class TowersEncoder(Encoder):
    """Towers with the interface of all encoders.

    Args:
        towers: "image", "audio" → the tower; one is enough.
        num_features: modality → T, which is 1.
        norm: of joint vectors; 0: 1.

    Raises:
        ConfigError: a modality that no tower reads, or more than one feature.
    """

    supports_half = True

    def __init__(self, towers: Mapping[str, Tower], num_features: Mapping[str, int], norm: float = 0.0) -> None:
        super().__init__()
        self.towers = nn.ModuleDict(towers)
        check_counts([type(tower) for tower in towers.values()], num_features)
        self.modalities = tuple(num_features)
        self.norm = norm or 1.0
        ends = np.cumsum([0, *(tower.dim for tower in towers.values())]).tolist()
        self.places = {name: slice(*ends[i : i + 2]) for i, name in enumerate(towers)}
        self.dim = ends[-1]

    @torch.no_grad()
    def forward(self, parts: Sequence[Part], count: int | None = None) -> Tensor:
        values = torch.zeros(len(parts), self.dim, device=next(self.parameters()).device)
        for name, tower in self.towers.items():
            assert isinstance(tower, Tower)
            texts = [part.text for part in parts if isinstance(part, Phrase)]
            if texts:
                values[:, self.places[name]] = tower.words(texts)
            elif parts[0].modality in tower.reads:
                vectors = [F.normalize(tower.media(part).mean(0), dim=0) for part in parts]
                values[:, self.places[name]] = torch.stack(vectors)
        return F.normalize(values, dim=-1)[:, None] * self.norm

    def within(self, values: Tensor, modality: str) -> Tensor:
        kept = torch.zeros_like(values)
        for name, tower in self.towers.items():
            if modality == "phrase" or modality in tower.reads:  # type: ignore[operator]
                kept[:, self.places[name]] = values[:, self.places[name]]
        return kept


def check_counts(kinds: Sequence[type[Tower]], num_features: Mapping[str, int]) -> None:
    """Raises ConfigError: a modality that no tower reads, or more than one feature."""
    readable = sorted({m for kind in kinds for m in kind.reads} | {"phrase"})
    for modality, count in num_features.items():
        if modality not in readable:
            raise ConfigError(
                f"encoder.num_features has {modality!r}, but the towers read {', '.join(readable)}; "
                f"set encoder.num_features.{modality}=null"
            )
        if count != 1:
            raise ConfigError(
                f"encoder.num_features[{modality!r}] is {count}, but towers give the joint vector alone; "
                f"set encoder.num_features.{modality}=1"
            )


def load_towers(config: EncoderConfig) -> TowersEncoder:
    """The encoder of `config.towers`, frozen, fp32.

    Raises:
        ConfigError: no tower is named, or one is of a class that is not in TOWERS or reads another modality.
        WeightsError: a repo or folder is missing or damaged.
    """
    if not config.towers:
        raise ConfigError("encoder.towers is empty; set encoder.towers.image, encoder.towers.audio or both")
    towers = {modality: load_tower(modality, source) for modality, source in config.towers.items()}
    return TowersEncoder(towers, config.num_features, config.norm).eval().requires_grad_(False)


def load_tower(modality: str, source: str) -> Tower:
    """See `load_towers`."""
    from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoModel, AutoTokenizer

    tower_type, description = tower_class(modality, source), f"the {modality} tower {source!r}"
    with hub_errors(description):
        if Path(source).is_dir():
            _check_folder(Path(source), description)
        network, info = AutoModel.from_pretrained(
            source, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
        )
        reader = (AutoFeatureExtractor if tower_type is SoundTower else AutoImageProcessor).from_pretrained(source)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    check_loaded(description, info, exactly=False)
    with torch.no_grad():
        return tower_type(network.eval().requires_grad_(False), reader, tokenizer)


def tower_class(modality: str, source: str) -> type[Tower]:
    """The class for a repo or folder, from its config.json. Raises ConfigError, WeightsError."""
    from codi2.hub import weight_file

    path = weight_file(source, ("config.json",))
    with hub_errors(f"the {modality} tower {source!r}"):
        name = str(parse_json(path.read_bytes()).get("model_type", ""))
    kind = TOWERS.get(name)
    if kind is None:
        raise ConfigError(f"encoder.towers.{modality} is {source!r}, a {name or 'model of no type'}; choose one of "
                          f"{', '.join(TOWERS)}")  # fmt: skip
    if modality not in kind.reads:
        raise ConfigError(
            f"encoder.towers.{modality} is {source!r}, a {name}, which reads {kind.reads[0]}; choose a tower of "
            f"{modality}"
        )
    return kind


def _check_folder(folder: Path, description: str) -> None:
    """Raises WeightsError: the config needs more numbers than the weights hold, or the tokenizer cannot be used."""
    from transformers import AutoConfig, AutoModel

    from codi2.llm.trial import try_tokenizer

    check_folder(folder)
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    check_layers(parse_json((folder / "config.json").read_bytes()), weights, description)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    check_size(lambda: AutoModel.from_config(config, trust_remote_code=False), weights, description)
    if (file := folder / "tokenizer.json").is_file():
        try_tokenizer(file)


def _unit(output: Any) -> Tensor:
    """Vectors [B, d] of norm 1, float32."""
    vectors = output if isinstance(output, Tensor) else output.pooler_output
    return F.normalize(vectors.float(), dim=-1)
