"""Rounds: conversations in which each request decides the modalities of its answer.

A medium that a message refers to ("it", "the picture") is repeated after its words, as by `prompt.references`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from codi2.data import motions
from codi2.data.drafts import exchange
from codi2.data.items import Item
from codi2.data.record import Medium, Piece, Turn
from codi2.data.tasks.sampler import TRIES, Task, TaskExample, TaskSampler, encoded, pick
from codi2.errors import DataError
from codi2.prompt.grammar import join_text
from codi2.prompt.parts import Text
from codi2.prompt.references import resolve_references
from codi2.prompt.sources import name_items

ROUNDS = (2, 5)  # of a conversation
UNSEEN = 2  # the last phrasings of every request, on a line of their own, are held out from training

PHRASES: dict[str, tuple[str, ...]] = {
    "describe": (
        "What is this?", "What do you see in it?", "Describe it.", "Tell me what this is.", "Which thing is this?",
        "Can you name it?", "Put it into words.", "Write a caption for it.", "What does this show?", "What is it?",
        "What's this?", "Please describe this.", "Tell me about this one.", "In a few words, what is this?",
        "Say what it is.", "Do you know what this is?", "What kind of thing is this?",
        "Give me a short description of this.",
        "What would you call it?", "Identify it.",
    ),
    "recall": (
        "Name it.", "Say in words what it shows.", "And what is it called?", "Now describe it in words.",
        "What is it, in a few words?", "Give it a caption.", "What was it again?", "What is it called?",
        "Describe it.", "In words, please: what is it?", "Write a line about it.",
        "What did you just make? Describe it.", "Explain it in words.", "Say its name: what is it?",
        "A short description of it, please.", "What can be seen or heard in it?",
        "How would you describe it?", "Tell me about it in words.",
    ),
    "draw": (
        "Draw {caption}.", "Show me {caption}.", "I want a picture of {caption}.", "Now paint {caption}.",
        "Let us see {caption}.", "Make an image of {caption}.", "Next, {caption}, as a picture.",
        "A drawing of {caption}, please.", "Create an image of {caption}.", "Generate a picture of {caption}.",
        "Can you draw {caption}?", "Please draw {caption}.", "Give me a picture of {caption}.",
        "I would like to see {caption}.", "An illustration of {caption}.", "Now {caption}, drawn.",
        "Make me a picture: {caption}.", "Paint {caption}.",
        "Could you sketch {caption}?", "Picture {caption} for me.",
    ),
    "play": (
        "Let me hear {caption}.", "Play {caption}.", "I want the sound of {caption}.", "Now make {caption} audible.",
        "What does {caption} sound like?", "Make a recording of {caption}.", "The noise of {caption}, please.",
        "Give me the audio of {caption}.", "Generate the sound of {caption}.", "Create a sound: {caption}.",
        "Can you play {caption}?", "Please make the sound of {caption}.", "I want to hear {caption}.",
        "How does {caption} sound?", "A recording of {caption}, please.", "Sound effect: {caption}.",
        "Let us hear {caption}.", "Next, the sound of {caption}.",
        "Produce the sound of {caption}.", "Could I listen to {caption}?",
    ),
    "film": (
        "Film {caption}.", "Make a clip of {caption}.", "Show me a video of {caption}.", "I want {caption} to move.",
        "A short film of {caption}, please.", "Now {caption} as a moving picture.", "Generate a video of {caption}.",
        "Create a clip with {caption}.", "Can you make a video of {caption}?", "Please film {caption}.",
        "I would like a clip of {caption}.", "Animate {caption}.", "Give me a short video of {caption}.",
        "Next, {caption}, as a video.", "Let us watch {caption} move.", "An animation of {caption}, please.",
        "A clip of {caption}, please.", "Could I watch {caption} in motion?",
    ),
    "edit": (
        "Now {ask}.", "Please {ask}.", "And now {ask}.", "Good. Then {ask}.", "Next, {ask}.", "Can you {ask}?",
        "I would like you to {ask}.", "Once more: {ask}.", "So {ask}.", "Could you {ask}?", "Then {ask}.",
        "Now please {ask}.", "OK, {ask}.", "Also {ask}.", "From here, {ask}.", "Nice. Now {ask}.",
        "I want you to {ask}.", "Just {ask}.",
        "Fine, but {ask}.", "Would you {ask}?",
    ),
    "animate": (
        "Bring it to life.", "Make it move.", "Animate it.", "Turn it into a clip.", "Let it move in a short video.",
        "Now a clip of it.", "Make a video of it.", "Set it in motion.", "Can you animate it?",
        "Make a short video from it.", "Now let it move.", "Please make it move.", "Give me a clip of it.",
        "Turn this into a video.", "Create a video from it.", "Bring the picture to life.",
        "A moving version of it, please.", "Could it move?",
        "I want to see it move.", "Film it.",
    ),
    "sound": (
        "What does it sound like?", "Let me hear it.", "Now its sound: play what this makes.", "Make it heard.",
        "Which sound does it make? Play it.", "Add the sound that belongs to it.", "How does it sound?",
        "Play the sound that it makes.", "Make the noise of it.", "Give me the sound of it.",
        "What noise does it make?", "Can I hear it?", "Now it as a sound.", "Let us hear what it sounds like.",
        "Please play what this sounds like.", "Generate the sound of this.",
        "Give this a voice.", "I want to listen to it.",
    ),
    "look": (
        "Draw what makes it.", "What does it look like?", "Show me what makes this.", "Now a picture of it.",
        "Paint the thing that is heard in it.", "Let me see it.", "How does it look?", "Show me what it looks like.",
        "Can you draw it?", "Now it as a picture.", "Draw the thing that makes this sound.", "Please show it.",
        "Make a picture of it.", "I want to see it.", "What makes this sound? Draw it.",
        "Turn the sound into a picture.",
        "Picture it.", "Give it a face: draw it.",
    ),
    "all": (
        "Tell me, draw and play {caption}.", "I want {caption} in words, as a picture and as a sound.",
        "Show me {caption}, let me hear it, and name it.", "{caption}: a picture, its sound and a caption.",
        "Draw {caption}, with its sound and a few words.", "Give me all of {caption}: image, audio and text.",
        "I want to see, hear and read about {caption}.", "Draw {caption}, play it and describe it.",
        "Make a picture, a sound and a caption of {caption}.",
        "{caption}, please: first a picture, then its sound, then a few words.",
        "Give me a picture of {caption}, what it sounds like, and its name.",
        "Show {caption} and play its sound, with a caption.",
        "A picture and the sound of {caption}, and say what it is.", "Picture, noise and words for {caption}, please.",
    ),
}  # fmt: skip


@dataclass
class ConversationState:
    """A conversation so far."""

    turns: list[Turn] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    item: Item | None = None  # the item of the newest medium; None: there is none, or there were several at once
    media: np.ndarray | None = None  # the newest medium
    newest: Medium | None = None
    altered: bool = False  # whether the newest medium differs from the item in the corpus
    edits: Medium | None = None  # the medium that the last answer edits
    requests: list[str] = field(default_factory=list)  # request of each round

    def add_round(self, request: str, words: str, answer: Sequence[Piece], medium: Medium | None = None) -> None:
        """Add a round; `medium` follows the words of its message, as do earlier media that the words refer to."""
        earlier = name_items(cast(Any, [p for _, pieces in self.turns for p in pieces]))
        parts: tuple[Any, ...] = (Text(words), *([Text(" "), medium] if medium is not None else []))
        self.turns += exchange(cast(Any, resolve_references(join_text(parts), earlier)), answer)
        self.requests.append(request)
        self.edits = None

    def set_newest(
        self, item: Item | None, media: np.ndarray | None, medium: Medium | None, altered: bool = False
    ) -> None:
        """Set the newest medium."""
        self.item, self.media, self.newest, self.altered = item, media, medium, altered
        self.items += [item] if item is not None and item not in self.items else []

    def refers_to_newest(self) -> bool:
        """Whether the last message holds the newest medium and no other."""
        referred = [piece for piece in self.turns[-2][1] if isinstance(piece, Medium)]
        return bool(referred) and all(piece is self.newest for piece in referred)

    def remove_round(self) -> None:
        """Remove the last round."""
        del self.turns[-2:], self.requests[-1:]


Request = Callable[[TaskSampler, np.random.Generator, ConversationState], None]


def phrase(request: str, sampler: TaskSampler, draw: np.random.Generator, **fields: str) -> str:
    """A phrasing that the sampler's splits may use."""
    known, unseen = PHRASES[request][:-UNSEEN], PHRASES[request][-UNSEEN:]
    words: str = pick(draw, known if sampler.trains else unseen).format(**fields)
    return words[:1].upper() + words[1:]


def _describe(sampler: TaskSampler, draw: np.random.Generator, state: ConversationState) -> None:
    """A new medium, sometimes the first frame of a clip → its caption."""
    modality = str(draw.choice(["image", "audio", "video" if sampler.clips else "image"], p=[0.5, 0.3, 0.2]))
    (item,) = sampler.items(modality, draw, 1)
    media = sampler.array(item)[0] if modality == "video" else sampler.array(item)
    medium = encoded(media)
    state.add_round("describe", phrase("describe", sampler, draw), [Text(item.caption)], medium)
    state.set_newest(item, media, medium)


def _recall(sampler: TaskSampler, draw: np.random.Generator, state: ConversationState) -> None:
    """Words for what the newest medium shows."""
    assert state.item is not None
    state.add_round("recall", phrase("recall", sampler, draw), [Text(state.item.caption)])


def _from_words(request: str, modality: str) -> Request:
    def request_medium(sampler: TaskSampler, draw: np.random.Generator, state: ConversationState) -> None:
        (item,) = sampler.items(modality, draw, 1)
        media = sampler.array(item)
        answer = encoded(media)
        state.add_round(request, phrase(request, sampler, draw, caption=item.caption), [answer])
        state.set_newest(item, media, answer)

    return request_medium


def _edit(sampler: TaskSampler, draw: np.random.Generator, state: ConversationState) -> None:
    """The newest picture, sound or clip, edited."""
    assert state.item is not None and state.media is not None and state.newest is not None
    kind = {1: "audio", 3: "image", 4: "video"}[state.media.ndim]
    noun = {"audio": "sound", "image": "picture", "video": "clip"}[kind]
    source = state.newest
    for _ in range(TRIES):
        edit, (media,) = sampler.change(kind, [state.media], draw)
        answer = encoded(media)
        for words in (phrase("edit", sampler, draw, ask=edit.ask), f"In the {noun}, {edit.ask}."):
            state.add_round("edit", words, [answer])
            if state.refers_to_newest():
                state.edits = source
                state.set_newest(state.item, media, answer, altered=True)
                return
            state.remove_round()  # the instruction has no word for the medium that it edits, or it names another
    raise DataError(f"none of {TRIES} instructions speaks of the newest {noun}")


def _animate(sampler: TaskSampler, draw: np.random.Generator, state: ConversationState) -> None:
    """The clip that the newest picture begins: that of which it is a frame, or else the picture in motion."""
    assert state.item is not None and state.newest is not None and state.media is not None
    source, is_frame = state.newest, state.item.modality == "video" and not state.altered
    frames = sampler.array(state.item) if is_frame else motions.draw(state.media, draw)
    answer = encoded(frames)
    state.add_round("animate", phrase("animate", sampler, draw), [answer])
    state.edits = source
    state.set_newest(state.item, frames, answer)


def _counterpart(request: str) -> Request:
    """A sound of what the newest picture shows, or the other way round."""

    def request_medium(sampler: TaskSampler, draw: np.random.Generator, state: ConversationState) -> None:
        assert state.item is not None
        name = state.item.concept
        item = pick(draw, sampler.world.sounds_of[name] if request == "sound" else sampler.world.by["concept"][name])
        media = sampler.array(item)
        answer = encoded(media)
        state.add_round(request, phrase(request, sampler, draw), [answer])
        state.set_newest(item, media, answer)

    return request_medium


def _all(sampler: TaskSampler, draw: np.random.Generator, state: ConversationState) -> None:
    """A picture, a sound and words at once. Media come first, as in an answer of several modalities."""
    name = pick(draw, sampler.sounding)
    picture, sound = pick(draw, sampler.world.by["concept"][name]), pick(draw, sampler.world.sounds_of[name])
    answer: list[Piece] = [encoded(sampler.array(picture)), encoded(sampler.array(sound)), Text(picture.caption)]
    state.add_round("all", phrase("all", sampler, draw, caption=picture.caption), answer)
    state.set_newest(None, None, None)
    state.items += [picture, sound]


def _chat(sampler: TaskSampler, draw: np.random.Generator, state: ConversationState) -> None:
    """A question without media."""
    question, answer = pick(draw, sampler.chats)
    state.add_round("chat", question, [Text(answer)])


REQUESTS: Mapping[str, tuple[float, Request]] = {
    "describe": (1.5, _describe),
    "recall": (1.0, _recall),
    "draw": (1.5, _from_words("draw", "image")),
    "play": (1.0, _from_words("play", "audio")),
    "film": (0.7, _from_words("film", "video")),
    "edit": (3.0, _edit),
    "animate": (1.0, _animate),
    "sound": (1.0, _counterpart("sound")),
    "look": (1.0, _counterpart("look")),
    "all": (1.0, _all),
    "chat": (0.5, _chat),
}
"""Name → its weight among the possible requests, and the function that adds the round."""


def possible(sampler: TaskSampler, state: ConversationState) -> list[str]:
    """The requests that can come next."""
    names = ["describe", "draw", "play", "film", "all", "chat"]
    if not sampler.clips:
        names.remove("film")
    if not sampler.sounding:
        names.remove("all")
    if state.item is None or state.media is None:
        return names
    names += ["recall", "edit"]
    if state.media.ndim == 3:
        names.append("animate")
    if state.media.ndim == 3 and state.item.concept in sampler.world.sounds_of:
        names.append("sound")
    if state.media.ndim == 1 and state.item.concept in sampler.world.by["concept"]:
        names.append("look")
    return names


def rounds(sampler: TaskSampler, draw: np.random.Generator) -> TaskExample:
    """A conversation of `ROUNDS` rounds."""
    state = ConversationState()
    for _ in range(int(draw.integers(ROUNDS[0], ROUNDS[1] + 1))):
        names = possible(sampler, state)
        weights = np.array([REQUESTS[name][0] for name in names])
        REQUESTS[str(draw.choice(names, p=weights / weights.sum()))][1](sampler, draw, state)
    return TaskExample("rounds", tuple(state.turns), state.items, state.edits, {"requests": state.requests})


TASKS: dict[str, Task] = {"rounds": rounds}
