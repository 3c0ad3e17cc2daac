"""Options of a reply, the reply itself, and the times of its stages."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, cast

from codi2.errors import PromptError
from codi2.prompt.grammar import is_placeholder
from codi2.prompt.parts import Audio, Image, Part, Text, Video, check_characters
from codi2.prompt.sources import LAST, check_name

if TYPE_CHECKING:  # it brings torch
    from codi2.llm.generation import GenerationOptions

RANGES: dict[str, tuple[Any, float, float]] = {
    "seed": (Integral, 0, 2**63 - 1),
    "num_inference_steps": (Integral, 1, 1_000),
    "guidance_scale": (Real, 0, 1_000),
    "source_guidance_scale": (Real, 0, 1_000),
    "max_new_tokens": (Integral, 0, 100_000),
    "temperature": (Real, 0, 2),
    "top_p": (Real, 0, 1),
}
"""Type, least and greatest value of the numbers in `Options`."""

Callback = Callable[[str, int, int], None]
"""Called with (stage, steps done, all steps); stages are `read`, `write` and `decode`."""


@dataclass(frozen=True)
class Options:
    """How a reply is made; None leaves a choice to the model or its config."""

    want: str | Sequence[str] | None = None  # modalities of the reply: image, audio, video, text, or several in order
    seed: int = 0  # of noise and sampled text; None draws a random one, which the recipe names
    num_inference_steps: int | None = None  # denoising steps of each medium
    guidance_scale: float | None = None  # of classifier-free guidance towards the features; 1: no guidance
    source_guidance_scale: float | None = None  # the same towards the item that is edited
    negative_prompt: str | None = None  # what media should not show
    source: str = LAST  # the item that is edited: none, last (see `prompt.sources`), or an item's name, such as image0
    max_new_tokens: int = 128  # of the reply's text
    temperature: float = 0.0  # of sampled text; 0 takes the likeliest token
    top_p: float | None = None  # tokens are sampled from the likeliest of this total probability; None: from all
    stop: Sequence[str] | None = None  # strings before which the reply's text ends

    def __post_init__(self) -> None:
        """Raises PromptError: a number is outside `RANGES`, `source` is malformed, or a text is not valid Unicode."""
        check_name(self.source)
        if cast("int | None", self.seed) is None:
            object.__setattr__(self, "seed", secrets.randbelow(2**63))
        for name, (kind, least, greatest) in RANGES.items():
            value: Any = getattr(self, name)
            if value is None and getattr(type(self), name) is None:
                continue
            if isinstance(value, bool) or not isinstance(value, kind) or not least <= value <= greatest:
                expected = "an integer" if kind is Integral else "a number"
                raise PromptError(f"{name} is {value!r}; expected {expected} from {least} to {greatest}")
        if self.negative_prompt is not None:
            check_characters(self.negative_prompt)
        if self.want is not None and not isinstance(self.want, str):
            object.__setattr__(self, "want", tuple(self.want))
        if self.stop is not None:
            object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))

    @property
    def wanted(self) -> tuple[str, ...] | None:
        """The modalities that the reply must have, in order; None: the model chooses."""
        return (self.want,) if isinstance(self.want, str) else self.want  # type: ignore[return-value]  # see above

    def generation_options(self, makes: Sequence[str]) -> GenerationOptions:
        """The options of the language model, in a model that makes media of the modalities `makes`.

        Raises PromptError: another modality is wanted.
        """
        from codi2.llm.generation import GenerationOptions

        if missing := sorted(set(self.wanted or ()) - {"text", *makes}):
            raise PromptError(f"this model makes {', '.join(makes)} and text, not {missing[0]}; ask for one of these")
        return GenerationOptions(
            want=self.wanted,
            makes=tuple(makes),
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed,
            stop=tuple(self.stop or ()),
        )

    @property
    def media(self) -> tuple[str, ...] | None:
        """Modalities of the media that the reply must have, in order; None: the model chooses."""
        return None if self.wanted is None else tuple(modality for modality in self.wanted if modality != "text")


def divide_settings(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keyword arguments → those that are fields of `Options`, and items by the names of their placeholders.

    Raises PromptError: a name is neither.
    """
    known = [field.name for field in fields(Options)]
    options = {name: value for name, value in settings.items() if name in known}
    items = {name: value for name, value in settings.items() if name not in known}
    if unknown := [name for name in items if not is_placeholder(name)]:
        raise PromptError(
            f"there is no option {unknown[0]!r}; expected {', '.join(known)}, or a placeholder's name, such as image0"
        )
    return options, items


@dataclass(frozen=True)
class Reply:
    """The model's answer: its parts in order, and how they were made."""

    parts: tuple[Part, ...]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # for the user, about how it was made

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts if isinstance(part, Text)).strip()

    @property
    def images(self) -> list[Image]:
        return [part for part in self.parts if isinstance(part, Image)]

    @property
    def sounds(self) -> list[Audio]:
        return [part for part in self.parts if isinstance(part, Audio)]

    @property
    def clips(self) -> list[Video]:
        return [part for part in self.parts if isinstance(part, Video)]


class Stopwatch:
    """Seconds by stage; calls the callback at the start and end of each stage."""

    def __init__(self, callback: Callback) -> None:
        self.callback, self.seconds = callback, {}  # type: ignore[var-annotated]

    def __call__(self, stage: str) -> Stopwatch:
        self.stage = stage
        return self

    def __enter__(self) -> None:
        self.callback(self.stage, 0, 1)
        self.start = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.seconds[self.stage] = time.perf_counter() - self.start
        if kind is None:
            self.callback(self.stage, 1, 1)
