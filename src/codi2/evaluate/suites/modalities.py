"""Whether a model answers with the modalities that are asked for, in conversations of several rounds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from codi2.data import cache
from codi2.data.tasks import TaskSampler, to_record
from codi2.data.tasks.rounds import rounds
from codi2.evaluate.bench import BATCH, Bench
from codi2.evaluate.figure import Example, Findings, mean
from codi2.evaluate.suites.words import FACTS
from codi2.llm.decode import FeatureSegment, Segment
from codi2.model import Options
from codi2.prompt.parts import Part, Text

SPLITS = ("test_family", "test_rendering")
DRAWS, TOKENS, BAR, SHOWN = 92, 16, 0.9, 12  # the first tells the draws from those of other suites


def asked_for(bench: Bench, n: int) -> Findings:
    """The last message of held-out conversations, in phrasings that are no training data; `want` is left open."""
    sampler = TaskSampler(cache.corpus(), bench.splits(*SPLITS))
    sampler.chats = [(question, f"{answer}.") for question, answer in FACTS]
    count = bench.count(n)
    draws = [np.random.default_rng((bench.seed, DRAWS, i)) for i in range(count)]
    records = [to_record(rounds(sampler, draw), f"{DRAWS}-{i}") for i, draw in enumerate(draws)]
    messages = [record.messages() for record in records]
    options = Options(max_new_tokens=TOKENS)
    said: list[frozenset[str]] = []
    for start in range(0, count, BATCH):
        readings = bench.model.read([some[:-1] for some in messages[start : start + BATCH]])
        said += [modalities(reply) for reply in bench.model.write(readings, [options] * len(readings))]
    wanted = [of_parts(some[-1].parts) for some in messages]
    right = np.array([ours == theirs for ours, theirs in zip(said, wanted, strict=True)])
    requests = [record.meta["asked"][-1] for record in records]
    whole = mean("right modalities in the last round", right, seed=bench.seed)
    figures = [whole.judged(f"≥ {BAR:g}", whole.value >= BAR)]
    for request in sorted(set(requests)):
        mine = right[[one == request for one in requests]]
        figures.append(mean(f"the same, {request}", mine, seed=bench.seed))
    examples = [
        Example(f"{request}: {', '.join(sorted(ours)) or 'nothing'}", some[-2].parts)
        for request, ours, some in zip(requests[:SHOWN], said, messages, strict=False)
    ]
    return Findings(figures, examples)


def modalities(reply: Sequence[Segment]) -> frozenset[str]:
    """Of a reply; `text` where it has words."""
    return frozenset(s.modality if isinstance(s, FeatureSegment) else "text" for s in reply)


def of_parts(parts: Sequence[Part]) -> frozenset[str]:
    """Of a true answer."""
    return frozenset("text" if isinstance(part, Text) else part.modality for part in parts)
