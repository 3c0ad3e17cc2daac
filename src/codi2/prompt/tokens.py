"""Text → token ids, as a pure function: the same ids for the same text, whatever other threads do.

The tokenizers of transformers keep settings such as `split_special_tokens` in one shared object and switch them at each
call, so a call of one thread changes what another reads. Here each setting has an object of its own, which nothing
changes after it is made.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        template = str(tokenizer.chat_template or "")
        added = [token for _, token in sorted(backend.get_added_tokens_decoder().items())]
        for token in added:
            # some models do not mark all tokens of their turns as special, but text must not contain these either
            token.special = token.special or (not token.content.isspace() and token.content in template)
        self._markup, self._words = _build(backend, added, False), _build(backend, added, True)

    def of_template(self, text: str) -> list[int]:
        """Ids of text from the chat template, in which special tokens are recognised."""
        return list(self._markup.encode(text, add_special_tokens=False).ids)

    def of_words(self, text: str) -> list[int]:
        """Ids of other text, in which no special token is recognised. Raises PromptError: a lone surrogate."""
        check_characters(text)
        return list(self._words.encode(text, add_special_tokens=False).ids)


def _build(backend: Any, added: Sequence[Any], splits_special: bool) -> Any:
    """A tokenizer of its own settings over the vocabulary of `backend`, which is shared: to read it again takes a tenth
    of a second for 50,000 tokens, and it does not change."""
    from tokenizers import Tokenizer

    core = Tokenizer(backend.model)
    core.normalizer, core.pre_tokenizer = backend.normalizer, backend.pre_tokenizer
    core.add_tokens(list(added))
    core.encode_special_tokens = splits_special
    return core
