"""The page in Chromium: a conversation with a picture, an edit of it, a sound and a follow-up."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import Running, Start

pytestmark = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's chromium")


@pytest.fixture(scope="module")
def server(start: Start) -> Running:
    return start()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, server: Running) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1000, "height": 1100})
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(server.url, wait_until="domcontentloaded")
    page.wait_for_selector("#box textarea")
    yield page
    context.close()


def send(page: Any, words: str, want: str, *files: Path) -> None:
    """A message from the keyboard."""
    page.locator("#want").get_by_label(want, exact=True).check()
    if files:
        page.set_input_files("#box input[type=file]", [str(file) for file in files])
        page.wait_for_selector("#box .thumbnail-item")
    page.fill("#box textarea", words)
    page.press("#box textarea", "Enter")


def wait_for(page: Any, selector: str, count: int) -> None:
    page.wait_for_function(f"document.querySelectorAll({selector!r}).length == {count}")


# the list of items may be drawn anew under the click; then it is clicked again
TICK = """(name) => {
    const label = [...document.querySelectorAll("#items label")].find((one) => one.innerText.trim() == name);
    const box = label && label.querySelector("input");
    if (box && !box.checked) box.click();
    return document.querySelector("#box textarea").value.includes(`[${name}]`);
}"""
PICTURE, SOUND = "#talk [data-testid=bot] img", "#talk [data-testid=bot] [data-testid^=waveform]"


def test_a_whole_conversation(page: Any, server: Running, media: Path, tmp_path: Path):
    send(page, "Draw this as an outlined emoji.", "image", media / "goose-google.png")
    wait_for(page, PICTURE, 1)
    send(page, "Now make it night", "image")
    wait_for(page, PICTURE, 2)
    send(page, "Make the sound of the first picture", "audio")
    wait_for(page, "#items label", 4)
    wait_for(page, SOUND, 1)
    names = page.locator("#items label").all_inner_texts()
    assert names == ["image0", "image1", "image2", "audio0"]
    page.wait_for_function(TICK, arg="image1")  # by keyboard or click: the message speaks of it
    send(page, "Mirror [image1]", "image")
    wait_for(page, PICTURE, 3)
    page.screenshot(path=str(tmp_path / "page.png"), full_page=True)
    page.click("#undo")
    wait_for(page, PICTURE, 2)
    page.reload(wait_until="domcontentloaded")
    wait_for(page, PICTURE, 2)  # the browser comes back to its conversation
    page.click("#retry")
    page.wait_for_function("document.querySelector('#seed input').value == '1'")
    wait_for(page, "#talk [data-testid=user] img", 1)
    page.click("#new")
    wait_for(page, PICTURE, 0)
    outside = [url for url in page.asked if not url.startswith((server.url, "data:", "blob:"))]
    assert outside == []
    sizes = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert sizes[0] <= sizes[1]


def test_an_example_runs_with_a_click(page: Any):
    page.locator("#examples").get_by_text("Draw a strawberry").click()
    wait_for(page, PICTURE, 1)


def test_what_is_wrong_is_said(page: Any):
    send(page, "Mirror [image7]", "image")
    page.wait_for_function(
        "document.body.innerText.includes('[image7]') && document.body.innerText.includes('no image was given')"
    )


def test_a_phones_width(browser: Any, server: Running):
    context = browser.new_context(viewport={"width": 360, "height": 700}, has_touch=True)
    page = context.new_page()
    page.goto(server.url, wait_until="domcontentloaded")
    page.wait_for_selector("#box textarea")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    box = page.locator("#box textarea").bounding_box()
    assert box and box["width"] > 120
    context.close()


def test_names_and_words_are_no_markup(page: Any):
    send(page, "<img src=x onerror='window.hurt=1'> <b>bold</b>", "text")
    page.wait_for_selector("#talk [data-testid=user]")
    page.wait_for_timeout(1500)
    assert page.evaluate("window.hurt") is None
    assert "<b>bold</b>" in page.locator("#talk [data-testid=user]").first.inner_text()
