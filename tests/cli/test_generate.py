import json

import soundfile
from PIL import Image as PILImage


def test_a_picture_is_written_with_its_recipe(cli, media, tmp_path):
    template = "Given the transformation between [image0] and [Image1], apply the same editing to [image2: a fox]."
    files = [media / name for name in ("goose-google.png", "goose-fluent.png", "goose-google.png")]
    options = ("--want", "image", "--model", "debug", "--seed", 7, "--steps", 2, "--json")
    runs = [cli("generate", template, *files, *options, "--out", out) for out in ("one", "two/deep")]
    for done, out in zip(runs, ("one", "two/deep"), strict=True):
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        paths = [part["path"] for part in answer["parts"] if part["type"] == "image"]
        assert paths == [f"{out}/reply-0.png"]
        assert answer["recipe"]["seed"] == 7
        assert list(answer["recipe"]["seconds"]) == ["read", "write", "decode"]

    pictures = [PILImage.open(tmp_path / out / "reply-0.png") for out in ("one", "two/deep")]
    assert pictures[0].mode == "RGB"
    assert pictures[0].tobytes() == pictures[1].tobytes()
    assert any(json.loads(text)["seed"] == 7 for text in pictures[0].text.values())


def test_a_sound_is_written_and_named(cli, media, tmp_path):
    files = (media / "crow.wav", media / "cowbell.wav")
    done = cli("generate", "Play [audio0] and [audio1] at once.", *files, "--want", "audio", "--model", "debug")
    assert done.returncode == 0, done.stderr
    assert "out/reply-0.wav" in done.stdout.splitlines()
    samples, rate = soundfile.read(tmp_path / "out" / "reply-0.wav")
    assert rate == 16_000 and samples.ndim == 1 and len(samples) > 0


def test_text_is_printed(cli, tmp_path):
    done = cli("generate", "What is the capital of France?", "--want", "text", "--model", "debug", "--json")
    assert done.returncode == 0, done.stderr
    (part,) = json.loads(done.stdout)["parts"]
    assert part["type"] == "text" and part["text"]
    assert not list(tmp_path.rglob("reply-*"))
