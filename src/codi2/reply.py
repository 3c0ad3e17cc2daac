"""Options of a reply, the reply itself, and the times of its stages."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from codi2.errors import PromptError
from codi2.prompt.parts import Audio, Image, Part, Text, Video, check_characters
from codi2.prompt.sources import LAST, check_name

if TYPE_CHECKING:  # it brings torch
    from codi2.llm.decode import ReplyOptions

Callback = Callable[[str, int, int], None]
"""Called with (stage, steps done, all steps); stages are `read`, `write` and `decode`."""


@dataclass(frozen=True)
class Options:
    """How a reply is made; None leaves a choice to the model or its config."""

    want: str | Sequence[str] | None = None  # modalities of the reply: image, audio, video, text, or several in order
    seed: int = 0  # of noise and sampled text; None draws a random one, which the recipe names
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    source_guidance_scale: float | None = None
    negative_prompt: str | None = None
    source: str = LAST  # the item that is edited: none, last (see `prompt.sources`), or an item's name, such as image0
    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float | None = None  # tokens are sampled from the likeliest of this total probability; None: from all
    stop: Sequence[str] | None = None  # strings before which the reply's text ends

    def __post_init__(self) -> None:
        """Raises PromptError: `source` is malformed, or the negative prompt has half of a surrogate pair."""
        check_name(self.source)
        if cast("int | None", self.seed) is None:
            object.__setattr__(self, "seed", secrets.randbelow(2**63))
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

    def reply_options(self, makes: Sequence[str]) -> ReplyOptions:
        """The options of the language model, in a model that makes media of the modalities `makes`.

        Raises PromptError: another modality is wanted.
        """
        from codi2.llm.decode import ReplyOptions

        if missing := sorted(set(self.wanted or ()) - {"text", *makes}):
            raise PromptError(f"this model makes {', '.join(makes)} and text, not {missing[0]}; ask for one of these")
        return ReplyOptions(
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
