"""Text → token ids, as a pure function: the same ids for the same text, whatever other threads do.

The tokenizers of transformers keep settings such as `split_special_tokens` in one shared object and switch them at each
call, so a call of one thread changes what another reads. Here each setting has an object of its own, which nothing
changes after it is made.
"""

from __future__ import annotations

import json
from typing import Any

from codi2.errors import ConfigError
from codi2.prompt.parts import check_characters


class TokenIds:
    """The token ids of two kinds of text.

    Args:
        tokenizer: a Hugging Face tokenizer with all its added tokens and its chat template. Raises ConfigError where it
            is not backed by the library `tokenizers`.
    """

    def __init__(self, tokenizer: Any) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ConfigError(
                f"the tokenizer {type(tokenizer).__name__} has no fast form; choose a model that has a tokenizer.json"
            )
        state = json.loads(backend.to_str())
        state["truncation"] = state["padding"] = None
        template = str(tokenizer.chat_template or "")
        for token in state["added_tokens"]:
            # some models do not mark all tokens of their turns as special; words must not spell these either
            token["special"] = token["special"] or (not token["content"].isspace() and token["content"] in template)
        self._markup, self._words = _build(state, splits_special=False), _build(state, splits_special=True)

    def of_template(self, text: str) -> list[int]:
        """Ids of text that the chat template wrote: special tokens are what they say."""
        return list(self._markup.encode(text, add_special_tokens=False).ids)

    def of_words(self, text: str) -> list[int]:
        """Ids of anybody's words: no text becomes a special token. Raises PromptError: a lone surrogate."""
        check_characters(text)
        return list(self._words.encode(text, add_special_tokens=False).ids)


def _build(state: dict[str, Any], splits_special: bool) -> Any:
    from tokenizers import Tokenizer

    core = Tokenizer.from_str(json.dumps(state))
    core.encode_special_tokens = splits_special
    return core
