"""Conversations on the page: items, edits, files, keyboard, settings and width."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from ..conftest import Running
from .conftest import Page

pytestmark = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's chromium")
PICTURES = ".model .item img"


def test_a_conversation_with_items_that_a_click_refers_to(page: Page, media: Path):
    page.send("Draw this as an outlined emoji.", "image", files=(media / "goose-google.png",))
    page.send("Now  make it night", "image")
    page.send("Make the sound of the first picture", "audio")
    page.wait_for_pictures(PICTURES)
    assert page.tab.locator("#items .thumb").all_inner_texts() == ["image0", "image1", "image2", "audio0"]
    page.tab.locator("#items .thumb", has_text="image1").click()
    assert page.tab.input_value("#words") == "[image1] "
    page.tab.locator(".model").first.get_by_role("button", name="Refer to image1").click()
    assert page.tab.input_value("#words") == "[image1] [image1] "
    page.send("Mirror [image1]", "image")
    assert page.words() == ["Draw this as an outlined emoji.", "Now  make it night",
                            "Make the sound of the first picture", "Mirror [image1]"]  # fmt: skip
    page.wait_for_pictures(".item img")
    sizes = [picture.bounding_box() for picture in page.tab.locator(".item img").all()]
    assert all(size and min(size["width"], size["height"]) >= 250 for size in sizes)
    page.tab.reload()
    page.see(".message.model", 4)
    page.wait_for_pictures(PICTURES)
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
    page.change_settings(num_inference_steps=1000)
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
    page.change_settings(seed=7, negative_prompt="red", temperature="0.5", max_tokens=3)
    page.send("Draw a mango", "image")
    assert "seed 7" in page.tab.locator(".made").inner_text()
    name = page.tab.evaluate("location.hash").removeprefix("#/c/")
    recipe = httpx.get(f"{server.url}/v1/sessions/{name}").json()["messages"][1]["codi2"]["recipe"]
    asked = {key: recipe[key] for key in ("seed", "negative_prompt", "temperature", "max_new_tokens")}
    assert asked == {"seed": 7, "negative_prompt": "red", "temperature": 0.5, "max_new_tokens": 3}
    page.context.close()


def test_a_phones_width(browser: Any, server: Running, media: Path):
    page = Page(browser, server.url, width=390, has_touch=True)
    assert not page.scrolls_sideways()
    page.send("Draw [image0] as a long" + "g" * 200 + " word", "image", files=(media / "goose-google.png",))
    page.wait_for_pictures(".item img")
    assert not page.scrolls_sideways()
    assert all((one.bounding_box() or {})["width"] >= 250 for one in page.tab.locator(".item img").all())
    assert not page.tab.locator("#new").is_visible()
    page.button("Conversations").click()
    page.tab.locator("#new").click(trial=True)
    page.tab.keyboard.press("Escape")
    page.see("body:not(.drawer)")
    page.tab.click("#open-settings")
    box = page.see("dialog").bounding_box()
    assert box and box["width"] <= 390 and not page.scrolls_sideways()
    page.context.close()


def test_an_example_runs_with_a_click(page: Page):
    page.tab.locator(".card", has_text="Draw this").click()
    page.see(".message.model:not(.pending)")
    page.wait_for_pictures(".item img")
    assert page.words() == ["Draw this as an outlined emoji."]
