"""The acceptance of a GPU runs without one, and says what it could not measure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "examples"))


@pytest.mark.slow
def test_on_a_cpu_every_command_runs_and_the_rest_is_marked(tmp_path: Path):
    out = tmp_path / "accept"
    command = [
        str(ROOT / "examples" / "accept_gpu.sh"),
        str(out),
        "--model",
        "debug",
        "--device",
        "cpu",
        "--steps",
        "2",
    ]
    env = os.environ | {"CODI2_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PYTHON": sys.executable}
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=3000)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((out / "accept.json").read_text())
    checks = {check["name"]: check for check in report["checks"]}
    for name in ("train debug/llm", "generate image", "generate audio", "generate video", "serve", "speed"):
        assert checks[name]["state"] == "passed", checks[name]
    assert checks["train debug/llm"]["figures"]["steps"] == 2 and checks["serve"]["figures"]["status"] == 200
    assert checks["GPU and CPU in fp32"]["state"] == "not measured"
    assert checks["GPU and CPU in fp32"]["note"] == "no GPU"
    without_corpus = [check for name, check in checks.items() if name == "evaluate" or name.startswith("train tiny/")]
    assert {check["state"] for check in without_corpus} == {"not measured"}
    assert all("codi2 data build tiny" in check["note"] for check in without_corpus)
    figures = checks["speed"]["figures"]
    assert figures["pictures a second"] > 0 and figures["tokens a second"] > 0
    assert figures["model FLOPs utilisation"] == "not measured: no GPU"
    page = (out / "index.html").read_text()
    assert page.count("<section>") == len(checks) and "data:image/png" in page and "not measured" in page


def test_outputs_of_a_gpu_are_held_against_the_cpus():
    """On a virtual GPU they are the same; of another model they are not."""
    import torch
    from accept_gpu_figures import apart, differences
    from virtual_device import virtual_gpu

    with virtual_gpu():
        distances = differences("debug", "cuda")
    assert set(distances) == {
        f"{m}: {s}" for m in ("image", "audio", "video") for s in ("features", "latents", "decoded")
    }
    assert max(distances.values()) < 1e-4
    assert apart(torch.tensor([1.0, -2.0]), torch.tensor([1.0, -1.9])) == pytest.approx(0.05)


def test_a_fault_of_one_check_is_a_line_of_the_report():
    from accept_gpu import Check, Failed, NotMeasured, carried_out, codi2

    def breaks(error: Exception):
        def work(check: Check) -> None:
            raise error

        return carried_out("x", work)

    assert (breaks(NotMeasured("no GPU")).state, breaks(Failed("bad")).note) == ("not measured", "bad")
    broken = breaks(TimeoutError("too late"))
    assert (broken.state, broken.note) == ("failed", "TimeoutError: too late")
    refused = carried_out("y", lambda check: codi2(check, "generate", "a cat's picture", "--device", "cuda:99"))
    assert refused.state == "failed" and "cuda:99" in refused.note
    assert refused.command == """codi2 generate 'a cat'"'"'s picture' --device cuda:99"""
