"""`dreambench` (Table 4 left): 30 subjects × 25 prompts × 4 pictures on the user's copy of DreamBooth's data set.

`<source>/<subject>/00.jpg` … and `prompts_and_classes.txt`, as its authors release them. Two protocols are in use and
both are reported: likeness to the one picture that was given, and the mean over all real pictures of the subject.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from codi2.errors import DataError
from codi2.evaluate.backbones import CROPS, Backbones, Clip, Dino
from codi2.evaluate.case import Case
from codi2.evaluate.context import EvalContext
from codi2.evaluate.figure import Example, Figure, Findings, known, mean
from codi2.evaluate.suite import Suite
from codi2.evaluate.suites.answers import copy, ours
from codi2.media import load_image
from codi2.prompt.parts import Image, Part, Text

LIST = "prompts_and_classes.txt"
PICTURES, EXAMPLES = 4, 12  # of each prompt; shown
LIVE = ("cat", "dog")  # classes that have the second list of prompts
QUOTED = {
    "Real images (oracle)": "DINO .774, CLIP-I .885",
    "DreamBooth": "DINO .668, CLIP-I .803, CLIP-T .305",
    "Re-Imagen": "DINO .600, CLIP-I .740, CLIP-T .270",
    "Kosmos-G": "DINO .694, CLIP-I .847, CLIP-T .287",
    "CoDi-2": "DINO .703, CLIP-I .852, CLIP-T .311",
}
_CLASS = re.compile(r"^(\w+),([\w ]+)$", re.MULTILINE)
_PROMPT = re.compile(r"'([^'\n]*\{0\} \{1\}[^'\n]*)'")


def suite(source: Path, backbones: Backbones, context: EvalContext) -> Suite:
    """The suite on a copy of the data set."""
    about = (
        f"{source.name}: one fixed picture a subject (the first), {PICTURES} seeds a prompt, the class without a rare "
        f"token, no source for the fidelity path. DINO: {backbones.dino}; CLIP: {backbones.clip or Clip.BASE}; each by "
        "its makers' crop (DINO: shorter side 256, centre 224; CLIP: shorter side 224, centre) and by the processor of "
        "transformers, which stretches pictures for DINO."
    )
    return Suite(
        "dreambench", "DreamBench", about, lambda context, cases, outputs: score(cases, outputs, backbones),
        lambda context: cases(source, context.quick, context.items),
        {"ours": ours, "copy of the picture given": copy}, quoted=QUOTED,
        networks={"DINO": backbones.dino, "CLIP": backbones.clip or Clip.BASE},
    )  # fmt: skip


def cases(source: Path, quick: bool = False, subjects: int | None = None) -> list[Case]:
    """The questions about the first `subjects`, all by default. Raises DataError: the list or a subject is missing."""
    try:
        text = (source / LIST).read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"there is no {source / LIST}; name the `dataset` folder of DreamBooth's release") from error
    head, _, lists = text.partition("Prompts")
    objects, _, live = lists.partition("Live Subject Prompts")
    prompts = {False: _PROMPT.findall(objects), True: _PROMPT.findall(live)}
    classes = [(name, kind) for name, kind in _CLASS.findall(head) if name != "subject_name"]
    if not classes or not all(prompts.values()):
        raise DataError(f"{source / LIST} lists {len(classes)} classes and {list(map(len, prompts.values()))} prompts")
    cases = []
    for subject, kind in classes[: 2 if quick else subjects]:
        real = _pictures(source / subject)
        for p, prompt in enumerate(prompts[kind in LIVE][:2] if quick else prompts[kind in LIVE]):
            words = " ".join(prompt.format("", kind).split())
            question = (Text(f"Here is a {kind}: "), real[0], Text(f". Draw the same one as {words}."))
            for seed in range(1 if quick else PICTURES):
                about = {"real": real, "words": words, "seed": seed}
                name, truth = f"{subject}-{p:02d}-{seed}", {"source": real[0]}
                cases.append(Case(name, question, "image", truth, subject, about, source="none"))
    return cases


def _pictures(folder: Path) -> list[Image]:
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not paths:
        raise DataError(f"the subject {folder.name} is missing: there are no pictures in {folder}")
    return [load_image(path) for path in paths]


def score(cases: Sequence[Case], outputs: Mapping[str, Sequence[Part]], backbones: Backbones) -> Findings:
    """DINO and CLIP-I by both protocols, CLIP-T; the real pictures themselves as the oracle."""
    dino, clip = Dino(backbones.dino, backbones.device), Clip(backbones.clip or Clip.BASE, backbones.device)
    main, *others = outputs
    subjects = {case.group: case.about["real"] for case in cases}
    rows = {subject: [i for i, case in enumerate(cases) if case.group == subject] for subject in subjects}
    figures: list[Figure] = []
    for name, network, crop in ((n, net, crop) for n, net in (("DINO", dino), ("CLIP-I", clip)) for crop in CROPS):
        real = {subject: network.pictures(pictures, crop) for subject, pictures in subjects.items()}
        by_system = {system: network.pictures(parts, crop) for system, parts in outputs.items()}  # type: ignore[arg-type]
        for protocol, count in (("the picture given", 1), ("all real pictures", None)):
            values = {
                system: _by_row(
                    rows, {s: (embeddings[rows[s]] @ real[s][:count].T).mean(1) for s in subjects}, len(cases)
                )
                for system, embeddings in by_system.items()
            }
            figure = mean(f"{name} to {protocol}, {crop}", values[main], {system: values[system] for system in others})
            figures.append(
                figure.beside(**{"real images (oracle)": known("real images", _oracle(real), len(subjects))})
            )
    distinct = list(dict.fromkeys(case.about["words"] for case in cases))
    words = dict(zip(distinct, clip.words(distinct), strict=True))
    texts = torch.stack([words[case.about["words"]] for case in cases])
    for crop in CROPS:
        agreed = {s: (clip.pictures(parts, crop) * texts).sum(1).numpy() for s, parts in outputs.items()}  # type: ignore[arg-type]
        figures.append(mean(f"CLIP-T, {crop}", agreed[main], {system: agreed[system] for system in others}))
    examples = [
        Example(case.about["words"], case.prompt, {system: parts[i] for system, parts in outputs.items()})
        for i, case in enumerate(cases)
        if i % max(1, len(cases) // EXAMPLES) == 0
    ]
    return Findings(figures, examples)


def _by_row(rows: Mapping[str, list[int]], values: Mapping[str, torch.Tensor], count: int) -> np.ndarray:
    out = np.zeros(count)
    for subject, places in rows.items():
        out[places] = values[subject].numpy()
    return out


def _oracle(real: Mapping[str, torch.Tensor]) -> float:
    """Mean over subjects of the mean cosine between two different real pictures of it."""
    means = []
    for vectors in real.values():
        cosines, n = vectors @ vectors.T, len(vectors)
        if n > 1:
            means.append(float((cosines.sum() - cosines.trace()) / (n * (n - 1))))
    return float(np.mean(means)) if means else 1.0
