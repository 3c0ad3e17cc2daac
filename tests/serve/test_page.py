"""The page in Chromium, under the policy that the server sends: conversations, items, settings, keyboard, width."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from codi2.serve.application import open_store

from .conftest import Running, Start

pytestmark = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's chromium")
PICTURES, PLAYERS = ".model .item img", ".model .item audio, .model .item video"


@pytest.fixture(scope="module")
def server(start: Start) -> Running:
    return start()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    microphone = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu", *microphone]
        )
        yield browser
        browser.close()


class Page:
    """A tab with the page, and what a user does there."""

    def __init__(self, browser: Any, url: str, width: int = 1280, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        self.tab = self.context.new_page()
        self.tab.set_default_timeout(60_000)
        self.url, self.requests, self.faults = url, [], []
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.on("pageerror", lambda error: self.faults.append(str(error)))
        self.tab.on("console", lambda line: self.faults.append(line.text) if "Content Security" in line.text else None)
        self.tab.goto(url)
        self.tab.wait_for_selector("#talk > *, dialog[open]")

    def want(self, *kinds: str) -> None:
        for button in self.tab.locator("#composer .toggle").all():
            pressed = button.get_attribute("aria-pressed") == "true"
            if pressed != (button.get_attribute("data-kind") in kinds):
                button.click()

    def settle(self, **settings: Any) -> None:
        """Settings by the dialog."""
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
        """The same, and its reply is awaited."""
        before = self.tab.locator(".message.model:not(.pending)").count()
        self.write(words, *want, files=files)
        self.see(".message.model:not(.pending)", before + 1)
        self.see(".pending", 0)

    def see(self, selector: str, count: int = 1) -> Any:
        """Waits until the page has so many: the last of them."""
        from playwright.sync_api import expect

        found = self.tab.locator(selector)
        expect(found).to_have_count(count, timeout=60_000)
        return found.last

    def shown(self, selector: str) -> None:
        """Waits until all such pictures have been drawn."""
        for picture in self.tab.locator(selector).all():
            picture.scroll_into_view_if_needed()
            for _ in range(300):
                if picture.evaluate("one => one.complete && one.naturalWidth > 0"):
                    break
                self.tab.wait_for_timeout(50)
            else:
                raise AssertionError(f"{selector} was not drawn")

    def words(self) -> list[str]:
        return [text.strip() for text in self.tab.locator(".user > .words").all_inner_texts()]

    def button(self, name: str) -> Any:
        return self.tab.get_by_role("button", name=name, exact=True).last

    def wide(self) -> bool:
        sizes: list[int] = self.tab.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        return sizes[0] > sizes[1]


@pytest.fixture
def page(browser: Any, server: Running) -> Iterator[Page]:
    page = Page(browser, server.url)
    yield page
    outside = [url for url in page.requests if not url.startswith((server.url, "data:", "blob:"))]
    page.context.close()
    assert outside == [] and page.faults == []


def test_a_conversation_with_items_that_a_click_refers_to(page: Page, media: Path):
    page.send("Draw this as an outlined emoji.", "image", files=(media / "goose-google.png",))
    page.send("Now  make it night", "image")
    page.send("Make the sound of the first picture", "audio")
    page.shown(PICTURES)
    assert page.tab.locator("#items .thumb").all_inner_texts() == ["image0", "image1", "image2", "audio0"]
    page.tab.locator("#items .thumb", has_text="image1").click()
    assert page.tab.input_value("#words") == "[image1] "
    page.tab.locator(".model").first.get_by_role("button", name="Refer to image1").click()
    assert page.tab.input_value("#words") == "[image1] [image1] "
    page.send("Mirror [image1]", "image")
    assert page.words() == ["Draw this as an outlined emoji.", "Now  make it night",
                            "Make the sound of the first picture", "Mirror [image1]"]  # fmt: skip
    page.shown(".item img")
    sizes = [picture.bounding_box() for picture in page.tab.locator(".item img").all()]
    assert all(size and min(size["width"], size["height"]) >= 250 for size in sizes)
    page.tab.reload()
    page.see(".message.model", 4)
    page.shown(PICTURES)
    assert page.words()[-1] == "Mirror [image1]"
    page.button("Undo this round").click()
    page.tab.locator("dialog").get_by_role("button", name="Undo").click()
    page.see(".message.model", 3)
    page.button("New conversation").click()
    page.see(".welcome")
    page.tab.go_back()
    page.see(".message.model", 3)


def test_a_clip_and_its_sound_are_one_player(page: Page):
    page.send("Make a clip of a rooster, with its sound.", "audio", "video")
    video = page.see(".model .item video")
    page.see(".model .item audio", 0)
    for _ in range(200):
        if video.evaluate("one => one.readyState") >= 2:
            break
        page.tab.wait_for_timeout(50)
    assert video.evaluate("one => one.videoWidth > 0 && one.duration > 0")
    assert [url for url in page.requests if "?sound=" in url], "the file that it plays has both"
    assert page.tab.locator(".model figcaption .chip").all_inner_texts() == ["video0", "audio0"]


def test_edit_and_regenerate(page: Page):
    page.send("one", "text")
    page.send("two", "text")
    page.button("Edit the message").click()
    field = page.tab.get_by_role("textbox", name="Edit the message")
    assert field.input_value() == "two"
    field.press("Escape")
    assert page.words() == ["one", "two"]
    page.tab.press("#words", "ArrowUp")
    field.fill("2")
    field.press("Enter")
    page.see(".pending", 0)
    page.see("text=/^2$/")
    assert page.words() == ["one", "2"]
    before = page.tab.locator(".made").first.inner_text()
    page.tab.locator(".model").first.hover()
    page.tab.get_by_role("button", name="Make this reply again").first.click()
    page.tab.locator("dialog").get_by_role("button", name="Cancel").click()
    assert page.words() == ["one", "2"], "the round behind it is asked about"
    page.tab.get_by_role("button", name="Make this reply again").first.click()
    page.tab.locator("dialog").get_by_role("button", name="Make again").click()
    page.see(".message.model:not(.pending)", 1)
    page.see(".pending", 0)
    assert page.words() == ["one"] and page.tab.locator(".made").first.inner_text() != before, "another seed"


def test_two_windows_on_one_conversation(page: Page, browser: Any):
    page.send("one", "text")
    other = Page(browser, page.tab.url)
    other.send("two", "text")
    page.tab.locator(".model").hover()
    page.button("Make this reply again").click()
    assert "changed elsewhere" in page.see(".toast").inner_text()
    page.see(".message.model:not(.pending)", 2)
    other.send("three", "text")
    page.write("four", "text")
    page.see(".message.model:not(.pending)", 4)
    assert page.words() == ["one", "two", "three", "four"]
    other.context.close()


def test_stop_keeps_the_words_and_a_failure_is_said(page: Page):
    page.settle(num_inference_steps=1000)
    page.write("Draw for a long time", "image")
    page.see(".pending progress[value]")
    page.button("Stop").click()
    page.see(".pending", 0)
    page.see(".welcome")
    assert page.tab.input_value("#words") == "Draw for a long time"
    page.tab.press("#words", "Enter")
    page.see(".pending progress[value]")
    page.tab.reload()
    page.see("#words")
    assert page.tab.input_value("#words") == "Draw for a long time", "a reload in between keeps them too"
    page.see("#sessions a", len(httpx.get(f"{page.url}/v1/sessions").json()["data"]))
    page.write("Mirror [image7]", "image")
    assert "[image7]" in page.see(".toast").inner_text()
    page.see(".welcome")
    assert page.tab.input_value("#words") == "Mirror [image7]", "nothing that was written is lost"


def test_delete_asks_and_rename(page: Page, server: Running):
    page.send("delete me", "text")
    row = page.tab.locator("#sessions li", has=page.tab.locator("[aria-current]"))
    row.get_by_role("button", name="Rename delete me").click()
    page.tab.get_by_role("textbox", name="New title of delete me").fill("Geese")
    page.tab.keyboard.press("Enter")
    page.see("h1:text-is('Geese')")
    name = page.tab.evaluate("location.hash").removeprefix("#/c/")
    row.get_by_role("button", name="Delete Geese").click()
    assert page.tab.locator("dialog :focus").inner_text() == "Cancel"
    page.tab.keyboard.press("Escape")
    assert httpx.get(f"{server.url}/v1/sessions/{name}").status_code == 200
    row.get_by_role("button", name="Delete Geese").click()
    page.tab.locator("dialog").get_by_role("button", name="Delete").click()
    page.see(".welcome")
    assert httpx.get(f"{server.url}/v1/sessions/{name}").status_code == 404


def test_files_by_drop_paste_and_microphone(page: Page):
    fire = """(kind) => {
        const canvas = new OffscreenCanvas(20, 20); canvas.getContext("2d").fillRect(0, 0, 9, 9);
        return canvas.convertToBlob().then((blob) => {
            const data = new DataTransfer(); data.items.add(new File([blob], "../../etc/passwd", {type: blob.type}));
            const target = document.querySelector("#words");
            const how = {bubbles: true, cancelable: true, dataTransfer: data, clipboardData: data};
            const event = kind == "paste" ? new ClipboardEvent(kind, how) : new DragEvent(kind, how);
            target.dispatchEvent(event);
        });
    }"""
    page.tab.evaluate(fire, "dragover")
    page.see("#drop:not([hidden])")
    page.tab.evaluate(fire, "drop")
    page.see("#attached .attachment:not(.loading)", 1)
    page.see("#drop[hidden]")
    page.tab.evaluate(fire, "paste")
    page.see("#attached .attachment:not(.loading)", 2)
    page.button("Record a sound").click()
    page.see("#record[aria-pressed=true]")
    page.tab.wait_for_timeout(1200)
    page.button("End the recording").click()
    page.see("#attached .attachment:not(.loading)", 3)
    assert page.tab.locator("#attached .refer").all_inner_texts() == ["image0", "image1", "audio0"]
    page.button("Remove image1").click()
    page.want("text")
    page.button("Send").click()
    page.see(".message.model:not(.pending)")
    page.see(".user .item", 2)


def test_by_keyboard_alone(page: Page):
    page.tab.keyboard.type("Hello")
    page.tab.keyboard.press("Shift+Enter")
    page.tab.keyboard.type("you")
    assert page.tab.input_value("#words") == "Hello\nyou", "the message has the focus from the start"
    order = []
    for _ in range(8):
        page.tab.keyboard.press("Tab")
        order.append(page.tab.evaluate("document.activeElement.getAttribute('aria-label')"))
    assert order[:7] == ["Attach files", "Record a sound", "Text", "Image", "Audio", "Video", "Send"]
    page.tab.focus('.toggle[data-kind="text"]')
    page.tab.keyboard.press("Space")
    page.tab.focus("#words")
    page.tab.keyboard.press("Enter")
    page.see(".message.model:not(.pending)")
    assert "The reply is here." in page.tab.locator("#announce").inner_text()
    assert page.tab.evaluate("document.activeElement.id") == "words", "the focus stays"
    page.tab.focus("#open-settings")
    page.tab.keyboard.press("Enter")
    page.see("dialog[open]")
    page.tab.keyboard.press("Escape")
    page.see("dialog", 0)
    assert page.tab.evaluate("document.activeElement.id") == "open-settings"
    unnamed = page.tab.evaluate(
        """[...document.querySelectorAll("button, input, textarea, audio, video")]
        .filter((one) => one.checkVisibility())
        .filter((one) => !(one.getAttribute("aria-label") || one.textContent.trim() || one.labels?.length))
        .map((one) => one.outerHTML)"""
    )
    assert unnamed == []


def test_dark_mode_and_settings(browser: Any, server: Running):
    page = Page(browser, server.url, color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.tab.evaluate(ground)
    page.button("Dark mode").click()
    light = page.tab.evaluate(ground)
    assert dark != light and light == "rgb(255, 255, 255)"
    page.tab.reload()
    page.see(".welcome")
    assert page.tab.evaluate(ground) == light, "a choice is kept"
    page.settle(seed=7, negative_prompt="red", temperature="0.5", max_tokens=3)
    page.send("Draw a mango", "image")
    assert "seed 7" in page.tab.locator(".made").inner_text()
    name = page.tab.evaluate("location.hash").removeprefix("#/c/")
    recipe = httpx.get(f"{server.url}/v1/sessions/{name}").json()["messages"][1]["codi2"]["recipe"]
    asked = {key: recipe[key] for key in ("seed", "negative_prompt", "temperature", "max_new_tokens")}
    assert asked == {"seed": 7, "negative_prompt": "red", "temperature": 0.5, "max_new_tokens": 3}
    page.context.close()


def test_a_phones_width(browser: Any, server: Running, media: Path):
    page = Page(browser, server.url, width=390, has_touch=True)
    assert not page.wide()
    page.send("Draw [image0] as a long" + "g" * 200 + " word", "image", files=(media / "goose-google.png",))
    page.shown(".item img")
    assert not page.wide()
    assert all((one.bounding_box() or {})["width"] >= 250 for one in page.tab.locator(".item img").all())
    assert not page.tab.locator("#new").is_visible()
    page.button("Conversations").click()
    page.tab.locator("#new").click(trial=True)
    page.tab.keyboard.press("Escape")
    page.see("body:not(.drawer)")
    page.tab.click("#open-settings")
    box = page.see("dialog").bounding_box()
    assert box and box["width"] <= 390 and not page.wide()
    page.context.close()


def test_an_example_runs_with_a_click(page: Page):
    page.tab.locator(".card", has_text="Draw this").click()
    page.see(".message.model:not(.pending)")
    page.shown(".item img")
    assert page.words() == ["Draw this as an outlined emoji."]


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
    page.shown(".item img")
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
