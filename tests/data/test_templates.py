import re
from functools import lru_cache
from itertools import combinations

import numpy as np
import pytest

from codi2.data.templates import series, templates, write_prompt

COUNT = 100  # templates of a task
NEAREST = 0.6  # no two templates of a task are more similar than this

FIELDS = {
    "image_from_caption": {"caption"},
    "audio_from_caption": {"caption"},
    "video_from_caption": {"caption"},
    "caption_image": {"media"},
    "caption_audio": {"media"},
    "caption_video": {"media"},
    "edit": {"media", "ask"},
    "restyle": {"media", "style"},
    "analogy": {"pairs", "media"},
    "analogy_cross": {"pairs", "media"},
    "add": {"caption", "media"},
    "remove": {"caption", "media"},
    "replace": {"caption", "other", "media"},
    "fuse": {"media", "second"},
    "sound_of_picture": {"media"},
    "picture_of_sound": {"media"},
    "concept": {"shots", "caption"},
    "concept_audio": {"shots", "caption"},
    "subject": {"shots"},
    "subject_changed": {"shots", "ask"},
    "subject_alive": {"shots"},
    "compose": {"description"},
    "next": {"shots"},
    "next_with_sound": {"shots"},
    "edit_by_sound": {"media", "sound"},
    "difference": {"first", "second"},
    "animate": {"media"},
    "clip_with_sound": {"caption"},
}


def fields_of(template: str) -> list[str]:
    """The fields of a template in their order."""
    return re.findall(r"\{(\w+)\}", template)


@lru_cache(maxsize=4096)
def words_of(template: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\{\w+\}|[\w’']+", template.lower()))


def similarity(template: str, other: str) -> float:
    """From 0 (no word shared) to 1 (the same words in the same order): one minus the edit distance in words over the
    longer template's length. Case and punctuation do not count; a field counts as a word."""
    a, b = words_of(template), words_of(other)
    row = list(range(len(b) + 1))
    for i, word in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, other_word in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other_word))
    return 1 - row[-1] / max(len(a), len(b))


def test_every_task_has_its_file():
    assert templates().keys() == FIELDS.keys()


@pytest.mark.parametrize("task", FIELDS)
def test_a_hundred_templates_all_different(task: str):
    written = templates()[task]
    assert len(written) == COUNT
    near = [(a, b) for a, b in combinations(written, 2) if similarity(a, b) > NEAREST]
    assert near == []


@pytest.mark.parametrize("task", FIELDS)
def test_every_template_uses_every_field_once(task: str):
    wrong = [line for line in templates()[task] if sorted(fields_of(line)) != sorted(FIELDS[task])]
    assert wrong == []
    assert all(line == line.strip() and line[0].upper() == line[0] for line in templates()[task])


def test_the_medium_to_edit_comes_last():
    """The model edits the last medium that it is given (`Options.source`)."""
    assert all(fields_of(line) == ["pairs", "media"] for line in templates()["analogy"])


def test_similarity_counts_words():
    assert similarity("Draw {caption}.", "draw {caption}") == 1
    assert similarity("Draw {caption}.", "Paint {caption}.") == 0.5
    assert similarity("Draw it", "Something else entirely") == 0


def test_media_are_listed_as_people_do():
    assert [series(list("abc")[:n]) for n in (1, 2, 3)] == [["a"], ["a", " and ", "b"], ["a", ", ", "b", " and ", "c"]]


def test_templates_are_drawn_uniformly():
    draw = np.random.default_rng(0)
    prompts = [write_prompt("edit", draw, {"media": [7], "ask": "mirror it"}) for _ in range(20_000)]
    words = ["".join("{media}" if part == 7 else part.text for part in prompt) for prompt in prompts]
    counts = np.unique(words, return_counts=True)[1]
    assert len(counts) == COUNT
    # 200 each expected, standard deviation 14
    assert counts.min() > 130 and counts.max() < 270
