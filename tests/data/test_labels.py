import pytest

from codi2.data.labels import clean, concept_of, hand_label, head_of, sound_caption, tables, with_article


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("A white kitten.", "white kitten"),
        ("An “owl”, from the north.", "owl"),
        ("A baby sheep (a lamb).", "baby sheep"),
        ("A laptop computer.  Tap. Tap. Tap.", "laptop computer"),
        ("Fire! Fire! Fire!", "fire"),
    ],
)
def test_a_caption_line_becomes_a_bare_noun_phrase(label, name):
    assert clean(label) == name


@pytest.mark.parametrize(
    ("name", "phrase"),
    [
        ("cat", "a cat"), ("owl", "an owl"), ("unicorn", "a unicorn"), ("hourglass", "an hourglass"),
        ("octopus", "an octopus"), ("scissors", "scissors"), ("rice", "rice"), ("two flowers", "two flowers"),
        ("glass of water", "a glass of water"), ("women with bunny ears", "women with bunny ears"),
    ],
)  # fmt: skip
def test_articles(name, phrase):
    assert with_article(name) == phrase


def test_one_thing_has_one_name():
    assert {concept_of(name) for name in ("cat face", "A kitten.", "cat", "black cat")} == {"cat"}
    assert sound_caption("cat") == "a cat meowing"
    assert sound_caption("bathtub") == "the sound of a bathtub"


@pytest.mark.parametrize(
    "near",
    [
        [("man running", "person-sport"), ("woman running", "person-sport"), ("person running", "person-sport")],
        [("red circle", "geometric"), ("blue circle", "geometric")],
        [("clock showing one o’clock", "time"), ("clock showing seven-thirty", "time"), ("timer clock", "time")],
        [("grinning face", "face-smiling"), ("grinning face with big eyes", "face-smiling")],
        [("up arrow", "arrow"), ("back arrow", "arrow"), ("end arrow", "arrow")],
        [("cherries", "food-fruit"), ("pair of cherries", "food-fruit"), ("cherry", "")],
        [("family of a man and a boy", "family"), ("family of a woman and a girl", "family")],
    ],
)
def test_near_duplicates_share_a_head(near):
    assert len({head_of(concept, category) for concept, category in near}) == 1


def test_hand_labels_leave_files_out():
    assert hand_label("scratch", "Meow") == ("cat", "a cat meowing")
    assert hand_label("scratch", "Peculiar") is None
    assert hand_label("scratch", "no such file") is None


def test_no_label_means_two_concepts():
    labels = [label for names in tables()["alias"].values() for label in names]
    assert len(labels) == len(set(labels))
    assert not set(labels) & tables()["alias"].keys()
    assert len(tables()["soundfont"]["names"]) == 128
