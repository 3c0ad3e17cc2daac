"""The prompts of `codi2 demo`: every task once, on sample media that no part was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from codi2.errors import DataError
from codi2.prompt.parts import Prompt


@dataclass(frozen=True)
class Ask:
    """One prompt of the demo; `files` fill the placeholders, `want` is the modality of the reply."""

    title: str
    template: str
    files: tuple[str, ...] = ()
    want: str = "text"

    def prompt(self, media: Path) -> Prompt:
        """The prompt with its files read from the folder `media`."""
        from codi2.media import load
        from codi2.prompt.grammar import parse

        return parse(self.template, [load(media / name) for name in self.files])


ASKS = (
    Ask("Chat", "What is the capital of France?"),
    Ask("Caption of a picture", "Generate a caption for this image: [image0]", ("fox-google.png",)),
    Ask("Caption of a sound", "Given [audio0], produce its description.", ("crow.wav",)),
    Ask("Picture from a caption", "Generate an image of a strawberry.", want="image"),
    Ask("Sound from a caption", "Produce the sound of a guitar.", want="audio"),
    Ask("Edit of a picture", "Turn [image0] into a 3D rendering.", ("cow-google.png",), "image"),
    Ask("Add a sound", "Add the sound of a bell to [audio0].", ("crow.wav",), "audio"),
    Ask("Remove a sound", "Remove the sound of a bell from [audio0].", ("crow-and-bell.wav",), "audio"),
    Ask("Replace a sound", "Replace the cymbal in [audio0] with a bell.", ("guitar-and-cymbal.wav",), "audio"),
    Ask("Fuse two sounds", "Play [audio0] and [audio1] at the same time.", ("guitar.wav", "bell.wav"), "audio"),
    Ask(
        "Learn an edit of pictures from an example",
        "Given the transformation between [image0] and [image1], apply the same editing to [image2].",
        ("strawberry-google.png", "strawberry-fluent.png", "fox-google.png"),
        "image",
    ),
    Ask(
        "Learn an edit of sounds from an example",
        "Given the transformation between [audio0] and [audio1], apply the same editing to [audio2].",
        ("crow.wav", "crow-and-bell.wav", "guitar.wav"),
        "audio",
    ),
    Ask("Sound of a picture", "Generate the sound that belongs to [image0].", ("cow-google.png",), "audio"),
    Ask("Picture of a sound", "Generate an image of what makes the sound [audio0].", ("guitar.wav",), "image"),
)


def media_folder() -> Path:
    """The sample media: inside an installed package, or in the checkout. Raises DataError when they are in neither."""
    here = Path(__file__).resolve()
    folders = (here.parent / "examples" / "media", here.parents[2] / "examples" / "media")
    for folder in folders:
        if folder.is_dir():
            return folder
    raise DataError(
        f"The sample media of the demo are neither in {folders[0]} nor in {folders[1]}; install codi2 again."
    )
