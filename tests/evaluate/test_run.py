import json
import re

import pytest

from codi2.errors import ConfigError, DataError
from codi2.evaluate import GROUPS, run


def test_a_group_of_suites_is_one_report(home, judge, tmp_path):
    report = run("smoke", "debug", tmp_path / "out", items=2)
    assert [section["title"] for section in report["sections"] if section["unavailable"]] == []
    assert len(report["sections"]) == len(GROUPS["smoke"])
    assert json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8")) == json.loads(json.dumps(report))
    assert report["corpus_sha256"] == "abc" and report["versions"]["torch"] and report["suite"] == "smoke"
    names = [figure["name"] for section in report["sections"] for figure in section["figures"]]
    for part in ("whole reply", "peak memory", "R@5 among", "EffNet-sim", "sharpness", "LSD", "perplexity"):
        assert any(part in name for name in names), part
    for section in report["sections"]:
        for figure in section["figures"]:
            assert figure["low"] - 1e-9 <= figure["value"] <= figure["high"] + 1e-9 and figure["n"] > 0, figure["name"]
            assert (figure["passes"] is None) == (not figure["bar"]), figure["name"]
    html = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    for name in ("target", "ours", "20 steps", "Griffin-Lim"):
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
