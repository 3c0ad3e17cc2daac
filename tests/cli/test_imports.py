"""Which modules the commands import: names, not times."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LIBRARIES = {"torch", "transformers", "diffusers", "peft", "accelerate", "tokenizers", "scipy", "rich"}
ELSEWHERE = {
    "av",
    "matplotlib",
    "pandas",
    "sklearn",
    "torchvision",
    "tensorboard",
    "webdataset",
    "spacy",
    "fastapi",
    "ray",
}
UNUSED = {"codi2.data", "codi2.evaluate", "codi2.serve", "codi2.train", "codi2.dry_run", "codi2.diffuse.families"}
PICTURES_NEED_NO = {"codi2.diffuse.joint", "codi2.diffuse.vocoder", "codi2.encode.aisfx", "codi2.encode.efficientnet"}


def imported(folder: Path, *arguments: str) -> set[str]:
    """Names of the modules that a command has imported when it ends."""
    code = (
        "import sys\nfrom codi2.cli import main\ntry: main()\n"
        "finally: open('modules.txt', 'w').write(' '.join(sorted(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True, timeout=300)
    return set((folder / "modules.txt").read_text().split())


@pytest.mark.parametrize("command", [[], ["generate"], ["doctor"], ["train"], ["data", "build"]])
def test_help_imports_no_library(tmp_path: Path, command: list[str]):
    assert not (LIBRARIES | ELSEWHERE | {"numpy", "PIL"}) & imported(tmp_path, *command, "--help")


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "Draw [image0]"],
        ["generate", "Draw [image0]", "absent.png"],
        ["generate", "Hello", "--model", "nothing"],
        ["generate", "Hello", "--device", "nothing"],
        ["generate", "Hello", "--out", "/dev/null/out"],
        ["doctor", "--model", "nothing"],
        ["transfer", "absent.png", "--to", "image"],
    ],
    ids=" ".join,
)
def test_a_refused_request_imports_no_library(tmp_path: Path, arguments: list[str]):
    assert not (LIBRARIES | ELSEWHERE | UNUSED) & imported(tmp_path, *arguments)


@pytest.mark.slow
def test_a_picture_imports_what_it_needs(tmp_path: Path):
    seen = imported(tmp_path, "generate", "Draw a cat.", "--want", "image", "--max-tokens", "1")
    assert (tmp_path / "out" / "reply-0.png").is_file()
    assert not (ELSEWHERE | UNUSED | PICTURES_NEED_NO | {"rich", "diffusers.pipelines"}) & seen


@pytest.mark.slow
def test_a_text_imports_nothing_that_draws(tmp_path: Path):
    seen = imported(tmp_path, "generate", "Hello", "--want", "text", "--max-tokens", "1")
    assert "transformers.models.llama.modeling_llama" in seen
    assert (
        not (ELSEWHERE | UNUSED | PICTURES_NEED_NO | {"rich", "diffusers", "codi2.heads.prior", "codi2.diffuse.load"})
        & seen
    )
