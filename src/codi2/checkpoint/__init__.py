"""A checkpoint is a folder with `config.json`, the PEFT adapter, and one safetensors file for each trained part.

```
config.json  adapter/  heads.safetensors  prior/  encoder/
image/…  audio/…  video/…  joint/
```
`diffuse.load` describes the folders of decoders, `encode.tiny` that of the encoder. The config names the frozen
parts, which `codi2.hub` fetches. No pickle is read.

`loading` reads the parts, `language` reads and writes the trained part of the language model, `saving` writes a whole
model, and `placing` moves it to a device.
"""

from __future__ import annotations

from codi2.checkpoint.language import load_language, save_language
from codi2.checkpoint.loading import load_encoder, load_joint, load_one_decoder, load_parts
from codi2.checkpoint.placing import place
from codi2.checkpoint.saving import push, save
from codi2.locate import locate

__all__ = [
    "load_encoder",
    "load_joint",
    "load_language",
    "load_one_decoder",
    "load_parts",
    "locate",
    "place",
    "push",
    "save",
    "save_language",
]
