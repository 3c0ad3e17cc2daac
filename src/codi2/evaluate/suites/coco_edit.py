"""`coco-edit` (Table 4 right): pictures of MS-COCO edited by an instruction, on the user's copy.

The paper names neither its edits nor which CLIPSIM it reports; its numbers (.134 to .151) fit InstructPix2Pix's
directional similarity. So all are reported: plain, directional and image similarity, and FID.

`<source>/annotations/captions_val2017.json` and `<source>/val2017/`, as COCO is released; each picture gets an edit of
`EDITS`, drawn. `<source>/edits.jsonl` replaces the draw: `{"image": "val2017/….jpg", "caption": …, "edit": …,
"result": …}` a line, the caption of the picture, the instruction and the caption of the wished result.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from codi2.errors import DataError
from codi2.evaluate import baselines
from codi2.evaluate.backbones import CROPS, INCEPTION_FILE, Backbones, Clip, fid_network
from codi2.evaluate.case import Case
from codi2.evaluate.context import BATCH, EvalContext
from codi2.evaluate.figure import Example, Figure, Findings, known, mean
from codi2.evaluate.suite import Suite
from codi2.evaluate.suites.answers import copy, instructed, ours
from codi2.evaluate.suites.edit_cases import edit_of
from codi2.media import load_image
from codi2.metrics.audio import fd
from codi2.prompt.parts import Image, Part, Prompt, Text

LIST, CAPTIONS, FOLDER = "edits.jsonl", "annotations/captions_val2017.json", "val2017"
NUMBER, EXAMPLES = 1_000, 12
STEPS = 50  # of SDEdit
HALVES = "pictures given, one half against the other"
TITLES = ("CLIPSIM, plain", "CLIPSIM, directional", "CLIP similarity to the picture given")
FIELDS = ("image", "caption", "edit", "result")
EDITS = ("night", "fog", "rain", "snow", "temperature", "sketch", "painted", "grey")
"""Kinds of edits (`data.edits`) that suit a photo of anything."""
QUOTED = {"SDEdit-1/2T": "CLIPSIM .134", "InstructPix2Pix": "CLIPSIM .151", "CoDi-2": "CLIPSIM .147"}


def suite(source: Path, backbones: Backbones, context: EvalContext) -> Suite:
    """The suite on a copy of COCO. Raises DataError: it is not one, or a picture is missing."""
    questions = cases(source, context.count(NUMBER), context.seed)
    about = (
        f"{source.name}: {len(questions)} pictures with an edit each ({_origin(source)}), seed {context.seed}. CLIP: "
        f"{backbones.clip or Clip.LARGE}, by its makers' crop and by the processor; directional similarity as "
        "InstructPix2Pix: the cosine of the two pictures' difference to the two captions'. FID: Inception-v3 of 2015, "
        "pictures brought to "
        f"299 × 299 as pytorch-fid does, against the {len(questions)} pictures as they were: biased upwards, the more "
        "the fewer there are, so compare it only with a FID of as many; the row of halves is what the bias alone gives "
        f"at {len(questions) // 2}, and --items sets the number. SDEdit: {STEPS} steps, from "
        "1/2 T, towards the caption of the result, on the same decoder."
    )
    systems = {
        "ours": ours,
        "SDEdit from 0.5 T": sdedit,
        "by instruction, no language model (InstructPix2Pix)": instructed,
        "copy of the picture": copy,
    }
    without = f"no weights of Inception-v3: name the file {INCEPTION_FILE} with --inception"
    return Suite(
        "coco-edit", "Edits of COCO", about, partial(score, backbones=backbones), lambda context: questions, systems,
        absent={} if backbones.inception else {"FID": without},
        networks={"CLIP": backbones.clip or Clip.LARGE, "Inception-v3": backbones.inception},
        quoted=QUOTED,
    )  # fmt: skip


def cases(source: Path, count: int = NUMBER, seed: int = 0) -> list[Case]:
    """Raises DataError: the lists or a picture are missing, or a line lacks a field."""
    lines = _listed(source) if (source / LIST).is_file() else _drawn(source, seed)
    cases = []
    for i, line in enumerate(lines[:count]):
        path = source / line["image"]
        if not path.is_file():
            raise DataError(f"the picture {path} is missing; fetch it, or leave it out of the list")
        picture = load_image(path)
        prompt: Prompt = (Text(_sentence(line["edit"]) + ": "), picture, Text("."))
        about = {"words": line["result"], "before": line["caption"], "seed": i}
        cases.append(Case(f"edit-{i:04d}", prompt, "image", {"source": picture}, "edit", about))
    return cases


def _listed(source: Path) -> list[dict[str, str]]:
    lines = []
    for n, line in enumerate((source / LIST).read_text(encoding="utf-8").splitlines(), 1):
        try:
            about = json.loads(line)
            lines.append({name: str(about[name]) for name in FIELDS})
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{source / LIST}, line {n} should hold {', '.join(FIELDS)}: {error!r}") from error
    return lines


def _drawn(source: Path, seed: int) -> list[dict[str, str]]:
    """An edit for each of the pictures in seeded order; a picture's caption is its first."""
    try:
        about = json.loads((source / CAPTIONS).read_text(encoding="utf-8"))
        names = {int(image["id"]): str(image["file_name"]) for image in about["images"]}
        first: dict[int, str] = {}
        for note in sorted(about["annotations"], key=lambda note: int(note["id"])):
            first.setdefault(int(note["image_id"]), str(note["caption"]).strip().rstrip("."))
    except OSError as error:
        raise DataError(f"{source} holds neither {LIST} nor {CAPTIONS}; name the folder of COCO's release") from error
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{source / CAPTIONS} is no caption file of COCO: {error!r}") from error
    draw = np.random.default_rng(seed)
    lines = []
    for number in draw.permutation(sorted(first)).tolist():
        edit = edit_of(EDITS, draw)
        caption = first[number]
        lines.append({"image": f"{FOLDER}/{names[number]}", "caption": caption, "edit": edit.ask,
                      "result": f"{caption}, {edit.words}"})  # fmt: skip
    return lines


def _origin(source: Path) -> str:
    return f"from {LIST}" if (source / LIST).is_file() else f"drawn among {', '.join(EDITS)}"


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:].rstrip(".: ")


def sdedit(context: EvalContext, cases: Sequence[Case]) -> list[Part]:
    """SDEdit from half the noise on the same decoder, towards the caption of the result."""
    decoder, outputs_ = context.decoder("image"), []
    for start in range(0, len(cases), BATCH):
        batch = cases[start : start + BATCH]
        joint, words = context.read_texts(decoder, [case.about["words"] for case in batch])
        seeds = [context.seed + start + i for i in range(len(batch))]
        sources = [case.truth["source"] for case in batch]
        outputs_ += baselines.sdedit(decoder, joint, words, sources, seeds, 0.5, STEPS)
    return outputs_


def score(
    context: EvalContext, cases: Sequence[Case], outputs: Mapping[str, Sequence[Part]], backbones: Backbones
) -> Findings:
    """Similarities by CLIP, and FID where there are weights of Inception."""
    clip = Clip(backbones.clip or Clip.LARGE, backbones.device)
    main, *others = outputs
    sources: list[Any] = [case.truth["source"] for case in cases]
    before, wished = (clip.words([case.about[name] for case in cases]) for name in ("before", "words"))
    figures: list[Figure] = []
    for crop in CROPS:
        source = clip.pictures(sources, crop)
        by_system = {name: clip.pictures(parts, crop) for name, parts in outputs.items()}  # type: ignore[arg-type]
        values = {name: similarities(source, embeddings, before, wished) for name, embeddings in by_system.items()}
        figures += [
            mean(f"{title}, {crop}", values[main][k], {name: values[name][k] for name in others}, seed=context.seed)
            for k, title in enumerate(TITLES)
        ]
    figures += _fid(sources, outputs, backbones)
    examples = [
        Example(f"{case.about['words']}", case.prompt, {name: parts[i] for name, parts in outputs.items()})
        for i, case in enumerate(cases)
        if i % max(1, len(cases) // EXAMPLES) == 0
    ]
    return Findings(figures, examples)


def similarities(
    source: torch.Tensor, output: torch.Tensor, before: torch.Tensor, wished: torch.Tensor
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Plain, directional and image similarity, [n] each, of unit vectors [n, C].

    cos(picture, caption), cos(picture - source, caption - caption before), cos(picture, source): InstructPix2Pix,
    section 4.1 (arXiv:2211.09800). The direction of a copy is zero, and so is its similarity.
    """
    plain = (output * wished).sum(1)
    directional = F.cosine_similarity(output - source, wished - before, dim=1)
    return plain.numpy(), directional.numpy(), (output * source).sum(1).numpy()


def _fid(sources: Sequence[Image], outputs: Mapping[str, Sequence[Part]], backbones: Backbones) -> list[Figure]:
    if not backbones.inception:
        return []
    network = fid_network(backbones.inception, backbones.device)
    real = network.pictures(sources)
    apart = {name: fd(network.pictures(parts), real) for name, parts in outputs.items()}  # type: ignore[arg-type]
    main, *others = apart
    figure = known("FID", apart[main], len(sources))
    figure = figure.beside(**{name: known(name, apart[name], len(sources)) for name in others})
    if len(real) >= 4:
        figure = figure.beside(**{HALVES: known(HALVES, fd(real[::2], real[1::2]), len(real) // 2)})
    return [figure]
