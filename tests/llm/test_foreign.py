"""Hostile language models: none runs code, asks a question, hangs or fills the memory; each error is one sentence."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hostile import BIG, F32, Code, changed, config, content, header, hole, linked, piped
from safetensors.torch import save_file

from codi2.config import LLMConfig
from codi2.errors import CoDi2Error
from codi2.llm.backbone import byte_tokenizer, load_backbone, random_llm
from codi2.prompt.template import render

pytestmark = pytest.mark.usefixtures("ran")


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model as the hub has them: config, tokenizer, weights."""
    folder = tmp_path_factory.mktemp("llm") / "llm"
    random_llm().save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


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
        message = str(error).strip()
        assert message and "\n" not in message and len(message) < 1_000
    else:
        assert case in ("a template that is a number", "a tokenizer's code of its own")  # read without them
    assert not ran.exists()


def test_a_sound_language_model_is_read(llm: Path) -> None:
    assert load_backbone(LLMConfig(kind="hub", id=str(llm))).width == 32
