"""Records drawn on the fly: the same for the same number, of the splits alone, with what they edit."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from codi2.data import edits, motions
from codi2.data.drafts import moving
from codi2.data.items import load_corpus
from codi2.data.prepare import FPS
from codi2.data.record import Medium, Record
from codi2.data.tasks import FAMILIES, TaskSampler, check_weights, draw_record, rounds, sequences, sounds, to_record
from codi2.errors import ConfigError, DataError
from codi2.prompt.parts import Text, Video
from codi2.train.parts import sampled

CHATS = [f'["Question {n}?", "Answer {n}."]' for n in range(16)]


@pytest.fixture
def sampler(rich_home: Path) -> TaskSampler:
    (rich_home / "cache").mkdir(exist_ok=True)
    (rich_home / "cache" / "chat.jsonl").write_text("\n".join(CHATS) + "\n")
    return TaskSampler(load_corpus())


def words(record: Record, role: str = "user") -> list[str]:
    return ["".join(p.text for p in pieces if isinstance(p, Text)) for who, pieces in record.turns if who == role]


def test_every_task_draws_records_of_its_splits(sampler: TaskSampler) -> None:
    for split, held_out in (("train", ""), ("val", ""), ("test_family", "kinds"), ("test_family", "values")):
        sampler_ = TaskSampler(load_corpus(), (split,), held_out)  # type: ignore[arg-type]
        allowed = {item.id for item in sampler_.corpus.items if item.split == split}
        for family in FAMILIES.values():
            for name, task in family.items():
                for seed in range(2):
                    record = to_record(task(sampler_, np.random.default_rng(seed)), "k")
                    assert set(record.meta["items"]) <= allowed, name
                    if held_out and "change" in record.meta and name != "edit_by_sound":  # there the sound says which
                        assert _held(record.meta["change"], held_out), name


def _held(edit: dict[str, object], held_out: str) -> bool:
    kinds = {kind.name: kind for some in edits.KINDS.values() for kind in some}
    kind = kinds[str(edit["kind"])]
    values: dict[str, float] = edit["values"]  # type: ignore[assignment]
    inside = any(kind.spans[name].holds(value) for name, value in values.items())
    return kind.held_out if held_out == "kinds" else inside and not kind.held_out


def test_training_reads_nothing_held_out(sampler: TaskSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Media of other splits would raise, and so would held-out edits and phrasings."""
    train = {item.id for item in sampler.corpus.items if item.split == "train"}
    plain = type(sampler.corpus).media

    def media(corpus: object, item: object) -> np.ndarray:
        assert item.id in train  # type: ignore[attr-defined]
        return plain(corpus, item)  # type: ignore[arg-type]

    monkeypatch.setattr(type(sampler.corpus), "media", media)
    unseen = {phrase for some in rounds.PHRASES.values() for phrase in some[-rounds.UNSEEN :]}
    names = {kind.name: kind for some in edits.KINDS.values() for kind in some}
    held_chats = {pair for pair in sampler.chats}.isdisjoint(TaskSampler(sampler.corpus, ("val",)).chats)
    assert held_chats
    for number in range(150):
        record = draw_record(sampler, 0, number)
        assert set(record.meta["items"]) <= train
        edit = record.meta.get("change")
        for n, name in enumerate(edit["kind"].split("+") if edit else []):
            prefix = f"{n}." if "+" in edit["kind"] else ""
            values = {k.removeprefix(prefix): v for k, v in edit["values"].items() if k.startswith(prefix)}
            assert not names[name].held_out
            assert not any(names[name].spans[key].holds(value) for key, value in values.items())
        if record.task == "rounds":
            assert not unseen & set(words(record))


def test_a_record_is_a_function_of_seed_and_number(sampler: TaskSampler) -> None:
    again = TaskSampler(load_corpus())
    for number in range(20):
        assert draw_record(sampler, 3, number) == draw_record(again, 3, number)
    assert [draw_record(sampler, 3, n) for n in range(5)] != [draw_record(sampler, 4, n) for n in range(5)]


def test_what_an_answer_edits_is_named(sampler: TaskSampler) -> None:
    tasks = {name: task for family in FAMILIES.values() for name, task in family.items()}
    for seed in range(4):
        names = ("edit_image", "analogy_image", "edit_audio", "analogy_mix", "animate", "restyle", "edit_video", "add")
        for name in (*names, "remove", "replace", "analogy_video"):
            record = to_record(tasks[name](sampler, np.random.default_rng(seed)), "k")
            given = [p for p in record.turns[0][1] if isinstance(p, Medium)]
            assert record.edits is not None and record.media[record.edits] is given[-1], name
        for name in ("compose", "next_image", "subject", "concept_image", "image_from_words", "counterpart", "fuse"):
            assert to_record(tasks[name](sampler, np.random.default_rng(seed)), "k").edits is None, name


def test_examples_show_one_edit_that_the_answer_follows(sampler: TaskSampler) -> None:
    for seed in range(6):
        record = to_record(FAMILIES["examples"]["analogy_image"](sampler, np.random.default_rng(seed)), "k")
        edit = edits.from_json(**record.meta["change"])
        arrays = [np.asarray(medium.decode().pixels) for medium in record.media]  # type: ignore[union-attr]
        pairs = [*zip(arrays[0:-2:2], arrays[1:-2:2], strict=True), (arrays[-2], arrays[-1])]
        assert len(pairs) == record.meta["shots"] + 1
        assert all(np.array_equal(edit(before), after) for before, after in pairs)
        assert edits.visible(*pairs[-1])


def test_rounds_answer_what_is_asked_and_hold_what_is_spoken_of(sampler: TaskSampler) -> None:
    answers = {
        "describe": ["text"], "recall": ["text"], "chat": ["text"], "draw": ["image"], "play": ["audio"],
        "film": ["video"], "animate": ["video"], "sound": ["audio"], "look": ["image"],
        "all": ["image", "audio", "text"],
    }  # fmt: skip
    met: set[str] = set()
    for seed in range(60):
        record = to_record(rounds.rounds(sampler, np.random.default_rng(seed)), "k")
        asked = record.meta["requests"]
        assert 2 <= len(asked) <= 5 and len(record.turns) == 2 * len(asked)
        met |= set(asked)
        newest: Medium | None = None
        for request, (_, user), (_, answer) in zip(asked, record.turns[::2], record.turns[1::2], strict=True):
            given, made = ([p for p in pieces if isinstance(p, Medium)] for pieces in (user, answer))
            kinds = [piece.modality for piece in answer]
            if request == "edit":
                assert newest is not None and kinds == [newest.modality]
                assert given and all(one is newest for one in given), words(record)
            else:
                assert kinds == answers[request]
            if request in ("recall", "animate", "sound", "look"):
                assert given and given[-1] is newest, words(record)
            if request in ("draw", "play", "film", "all", "chat") and len(asked) == 1:
                assert not given
            newest = (made or given or [newest])[-1]
        source = record.edits
        assert (source is not None) == (asked[-1] in ("edit", "animate"))
    assert met == set(rounds.REQUESTS)


def test_media_alone_and_wrong_weights(sampler: TaskSampler) -> None:
    for number in range(20):
        record = draw_record(sampler, 0, number, {"captions": 1, "rounds": 1}, media=True)
        assert any(isinstance(piece, Medium) for piece in record.turns[-1][1])
    with pytest.raises(ConfigError, match="no family of tasks 'jokes'"):
        check_weights({"jokes": 1})
    with pytest.raises(ConfigError, match="expected numbers of 0 or more"):
        check_weights({"captions": 0})
    with pytest.raises(ConfigError, match="answers with a medium"):
        draw_record(sampler, 0, 0, {"texts": 1}, media=True)


def test_other_splits_go_without_the_tasks_that_they_are_too_small_for(sampler: TaskSampler) -> None:
    small = TaskSampler(sampler.corpus, ("val",))
    small.scenes, small.subjects = [], []
    drawn = {draw_record(small, 0, number, {"pictures": 1}).task for number in range(40)}
    assert "restyle" in drawn and not drawn & {"compose", "subject_pose", "subject_changed"}
    small.trains = True
    with pytest.raises(DataError, match="nothing of the kind"):
        for number in range(40):
            draw_record(small, 0, number, {"pictures": 1})


def test_sequences_go_on_as_they_began() -> None:
    """A count grows by equal steps; what crosses, grows or turns changes from each picture to the next."""
    thing = np.full((64, 64, 3), 255, np.uint8)
    thing[8:56, 16:48] = (200, 30, 30)
    for name, kind in sequences.KINDS.items():
        for seed in range(8):
            length = 3 + seed % 3
            pictures = kind(thing, length, np.random.default_rng(seed))
            assert len(pictures) == length and all(edits.visible(a, b) for a, b in pairwise(pictures)), name
            if name == "count":
                drawn = [int((picture != 255).any(-1).sum()) for picture in pictures]
                steps = [after - before for before, after in pairwise(drawn)]
                assert min(steps) > 0 and max(steps) - min(steps) <= 0.1 * max(steps)


def test_a_mood_darkens_or_warms_as_its_sound_says(sampler: TaskSampler) -> None:
    for mood in sounds.MOODS:
        drawn = [mood.draw(np.random.default_rng(seed)) for seed in range(20)]
        assert {edit.kind for edit in drawn} == {mood.kind}
        assert all(next(iter(edit.values.values())) > mood.above for edit in drawn)


@pytest.mark.parametrize("order", [[0] * 8, [0, 0, 1, 1, 2, 2, 0, 0], range(8)])
def test_a_clip_is_decoded_with_all_its_frames(order: Sequence[int]) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    frames = colours[list(order)]
    clip = moving(frames).decode()
    assert isinstance(clip, Video) and clip.fps == pytest.approx(FPS, rel=0.01)
    assert np.array_equal(np.stack([np.asarray(frame) for frame in clip.frames]), frames)


def test_a_clip_of_words_moves_as_they_say(sampler: TaskSampler) -> None:
    (task,) = [task for name, task in FAMILIES["clips"].items() if name == "moving_from_words"]
    for seed in range(10):
        record = to_record(task(sampler, np.random.default_rng(seed)), "k")
        assert motions.WORDS[record.meta["motion"]] in words(record)[0]


def test_an_edited_clip_still_moves(sampler: TaskSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edit that hides the moving part of a clip is drawn again."""
    frames = np.full((8, 64, 64, 3), 255, np.uint8)
    for n, frame in enumerate(frames):
        frame[4 + 6 * n : 10 + 6 * n, 20:40] = (200, 30, 30)
    drawn = iter([np.zeros_like, lambda frame: frame // 2])
    monkeypatch.setattr(sampler, "edit", lambda modality, draw: next(drawn))
    _, (edited,) = sampler.change("video", [frames], np.random.default_rng(0))
    assert np.array_equal(edited, frames // 2)


def test_settled_tasks_exist_and_are_drawn_for_each_modality(sampler: TaskSampler) -> None:
    names = {name for family in FAMILIES.values() for name in family}
    assert names >= sampled.SETTLED
    for families in sampled.FAMILIES.values():
        assert all(sampled.SETTLED & set(FAMILIES[family]) for family in families)
