"""Which weights of a model are on this machine, which are not, which are not what they should be, and what mends it.

Nothing is downloaded and no tensor is read: headers tell names and shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from codi2.config import CoDi2Config
from codi2.errors import CoDi2Error, WeightsError
from codi2.hub import WHEELS, check_wheel, shipped
from codi2.sizes import check_size
from codi2.untrusted import one_sentence, parse_json

TRAINED_PARTS = "trained parts"
State = Literal["found", "missing", "wrong"]
UNET = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")


@dataclass(frozen=True)
class Found:
    """Of one component."""

    part: str
    source: str
    state: State
    word: str  # where it is, or what is wrong with it
    mend: str = ""  # the command or step that puts it right


def find(config: CoDi2Config) -> Iterator[Found]:
    """Every component that the config names and somebody else publishes, and the folder of the trained parts."""
    if config.llm.kind == "hub":
        yield _on_hub("language model", config.llm.id, ("config.json",))
    elif config.llm.kind == "gguf-wheel":
        yield _in_wheel("language model", config.llm.id)
    if config.encoder.kind == "imagebind":
        yield _imagebind(config.encoder.id)
        yield _on_hub("encoder: tokenizer", config.encoder.tokenizer, ("tokenizer.json", "vocab.json"))
    elif config.encoder.kind == "towers":
        for modality, source in config.encoder.towers.items():
            yield _on_hub(f"encoder: {modality}", source, ("config.json",))
    elif config.encoder.kind in ("tiny", "embedded"):
        for name in WHEELS:
            if name != config.llm.id and not WHEELS[name].judges:  # a judge is fetched when it is first asked
                yield _in_wheel("encoder: trunk", name)
    for modality, decoder in config.decoders.items():
        if decoder.kind == "pipeline":
            yield _pipeline(f"{modality} decoder", decoder.id)
    folder = shipped(config.name)
    if (folder / "config.json").is_file():
        yield Found(TRAINED_PARTS, "this package", "found", str(folder))
    elif config.untrained:
        parts = ", ".join(config.untrained)
        yield Found(TRAINED_PARTS, parts, "missing", "nobody has trained or published them", "see docs/paper.md")


def _in_wheel(part: str, name: str) -> Found:
    source = WHEELS[name].requirement.split()[0]
    try:
        path = check_wheel(name)
    except WeightsError as error:
        return Found(part, source, "wrong", str(error), "delete it; the next command that needs it fetches it again")
    if path is None:
        return Found(part, source, "missing", "not fetched yet", "codi2 demo")
    return Found(part, source, "found", str(path))


def _imagebind(source: str) -> Found:
    from codi2.encode.imagebind.network import ImageBind

    path = Path(source).expanduser()
    mend = "fetch imagebind_huge.pth (see docs/paper.md) and name it in encoder.id; `codi2 convert` makes a safetensors"
    if path.is_dir():
        path = next((p for p in sorted(path.iterdir()) if p.suffix in (".safetensors", ".pth")), path)
    if not path.is_file():
        return Found("encoder", source, "missing", "no such file", mend)
    return _compared("encoder", source, path, ImageBind, mend)


def _on_hub(
    part: str, source: str, names: tuple[str, ...], subfolder: str = "", build: Callable[[], Any] | None = None
) -> Found:
    mend = f"hf download {source}"
    path = local_file(source, names, subfolder)
    if path is None:
        return Found(part, source, "missing", "not on this machine", mend)
    return _compared(part, source, path, build, mend) if build else Found(part, source, "found", str(path))


def local_file(source: str, names: tuple[str, ...], subfolder: str = "") -> Path | None:
    """The first of these files in a folder or in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    folder = Path(source).expanduser()
    for name in names:
        if (folder / subfolder / name).is_file():
            return folder / subfolder / name
        try:
            cached = try_to_load_from_cache(source, f"{subfolder}/{name}" if subfolder else name)
        except HFValidationError:  # a path, and there is nothing
            continue
        if isinstance(cached, str):
            return Path(cached)
    return None


def _pipeline(part: str, source: str) -> Found:
    """The network of a pipeline, compared with its own config; without one, with the published size known here."""
    from codi2.diffuse.families import FAMILIES, pipeline_name
    from codi2.dry_run import parts

    index = local_file(source, ("model_index.json",))
    if index is None:
        return Found(part, source, "missing", "not on this machine", f"hf download {source}")
    _, family = FAMILIES.get(pipeline_name(str(index.parent)), ("", ""))
    builds = {"unclip": parts.unclip_unet, "audioldm2": parts.audio_unet, "text_to_video": parts.video_unet}
    if family in builds:
        own = local_file(source, ("config.json",), "unet")
        build = builds[family] if own is None else partial(_configured, family, own)
        return _on_hub(part, source, UNET, "unet", build)
    return Found(part, source, "found", str(index.parent))


def _configured(family: str, path: Path) -> Any:
    """A network of the sizes in its config.json. Raises WeightsError: they are beyond its weights, or damaged."""
    import diffusers

    names = {"unclip": "UNet2DConditionModel", "audioldm2": "AudioLDM2UNet2DConditionModel"}
    network, what = getattr(diffusers, names.get(family, "UNet3DConditionModel")), f"the config {path}"
    with one_sentence(what):
        sizes = parse_json(path.read_bytes())
        check_size(lambda: network.from_config(sizes), sorted(path.parent.glob("*.safetensors")), what)
        return network.from_config(sizes)


def _compared(part: str, source: str, path: Path, build: Callable[[], Any], mend: str) -> Found:
    """Shapes of a file's tensors beside those of the module; the first difference is named."""
    import torch

    try:
        found = _shapes(path)
        with torch.device("meta"):
            wanted = {name: tuple(tensor.shape) for name, tensor in build().state_dict().items()}
    except CoDi2Error as error:
        return Found(part, source, "wrong", str(error), mend)
    if "conv_in.weight" in wanted and "conv_in.weight" in found:  # a network may have room for a source or not
        wanted["conv_in.weight"] = found["conv_in.weight"]
    odd = sorted(dict(wanted.items() ^ found.items()))
    if odd:
        shapes = f"{found.get(odd[0], 'missing')} where {wanted.get(odd[0], 'nothing')} is expected"
        return Found(part, source, "wrong", f"{odd[0]} in {path} is {shapes}", mend)
    return Found(part, source, "found", f"{path}, {len(found)} tensors")


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a weight file, from its header where it has one."""
    from codi2.tensors import read_tensors

    if path.suffix != ".safetensors":
        return {name: tuple(tensor.shape) for name, tensor in read_tensors(path).items()}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"the weight file {path} is damaged ({error})") from error
