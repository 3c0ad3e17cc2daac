"""Hostile texts, titles, files and addresses on the page, and the key that it asks for."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from codi2.serve.application import open_store

from ..conftest import Start
from .conftest import Page

pytestmark = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's chromium")

HOSTILE = (
    '<img src=x onerror="window.hurt=1">', "<script>window.hurt=1</script>", '<svg onload="window.hurt=1">',
    "[a](javascript:window.hurt=1)", '</textarea></title><img src=x onerror="window.hurt=1">',
    "$$\\href{javascript:window.hurt=1}{x}$$", "&lt;img src=x onerror=window.hurt=1&gt;", "' onerror='window.hurt=1' '",
    '"><iframe srcdoc="<script>parent.hurt=1</script>">', '<details open ontoggle="window.hurt=1">', "file:///etc/passwd",
)  # fmt: skip


@pytest.mark.parametrize("address", ["#/c/%zz", "#/c/%E0%A4", "#/c/..", "#/c/%00", f"#/c/{'a' * 3000}"])
def test_an_address_that_names_no_conversation_shows_a_new_one(page: Page, address: str):
    page.tab.goto("about:blank")
    page.tab.goto(f"{page.url}/{address}")
    page.tab.wait_for_selector("#talk > *", timeout=20_000)
    assert page.tab.locator("h1").inner_text() == "New conversation"


def test_a_title_does_not_end_within_an_emoji(page: Page):
    page.send("a" + "\N{GRINNING FACE}" * 70, "text")
    assert page.tab.locator("h1").inner_text() == "a" + "\N{GRINNING FACE}" * 59 + "…"


def test_words_titles_and_file_names_are_no_markup(page: Page, media: Path, tmp_path: Path):
    words = " ".join(HOSTILE)
    file = tmp_path / "<img src=x onerror=window.hurt=1>.png"
    shutil.copy(media / "goose-google.png", file)
    page.send(words, "image", files=(file,))
    assert page.words() == [words]
    page.button("Edit the message").click()
    assert page.tab.get_by_role("textbox", name="Edit the message").input_value() == words
    page.tab.keyboard.press("Escape")
    assert page.tab.locator("h1").inner_text() == '<img src=x onerror="window.hurt=1">…'
    page.write(f"Mirror [image7] {HOSTILE[0]}", "text")
    page.see(".toast")
    bad = tmp_path / "<b>bad.png"
    bad.write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg' onload='window.hurt=1'/>")
    page.tab.set_input_files("#files", [str(bad)])
    page.see(".toast", 2)
    page.tab.locator("#sessions li").first.get_by_role("button", name=re.compile("^Delete")).click()
    page.see("dialog[open]")
    page.tab.wait_for_timeout(300)
    assert page.tab.evaluate("window.hurt") is None
    assert page.tab.locator("main iframe, main script, main details, #sessions img, dialog img").count() == 0


def test_a_key_is_asked_for_and_kept_in_the_tab(browser: Any, start: Start, tmp_path: Path, media: Path):
    store = open_store(tmp_path / "keyed")
    key, other = store.make_key("ann"), store.make_key("eve")
    running = start(folder=tmp_path / "keyed")
    page = Page(browser, running.url)
    page.tab.fill("#key", "wrong")
    page.tab.keyboard.press("Enter")
    page.see("text=does not accept this key")
    page.tab.fill("#key", key)
    page.tab.keyboard.press("Enter")
    page.see(".welcome")
    page.send("Draw this", "image", files=(media / "goose-google.png",))
    page.wait_for_pictures(".item img")
    assert not [url for url in page.requests if key in url], "the key is in no address"
    page.tab.reload()
    page.see(".message.model")
    assert page.tab.evaluate("localStorage.length + document.cookie.length") == 0
    name = page.tab.evaluate("location.hash")
    theirs = Page(browser, running.url + "/" + name)
    theirs.tab.fill("#key", other)
    theirs.tab.keyboard.press("Enter")
    theirs.see("text=This conversation is not here any more.")
    store.revoke("ann")
    store.close()
    page.tab.reload()
    page.see("dialog[open]")
    running.stop()
    page.context.close()
    theirs.context.close()
