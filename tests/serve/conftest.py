from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


class Running:
    """A server in a process of its own."""

    def __init__(self, folder: Path, *options: str, model: str = "debug", port: int = 0) -> None:
        command = [sys.executable, "-m", "codi2", "serve", "--model", model, "--port", str(port), "--data", str(folder)]
        env = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        self.log = folder.parent / f"{folder.name}.log"
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(
                [*command, *options], stdout=subprocess.PIPE, stderr=log, text=True, env=env
            )
        assert self.process.stdout is not None
        self.url = ""
        for line in self.process.stdout:
            if found := re.search(r"Serving at (http://\S+)", line):
                self.url = found[1]
                break
        assert self.url, self.log.read_text()

    def stop(self, how: int = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(60)


Start = Callable[..., Running]


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts servers; they stop with the tests."""
    running: list[Running] = []

    def begin(*options: str, folder: Path | None = None, port: int = 0) -> Running:
        running.append(Running(folder or tmp_path_factory.mktemp("serve"), *options, port=port))
        return running[-1]

    yield begin
    for server in running:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


@pytest.fixture(scope="session")
def server(start: Start) -> Running:
    """A server without a page that all tests share."""
    return start("--no-page")
