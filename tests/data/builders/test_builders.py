"""Every builder on files in the official form: what it reads, what it makes, what it says of files it cannot use."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from codi2.data.build import Settings, build
from codi2.data.builders import BUILDERS, instruct_pix2pix, load_builder
from codi2.data.record import Medium, Record
from codi2.errors import ConfigError, DataError
from codi2.prompt.parts import Phrase

from . import official
from .records import Built, report, tasks, words


def test_every_builder_says_what_it_is():
    for name in BUILDERS:
        kind = load_builder(name)
        assert kind.about and kind.reads
    with pytest.raises(ConfigError, match="there is no builder 'coco'; there are mimic-it, laion"):
        load_builder("coco")


@pytest.mark.parametrize("form", [official.laion_tars, official.laion_files, official.laion_parquet])
def test_laion_in_each_form_of_img2dataset(form: Callable[[Path], Path], tmp_path: Path, built: Built):
    records = built("laion", form(tmp_path / "laion"))
    assert tasks(records)["image_from_caption"] == tasks(records)["caption_image"] == len(records) / 2
    drawn, captioned = records[0], records[1]
    caption = captioned.turns[1][1][0].text
    assert caption in words(drawn) and list(drawn.turns[1][1]) == drawn.media
    assert drawn.media == captioned.media and drawn.media[0].data.startswith(b"\xff\xd8")  # the bytes of the source
    assert drawn.meta["url"].startswith("https://example.org/")


@pytest.mark.parametrize(("url", "words"), [("URL", "TEXT"), ("url", "caption")])  # of LAION-400M, of Re-LAION
def test_laion_without_pictures_names_the_command(url: str, words: str, tmp_path: Path):
    official.parquet(tmp_path / "laion" / "part-0.parquet", {url: ["https://example.org/a.jpg"], words: ["a"]})
    said = rf"holds none \(its columns are {url}, {words}\).*img2dataset .*--url_col {url} --caption_col {words} "
    with pytest.raises(DataError, match=said):
        build(Settings("laion", str(tmp_path / "laion"), str(tmp_path / "out")))


def test_a_cut_tar_gives_what_is_whole(tmp_path: Path, built: Built):
    source = official.laion_tars(tmp_path / "laion", shards=2)
    whole = (source / "00001.tar").read_bytes()
    (source / "00001.tar").write_bytes(whole[: len(whole) // 2])
    records = built("laion", source, max_bad=0.5)
    assert 8 < len(records) < 16
    lines = (tmp_path / "out-laion-0" / "quarantine.jsonl").read_text().splitlines()
    assert [json.loads(line)["reason"] for line in lines] == ["broken archive"]


def test_audioset_captions_are_the_narrowest_labels(tmp_path: Path, built: Built):
    records = built("audioset", official.audioset(tmp_path / "audioset"))
    captions = [words(record, 1) for record in records if record.task == "caption_audio"]
    assert captions[:4] == ["bark", "cat", "rain", "male speech"]  # not `dog and bark`
    assert len(captions) == 7 and report(tmp_path / "out-audioset-0")["left_out"] == {"absent": 1}
    assert records[0].meta["video"] == "-vid0000abc"


@pytest.mark.parametrize("name", ["Y{}.wav", "{}_0.000_10.000.wav", "{}_0_10000.wav", "{}_0.wav"])
def test_audioset_clips_under_the_names_of_downloaders(name: str, tmp_path: Path, built: Built):
    source = official.audioset(tmp_path / "audioset", count=2)
    (source / "clips" / "-vid0000abc.wav").rename(source / "clips" / name.format("-vid0000abc"))
    assert len(built("audioset", source)) == 2


def test_audioset_without_its_parts(tmp_path: Path):
    source = official.audioset(tmp_path / "audioset")
    settings = Settings("audioset", str(source), str(tmp_path / "out"))
    (source / "ontology.json").rename(tmp_path / "ontology.json")
    with pytest.raises(DataError, match=r"ontology.json belongs beside the segments"):
        build(settings)
    (tmp_path / "ontology.json").rename(source / "ontology.json")
    (source / "clips").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"no clip of .* was found"):
        build(settings)
    (source / "balanced_train_segments.csv").unlink()
    with pytest.raises(DataError, match=r"should hold one .*_segments.csv .* there is none"):
        build(settings)


def test_webvid_clips_and_quoted_captions(tmp_path: Path, built: Built):
    records = built("webvid", official.webvid(tmp_path / "webvid"))
    assert tasks(records) == {"video_from_caption": 3, "caption_video": 3}
    assert words(records[1], 1) == 'Square "one" moving'
    assert {record.phase for record in records} == {"video", "text"}
    frames = records[0].messages()[1].parts[0].frames
    assert len(frames) == 12 and frames[0].size == (64, 48)


def test_webvid_without_a_column(tmp_path: Path):
    official.put(tmp_path / "webvid" / "list.csv", "videoid,name\n1,a\n")
    with pytest.raises(DataError, match="has no column 'page_dir'; it has videoid, name"):
        build(Settings("webvid", str(tmp_path / "webvid"), str(tmp_path / "out")))


@pytest.mark.parametrize("form", [official.instruct_pix2pix, official.instruct_pix2pix_parquet])
def test_edits_by_instruction(form: Callable[[Path], Path], tmp_path: Path, built: Built):
    records = built("instruct-pix2pix", form(tmp_path / "ip2p"))
    assert set(tasks(records)) == {"edit_image"} and len(records) >= 5
    for record in records:
        source, target = record.media
        assert source.data != target.data and record.turns[1][1] == (target,) and record.edits == 0
        assert record.meta["instruction"].rstrip(".").lower() in words(record).lower()


@pytest.mark.parametrize("form", [official.instruct_pix2pix, official.instruct_pix2pix_parquet])
def test_pairs_that_share_an_instruction_become_examples(form: Callable[[Path], Path], tmp_path: Path, built: Built):
    source = form(tmp_path / "ip2p")
    pairs = {tuple(m.data for m in record.media) for record in built("instruct-pix2pix", source)}
    records = built("instruct-pix2pix-in-context", source)
    assert set(tasks(records)) == {"analogy_image"}
    for record in records:
        media = [medium.data for medium in record.media]
        assert len(media) == 2 * record.meta["shots"] + 2
        asked, *given = _pairs_of(record)
        assert {asked, *given} <= pairs and len({asked, *given}) == 1 + len(given)  # true pairs, each once
        assert record.meta["instruction"] not in words(record)  # the rule is shown, not said
        assert record.edits == len(media) - 2  # the last one given


@pytest.mark.parametrize("form", ["folders", "parquet"])
def test_examples_of_an_instruction_come_from_the_whole_source(form: str, tmp_path: Path, built: Built, monkeypatch):
    """Pairs of one instruction lie in other files and far apart; units are small, so most groups would be cut."""
    monkeypatch.setattr(instruct_pix2pix, "ROWS_IN_MEMORY", 3)
    monkeypatch.setattr(instruct_pix2pix, "PROMPTS", 3)
    edits = ["make it winter", "turn it into a moon", "add a hat", "a sole edit"]
    told = [edits[n % 3] for n in range(6)] + [edits[3]]
    if form == "parquet":
        for file in range(2):
            rows = range(len(told))[file::2]
            columns = {
                "original_image": [{"bytes": official.photo(n), "path": None} for n in rows],
                "edit_prompt": [told[n] for n in rows],
                "edited_image": [{"bytes": official.photo(n + 50), "path": None} for n in rows],
            }
            official.parquet(tmp_path / "ip2p" / "data" / f"train-{file:05d}-of-00002.parquet", columns)
    else:
        for n, edit in enumerate(told):
            name = f"shard-00/{n:07d}"
            official.put(tmp_path / "ip2p" / name / "prompt.json", {"input": "", "edit": edit, "output": ""})
            for k in range(2):
                official.put(tmp_path / "ip2p" / name / f"{n}_{k}.jpg", official.photo(n + 50 * k))
        official.put(tmp_path / "ip2p" / "seeds.json", [[f"shard-00/{n:07d}", [n]] for n in range(len(told))])
    records = built("instruct-pix2pix-in-context", tmp_path / "ip2p")
    assert sorted(record.meta["instruction"] for record in records) == sorted(edits[:3])  # two pairs of each
    for record in records:
        number = edits.index(record.meta["instruction"])
        mine = {official.photo(n + 50 * k) for n in (number, number + 3) for k in range(2)}
        assert {medium.data for medium in record.media} == mine
    assert report(tmp_path / "out-instruct-pix2pix-in-context-0")["left_out"] == {"no second pair": 1}


def _pairs_of(record: Record) -> list[tuple[bytes, bytes]]:
    """The asked pair, then the examples, whatever their order in the template."""
    *prompt, target = [medium.data for medium in record.media]
    numbers = _template_order(record)
    if numbers == "asked first":
        return [(prompt[0], target), *zip(prompt[1::2], prompt[2::2], strict=True)]
    return [(prompt[-1], target), *zip(prompt[:-1:2], prompt[1::2], strict=True)]


def _template_order(record: Record) -> str:
    """Whether the template names the asked medium before the examples."""
    return "asked first" if words(record).index("@") < words(record).find("@ and @") else "asked last"


def test_a_damaged_seeds_file(tmp_path: Path):
    official.put(tmp_path / "ip2p" / "seeds.json", {"shard-00/0000000": [1]})
    with pytest.raises(DataError, match=r"seeds.json is not a list of \[folder, \[seed, …\]\]"):
        build(Settings("instruct-pix2pix", str(tmp_path / "ip2p"), str(tmp_path / "out")))


def samples(medium: Medium) -> np.ndarray:
    return medium.decode().samples.astype(np.float64)


def test_audio_edits_add_remove_and_replace(tmp_path: Path, built: Built):
    source = official.audioset(tmp_path / "audioset")
    records = built("audio-edits", source, seconds=2.0)
    assert tasks(records) == {"add": 7, "remove": 7, "replace": 7}
    for add, remove, replace in zip(records[::3], records[1::3], records[2::3], strict=True):
        (base, mix), (mix_again, base_again), (mix_third, other) = add.media, remove.media, replace.media
        assert (mix_again, base_again, mix_third) == (mix, base, mix)
        assert [record.edits for record in (add, remove, replace)] == [0, 0, 0]
        assert max(np.abs(samples(m)).max() for m in (base, mix, other)) <= 0.951  # nothing clips
        overlay = samples(mix) - samples(base)
        level = 20 * np.log10(_rms(overlay) / _rms(samples(base)))
        assert level == pytest.approx(add.meta["levels_db"][0], abs=0.2)  # the level that was drawn
        assert len(samples(mix)) == 32_000
        assert not np.allclose(samples(other), samples(mix))
    again = built("audio-edits", source, seconds=2.0)
    assert again == records  # seeded
    assert built("audio-edits", source, seconds=2.0, seed=1) != records


def _rms(wave: np.ndarray) -> float:
    loud = wave[np.abs(wave) > 0.02 * np.abs(wave).max()]
    return float(np.sqrt(np.mean(loud**2)))


def test_audio_examples_show_one_edit(tmp_path: Path, built: Built):
    records = built("audio-edits-in-context", official.audioset(tmp_path / "audioset", count=30), seconds=2.0)
    kinds = Counter(record.meta["edit"] for record in records)
    assert kinds.keys() == {"add", "remove", "replace"}
    for record in records:
        *prompt, target = (samples(medium) for medium in record.media)
        first = _template_order(record) == "asked first"
        before, after, asked = (prompt[1], prompt[2], prompt[0]) if first else prompt
        # the same sounds come and go in the example and in the answer, up to one gain each
        shown, done = after - before, target - asked
        assert np.corrcoef(shown, done)[0, 1] > 0.99 or record.meta["edit"] == "replace"
        assert max(np.abs(wave).max() for wave in (before, after, asked, target)) <= 0.951
        assert record.edits == (0 if first else 2)


@pytest.mark.parametrize("store", ["json", "parquet"])
def test_mimic_it_questions_with_an_example_before(store: str, tmp_path: Path, built: Built):
    records = built("mimic-it", official.mimic_it(tmp_path / "mimic", store))
    assert tasks(records) == {"spot_the_difference": 3}
    first = records[0]
    assert [role for role, _ in first.turns] == ["user", "assistant", "user", "assistant"]
    assert words(first, 2) == "@ @ What changed from the first picture to the second?"
    assert words(first, 3) == "The disc has another colour, case 0." and words(first, 1).endswith("case 1.")
    assert [m.data for m in first.media] == [official.photo(n) for n in (10, 11, 0, 1)]
    assert {record.phase for record in records} == {"text"}
    alone = built("mimic-it", tmp_path / "mimic", shots=0)
    assert [len(record.turns) for record in alone] == [2, 2, 2]


def test_mimic_it_from_the_hub(tmp_path: Path, built: Built):
    records = built("mimic-it", official.mimic_it_hub(tmp_path / "mimic"))
    assert tasks(records) == {"general_difference": 2} and len(records[0].media) == 2


def test_mimic_it_without_its_store_or_cut_off(tmp_path: Path):
    source = official.mimic_it(tmp_path / "mimic")
    settings = Settings("mimic-it", str(source), str(tmp_path / "out"))
    (source / "SD" / "SD.json").rename(tmp_path / "store.json")
    with pytest.raises(DataError, match=r"put SD.json or SD.parquet beside it"):
        build(settings)
    (tmp_path / "store.json").rename(source / "SD" / "SD.json")
    path = source / "SD" / "SD_instructions.json"
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(DataError, match=r"SD_instructions.json is damaged or cut off"):
        build(settings)


def test_noun_phrases_become_features(tmp_path: Path, built: Built):
    source = official.alpaca(tmp_path / "alpaca")
    first, second = built("alpaca", source, rate=1.0)
    phrases = [piece.text for _, pieces in first.turns for piece in pieces if isinstance(piece, Phrase)]
    assert phrases == ["the body", "a cat", "A cat", "a compact, flexible body", "soft fur"]
    assert words(first, 1) == official.ALPACA[0]["output"]  # nothing is lost
    assert words(second) == "Rewrite the sentence.\n\nThe dog chased the red ball."
    none = built("alpaca", source, rate=0.0)
    assert len(none) == 3 and all(record.meta["phrases"] == 0 for record in none)
    with pytest.raises(DataError, match=r"rate of replaced phrases is 1.5; set a value from 0 to 1"):
        built("alpaca", source, rate=1.5)


def test_phrases_are_replaced_at_the_rate(tmp_path: Path, built: Built):
    entry = official.ALPACA[0]
    source = tmp_path / "alpaca.json"
    official.put(source, [entry | {"instruction": f"{entry['instruction']} ({i})"} for i in range(200)])
    records = built("alpaca", source, rate=0.3)
    count = sum(record.meta["phrases"] for record in records)
    assert 0.25 < count / (5 * 200) < 0.35


def test_an_alpaca_file_of_another_shape(tmp_path: Path):
    official.put(tmp_path / "alpaca_data.json", {"instruction": "x"})
    with pytest.raises(DataError, match="is not a list of instruction, input, output"):
        build(Settings("alpaca", str(tmp_path), str(tmp_path / "out")))


def test_a_cut_clip_is_found_without_decoding_it_all(tmp_path: Path, built: Built):
    source = official.webvid(tmp_path / "webvid", count=4)
    clips = sorted(source.glob("videos/*/*.mp4"))
    whole = official.clip(0, frames=40, movflags="faststart")  # its index comes first, so what is left still opens
    clips[0].write_bytes(whole[: 4 * len(whole) // 5])
    clips[1].write_bytes(b"no clip")
    records = built("webvid", source, max_bad=0.5)
    assert tasks(records) == {"video_from_caption": 2, "caption_video": 2}
    assert report(tmp_path / "out-webvid-0")["bad"] == {"undecodable": 2}


def test_one_way_of_each_pair_where_storage_counts(tmp_path: Path, built: Built):
    source = official.laion_tars(tmp_path / "laion", shards=4, each=20)
    either = built("laion", source, ways="either")
    assert len(either) == 80 and 25 < tasks(either)["caption_image"] < 55
    with pytest.raises(ConfigError, match="ways is 'neither'; expected both or either"):
        built("laion", source, ways="neither")
