"""The examples of the docs, as they stand there, on a server of the debug model."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Running

DOCS = Path(__file__).parents[2] / "docs"
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", (DOCS / "api.md").read_text(), re.DOTALL)
EXAMPLES = [(kind, code) for kind, code in BLOCKS if "127.0.0.1:8000" in code]


@pytest.mark.parametrize(("kind", "code"), EXAMPLES, ids=[code.strip()[:24] for _, code in EXAMPLES])
def test_an_example_of_the_api_runs(kind: str, code: str, server: Running, media: Path, tmp_path: Path):
    (tmp_path / "examples").mkdir()
    shutil.copytree(media, tmp_path / "examples" / "media")
    code = code.replace("http://127.0.0.1:8000", server.url).replace('"tiny"', '"debug"')
    command = (
        [sys.executable, "-c", code] if kind == "python" else ["bash", "-euc", code.replace("curl -s", "curl -sf")]
    )
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout[-500:] + run.stderr[-1500:]


def test_there_are_examples():
    assert len(EXAMPLES) >= 6


def test_the_conversation_of_the_docs(tmp_path: Path, media: Path):
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "chat.md").read_text(), re.DOTALL)
    (tmp_path / "examples").mkdir()
    shutil.copytree(media, tmp_path / "examples" / "media")
    code = code.replace('from_pretrained("tiny")', 'from_pretrained("debug")')
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr[-1500:]
    assert "['image0', 'image1', 'image2', 'audio0']" in run.stdout and (tmp_path / "out/geese/index.html").is_file()
