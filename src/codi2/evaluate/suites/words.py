"""Text survives: the adapters have not taken from the language model what it knew."""

from __future__ import annotations

import math
import re
from importlib.resources import files

import numpy as np
import torch
from torch.nn import functional as F

from codi2.evaluate.bench import Bench
from codi2.evaluate.figure import Example, Figure, Findings, known, mapped, mean
from codi2.llm.backbone import Backbone
from codi2.model import Options
from codi2.prompt.layout import Message
from codi2.prompt.parts import Prompt, Text
from codi2.prompt.template import render

QUESTION, ANSWER = "What is the capital of France?", "Paris"
FACTS = (
    ("What is the capital of Italy?", "Rome"),
    ("What is the capital of Japan?", "Tokyo"),
    ("What is the capital of Spain?", "Madrid"),
    ("What is the capital of Germany?", "Berlin"),
    ("What is the largest planet of the solar system?", "Jupiter"),
    ("Which planet is known as the red planet?", "Mars"),
    ("What is the chemical symbol of gold?", "Au"),
    ("What gas do plants take in from the air?", "carbon dioxide"),
    ("How many days does a week have?", "seven"),
    ("Who wrote Romeo and Juliet?", "Shakespeare"),
    ("Who painted the Mona Lisa?", "Leonardo"),
    ("On which continent is Egypt?", "Africa"),
    ("What is the largest ocean on Earth?", "Pacific"),
    ("Which language is spoken in Brazil?", "Portuguese"),
    ("What is frozen water called?", "ice"),
    ("What do bees make?", "honey"),
    ("What is the opposite of hot?", "cold"),
    ("How many legs does a spider have?", "eight"),
    ("Who was the first president of the United States?", "Washington"),
    ("What is the name of the star that the Earth goes around?", "Sun"),
)
"""Questions, and what a right answer holds; figures count as words too."""
KEPT, TOKENS = 10, 24
NUMBERS = {"seven": "7", "eight": "8"}


def text(bench: Bench) -> Findings:
    """One question of fact, and the perplexity of plain prose with the adapters on and off."""
    prompt: Prompt = (Text(QUESTION),)
    reply = bench.model.answer([[Message("user", prompt)]], [Options(want="text", max_new_tokens=32)])[0]
    right = known(f"answers {QUESTION!r} with {ANSWER}", float(ANSWER in reply.text), n=1)
    right = right.judged(f"says {ANSWER}", right.value == 1)

    backbone = bench.model.mllm.backbone
    paragraphs = plain_text()[: bench.count(100)]
    ours = losses(backbone, paragraphs)
    with backbone.peft.disable_adapter():
        base = losses(backbone, paragraphs, vocabulary=backbone.first_new)
    perplexity = mapped(mean("perplexity of plain prose", ours, {"base model": base}, seed=bench.seed), math.exp)
    ratio = mapped(mean("perplexity, ours over the base model's", ours - base, seed=bench.seed), math.exp)
    ratio = ratio.judged("≤ 1.1", ratio.value <= 1.1)
    kept = facts(bench)
    return Findings([right, kept, perplexity, ratio], [Example("Chat", prompt, {"ours": Text(reply.text)})])


def facts(bench: Bench) -> Figure:
    """Of the first ten facts that the base model gets right, the share that ours does."""
    backbone = bench.model.mllm.backbone
    found: list[tuple[str, str]] = []
    with backbone.peft.disable_adapter():
        for question, answer in FACTS:
            if len(found) < bench.count(KEPT) and holds(alone(backbone, question), answer):
                found.append((question, answer))
    if not found:
        return known("facts that the base model gets right", 0.0, n=len(FACTS))
    messages = [[Message("user", (Text(question),))] for question, _ in found]
    replies = bench.model.answer(messages, [Options(want="text", max_new_tokens=TOKENS)] * len(found))
    said = [holds(reply.text, answer) for reply, (_, answer) in zip(replies, found, strict=True)]
    kept = mean(f"of {len(found)} facts that the base model gets right, kept", said, seed=bench.seed)
    return kept.judged("≥ .9", kept.value >= 0.9)


@torch.no_grad()
def alone(backbone: Backbone, question: str) -> str:
    """What a language model says by itself, in its own template."""
    turns = [{"role": "user", "content": question}]
    tokenizer, device = backbone.tokenizer, next(backbone.parameters()).device
    text = render(tokenizer, turns, reply=True)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids.to(device)
    out = backbone.peft.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS, do_sample=False
    )
    return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))


def holds(text: str, answer: str) -> bool:
    """Whether words are in a text, as words."""
    spelled = "|".join(map(re.escape, filter(None, (answer, NUMBERS.get(answer, "")))))
    return bool(re.search(rf"\b(?:{spelled})\b", text, re.IGNORECASE))


@torch.no_grad()
def losses(backbone: Backbone, paragraphs: list[str], vocabulary: int | None = None) -> np.ndarray:
    """Mean negative log-likelihood of a token, in nats, of each paragraph [n].

    `vocabulary` cuts the scores to the first tokens: a base model has no new ones to lose probability to.
    """
    found = []
    device = next(backbone.parameters()).device
    for paragraph in paragraphs:
        ids = backbone.tokenizer(paragraph, add_special_tokens=False, return_tensors="pt").input_ids.to(device)
        hidden = backbone(backbone.embed(ids), torch.ones_like(ids, dtype=torch.bool))
        scores = backbone.logits(hidden[0, :-1]).float()[:, :vocabulary]
        found.append(float(F.cross_entropy(scores, ids[0, 1:])))
    return np.array(found)


def plain_text() -> list[str]:
    """Paragraphs of plain prose, written for this measurement."""
    return files("codi2.evaluate").joinpath("plain_text.txt").read_text(encoding="utf-8").strip().split("\n\n")
