"""The weights of a model on this machine: found, missing or wrong, with the remedy.

Nothing is downloaded, and of weight files only names and shapes are read, from their headers.
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
class Finding:
    """The state of one component."""

    part: str
    source: str
    state: State
    details: str  # the path, or the fault
    remedy: str = ""  # the command or step that repairs it


def find(config: CoDi2Config) -> Iterator[Finding]:
    """All published components that the config names, and the folder of the trained parts."""
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
    elif config.encoder.kind == "tiny":
        for name in WHEELS:
            if name != config.llm.id and not WHEELS[name].judges:  # a judge is fetched when it is first used
                yield _in_wheel("encoder: trunk", name)
    for modality, decoder in config.decoders.items():
        if decoder.kind == "pipeline":
            yield _pipeline(f"{modality} decoder", decoder.id)
    folder = shipped(config.name)
    if (folder / "config.json").is_file():
        yield Finding(TRAINED_PARTS, "this package", "found", str(folder))
    elif config.untrained:
        parts = ", ".join(config.untrained)
        yield Finding(TRAINED_PARTS, parts, "missing", "not trained or published yet", "see docs/paper.md")


def _in_wheel(part: str, name: str) -> Finding:
    if name not in WHEELS:
        return Finding(part, name, "wrong", "no pinned package of this name", f"name one of {', '.join(WHEELS)}")
    source = WHEELS[name].requirement.split()[0]
    try:
        path = check_wheel(name)
    except WeightsError as error:
        return Finding(part, source, "wrong", str(error), "delete it; the next command that needs it fetches it again")
    if path is None:
        return Finding(part, source, "missing", "not fetched yet", "codi2 demo")
    return Finding(part, source, "found", str(path))


def _imagebind(source: str) -> Finding:
    from codi2.encode.imagebind.network import ImageBind

    path = Path(source).expanduser()
    remedy = (
        "fetch imagebind_huge.pth (see docs/paper.md) and name it in encoder.id; `codi2 convert` makes a safetensors"
    )
    if path.is_dir():
        path = next((p for p in sorted(path.iterdir()) if p.suffix in (".safetensors", ".pth")), path)
    if not path.is_file():
        return Finding("encoder", source, "missing", "no such file", remedy)
    return _compare("encoder", source, path, ImageBind, remedy)


def _on_hub(
    part: str, source: str, names: tuple[str, ...], subfolder: str = "", build: Callable[[], Any] | None = None
) -> Finding:
    remedy = f"hf download {source}"
    path = local_file(source, names, subfolder)
    if path is None:
        return Finding(part, source, "missing", "not on this machine", remedy)
    return _compare(part, source, path, build, remedy) if build else Finding(part, source, "found", str(path))


def local_file(source: str, names: tuple[str, ...], subfolder: str = "") -> Path | None:
    """The first of these files in the folder `source` or in the hub's cache; None: there is none."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    folder = Path(source).expanduser()
    for name in names:
        if (folder / subfolder / name).is_file():
            return folder / subfolder / name
        try:
            cached = try_to_load_from_cache(source, f"{subfolder}/{name}" if subfolder else name)
        except HFValidationError:  # a path that does not exist
            continue
        if isinstance(cached, str):
            return Path(cached)
    return None


def _pipeline(part: str, source: str) -> Finding:
    """The network of a pipeline, compared with its own config, or without one with the published size."""
    from codi2.diffuse.families import FAMILIES, pipeline_name
    from codi2.dry_run import parts

    index = local_file(source, ("model_index.json",))
    if index is None:
        return Finding(part, source, "missing", "not on this machine", f"hf download {source}")
    _, family = FAMILIES.get(pipeline_name(str(index.parent)), ("", ""))
    builds = {"unclip": parts.unclip_unet, "audioldm2": parts.audio_unet, "text_to_video": parts.video_unet}
    if family in builds:
        own = local_file(source, ("config.json",), "unet")
        build = builds[family] if own is None else partial(_build_network, family, own)
        return _on_hub(part, source, UNET, "unet", build)
    return Finding(part, source, "found", str(index.parent))


def _build_network(family: str, path: Path) -> Any:
    """A network with the sizes in its config.json. Raises WeightsError: the config does not match its weights, or is
    damaged."""
    import diffusers

    names = {"unclip": "UNet2DConditionModel", "audioldm2": "AudioLDM2UNet2DConditionModel"}
    network, what = getattr(diffusers, names.get(family, "UNet3DConditionModel")), f"the config {path}"
    with one_sentence(what):
        sizes = parse_json(path.read_bytes())
        check_size(lambda: network.from_config(sizes), sorted(path.parent.glob("*.safetensors")), what)
        return network.from_config(sizes)


def _compare(part: str, source: str, path: Path, build: Callable[[], Any], remedy: str) -> Finding:
    """Compares the shapes of a file's tensors with those of the module, and names the first difference."""
    import torch

    try:
        shapes = _shapes(path)
        with torch.device("meta"):
            expected = {name: tuple(tensor.shape) for name, tensor in build().state_dict().items()}
    except CoDi2Error as error:
        return Finding(part, source, "wrong", str(error), remedy)
    if "conv_in.weight" in expected and "conv_in.weight" in shapes:  # a network may have channels for a source or not
        expected["conv_in.weight"] = shapes["conv_in.weight"]
    different = sorted(dict(expected.items() ^ shapes.items()))
    if different:
        name = different[0]
        difference = f"{shapes.get(name, 'missing')} where {expected.get(name, 'nothing')} is expected"
        return Finding(part, source, "wrong", f"{name} in {path} is {difference}", remedy)
    return Finding(part, source, "found", f"{path}, {len(shapes)} tensors")


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a weight file, from its header where it has one."""
    from codi2.tensors import read_tensors

    if path.suffix != ".safetensors":
        return {name: tuple(tensor.shape) for name, tensor in read_tensors(path).items()}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"the weight file {path} is damaged ({error}); fetch it again") from error
