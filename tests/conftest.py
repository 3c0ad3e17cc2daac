import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

MEDIA = Path(__file__).parents[1] / "examples" / "media"


@pytest.fixture
def media() -> Path:
    """The folder of real sample media."""
    return MEDIA


@pytest.fixture
def cli(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the real command line in a process of its own and an empty folder: `cli("demo", CODI2_HOME=...)`."""

    def run(*arguments: object, **environment: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "codi2", *map(str, arguments)]
        env = os.environ | {"HF_HUB_OFFLINE": "1"} | {name: str(value) for name, value in environment.items()}
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env, timeout=300)

    return run
