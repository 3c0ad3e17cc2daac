"""The page in Chromium, and what a user does there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..conftest import Running, Start


@pytest.fixture(scope="module")
def server(start: Start) -> Running:
    return start()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:  # of a module: while it lives, its event loop runs in the thread of the tests
    from playwright.sync_api import sync_playwright

    microphone = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu", *microphone]
        )
        yield browser
        browser.close()


class Page:
    """A tab with the page."""

    def __init__(self, browser: Any, url: str, width: int = 1280, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        self.tab = self.context.new_page()
        self.tab.set_default_timeout(60_000)
        self.url, self.requests, self.errors = url, [], []
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.tab.on("console", lambda line: self.errors.append(line.text) if "Content Security" in line.text else None)
        self.tab.goto(url)
        self.tab.wait_for_selector("#talk > *, dialog[open]")

    def want(self, *kinds: str) -> None:
        for button in self.tab.locator("#composer .toggle").all():
            pressed = button.get_attribute("aria-pressed") == "true"
            if pressed != (button.get_attribute("data-kind") in kinds):
                button.click()

    def change_settings(self, **settings: Any) -> None:
        """Fills in the dialog of settings."""
        self.tab.click("#open-settings")
        for name, value in settings.items():
            self.tab.fill(f"#set-{name}", str(value))
        self.tab.locator("#settings").get_by_role("button", name="Save").click()

    def write(self, words: str, *want: str, files: tuple[Path, ...] = ()) -> None:
        """A message from the keyboard, which is sent."""
        self.want(*want)
        if files:
            self.tab.set_input_files("#files", [str(file) for file in files])
            self.see("#attached .attachment:not(.loading)", len(files))
        self.tab.fill("#words", words)
        self.tab.press("#words", "Enter")

    def send(self, words: str, *want: str, files: tuple[Path, ...] = ()) -> None:
        """`write`, and waits for the reply."""
        before = self.tab.locator(".message.model:not(.pending)").count()
        self.write(words, *want, files=files)
        self.see(".message.model:not(.pending)", before + 1)
        self.see(".pending", 0)

    def see(self, selector: str, count: int = 1) -> Any:
        """Waits until the page has `count` elements, and returns the last one."""
        from playwright.sync_api import expect

        elements = self.tab.locator(selector)
        expect(elements).to_have_count(count, timeout=60_000)
        return elements.last

    def wait_for_pictures(self, selector: str) -> None:
        """Waits until all these pictures are loaded."""
        for picture in self.tab.locator(selector).all():
            picture.scroll_into_view_if_needed()
            for _ in range(300):
                if picture.evaluate("picture => picture.complete && picture.naturalWidth > 0"):
                    break
                self.tab.wait_for_timeout(50)
            else:
                raise AssertionError(f"{selector} was not loaded")

    def words(self) -> list[str]:
        return [text.strip() for text in self.tab.locator(".user > .words").all_inner_texts()]

    def button(self, name: str) -> Any:
        return self.tab.get_by_role("button", name=name, exact=True).last

    def scrolls_sideways(self) -> bool:
        sizes: list[int] = self.tab.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        return sizes[0] > sizes[1]


@pytest.fixture
def page(browser: Any, server: Running) -> Iterator[Page]:
    page = Page(browser, server.url)
    yield page
    foreign_requests = [url for url in page.requests if not url.startswith((server.url, "data:", "blob:"))]
    page.context.close()
    assert foreign_requests == [] and page.errors == []
