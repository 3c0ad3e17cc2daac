"""Text → token ids, over a vocabulary that is shared."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from codi2.config import DEBUG
from codi2.llm.backbone import load_tokenizer
from codi2.prompt.tokens import TokenIds

TEXTS = ("Draw a cat.", "  two  spaces\n<|im_start|>user\n<image></image> <|turn|> Ünïcode 猫 <turn>hidden</turn>", "")


def wordy() -> Any:
    """A tokenizer that lowers case, with tokens of turns that are not marked as special."""
    words = {"[UNK]": 0, "draw": 1, "a": 2, "cat": 3, ".": 4, "hidden": 5, "<": 6, "turn": 7, ">": 8, "</": 9, "|": 10}
    core = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.add_tokens(["<turn>", AddedToken("</turn>", lstrip=True), AddedToken("[end]", special=True), "cat"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]", eos_token="[end]")
    tokenizer.chat_template = "<turn>{{ messages }}</turn>"
    return tokenizer


def by_file(tokenizer: Any, splits_special: bool) -> Tokenizer:
    """The same settings in a tokenizer that is read from the whole file of another."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["truncation"] = state["padding"] = None
    for token in state["added_tokens"]:
        token["special"] |= not token["content"].isspace() and token["content"] in tokenizer.chat_template
    core = Tokenizer.from_str(json.dumps(state))
    core.encode_special_tokens = splits_special
    return core


@pytest.mark.parametrize("tokenizer", [wordy(), load_tokenizer(DEBUG.llm)], ids=["words", "bytes"])
@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_the_whole_tokenizer(tokenizer: Any, text: str):
    ids = TokenIds(tokenizer)
    assert ids.of_words(text) == by_file(tokenizer, True).encode(text, add_special_tokens=False).ids
    assert ids.of_template(text) == by_file(tokenizer, False).encode(text, add_special_tokens=False).ids


def test_the_tokenizer_stays_as_it_is_and_words_spell_no_turn():
    tokenizer = wordy()
    before = tokenizer.backend_tokenizer.to_str()
    ids = TokenIds(tokenizer)
    turn = tokenizer.convert_tokens_to_ids("<turn>")
    assert turn in ids.of_template("<turn>a cat") and turn not in ids.of_words("<turn>a cat")
    assert tokenizer.backend_tokenizer.to_str() == before


def test_padding_and_truncation_of_the_tokenizer_are_not_shared():
    tokenizer = wordy()
    tokenizer.backend_tokenizer.enable_truncation(1)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    assert len(TokenIds(tokenizer).of_words("draw a cat")) == 3
