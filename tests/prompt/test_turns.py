"""Chat templates of the structure of Qwen3's, Gemma 3's and Mistral's: answers are learned as they are generated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from codi2.config import LLMConfig
from codi2.errors import PromptError
from codi2.llm.backbone import byte_tokenizer, load_tokenizer
from codi2.prompt.layout import IGNORE, Layout, Message, special_tokens
from codi2.prompt.parts import Text
from codi2.prompt.turns import check_template, turn_end, turn_pieces

LAST = (
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}"
)
QWEN3 = LAST + (
    "{% for m in messages %}<|im_start|>{{ m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.index0 > ns.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m.content }}<|im_end|>{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{{ '\n' }}{% endif %}"
)
GEMMA3 = (
    "{{ bos_token }}{% set first, turns = ('', messages) %}{% if messages[0].role == 'system' %}"
    "{% set first, turns = (messages[0].content + '\n\n', messages[1:]) %}{% endif %}{% for m in turns %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "<start_of_turn>{{ ('model' if m.role == 'assistant' else m.role) + '\n' }}"
    "{% if loop.first %}{{ first }}{% endif %}{{ m.content | trim }}<end_of_turn>{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model{{ '\n' }}{% endif %}"
)
MISTRAL = LAST + (  # the system's words stand in the last message of the user
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] "
    "{% if messages[0].role == 'system' and loop.index0 == ns.last %}{{ messages[0].content + '\n\n' }}{% endif %}"
    "{{ m.content }} [/INST]{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
TOKENS = {
    "Qwen3": (QWEN3, []),
    "Gemma 3": (GEMMA3, ["<start_of_turn>", "<end_of_turn>"]),
    "Mistral": (MISTRAL, ["[INST]", "[/INST]"]),
}
TWO = ("user", "assistant", "user", "assistant")


def tokenizer_of(name: str) -> Any:
    tokenizer = byte_tokenizer()
    template, tokens = TOKENS[name]
    tokenizer.add_tokens([*tokens, *special_tokens()], special_tokens=True)
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("name", list(TOKENS))
def test_an_answer_is_learned_behind_what_opens_it(name: str) -> None:
    tokenizer = tokenizer_of(name)
    trained = turn_pieces(tokenizer, TWO, False)
    for i in (1, 3):
        assert trained[: i + 1] == turn_pieces(tokenizer, TWO[:i], True)


@pytest.mark.parametrize("name", list(TOKENS))
def test_a_finished_talk_begins_as_the_open_one(name: str) -> None:
    """In token ids, round by round: what was generated is read again as it was."""
    layout = Layout(tokenizer_of(name), {}, {}, max_length=2000)
    talk = [Message(role, (Text(f"the {role} says {i}"),)) for i, role in enumerate(TWO)]  # type: ignore[arg-type]
    whole = layout(talk).ids.tolist()
    for i in (1, 3):
        opened = layout(talk[:i], reply=True).ids.tolist()
        assert whole[: len(opened)] == opened


def test_the_check_tells_what_is_done() -> None:
    (change,) = check_template(tokenizer_of("Qwen3"))
    assert "<think>" in change and "laid out as the latter" in change
    (change,) = check_template(tokenizer_of("Gemma 3"))
    assert "ends answers by '<end_of_turn>'" in change
    (change,) = check_template(tokenizer_of("Mistral"))
    assert "' [/INST] '" in change and "' [/INST]'" in change
    assert check_template(load_tokenizer(LLMConfig(kind="random"))) == []


def test_the_end_of_a_turn_is_learned(tmp_path: Path) -> None:
    """Gemma's end token is not the one that its template ends answers by."""
    tokenizer_of("Gemma 3").save_pretrained(tmp_path)
    plain = byte_tokenizer()
    plain.add_tokens(TOKENS["Gemma 3"][1], special_tokens=True)
    plain.chat_template = GEMMA3
    plain.save_pretrained(tmp_path)
    tokenizer = load_tokenizer(LLMConfig(kind="hub", id=str(tmp_path)))
    assert tokenizer.eos_token == "<end_of_turn>" == turn_end(tokenizer)
    sequence = Layout(tokenizer, {}, {}, 200)([Message("user", (Text("a"),)), Message("assistant", (Text("b"),))])
    learned = [i for i in sequence.labels.tolist() if i != IGNORE]
    assert tokenizer.convert_ids_to_tokens(learned) == ["b", "<end_of_turn>"]


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{% for m in messages %}{{ m.content }}{{ eos_token }}{{ m.content }}{% endfor %}", "repeats them"),
        ("{% for m in messages | reverse %}{{ m.content }}{{ eos_token }}{% endfor %}", "another order"),
        ("{% for m in messages %}{{ messages | length }}{{ m.content }}{{ eos_token }}{% endfor %}", "in generation"),
        ("{% for m in messages %}{{ m.content }};{% endfor %}", "without a token that ends it"),
    ],
)
def test_a_template_that_cannot_be_mended_is_refused(template: str, sentence: str) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(PromptError, match=sentence) as caught:
        check_template(tokenizer)
    assert "llm.chat_template" in str(caught.value)


def test_turns_that_change_places_are_refused() -> None:
    """With Mistral's, the system's words move on with the user's last message."""
    tokenizer = tokenizer_of("Mistral")
    assert turn_pieces(tokenizer, ("system", "user"), True)[1] == "\n\n"
    with pytest.raises(PromptError, match="another order"):
        check_template(tokenizer, system=True)
