"""The work of accept_gpu.sh: every command of the product once, outputs of GPU and CPU side by side, speed.

A check passes, fails, or was not measured, with the reason. Ends with 1 where one fails.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import torch
from accept_gpu_figures import differences, speed

from codi2 import __version__
from codi2.errors import CoDi2Error
from codi2.hub import home, write_atomic
from codi2.media import load
from codi2.model import CoDi2
from codi2.placement import Placement
from codi2.prompt.parts import Part
from codi2.report import Row, write_page
from codi2.train.recipe import NUMBERED, configs_of

ROOT = Path(__file__).resolve().parents[1]
HOUR = 3600.0  # seconds that a command may take
STOPPED = 60.0  # seconds in which a server has to stop
CLOSE = 1e-3  # largest difference of GPU and CPU in fp32, of the largest number
PROMPTS = {"image": "Draw a cat on a couch.", "audio": "Make the sound of rain.", "video": "Make a clip of a rooster."}
NO_GPU = "no GPU"


@dataclass
class Check:
    """One line of the report."""

    name: str
    state: str = "passed"  # or failed, not measured
    note: str = ""
    command: str = ""
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)
    media: list[Part] = field(default_factory=list)


class Failed(Exception):
    """A check failed."""


class NotMeasured(Exception):
    """A check could not be made."""


def main(arguments: Sequence[str]) -> int:
    """Returns how many checks failed."""
    chosen = options(arguments)
    placement = Placement(chosen.device, chosen.dtype, chosen.bits, offload=chosen.offload)
    here = ["--device", chosen.device, "--dtype", chosen.dtype, "--bits", str(chosen.bits)]
    here += ["--offload"] if chosen.offload else []
    out, model = chosen.folder.absolute(), chosen.model
    plans: list[tuple[str, Callable[[Check], object]]] = []
    if model == "paper":
        plans += [
            ("weights", lambda check: codi2(check, "doctor", "--preset", "paper", "--json", out / "doctor.json")),
            ("full size", lambda check: codi2(check, "doctor", "--preset", "paper", "--dry-run")),
        ]
    plans += [
        (f"train {name}", lambda check, config=config: train(check, config, out, chosen.steps, chosen.device))  # type: ignore[misc]
        for name, config in parts(chosen.recipes.split())
    ]
    plans += [
        (f"generate {want}", lambda check, want=want: generate(check, want, out, model, here))  # type: ignore[misc]
        for want in PROMPTS
    ]
    plans += [
        ("evaluate", lambda check: evaluate(check, out, model, here)),
        ("serve", lambda check: serve(check, out, model, here)),
        ("GPU and CPU in fp32", lambda check: compare(check, model, chosen.device)),
        ("speed", lambda check: measure(check, model, placement)),
    ]
    out.mkdir(parents=True, exist_ok=True)
    checks = [carried_out(name, work) for name, work in plans]
    write(out, chosen, checks)
    failed = [check.name for check in checks if check.state == "failed"]
    print(f"failed: {', '.join(failed)}" if failed else "nothing failed", f"see {out / 'index.html'}", sep="; ")
    return len(failed)


def options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="for the results")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--bits", type=int, default=0)
    parser.add_argument("--offload", action="store_true")
    parser.add_argument("--steps", type=int, default=20, help="of each training run")
    parser.add_argument("--recipes", default="debug tiny", help="folders of configs whose parts are trained")
    return parser.parse_args(arguments)


def carried_out(name: str, work: Callable[[Check], object]) -> Check:
    """A check with its state, note and seconds."""
    check, began = Check(name), time.perf_counter()
    try:
        work(check)
    except NotMeasured as reason:
        check.state, check.note = "not measured", str(reason)
    except (Failed, CoDi2Error) as reason:
        check.state, check.note = "failed", str(reason)
    except Exception as error:  # a fault of one check leaves the others their place in the report
        check.state, check.note = "failed", f"{type(error).__name__}: {error}"
    check.seconds = round(time.perf_counter() - began, 2)
    print(f"{check.state:<13}{check.name}: {check.note or f'{check.seconds:.1f} s'}", flush=True)
    return check


def codi2(check: Check, *arguments: object, cwd: Path | None = None) -> str:
    """Runs a command of the product; its standard output. Raises Failed."""
    words = [str(argument) for argument in arguments]
    check.command = shlex.join(["codi2", *words])
    command = [sys.executable, "-m", "codi2", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=HOUR, cwd=cwd)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"it was not done after {HOUR:.0f} s") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise Failed(f"exit code {done.returncode}: {lines[-1] if lines else 'no message on stderr'}")
    return done.stdout


def parts(recipes: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """Name and config of each part of `configs/<recipe>`: the numbered ones, or all where none is numbered."""
    for recipe in recipes:
        folder = ROOT / "configs" / recipe
        configs = sorted(folder.glob("*.toml"))
        for config in configs_of(folder) if any(map(NUMBERED.fullmatch, (path.name for path in configs))) else configs:
            yield f"{recipe}/{config.stem}", config


def train(check: Check, config: Path, out: Path, steps: int, device: str) -> None:
    recipe = config.parent.name
    if recipe == "debug" and not (out / "out" / "samples").is_dir():  # where its config looks, from the folder
        records = ROOT / "examples" / "records.jsonl"
        codi2(check, "data", "build", "jsonl", "--source", records, "--out", out / "out" / "samples")
    if recipe == "tiny":
        needs_corpus()
    folder = out / "train" / recipe / config.stem
    codi2(check, "train", config, "--out", folder, "--steps", steps, "--device", device, cwd=out)
    reports = sorted((folder / "export").rglob("training.json"))
    if not reports:
        raise Failed(f"{folder / 'export'} holds no training.json")
    check.figures = {"steps": json.loads(reports[0].read_text())["steps"]}


def needs_corpus() -> None:
    """Raises NotMeasured without the corpus."""
    if not (home() / "data" / "tiny" / "items.jsonl").is_file():
        raise NotMeasured("there is no corpus; run codi2 data build tiny")


def generate(check: Check, want: str, out: Path, model: str, here: Sequence[str]) -> None:
    words = ("--want", want, "--seed", 1, "--out", out / want, "--model", model, "--json", *here)
    reply = json.loads(codi2(check, "generate", PROMPTS[want], *words))
    check.media = [load(part["path"]) for part in reply["parts"] if part["type"] != "text"]
    check.figures = {f"seconds of {stage}": value for stage, value in reply["recipe"]["seconds"].items()}
    if want not in {part["type"] for part in reply["parts"]}:
        raise Failed(f"the reply holds no {want}")


def evaluate(check: Check, out: Path, model: str, here: Sequence[str]) -> None:
    needs_corpus()  # the held-out records are made of it
    codi2(check, "evaluate", "smoke", "--quick", "--model", model, "--out", out / "evaluate", *here)
    sections = json.loads((out / "evaluate" / "report.json").read_text())["sections"]
    missing = [section["title"] for section in sections if section["unavailable"]]
    check.figures = {"sections": len(sections), "not available": len(missing)}
    check.note = f"not available: {', '.join(missing)}" if missing else ""


def serve(check: Check, out: Path, model: str, here: Sequence[str]) -> None:
    """Starts the server, asks for a picture, and stops it."""
    words = ["serve", "--port", "0", "--no-page", "--data", str(out / "serve"), "--model", model, *here]
    check.command = shlex.join(["codi2", *words])
    server = subprocess.Popen([sys.executable, "-m", "codi2", *words], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        matches = (re.search(r"Serving at (http://\S+)", line) for line in server.stdout)
        url = next((match[1] for match in matches if match), "")
        if not url:
            raise Failed(f"the server ended with {server.wait()}")
        began = time.perf_counter()
        answer = httpx.post(f"{url}/v1/images/generations", json={"prompt": PROMPTS["image"]}, timeout=HOUR)
        check.figures = {"status": answer.status_code, "seconds of a picture": round(time.perf_counter() - began, 2)}
        if answer.status_code != 200:
            raise Failed(f"status {answer.status_code}: {answer.text[:200]}")
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(STOPPED)
        except subprocess.TimeoutExpired:
            server.kill()
            raise Failed(f"the server did not stop within {STOPPED:.0f} s") from None


def compare(check: Check, model: str, device: str) -> None:
    if device == "cpu":
        raise NotMeasured(NO_GPU)
    check.figures = differences(model, device)
    if far := {name: value for name, value in check.figures.items() if not value <= CLOSE}:
        raise Failed(f"differences above {CLOSE:g} of the largest number: {', '.join(far)}")


def measure(check: Check, model: str, placement: Placement) -> None:
    loaded = CoDi2.from_pretrained(model, **vars(placement))
    check.figures = speed(loaded, hardware(placement.device))
    if placement.device == "cpu":
        check.note = f"not measured: model FLOPs utilisation, peak memory ({NO_GPU})"


def hardware(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()


def write(out: Path, chosen: argparse.Namespace, checks: Sequence[Check]) -> None:
    """accept.json and index.html."""
    about = {key: str(value) for key, value in vars(chosen).items()}
    about |= {"hardware": hardware(chosen.device), "codi2": __version__, "torch": torch.__version__}
    about |= {"gpu": "none: figures of a GPU were not measured"} if chosen.device == "cpu" else {}
    listed = [{key: value for key, value in asdict(check).items() if key != "media"} for check in checks]
    write_atomic(out / "accept.json", (json.dumps({**about, "checks": listed}, indent=2) + "\n").encode())
    rows = [
        Row(
            f"{check.name}: {check.state}",
            (),
            check.media,
            note=f"{check.note + '. ' if check.note else ''}{check.seconds:.1f} s",
            code=check.command,
            table=[["figure", "value"], *([name, f"{value}"] for name, value in check.figures.items())],
        )
        for check in checks
    ]
    write_page(out / "index.html", f"{chosen.model} on {about['hardware']}", rows, json.dumps(about))


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1:]) else 0)
