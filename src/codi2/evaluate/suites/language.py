"""`language`: the adapters keep what the language model knew: facts, and the perplexity of plain prose."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files

import numpy as np
import torch
from torch.nn import functional as F

from codi2.evaluate.case import Case, System
from codi2.evaluate.context import EvalContext
from codi2.evaluate.figure import Example, Figure, Findings, known, mapped, mean
from codi2.evaluate.suites.answers import ours
from codi2.llm.backbone import Backbone
from codi2.prompt.parts import Part, Text
from codi2.prompt.template import render

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
KEPT = 10  # facts of the base model that are looked for
TOKENS = 40  # of an answer
PARAGRAPHS = 100
NUMBERS = {"seven": "7", "eight": "8"}
BASE = "base model"


def cases(context: EvalContext) -> list[Case]:
    """Questions of fact, of which training has none."""
    facts = FACTS[: context.count(len(FACTS))]
    return [
        Case(f"{i:03d}", (Text(question),), "text", {"target": Text(answer)})
        for i, (question, answer) in enumerate(facts)
    ]


def base(context: EvalContext, cases: Sequence[Case]) -> list[Part]:
    """The same language model without the adapters."""
    backbone = context.model.mllm.backbone
    with backbone.peft.disable_adapter(), context.model.resident(backbone):
        return [Text(alone(backbone, case.prompt[0].text)) for case in cases]  # type: ignore[union-attr]


SYSTEMS: dict[str, System] = {"ours": ours, BASE: base}


def score(context: EvalContext, cases: Sequence[Case], outputs: Mapping[str, Sequence[Part]]) -> Findings:
    """Right answers; of the first ten facts that the base model knows, those that ours does; perplexity."""
    main, *others = outputs
    right = {
        name: np.array([holds(part.text, case.target.text) for part, case in zip(parts, cases, strict=True)])  # type: ignore[union-attr]
        for name, parts in outputs.items()
    }
    figures = [mean("facts: right answers", right[main], {name: right[name] for name in others}, seed=context.seed)]
    if BASE in outputs:
        figures.append(_kept(right[main], right[BASE], context.seed))
    if main == "ours":  # another system has no adapters
        figures += _perplexity(context)
    examples = [
        Example(case.id, case.prompt, {"target": case.target, **{name: outputs[name][i] for name in outputs}})
        for i, case in enumerate(cases)
    ]
    return Findings(figures, examples)


def _kept(right: np.ndarray, base_right: np.ndarray, seed: int) -> Figure:
    rows = np.flatnonzero(base_right)[:KEPT]
    if not len(rows):
        return known("facts that the base model knows", 0.0, n=len(base_right))
    kept = mean(f"of {len(rows)} facts that the base model knows, kept", right[rows], seed=seed)
    return kept.judged("≥ .9", kept.value >= 0.9)


def _perplexity(context: EvalContext) -> list[Figure]:
    """With the adapters on and off."""
    backbone, paragraphs = context.model.mllm.backbone, plain_text()[: context.count(PARAGRAPHS)]
    with context.model.resident(backbone):
        adapted = losses(backbone, paragraphs)
        with backbone.peft.disable_adapter():
            plain = losses(backbone, paragraphs, vocabulary=backbone.first_new)
    perplexity = mapped(mean("perplexity of plain prose", adapted, {BASE: plain}, seed=context.seed), math.exp)
    ratio = mapped(mean("perplexity, ours over the base model's", adapted - plain, seed=context.seed), math.exp)
    return [perplexity, ratio.judged("≤ 1.1", ratio.value <= 1.1)]


@torch.no_grad()
def alone(backbone: Backbone, question: str) -> str:
    """The answer of the base model, in its own chat template."""
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
    values = []
    device = next(backbone.parameters()).device
    for paragraph in paragraphs:
        ids = backbone.tokenizer(paragraph, add_special_tokens=False, return_tensors="pt").input_ids.to(device)
        hidden = backbone(backbone.embed(ids), torch.ones_like(ids, dtype=torch.bool))
        scores = backbone.logits(hidden[0, :-1]).float()[:, :vocabulary]
        values.append(float(F.cross_entropy(scores, ids[0, 1:])))
    return np.array(values)


def plain_text() -> list[str]:
    """Paragraphs of plain prose, written for this measurement."""
    return files("codi2.evaluate").joinpath("plain_text.txt").read_text(encoding="utf-8").strip().split("\n\n")
