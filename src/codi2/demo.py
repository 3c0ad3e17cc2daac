"""The prompts of `codi2 demo`: every task once, on sample media that no part was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from codi2.errors import DataError
from codi2.prompt.parts import Part, Prompt


@dataclass(frozen=True)
class Request:
    """One prompt of the demo; `files` fill the placeholders, `want` is what the reply holds, `video,audio`."""

    title: str
    template: str
    files: tuple[str, ...] = ()
    want: str = "text"

    def prompt(self, media: Path) -> Prompt:
        """The prompt with its files read from the folder `media`."""
        from codi2.media import load
        from codi2.prompt.grammar import parse

        return parse(self.template, [load(media / name) for name in self.files])


REQUESTS = (
    Request("Chat", "What is the capital of France?"),
    Request("Caption of a picture", "Generate a caption for this image: [image0]", ("taxi-google.png",)),
    Request("Caption of a sound", "Given [audio0], produce its description.", ("crow.wav",)),
    Request("Picture from a caption", "Draw a strawberry, as a glossy 3D emoji.", want="image"),
    Request("Sound from a caption", "Make the sound of a flute playing a note.", want="audio"),
    Request("Edit of a picture", "Draw [image0] as an outlined emoji.", ("goose-google.png",), "image"),
    Request("Another edit", "Take [image0] and make it night.", ("mango-twitter.png",), "image"),
    Request("Add a sound", "Add a cowbell being struck to [audio0].", ("piano.wav",), "audio"),
    Request("Remove a sound", "Remove a crow cawing from [audio0].", ("piano-and-crow.wav",), "audio"),
    Request(
        "Replace a sound",
        "Replace a crow cawing with a cowbell being struck in [audio0].",
        ("piano-and-crow.wav",),
        "audio",
    ),
    Request("Fuse two sounds", "Play [audio0] and [audio1] together.", ("explosion.wav", "crow.wav"), "audio"),
    Request(
        "Learn an edit of pictures from an example",
        "Given the transformation between [image0] and [image1], apply the same editing to [image2].",
        ("broccoli-google.png", "broccoli-fluent.png", "goose-google.png"),
        "image",
    ),
    Request(
        "Learn an edit of sounds from an example",
        "Given the transformation between [audio0] and [audio1], apply the same editing to [audio2].",
        ("piano.wav", "piano-and-crow.wav", "explosion.wav"),
        "audio",
    ),
    Request("Sound of a picture", "Make the sound of [image0].", ("goose-fluent.png",), "audio"),
    Request("Picture of a sound", "Draw what makes the sound [audio0].", ("crow.wav",), "image"),
    Request("Caption of a clip", "Describe [video0].", ("rabbit.webp",)),
    Request("A picture that moves", "Bring [image0] to life.", ("tiger.png",), "video"),
    Request("Clip from a caption", "Make a clip of a waving hand.", want="video"),
    Request("Edit of a clip", "Take [video0] and make it night.", ("rabbit.webp",), "video"),
    Request(
        "Clip with its sound",
        "Make a clip of a rooster that hops whenever it is heard, with its sound.",
        want="video,audio",
    ),
)


def media_folder() -> Path:
    """The sample media: inside an installed package, or in the checkout. Raises DataError when they are in neither."""
    here = Path(__file__).resolve()
    folders = (here.parent / "examples" / "media", here.parents[2] / "examples" / "media")
    for folder in folders:
        if folder.is_dir():
            return folder
    raise DataError(
        f"the sample media of the demo are neither in {folders[0]} nor in {folders[1]}; install codi2 again"
    )


def sample_media() -> dict[str, list[Part]]:
    """All sample media by modality, and the demo's words as phrases."""
    from codi2.media import load
    from codi2.prompt.parts import Phrase

    by_modality: dict[str, list[Part]] = {}
    for path in sorted(media_folder().iterdir()):
        if path.suffix in (".png", ".wav", ".webp"):
            part = load(path)
            by_modality.setdefault(part.modality, []).append(part)
    by_modality["phrase"] = [Phrase(request.title) for request in REQUESTS]
    return by_modality
