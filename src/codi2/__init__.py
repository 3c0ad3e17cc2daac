"""CoDi-2: a language model that reads text, pictures and sounds in any order and answers with all of them.

    from codi2 import CoDi2

    reply = CoDi2.from_pretrained("tiny").generate("Draw a lighthouse.", want="image")
    reply.images[0].pixels.save("lighthouse.png")

The names below are loaded when they are first used, so that `import codi2` does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codi2.chat import Chat
    from codi2.joint_space import transfer
    from codi2.media import load
    from codi2.model import CoDi2
    from codi2.prompt.parts import Audio, Image, Phrase, Text, Video

__version__ = "0.1.0"
__all__ = ["Audio", "Chat", "CoDi2", "Image", "Phrase", "Text", "Video", "load", "transfer"]

_HOME = {
    "Chat": "codi2.chat",
    "CoDi2": "codi2.model",
    "load": "codi2.media",
    "transfer": "codi2.joint_space",
    **dict.fromkeys(("Audio", "Image", "Phrase", "Text", "Video"), "codi2.prompt.parts"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'codi2' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
