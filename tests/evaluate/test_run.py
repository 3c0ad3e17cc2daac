import json
import re

import pytest

from codi2.errors import ConfigError, DataError
from codi2.evaluate import run


def figures(report):
    return {figure["name"]: figure for section in report["sections"] for figure in section["figures"]}


def test_smoke_measures_every_section_on_a_small_corpus(home, judge, tmp_path):
    report = run("smoke", "debug", tmp_path / "out", quick=True)
    assert [section["title"] for section in report["sections"] if section["unavailable"]] == []
    assert json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8")) == json.loads(json.dumps(report))
    assert report["corpus_sha256"] == "abc" and report["versions"]["torch"]

    found = figures(report)
    for figure in found.values():
        assert figure["low"] - 1e-9 <= figure["value"] <= figure["high"] + 1e-9 and figure["n"] > 0, figure["name"]
        assert (figure["passes"] is None) == (not figure["bar"]), figure["name"]
    beside = {name: set(found[name]["baselines"]) for name in ("add: LSD", "remove: LSD", "replace: LSD")}
    rivals = {"SDEdit from half way", "codec round trip of the input", "copy of the input", "silence"}
    assert all(names == rivals for names in beside.values())
    close = found["EffNet-sim to the true target"]["baselines"]
    assert set(close) == {"copy of the last picture", "mean of the target's rendering", "feature arithmetic"}
    assert all(len(other["ahead"]) == 2 for other in close.values())
    assert any(name.startswith("audio → image") for name in found)

    html = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    for name in ("target", "ours", "feature arithmetic", "SDEdit from half way", "Griffin-Lim"):
        assert f"<figcaption>{name}</figcaption>" in html
    assert not re.search(r"(src|href)=\"http", html)


@pytest.mark.parametrize("suite", ["smoke", "edits", "all"])
def test_a_missing_corpus_is_told_before_a_model_is_loaded(suite, empty_home, monkeypatch, tmp_path):
    monkeypatch.setattr("codi2.model.CoDi2.from_pretrained", lambda *_, **__: pytest.fail("the model was loaded"))
    with pytest.raises(DataError, match=r"no corpus in .*: run `codi2 data fetch tiny && codi2 data build tiny`"):
        run(suite, "tiny", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unknown_suite_is_refused_before_anything_is_loaded(tmp_path):
    with pytest.raises(ConfigError, match=r"'everything'.*smoke"):
        run("everything", "debug", tmp_path / "out")
    assert not (tmp_path / "out").exists()
