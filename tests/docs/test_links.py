"""Links, anchors, and the names of files and of code in the documents."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

import codi2.hub

from .pages import CURRENT, HISTORY, PAGES, ROOT, anchors, blocks, name_of, prose

FIELDS = ("codi2.want", "codi2.source", "codi2.progress")  # of requests and events of the API
FOLDERS = "src|tests|docs|configs|examples|benchmarks"
SOURCES = [
    path
    for folder in ("src/codi2", "tests", "examples", "configs", "benchmarks")
    for path in (ROOT / folder).rglob("*")
]
TESTS = {
    name for path in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
}
SPLITS = {"test_family", "test_rendering", "test_subject", "test_style"}  # of the corpus


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"https?:", target):
            continue
        place, _, anchor = target.partition("#")
        path = (page.parent / place).resolve() if place else page
        assert path.exists(), f"{name_of(page)} links to {target}, which is not there"
        assert path.is_relative_to(ROOT)
        if anchor:
            assert anchor in anchors(path), (
                f"{name_of(page)} links to {target}; the headings are {sorted(anchors(path))}"
            )


@pytest.mark.parametrize("page", CURRENT, ids=name_of)
def test_files_that_a_page_names_exist(page: Path):
    for name in re.findall(rf"(?<![\w/.$-])(?:{FOLDERS})/[\w./-]*\w", page.read_text()):
        assert (ROOT / name).exists(), f"{name_of(page)} names {name}"


@pytest.mark.parametrize("page", CURRENT, ids=name_of)
def test_tests_that_a_page_names_exist(page: Path):
    for name in re.findall(r"\b(test_\w+)(?![\w./])", page.read_text()):
        assert name in TESTS or name in SPLITS, f"{name_of(page)} names {name}"


def test_pages_that_the_code_names_exist():
    for path in SOURCES:
        if path.suffix in (".py", ".toml") and path.parent != Path(__file__).parent:
            for name in re.findall(r"docs/[\w/]+\.md", path.read_text()):
                assert (ROOT / name).is_file(), f"{path} names {name}"


@pytest.mark.parametrize("page", CURRENT, ids=name_of)
def test_python_names_exist(page: Path):
    for name in re.findall(r"`(codi2(?:\.\w+)+)`", page.read_text()):
        assert name in FIELDS or resolves(name), f"{name_of(page)} names {name}"


@pytest.mark.parametrize("page", CURRENT, ids=name_of)
def test_names_that_python_blocks_import_exist(page: Path):
    for code in blocks(page, "python"):
        for module, names in re.findall(r"^from (codi2[\w.]*) import (.+)$", code, re.MULTILINE):
            for name in names.split(", "):
                assert resolves(f"{module}.{name}"), f"{name_of(page)} imports {name} from {module}"


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one or of its classes."""
    words = name.split(".")
    for count in range(len(words), 0, -1):
        try:
            found = import_module(".".join(words[:count]))
        except ModuleNotFoundError:
            continue
        for word in words[count:]:
            if not hasattr(found, word):
                return False
            found = getattr(found, word)
        return True
    return False


def test_parts_of_the_model_have_the_names_of_the_concepts():
    model = codi2.CoDi2.from_pretrained("debug")
    parts = {"MLLM": model.mllm, "Decoder": next(iter(model.decoders.values()))}
    names = set(re.findall(r"`(MLLM|Decoder)\.(\w+)`", (ROOT / "docs/concepts.md").read_text()))
    assert len(names) >= 3
    for part, attribute in names:
        assert hasattr(parts[part], attribute), f"{part}.{attribute}"


def test_every_page_is_reached_from_the_readme():
    reached, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page not in reached and page.suffix == ".md":
            reached.add(page)
            targets = re.findall(r"\]\(([^)\s#]+)", prose(page))
            todo += [(page.parent / t).resolve() for t in targets if not t.startswith("http")]
    assert {name_of(page) for page in PAGES} - {name_of(page) for page in reached} <= {HISTORY[0]}


def test_pages_keep_their_lengths():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
    assert len((ROOT / "docs/log.md").read_text().splitlines()) <= 250


def test_the_size_of_the_download_is_that_of_the_pinned_packages():
    size = sum(wheel.megabytes for wheel in codi2.hub.WHEELS.values() if not wheel.judges)
    for name in ("README.md", "docs/quickstart.md"):
        assert f"downloads {size} MB" in (ROOT / name).read_text()
