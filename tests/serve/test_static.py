"""The page's files as they are served: nothing inline, nothing from elsewhere, no path of a client."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import httpx
import pytest

from codi2.serve.page import EXAMPLES, FILES

from .conftest import Running, Start

STATIC = Path(str(files("codi2.serve"))) / "static"


@pytest.fixture(scope="module")
def server(start: Start) -> Running:
    return start()


def test_each_file_is_served_and_no_other(server: Running):
    assert {*FILES, "index.html"} == {path.name for path in STATIC.iterdir()}
    with httpx.Client(base_url=server.url) as http:
        for path in ("/", *(f"/static/{name}" for name in FILES), *(f"/static/examples/{name}" for name in EXAMPLES)):
            answer = http.get(path)
            assert answer.status_code == 200 and answer.content, path
            assert answer.headers["x-content-type-options"] == "nosniff"
            policy = answer.headers["content-security-policy"]
            assert "script-src 'self'" in policy and "unsafe" not in policy
            same = http.get(path, headers={"If-None-Match": answer.headers["etag"]})
            assert same.status_code == 304 and not same.content
            assert http.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/static/", "/static", "/static/index.html", "/static/../run.py", "/static/%2e%2e/run.py",
        "/static//etc/passwd",        "/static/..%2f..%2fapi.py", "/static/examples/", "/static/examples/piano.wav/..",
        "/static/examples/ATTRIBUTION.md",
        # routes that Gradio had, which opened files that a client named
        "/gradio_api/info", "/gradio_api/file=/etc/passwd", "/gradio_api/call/send", "/gradio_api/upload", "/config",
        "/login", "/file=/etc/passwd",
    ],
)  # fmt: skip
def test_other_paths_are_not_there(server: Running, path: str):
    request = httpx.Request("GET", httpx.URL(server.url + path))
    with httpx.Client() as http:
        assert http.send(request).status_code == 404
        assert http.post(server.url + path, json={"data": [{"path": "/etc/passwd"}]}).status_code in (401, 404, 405)


def test_nothing_is_inline_and_nothing_comes_from_elsewhere():
    html = (STATIC / "index.html").read_text()
    assert not re.search(r"\sstyle=|\son\w+=|<style|javascript:", html)
    assert all(
        re.fullmatch(r"<script[^>]*src=\"/static/\w+\.js\"[^>]*>", tag) for tag in re.findall(r"<script[^>]*>", html)
    )
    for path in STATIC.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|\burl\(|@import", text), path.name
        if path.suffix == ".js":
            assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function", text), (
                path.name
            )
            assert all(name[2:-3] + ".js" in FILES for name in re.findall(r'"\./\w+\.js"'.replace('"', ""), text))


def test_a_server_without_a_page_has_none(start: Start):
    server = start("--no-page")
    assert httpx.get(server.url).status_code == 404 and httpx.get(f"{server.url}/static/app.js").status_code == 404
    server.stop()
