"""The encoder of `paper`: ImageBind (arXiv:2305.05665), whose joint space the language model reads and regresses.

| modality | tower  | tokens of a sample  |
|----------|--------|---------------------|
| image    | vision | 1 + 16×16           |
| video    | vision | 1 + 16×16           |
| audio    | audio  | 1 + 12×19           |
| phrase   | text   | the joint vector    |
| depth    | depth  | 1 + 14×14           |
| thermal  | thermal | 1 + 14×14          |
| imu      | imu    | 1 + 250             |

Letters: B parts, T features of a part, L tokens of a sample, D joint width (1024).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from codi2.encode.contract import Encoder
from codi2.encode.imagebind.media import TextReader, read_clip, read_picture, read_sound
from codi2.encode.imagebind.network import HUGE, ImageBind, ImageBindConfig
from codi2.encode.imagebind.senses import read_depth, read_imu, read_thermal
from codi2.errors import ConfigError, PromptError
from codi2.modalities import SENSES
from codi2.prompt.parts import IMU, Audio, Depth, Image, Part, Phrase, Thermal, Video
from codi2.tensors import load_exactly, read_tensors

TOWERS = {"image": "vision", "video": "vision", "audio": "audio", "phrase": "text", **{s: s for s in SENSES}}
NUM_TOKENS = {"image": 257, "video": 257, "audio": 229, "phrase": 1, "depth": 197, "thermal": 197, "imu": 251}
"""Most features that a part can have: its joint vector and its patch tokens."""


class ImageBindEncoder(Encoder):
    """ImageBind with the interface of all encoders.

    Args:
        read_words: texts to ids.
        num_features: modality → T. 1: the joint vector C_x(x) alone. All of `NUM_TOKENS`: the joint vector and all
            patch tokens, as in the authors' code. Between: the joint vector and the patch tokens pooled to T - 1.
        norm: joint vectors are scaled to this norm, and the tokens by the same factor; 0: ImageBind's scales (1 for
            pictures and clips, 20 for sounds, 10 for thermal pictures, 5 for depth and IMU, a learned scale for words).

    Raises:
        ConfigError: more features than a modality has.
    """

    supports_half = True

    def __init__(
        self,
        network: ImageBind,
        read_words: Callable[[Sequence[str]], Tensor],
        num_features: Mapping[str, int],
        norm: float = 0.0,
    ) -> None:
        super().__init__()
        for modality, count in num_features.items():
            if not 1 <= count <= NUM_TOKENS.get(modality, 0):
                most = NUM_TOKENS.get(modality, 0)
                raise ConfigError(
                    f"encoder.num_features[{modality!r}] is {count}; ImageBind gives at most {most}, set 1 to {most}"
                )
        self.network, self.read_words, self.norm = network, read_words, norm
        self.num_features = num_features
        self.dim = network.config.dim
        self.modalities = tuple(num_features)

    def forward(self, parts: Sequence[Part], count: int | None = None) -> Tensor:
        """Where T is below `NUM_TOKENS`, patch tokens are pooled over equal stretches of the token sequence."""
        return self.forward_read(parts[0].modality, self.read(parts), count)

    @torch.no_grad()
    def forward_read(self, modality: str, read: Tensor, count: int | None = None) -> Tensor:
        weight = next(self.network.parameters())
        samples = read.to(weight.device, weight.dtype if read.is_floating_point() else None)
        joint, tokens = self.network(TOWERS[modality], samples.flatten(0, 1))
        # the vectors of the stretches and crops of a part are averaged
        joint, tokens = (x.float().unflatten(0, read.shape[:2]).mean(1) for x in (joint, tokens))
        values = self._pooled(joint, tokens, count or self.num_features[modality])
        if self.norm:
            values = values * (self.norm / joint.norm(dim=-1).clamp(min=1e-12))[:, None, None]
        return values

    def read(self, parts: Sequence[Part]) -> Tensor:
        """[B, S, …]: the inputs of the tower, S stretches and crops of each part."""
        samples: list[Tensor] = []
        for part in parts:
            match part:
                case Image(pixels=pixels):
                    samples.append(read_picture(pixels)[None])
                case Video():
                    samples.append(read_clip(part))
                case Audio():
                    samples.append(read_sound(part))
                case Depth(metres=metres):
                    samples.append(read_depth(metres)[None])
                case Thermal(warmth=warmth):
                    samples.append(read_thermal(warmth)[None])
                case IMU():
                    samples.append(read_imu(part))
                case Phrase(text=text):
                    samples.append(self.read_words([text]))
                case _:
                    raise PromptError(
                        f"ImageBind reads {', '.join(self.modalities)}, not {part.modality}; leave it out"
                    )
        return torch.stack(samples)

    @staticmethod
    def _pooled(joint: Tensor, tokens: Tensor, count: int) -> Tensor:
        """[B, count, D]: the joint vector first."""
        if count == 1:
            return joint[:, None]
        patches = tokens[:, 1:]
        if count - 1 < patches.shape[1]:
            patches = F.adaptive_avg_pool1d(patches.transpose(1, 2), count - 1).transpose(1, 2)
        return torch.cat([joint[:, None], patches], dim=1)


def load_network(path: Path, config: ImageBindConfig = HUGE) -> ImageBind:
    """The network with the weights of a file, the published `.pth` or a safetensors file of it; frozen, in eval mode.

    Raises:
        WeightsError: the file is missing or no checkpoint, or a tensor is missing, unknown or of another shape.
    """
    with torch.device("meta"):
        network = ImageBind(config)
    load_exactly(network, read_tensors(path), f"the checkpoint {path} for ImageBind")
    return network.eval().requires_grad_(False)


def load_encoder(
    source: str, tokenizer: str, num_features: Mapping[str, int], norm: float, config: ImageBindConfig = HUGE
) -> ImageBindEncoder:
    """ImageBind from a file, a folder or a repo that holds `imagebind_huge.pth` or a safetensors file of it.

    Raises:
        WeightsError: the file is missing or does not fit.
    """
    from codi2.hub import weight_file

    path = weight_file(source, ("model.safetensors", "imagebind_huge.safetensors", "imagebind_huge.pth"))
    return ImageBindEncoder(load_network(path, config), TextReader(tokenizer), num_features, norm)
