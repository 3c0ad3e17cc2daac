"""Plain conversation for the text phase: our questions with answers of the base model.

Training on the base model's answers lets the adapters learn media without forgetting text. (No package contains Alpaca,
which the paper uses; its builder reads the user's copy.)
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from codi2.hub import home, write_atomic

BATCH = 16  # questions answered at once
MAX_NEW_TOKENS = 60
HELD_OUT = 8  # one of this many questions is held out from training
NUM_TEXTS, TEXT_TOKENS = 480, 64  # of prose that the base model generates


def questions() -> list[str]:
    """The questions in `questions.txt`."""
    text = files("codi2.data").joinpath("questions.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line]


def load_chats() -> list[tuple[str, str]]:
    """Questions with the base model's greedy answers, computed once and stored under `$CODI2_HOME/cache`."""
    path = home() / "cache" / "chat.jsonl"
    if not path.is_file():
        pairs = _answers(questions())
        write_atomic(path, "".join(json.dumps(pair) + "\n" for pair in pairs).encode())
    lines = path.read_text(encoding="utf-8").splitlines()
    return [(question, _complete(answer)) for question, answer in map(json.loads, lines) if _complete(answer)]


def split_chats() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The pairs of `load_chats` for training, and those that are held out."""
    chats = load_chats()
    held_out = chats[::HELD_OUT]
    return [chat for chat in chats if chat not in held_out] or held_out, held_out


def load_prose() -> list[str]:
    """Texts sampled from the base model without a prompt; computed once and stored too."""
    path = home() / "cache" / "prose.json"
    if not path.is_file():
        write_atomic(path, json.dumps(_sampled_texts()).encode())
    texts: list[str] = json.loads(path.read_text(encoding="utf-8"))
    return texts


def _complete(answer: str) -> str:
    """The answer up to its last complete sentence: a cut one would teach the model to stop in the middle."""
    return answer[: max(answer.rfind(mark) for mark in ".!?") + 1]


def _answers(prompts: list[str]) -> list[tuple[str, str]]:
    import torch
    from rich.progress import track

    tokenizer, model = _base_model()
    pairs = []
    for start in track(range(0, len(prompts), BATCH), description="answers of the base model", transient=True):
        batch = prompts[start : start + BATCH]
        chats = [[{"role": "user", "content": question}] for question in batch]
        tokens = tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            out = model.generate(**tokens, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        answers = tokenizer.batch_decode(out[:, tokens["input_ids"].shape[1] :], skip_special_tokens=True)
        pairs += [(question, answer.strip()) for question, answer in zip(batch, answers, strict=True)]
    return pairs


def _sampled_texts() -> list[str]:
    import torch
    from rich.progress import track

    tokenizer, model = _base_model()
    separator = tokenizer.convert_tokens_to_ids("<|endoftext|>")  # between texts of its training data
    start = {"input_ids": torch.full((2 * BATCH, 1), separator), "attention_mask": torch.ones(2 * BATCH, 1)}
    texts: list[str] = []
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        for _ in track(range(NUM_TEXTS // (2 * BATCH)), description="sampling texts of the base model", transient=True):
            out = model.generate(**start, max_new_tokens=TEXT_TOKENS, do_sample=True, top_k=0, temperature=1.0)
            texts += tokenizer.batch_decode(out[:, 1:], skip_special_tokens=True)
    return [text for text in texts if text.strip()]


def _base_model() -> tuple[Any, Any]:
    """Tokenizer and frozen model."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from codi2.config import TINY
    from codi2.llm.backbone import converted_gguf

    folder = converted_gguf(TINY.llm.id, TINY.llm.file)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    return tokenizer, AutoModelForCausalLM.from_pretrained(folder).eval()
