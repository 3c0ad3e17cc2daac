"""Notes for the user about a reply: settings without effect or with a bad one in this model, text that was cut.

They follow from the model's config, which has the steps and the guidance with which each decoder was trained.
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
        groups: its media with their places, in groups that are decoded together.
    """
    tokens = sum(len(segment.ids) for segment in segments if not isinstance(segment, FeatureSegment))
    modalities = [[medium.modality for _, medium in group] for group in groups]
    return (*settings_notes(config, options, modalities), *length_notes(options, tokens))


def length_notes(options: Options, tokens: int) -> tuple[str, ...]:
    """A note where wanted text, or text that the model chose to write, ends at the limit."""
    expects_text = options.wanted is None or not options.wanted or "text" in options.wanted
    if not expects_text or tokens < options.max_new_tokens:
        return ()
    return (
        f"The text was cut after {options.max_new_tokens} tokens, the most that it may have; raise max_new_tokens "
        "(in the terminal: --max-tokens) for more.",
    )


def settings_notes(config: CoDi2Config, options: Options, groups: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """One note for each decoder and its steps, with the settings that have no effect or a bad one there."""
    notes: dict[str, None] = {}  # in order, without repetitions
    if not groups and options.seed and not options.temperature:
        notes["The seed has no effect on this reply: its text is not sampled, but the likeliest at each word."] = None
    modalities = [modality for group in groups for modality in group]
    for group in groups:
        for modality in group:
            steps = config.joint.num_inference_steps if config.joint and len(group) > 1 else None
            if note := _note(config, options, modality, steps, several=modalities.count(modality) > 1):
                notes[note] = None
    return tuple(notes)


def _note(config: CoDi2Config, options: Options, modality: str, joint_steps: int | None, several: bool) -> str:
    """The note about one decoder, with `joint_steps` where it decodes together with others; "": no note."""
    decoder = config.decoders[modality]
    steps = joint_steps or decoder.num_inference_steps
    one_step, unguided = steps == 1, decoder.guidance_scale == 1
    ineffective = ["the seed"] if one_step and options.seed else []
    harmful = ["the number of steps"] if one_step and options.num_inference_steps not in (None, 1) else []
    if unguided and options.guidance_scale not in (None, 1):
        harmful.append("the guidance scale")
    if unguided and options.negative_prompt:
        (ineffective if options.guidance_scale == 1 else harmful).append("the negative prompt")
    alike = one_step and several  # only their seeds differ
    if not ineffective and not harmful and not alike:
        return ""
    method = " and ".join([f"in {steps} step{'s' * (steps > 1)}"] + ["without guidance"] * unguided)
    effects = [f"{_listed(ineffective)} changed hardly anything"] if ineffective else []
    effects += [f"{_listed(harmful)} made the result worse"] if harmful else []
    effects += ["several of one reply are nearly alike unless the prompt says how they differ"] if alike else []
    return f"The {modality} decoder of this model was trained to draw {method}: {', and '.join(effects)}."


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
