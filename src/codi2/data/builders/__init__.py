"""The builders by name, one file for each data set; a file is imported when its builder is used."""

from __future__ import annotations

from importlib import import_module

from codi2.data.builders.contract import Builder
from codi2.errors import ConfigError

BUILDERS = {
    "mimic-it": "mimic_it:MimicIt",
    "laion": "laion:Laion",
    "audioset": "audioset:AudioSet",
    "webvid": "webvid:WebVid",
    "instruct-pix2pix": "instruct_pix2pix:InstructPix2Pix",
    "instruct-pix2pix-in-context": "instruct_pix2pix:InstructPix2PixInContext",
    "audio-edits": "audio_edits:AudioEdits",
    "audio-edits-in-context": "audio_edits:AudioEditsInContext",
    "open-images": "open_images:OpenImages",
    "alpaca": "alpaca:Alpaca",
    "folder": "own:Own",
    "jsonl": "own:Own",
    "tiny": "tiny:Tiny",
    "tasks": "tasks:Tasks",
}


def load_builder(name: str) -> type[Builder]:
    """The class of a builder. Raises ConfigError: there is no such builder."""
    if name not in BUILDERS:
        raise ConfigError(f"there is no builder {name!r}; there are {', '.join(BUILDERS)}")
    module, _, class_name = BUILDERS[name].partition(":")
    builder: type[Builder] = getattr(import_module(f"{__name__}.{module}"), class_name)
    return builder
