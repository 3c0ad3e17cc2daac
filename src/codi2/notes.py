"""What a user should know of a reply's making: settings that do nothing or harm with this model, text that was cut.

Everything here is read from the model's config, in which a decoder's number of steps and its guidance stand as it was
trained; no model is known by its name.
"""

from __future__ import annotations

from collections.abc import Sequence

from codi2.config import CoDi2Config
from codi2.llm.decode import FeatureSegment, Segment
from codi2.reply import Options


def notes_of(
    config: CoDi2Config,
    options: Options,
    segments: Sequence[Segment],
    groups: Sequence[Sequence[tuple[int, FeatureSegment]]],
) -> tuple[str, ...]:
    """The notes of one reply.

    Args:
        groups: its media with their places, those that are decoded together in one group.
    """
    tokens = sum(len(segment.ids) for segment in segments if not isinstance(segment, FeatureSegment))
    modalities = [[medium.modality for _, medium in group] for group in groups]
    return (*settings_notes(config, options, modalities), *length_notes(options, tokens))


def length_notes(options: Options, tokens: int) -> tuple[str, ...]:
    """Says so where text that was asked for, or that the model chose to write, ends at the limit."""
    expects_text = options.wanted is None or not options.wanted or "text" in options.wanted
    if not expects_text or tokens < options.max_new_tokens:
        return ()
    return (
        f"The text was cut after {options.max_new_tokens} tokens, the most that it may have; raise max_new_tokens "
        "(in the terminal: --max-tokens) for more.",
    )


def settings_notes(config: CoDi2Config, options: Options, groups: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """One note for each way of drawing, which names the settings that do nothing or harm there."""
    notes: dict[str, None] = {}  # in order, each once
    if not groups and options.seed and not options.temperature:
        notes["The seed has no effect on this reply: its text is not sampled, but the likeliest at each word."] = None
    drawn = [modality for group in groups for modality in group]
    for group in groups:
        for modality in group:
            steps = config.joint.num_inference_steps if config.joint and len(group) > 1 else None
            if note := _note(config, options, modality, steps, several=drawn.count(modality) > 1):
                notes[note] = None
    return tuple(notes)


def _note(config: CoDi2Config, options: Options, modality: str, joint_steps: int | None, several: bool) -> str:
    """Of one decoder, which draws in `joint_steps` where it draws beside others; empty where all settings work."""
    decoder = config.decoders[modality]
    steps = joint_steps or decoder.num_inference_steps
    one_step, unguided = steps == 1, decoder.guidance_scale == 1
    idle = ["the seed"] if one_step and options.seed else []
    harmful = ["the number of steps"] if one_step and options.num_inference_steps not in (None, 1) else []
    if unguided and options.guidance_scale not in (None, 1):
        harmful.append("the guidance scale")
    if unguided and options.negative_prompt:
        (idle if options.guidance_scale == 1 else harmful).append("the negative prompt")
    alike = one_step and several  # their seeds differ, which is all that does
    if not idle and not harmful and not alike:
        return ""
    how = " and ".join([f"in {steps} step{'s' * (steps > 1)}"] + ["without guidance"] * unguided)
    effects = [f"{_listed(idle)} changed hardly anything"] if idle else []
    effects += [f"{_listed(harmful)} made the result worse"] if harmful else []
    effects += ["several of one reply are nearly alike unless the prompt says how they differ"] if alike else []
    return f"The {modality} decoder of this model was trained to draw {how}: {', and '.join(effects)}."


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
