"""`codi2 chat` as a user types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image as PILImage

from codi2.cli.chat import attach
from codi2.errors import MediaError
from codi2.prompt.parts import Image


def run_chat(lines: list[str], folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "codi2", "chat", "--model", "debug", *options]
    env = os.environ | {"HF_HUB_OFFLINE": "1"}
    text = "\n".join(lines) + "\n"
    return subprocess.run(command, input=text, capture_output=True, text=True, cwd=folder, env=env, timeout=300)


def test_a_conversation_is_made_saved_and_opened(media: Path, tmp_path: Path):
    first = run_chat(
        [
            "/want image",
            f"Draw @{media / 'goose-google.png'}, outlined.",
            "Now make it night",
            "/undo",
            "/retry",
            "/items",
            "make the ninth picture red",
            "/dance",
            "/save kept",
            "/quit",
        ],
        tmp_path,
    )
    assert first.returncode == 0, first.stderr
    for line in ("[image1] out/chat/round-1-0.png", "[image2] out/chat/round-2-0.png", "saved in kept/index.html"):
        assert line in first.stdout
    assert "there is no ninth picture: this conversation has 2" in first.stderr
    assert "there is no command '/dance'" in first.stderr and "Traceback" not in first.stderr
    about = json.loads((tmp_path / "kept" / "chat.json").read_text())
    assert len(about["rounds"]) == 1 and len(list((tmp_path / "kept" / "media").iterdir())) == 2
    page = (tmp_path / "kept" / "index.html").read_text()
    assert page.count("data:image/png") == 2 and "outlined" in page
    second = run_chat(["/items", "Mirror the first picture", "/open nowhere"], tmp_path, "--open", "kept")
    assert "[image0] goose-google.png" in second.stdout and "codi2: nowhere holds no conversation" in second.stderr


def test_files_take_the_next_numbers(media: Path, tmp_path: Path):
    line = f"Put @{media / 'crow.wav'} under @{media / 'piano.wav'}, like [image0]."
    template, media_by_name = attach(line, {"image0": Image(PILImage.new("RGB", (1, 1))), "audio0": None})  # type: ignore[dict-item]
    assert template == "Put [audio1] under [audio2], like [image0]." and list(media_by_name) == ["audio1", "audio2"]
    (tmp_path / "my cat.png").write_bytes((media / "goose-google.png").read_bytes())
    assert attach(f'Draw @"{tmp_path / "my cat.png"}"', {})[0] == "Draw [image0]"
    with pytest.raises(MediaError, match=r"nothing\.png"):
        attach("Draw @nothing.png", {})
    assert attach("mail me@example.com", {}) == ("mail me@example.com", {})
