"""Several processes divide an evaluation, and report what one reports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from codi2.errors import ConfigError
from codi2.evaluate.case import Case, Outputs
from codi2.placement import Placement
from codi2.processes import ALONE, Processes, join
from codi2.prompt.parts import Text

WORKER = Path(__file__).with_name("in_process.py")


def launched(count: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command line in `count` processes of torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    command = [*command, str(WORKER)] if count > 1 else [sys.executable, str(WORKER)]
    env = os.environ | {"HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    env |= {"EXPECTED_PROCESSES": str(count)} if count > 1 else {}
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, env=env, timeout=550)


def report(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "report.json").read_text(encoding="utf-8")))


def test_work_is_divided_without_gap_or_overlap():
    work = list(range(11))
    shares = [Processes(rank, 3).share(work) for rank in range(3)]
    assert sorted(n for share in shares for n in share) == work and max(map(len, shares)) - min(map(len, shares)) <= 1
    assert ALONE.share(work) == work and ALONE.gather(lambda: 7) == [7]


def test_each_process_of_a_machine_has_a_gpu_of_its_own():
    other = Processes(5, 8, local_rank=1)
    assert other.placed(Placement("cuda", "bfloat16")) == Placement("cuda:1", "bfloat16")
    assert other.placed(Placement("cuda:3")).device == "cuda:3" and other.placed(Placement()).device == "cpu"
    assert ALONE.placed(Placement("cuda")).device == "cuda"


def test_a_process_answers_its_chunks_alone(tmp_path: Path):
    """And those are the chunks of one process, since what a system answers may depend on what is in its chunk."""

    class Second(Processes):
        def gather(self, work):
            return [work()]

    cases = [Case(f"{i:02d}", (), "text", {}) for i in range(40)]
    chunks: dict[int, list[list[str]]] = {}
    for count in (1, 2):
        chunks[count] = []

        def answer(_, some, made=chunks[count]):
            made.append([case.id for case in some])
            return [Text(case.id) for case in some]

        processes = ALONE if count == 1 else Second(1, 2)
        found = Outputs(tmp_path / str(count)).produce("ours", answer, None, cases, {}, processes)  # type: ignore[arg-type]
        assert [part.text for part in found] == ([case.id for case in cases] if count == 1 else [])
    assert len(chunks[1]) == 3 and chunks[2] == [chunks[1][1]]


def test_processes_that_cannot_meet_are_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=r"WORLD_SIZE is 2.*start them with torchrun"), join():
        pass


def test_an_error_of_one_process_is_that_of_all(tmp_path: Path):
    """Else the others would wait for the one that failed."""
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import sys\n"
        "from codi2.errors import DataError\n"
        "from codi2.processes import join\n"
        "with join() as processes:\n"
        "    def work():\n"
        "        if processes.rank == 1:\n"
        "            raise DataError('no such corpus')\n"
        "    try:\n"
        "        processes.gather(work)\n"
        "    except DataError as error:\n"
        "        open(f'{sys.argv[1]}/{processes.rank}', 'w').write(str(error))\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run([*command, str(worker), str(tmp_path)], check=True, capture_output=True, timeout=300)
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == ["no such corpus"] * 2


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["edits", "rounds", "together", "caption"])
def test_two_processes_report_what_one_reports(suite: str, rich_home: Path, tmp_path: Path):
    """The same figures and the same outputs; each process makes some of them."""
    for count in (1, 2):
        done = launched(count, "evaluate", suite, "--model", "debug", "--quick", "--out", tmp_path / str(count))
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("figure") >= 1 and done.stdout.count("┏") == 1  # one table, of one process
    one, two = (report(tmp_path / str(count)) for count in (1, 2))
    assert one["sections"][0]["figures"] and one == two
    files = [sorted(p.relative_to(tmp_path / n) for p in (tmp_path / n).rglob("*") if p.is_file()) for n in "12"]
    assert files[0] == files[1]
    for path in files[0]:
        if path.name not in ("report.json", "index.html"):
            assert (tmp_path / "1" / path).read_bytes() == (tmp_path / "2" / path).read_bytes(), path


@pytest.mark.slow
def test_two_processes_show_the_gallery_that_one_shows(rich_home: Path, tmp_path: Path):
    for count in (1, 2):
        done = launched(count, "gallery", "--model", "debug", "--quick", "--out", tmp_path / str(count))
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("The page is") == 1
    one, two = (report(tmp_path / str(count)) for count in (1, 2))
    assert len(one["rows"]) > 10 and one == two
