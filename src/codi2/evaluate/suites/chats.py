"""`chat`: which modalities the model answers a message with, in conversations of three rounds.

The earlier rounds of a request have true replies, so one wrong answer does not spoil the next. Nothing is drawn: what
counts is what the language model begins. The wordings below are in no template that anything was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from codi2.chat import Chat
from codi2.evaluate.case import Case, System
from codi2.evaluate.context import EvalContext
from codi2.evaluate.figure import Example, Figure, Findings, mean
from codi2.evaluate.suites.language import FACTS
from codi2.llm.generation import FeatureSegment
from codi2.model import Options
from codi2.prompt.layout import Message
from codi2.prompt.parts import Media, Part, Text

CHATS, EXAMPLES, TOKENS = 67, 6, 24
MEDIA = ("image", "audio", "video")
BAR = 0.9


@dataclass(frozen=True)
class Kind:
    """One kind of request.

    Fields of a wording: `{thing}`, `{sound}` and `{question}` are words; `{image}` and `{audio}` are new media.
    """

    answer: tuple[str, ...]
    """Modalities of a right reply."""
    wordings: tuple[str, ...]


KINDS = {
    "a picture": Kind(
        ("image",),
        ("Could I get a picture of {thing}?", "I'd love to see {thing} now.", "Put {thing} on the canvas for me."),
    ),
    "a sound": Kind(
        ("audio",),
        ("Could you produce the noise of {sound}?", "I would like to hear {sound}.", "Next I need audio: {sound}."),
    ),
    "a clip": Kind(
        ("video",),
        ("I want a short film of {thing}.", "Could I have {thing} as moving images?", "Time for a video: {thing}."),
    ),
    "words about a picture": Kind(
        ("text",),
        (
            "So what am I looking at in {image}?",
            "In words, what does {image} hold?",
            "{image} Which name does it go by?",
        ),
    ),
    "words about a sound": Kind(
        ("text",), ("Which noise is {audio}?", "Listen to {audio} and name it.", "{audio} Any idea what I am hearing?")
    ),
    "words about the last item": Kind(
        ("text",), ("How would you describe it in a sentence?", "Name it for me.", "Which words fit it best?")
    ),
    "an edit of the picture": Kind(
        ("image",), ("Great, but darker please.", "Same picture, only upside down.", "Tint it blue, would you?")
    ),
    "the picture moves": Kind(
        ("video",),
        ("I'd like to watch it move.", "Could it be a short film instead?", "Let me watch a few seconds of it."),
    ),
    "the picture is heard": Kind(
        ("audio",),
        ("And the noise that goes with it?", "I wonder how it sounds; play that.", "Let it be heard as well."),
    ),
    "the sound is shown": Kind(
        ("image",),
        ("Who or what makes it? A picture, please.", "I'd like to see its source.", "Give me an image to go with it."),
    ),
    "a question": Kind(("text",), ("{question}", "Another matter: {question}", "By the way, {question}")),
}
PLANS = (
    ("a picture", "words about the last item", "an edit of the picture"),
    ("words about a picture", "an edit of the picture", "the picture moves"),
    ("a picture", "the picture moves", "the picture is heard"),
    ("words about a sound", "the sound is shown", "a question"),
    ("a question", "a picture", "the picture moves"),
    ("a sound", "words about the last item", "a clip"),
    ("words about a picture", "words about a sound", "a picture"),
    ("a clip", "a sound", "words about a picture"),
    ("words about a picture", "the picture is heard", "an edit of the picture"),
    ("a sound", "the sound is shown", "words about the last item"),
)
"""Kinds of the three rounds of a conversation."""
assert {kind for plan in PLANS for kind in plan} == KINDS.keys()


def cases(context: EvalContext) -> list[Case]:
    """One for each round of each conversation, of held-out things and sounds."""
    count = context.count(CHATS)
    items = {modality: context.draw(modality, "test_family", 3 * count) for modality in MEDIA}
    cases = []
    for i in range(count):
        draw, chat = np.random.default_rng((context.seed, 27, i)), Chat(context.model)
        for n, name in enumerate(PLANS[i % len(PLANS)]):
            drawn = {modality: all_items[(3 * i + n) % len(all_items)] for modality, all_items in items.items()}
            parts: dict[str, Media] = {modality: context.part(item) for modality, item in drawn.items()}
            question, fact = FACTS[int(draw.integers(len(FACTS)))]
            wording = str(draw.choice(KINDS[name].wordings))
            words = wording.format(
                thing=drawn["image"].caption,
                sound=drawn["audio"].caption,
                question=question,
                **{m: f"[{m}{sum(key.startswith(m) for key in chat.media)}]" for m in ("image", "audio")},
            )
            media = [parts[modality] for modality in ("image", "audio") if f"{{{modality}}}" in wording]
            messages = chat.messages(words, *media)
            about = {"messages": messages, "round": n + 1}
            truth = {"target": Text(" ".join(KINDS[name].answer))}
            cases.append(Case(f"{i:03d}-{n + 1}", _flat(messages), "text", truth, name, about))
            answer = fact if "{question}" in wording else drawn["audio" if "sound" in name else "image"].caption
            replies: dict[str, Part] = {**parts, "text": Text(answer)}
            chat.record(words, [replies[m] for m in KINDS[name].answer], *media)
    return cases


def _flat(messages: Sequence[Message]) -> tuple[Part, ...]:
    """A conversation as one prompt, for the report and for other systems."""
    names = {"user": "User: ", "assistant": "Reply: ", "system": "System: "}
    return tuple(part for m in messages for part in (Text(names[m.role]), *m.parts, Text("\n")))


def ours(context: EvalContext, cases: Sequence[Case]) -> list[Part]:
    """The modalities of each reply, in order, as words."""
    model, outputs = context.model, []
    for case in cases:
        readings = model.read([case.about["messages"]])
        (segments,) = model.write(readings, [Options(max_new_tokens=TOKENS)])
        media = [segment.modality for segment in segments if isinstance(segment, FeatureSegment)]
        outputs.append(Text(" ".join(media or ["text"])))
    return list(outputs)


def always(answer: str) -> System:
    return lambda context, cases: [Text(answer)] * len(cases)


SYSTEMS: dict[str, System] = {"ours": ours, "always words": always("text"), "always a picture": always("image")}


def score(context: EvalContext, cases: Sequence[Case], outputs: Mapping[str, Sequence[Part]]) -> Findings:
    """The share of right replies: exactly the media that are requested, or none; by round, and by kind of request."""
    right = {
        system: np.array([said(part) == said(case.target) for case, part in zip(cases, parts, strict=True)])
        for system, parts in outputs.items()
    }
    main, *others = outputs

    def share(name: str, rows: Sequence[int]) -> Figure:
        beside = {system: right[system][rows] for system in others}
        return mean(name, right[main][rows], beside, seed=context.seed)

    whole = share("answered in the modalities that are requested", range(len(cases)))
    figures = [whole.judged(f"≥ {BAR:g}", whole.value >= BAR)]
    for name, key in (("round", lambda case: case.about["round"]), ("", lambda case: case.group)):
        for value in sorted({key(case) for case in cases}):
            figures.append(share(f"{name} {value}".strip(), [i for i, c in enumerate(cases) if key(c) == value]))
    examples = [
        Example(case.id, case.prompt, {"target": case.target, **{name: parts[i] for name, parts in outputs.items()}})
        for i, case in enumerate(cases[: 3 * EXAMPLES])
    ]
    return Findings(figures, examples)


def said(part: Part) -> list[str]:
    """The modalities that an answer names, in any order."""
    assert isinstance(part, Text)
    return sorted(part.text.split())
