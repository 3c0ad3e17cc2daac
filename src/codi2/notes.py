"""Notes for the user about a reply: settings that had no effect, text that was cut."""

from __future__ import annotations

from collections.abc import Sequence

from codi2.config import CoDi2Config
from codi2.llm.generation import FeatureSegment, Segment
from codi2.reply import Options


def notes_of(config: CoDi2Config, options: Options, segments: Sequence[Segment]) -> tuple[str, ...]:
    """The notes of one reply, one sentence each."""
    media = [segment.modality for segment in segments if isinstance(segment, FeatureSegment)]
    tokens = sum(len(segment.ids) for segment in segments if not isinstance(segment, FeatureSegment))
    expects_text = options.wanted is None or not options.wanted or "text" in options.wanted
    guided_away = [modality for modality in media if not config.decoders[modality].negative_in_both]
    notes = []
    if options.seed and not options.temperature and not media:
        notes.append("The seed has no effect on this reply: at temperature 0 the most likely token is taken.")
    if options.negative_prompt and options.guidance_scale == 1 and guided_away:
        notes.append(
            "The negative prompt acts through guidance, which a guidance scale of 1 switches off; give another "
            "guidance_scale, or none (in the terminal: --guidance-scale)."
        )
    if expects_text and tokens >= options.max_new_tokens:
        notes.append(
            f"The text was cut after {options.max_new_tokens} tokens, the most that it may have; raise max_new_tokens "
            "(in the terminal: --max-tokens) for more."
        )
    return tuple(notes)
