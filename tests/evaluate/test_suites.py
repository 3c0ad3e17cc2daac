"""The suites on a small corpus and random weights: outputs are kept, runs go on, other systems are scored."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from codi2.errors import ConfigError
from codi2.evaluate import GROUPS, NAMES, run
from codi2.evaluate.suites import CORPUS_SUITES
from codi2.prompt.parts import Audio, Video


def test_every_name_is_a_suite():
    assert tuple(CORPUS_SUITES) == NAMES
    assert {name for names in GROUPS.values() for name in names} <= set(NAMES)


@pytest.mark.parametrize("name", [name for name in NAMES if CORPUS_SUITES[name].systems])
def test_every_suite_runs_and_continues(name: str, rich_home: Path, judge, ears, words, tmp_path: Path):
    first = run(name, "debug", tmp_path / "out", items=2)
    (section,) = first["sections"]
    assert section["unavailable"] == "" and section["figures"]
    assert all(math.isfinite(figure["value"]) for figure in section["figures"])
    outputs = tmp_path / "out" / "outputs" / name
    systems = [path.name for path in outputs.iterdir()]
    assert set(systems) == set(CORPUS_SUITES[name].systems)
    files = sorted(path for path in outputs.rglob("*") if path.is_file())
    times = {path: path.stat().st_mtime_ns for path in files if path.suffix != ".json"}
    gone = next(path for path in times if path.parent.name == "ours")
    gone.unlink()
    again = run(name, "debug", tmp_path / "out", items=2)
    values = [[figure["value"] for figure in report["sections"][0]["figures"]] for report in (first, again)]
    assert values[1] == pytest.approx(values[0], rel=0.01, abs=0.01)  # seeded: the same output is made again
    kept = [path for path in times if path != gone and path.stat().st_mtime_ns == times[path]]
    assert len(kept) >= len(times) - 5  # what was there was not made again, but for the thread of the lost one


@pytest.mark.parametrize("name", [name for name in NAMES if not CORPUS_SUITES[name].systems])
def test_a_suite_without_systems_measures_the_model_and_keeps_no_outputs(name: str, rich_home: Path, tmp_path: Path):
    (section,) = run(name, "debug", tmp_path / "out", items=2)["sections"]
    assert section["unavailable"] == "" and section["figures"]
    assert all(math.isfinite(figure["value"]) and figure["n"] > 0 for figure in section["figures"])
    assert not (tmp_path / "out" / "outputs").exists()
    (section,) = run(name, "debug", tmp_path / "out", items=2, outputs=tmp_path)["sections"]
    assert section["unavailable"] == f"the suite {name} keeps no outputs"


def test_outputs_of_another_system_are_scored_and_none_may_be_missing(rich_home: Path, judge, ears, tmp_path: Path):
    run("sound-edits", "debug", tmp_path / "a", items=2, export=tmp_path / "cases")
    cases = sorted((tmp_path / "cases").glob("*.json"))
    about = json.loads(cases[0].read_text())
    assert about["want"] == "audio" and about["prompt"][0] == {"type": "text", "text": about["prompt"][0]["text"]}
    theirs = tmp_path / "theirs"
    shutil.copytree(tmp_path / "a" / "outputs" / "sound-edits" / "ours", theirs)
    report = run("sound-edits", "debug", tmp_path / "b", items=2, outputs=theirs)
    ours = json.loads((tmp_path / "a" / "report.json").read_text())
    values = [{f["name"]: f["value"] for f in r["sections"][0]["figures"]} for r in (report, ours)]
    assert len(values[0]) > 50 and values[0] == pytest.approx({name: values[1][name] for name in values[0]})
    assert all("features" in name for name in values[1].keys() - values[0].keys())  # files have none
    assert not (tmp_path / "b" / "outputs" / "sound-edits" / "ours").exists()
    (theirs / f"{cases[3].stem}.flac").unlink()
    section = run("sound-edits", "debug", tmp_path / "c", items=2, outputs=theirs)["sections"][0]
    assert f"lacks 1 of {len(cases)} outputs, the first is '{cases[3].stem}'" in section["unavailable"]
    with pytest.raises(ConfigError, match=r"take one suite of cost, retrieval, .*, not 'all'"):
        run("all", "debug", tmp_path / "d", outputs=theirs)


def test_outputs_of_another_model_are_not_mixed_in(rich_home: Path, judge, ears, tmp_path: Path):
    run("caption", "debug", tmp_path, items=2)
    section = run("caption", "debug", tmp_path, items=3)["sections"][0]
    assert "holds outputs of another model or seed" in section["unavailable"]


def test_an_output_of_the_wrong_kind_is_named(rich_home: Path, judge, ears, tmp_path: Path):
    run("sound-edits", "debug", tmp_path / "a", items=2)
    theirs = tmp_path / "a" / "outputs" / "sound-edits" / "ours"
    sound = next(theirs.glob("*.flac"))
    sound.write_bytes(b"")
    section = run("sound-edits", "debug", tmp_path / "b", items=2, outputs=theirs)["sections"][0]
    assert f"{sound.name} is empty (0 bytes)" in section["unavailable"]


def test_the_questions_of_training_are_not_those_of_the_evaluation():
    from codi2.data.chat import questions
    from codi2.evaluate.suites.language import FACTS

    assert not {question for question, _ in FACTS} & set(questions())


def test_motion_flicker_and_step_of_clips():
    from codi2.data.motions import hopping, loudness, struck
    from codi2.evaluate.suites.clips import flicker, motion, still, synchrony

    hits = np.array([0, 1, 0, 0, 0.7, 0, 0, 0])
    heard = struck((np.random.default_rng(0).normal(size=40_960) * 3000).astype(np.int16), hits)
    assert (loudness(heard) > 0.3).tolist() == (hits > 0).tolist()
    thing = np.full((64, 64, 3), 255, np.uint8)
    thing[20:44, 20:44] = 0
    frames = hopping(thing, loudness(heard))
    clip = Video(tuple(PILImage.fromarray(frame) for frame in frames), 3.125)
    sound = Audio(heard.astype(np.float32) / 32767, 16_000)
    assert synchrony(clip, sound) > 0.95 > 0.5 > synchrony(clip, Audio(sound.samples[::-1].copy(), 16_000))
    assert motion(clip).max() > 1 and (motion(still(clip)) == 0).all()
    assert flicker(clip) > 0 and flicker(still(clip)) == 0 and synchrony(still(clip), sound) == 0
