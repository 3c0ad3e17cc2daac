"""The text that a chat template writes between messages, the same in training and in generation.

In training, a reply follows the text that the template writes before a finished answer; in generation, it follows the
text that opens an answer. Some templates write two texts: Qwen3's has an empty block of thoughts before the last answer
only, Mistral's a space. So the layout has the text that opens an answer before every answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from codi2.config import CHATML
from codi2.errors import PromptError
from codi2.prompt.template import render

FIRST_MARK = 0xE000  # of the private-use characters, one of which stands for each message
TALK = ("user", "assistant", "user", "assistant")  # roles with which a template is checked


def turn_pieces(tokenizer: Any, roles: Sequence[str], reply: bool) -> list[str]:
    """The text before the message of each role and after the last; `reply` opens the assistant's turn there.

    Raises PromptError: the template refuses these roles, changes the order of messages, or writes a message in another
    way when more messages follow.
    """
    pieces = _written(tokenizer, roles, reply)
    if tokenizer.chat_template == CHATML:
        return pieces
    result = list(pieces)
    for i, role in enumerate(roles):
        if role == "assistant" and i > 0:
            opened = _written(tokenizer, roles[:i], True)
            if different := [j for j in range(i) if roles[j] != "assistant" and opened[j] != pieces[j]]:
                raise PromptError(
                    f"the language model's chat template writes {pieces[different[0]]!r} before a turn in training and "
                    f"{opened[different[0]]!r} in generation; give llm.chat_template in the config"
                )
            result[i] = opened[i]
    return result


def _written(tokenizer: Any, roles: Sequence[str], reply: bool) -> list[str]:
    """The pieces as the template writes them. Raises PromptError."""
    marks = [chr(FIRST_MARK + i) for i in range(len(roles))]
    turns = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
    text = rest = render(tokenizer, turns, reply)
    pieces = []
    for mark in marks:
        piece, _, rest = rest.partition(mark)
        pieces.append(piece)
    pieces.append(rest)
    if "".join(a + b for a, b in zip(pieces, [*marks, ""], strict=True)) != text or _has(pieces, marks):
        shown = "".join(f"[{roles[marks.index(c)]}]" if c in marks else c for c in text[:200])
        raise PromptError(
            "the language model's chat template leaves turns out, repeats them or writes them in another order: "
            f"{shown!r}; give llm.chat_template in the config"
        )
    return pieces


def _has(pieces: Sequence[str], marks: Sequence[str]) -> bool:
    return any(mark in piece for piece in pieces for mark in marks)


def check_template(tokenizer: Any, system: bool = False) -> list[str]:
    """One sentence for each change to a tokenizer's chat template; none where it is used unchanged.

    Args:
        system: whether conversations open with a system turn.
    Raises PromptError: it cannot be used.
    """
    roles = ("system", *TALK) if system else TALK
    before, opened = _written(tokenizer, roles, False), turn_pieces(tokenizer, roles, False)
    changes = []
    if different := next((i for i, piece in enumerate(before) if piece != opened[i]), None):
        changes.append(
            f"the chat template writes {before[different]!r} before a finished answer and {opened[different]!r} to "
            "open one; both are laid out as the latter"
        )
    end = turn_end(tokenizer)
    if end != tokenizer.eos_token:
        changes.append(f"the chat template ends answers by {end!r}, which is taken as the end token")
    return changes


def turn_end(tokenizer: Any) -> str:
    """The token that ends an answer, which the model learns to write: the tokenizer's own where the template writes
    it, else the first special token that it writes there.

    Raises PromptError: there is none.
    """
    closing = _written(tokenizer, TALK[:2], False)[-1]
    ids = tokenizer(closing, add_special_tokens=False).input_ids
    if tokenizer.eos_token_id in ids:
        return str(tokenizer.eos_token)
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    first = next((i for i in ids if i in special), None)
    if first is None:
        raise PromptError(
            f"the language model's chat template writes {closing!r} behind an answer, without a token that ends it; "
            "give llm.chat_template in the config"
        )
    return str(tokenizer.convert_ids_to_tokens(first))
