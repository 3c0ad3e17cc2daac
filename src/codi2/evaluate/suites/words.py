"""Text survives: the adapters have not taken from the language model what it knew."""

from __future__ import annotations

import math
from importlib.resources import files

import numpy as np
import torch
from torch.nn import functional as F

from codi2.evaluate.bench import Bench
from codi2.evaluate.figure import Example, Findings, known, mapped, mean
from codi2.llm.backbone import Backbone
from codi2.model import Options
from codi2.prompt.layout import Message
from codi2.prompt.parts import Prompt, Text

QUESTION, ANSWER = "What is the capital of France?", "Paris"


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
    return Findings([right, perplexity, ratio], [Example("Chat", prompt, {"ours": Text(reply.text)})])


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
