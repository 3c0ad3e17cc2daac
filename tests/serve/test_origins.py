"""Other hosts and other origins: what pages that are open in a user's browser can do to the server."""

from __future__ import annotations

import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from codi2.errors import ConfigError
from codi2.serve.api import create_app
from codi2.serve.middleware import HEADERS
from codi2.serve.origins import Served, origin
from codi2.serve.store import Store

from .conftest import Answer, Running, ask, exchange

EVIL = "https://evil.example"
OWN = "http://127.0.0.1:8000"  # what `ask` names as Host

LOOPBACK = ["127.0.0.1", "127.0.0.1:8000", "localhost", "LocalHost:80", "localhost.", "[::1]:8000", "127.3.4.5"]
MALFORMED = ["", " ", "localhost:", "localhost:0", "localhost:99999", "localhost:8000:9", "[::1", "::1", "localhost.."]
MALFORMED += ["a@localhost", "localhost@evil.example", "localhost/x", "localhost#x", "local host", "[localhost]"]
FOREIGN = ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "evil.localhost"]
FOREIGN += ["10.0.0.1", "[fe80::1]", "0.0.0.0", "[::]", "2130706433", "127.1", "0x7f000001", "localhost,evil.example"]


@pytest.mark.parametrize("host", LOOPBACK)
def test_a_loopback_server_answers_for_its_own_names(host: str):
    assert host in Served.at("127.0.0.1") and host in Served.at("::1") and host in Served.at("localhost")
    assert host in Served.at("0.0.0.0"), "where it listens everywhere, at loopback too"


@pytest.mark.parametrize("host", [*MALFORMED, *FOREIGN])
def test_and_for_no_other(host: str):
    assert host not in Served.at("127.0.0.1") and host not in Served()


def test_other_addresses_and_names_that_were_allowed():
    there = Served.at("192.168.1.5", ["Example.com", "10.0.0.7"])
    assert all(
        host in there for host in ("192.168.1.5:8000", "example.com", "EXAMPLE.com:443", "example.com.", "10.0.0.7")
    )
    assert all(host not in there for host in ("localhost", "127.0.0.1", "www.example.com", "192.168.1.6", "example.co"))
    assert "[2001:db8::1]:80" in Served.at("2001:db8:0::1")
    everywhere = Served.at("0.0.0.0")
    assert "172.17.0.2:8000" in everywhere and "[2001:db8::1]" in everywhere, "addresses cannot be rebound, names can"
    assert "evil.example" not in everywhere and "evil.example" not in Served.at("::")
    for bad in ("https://example.com", "example.com:80", "exa mple", "*", ""):
        with pytest.raises(ConfigError, match="is no host"):
            Served.at("127.0.0.1", [bad])


def test_origins_are_written_as_browsers_write_them():
    assert origin("HTTPS://Example.com:443/") == "https://example.com"
    assert origin("http://localhost:3000") == "http://localhost:3000"
    assert origin("http://[::1]:3000") == "http://[::1]:3000"
    for bad in (
        "*",
        "null",
        "example.com",
        "https://example.com/app",
        "ftp://example.com",
        "https://a@b.c",
        "https://",
    ):
        with pytest.raises(ConfigError, match="is no origin"):
            origin(bad)


def test_the_command_line_names_what_is_malformed(cli: Any, tmp_path: Path):
    for option, value in (("--allow-origin", "example.com"), ("--allow-host", "http://example.com")):
        run = cli("serve", "--model", "debug", "--data", tmp_path / "data", option, value)
        assert run.returncode == 2 and f"{option} '{value}' is no" in run.stderr, run.stderr


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Any]:
    """An application without a model: nothing here reaches it."""
    store = Store(tmp_path / "data")
    yield create_app(None, store, "debug")  # type: ignore[arg-type]
    store.close()


def titles(app: Any) -> list[str]:
    return [session["title"] for session in json.loads(ask(app, "GET", "/v1/sessions").body)["data"]]


JSON = ("Content-Type", "application/json")
FOREIGN_HEADERS: list[list[tuple[str, str]]] = [
    [("Origin", EVIL)],
    [("Origin", "null")],
    [("Origin", "")],
    [("Origin", "http://127.0.0.1:9999")],
    [("Origin", "http://localhost:8000")],
    [("Origin", "http://127.0.0.1")],
    [("Origin", "http://127.0.0.1:8000.evil.example")],
    [("Origin", "http://127.0.0.1:8000/")],
    [("Origin", f"{OWN}, {EVIL}")],
    [("Origin", OWN), ("Origin", EVIL)],
    [("Origin", OWN), ("Sec-Fetch-Site", "cross-site")],
    [("Sec-Fetch-Site", "cross-site")],
    [("Sec-Fetch-Site", "same-site")],
    [("Sec-Fetch-Site", "")],
    [("Sec-Fetch-Site", "none"), ("Sec-Fetch-Site", "cross-site")],
    [("Host", "evil.example:8000"), ("Origin", "http://evil.example:8000"), ("Sec-Fetch-Site", "same-origin")],
    [("Host", "evil.example:8000")],
]


@pytest.mark.parametrize("headers", FOREIGN_HEADERS, ids=[str(headers) for headers in FOREIGN_HEADERS])
def test_foreign_pages_neither_read_nor_change_anything(app: Any, headers: list[tuple[str, str]]):
    requests = [
        ("GET", path) for path in ("/v1/sessions", "/openapi.json", "/metrics", "/health", "/v1/sessions/x/export")
    ]
    requests += [("POST", "/v1/sessions"), ("PATCH", "/v1/sessions/x"), ("DELETE", "/v1/sessions/x")]
    requests += [("OPTIONS", "/v1/sessions"), ("HEAD", "/v1/sessions")]
    for method, path in requests:
        for kind in ("application/json", "text/plain", "multipart/form-data; boundary=x", None):
            answer = ask(
                app, method, path, [*headers, *([("Content-Type", kind)] if kind else [])], b'{"title": "evil"}'
            )
            assert answer.status == 403 and answer.read == 0, (method, path, kind)
            assert not any(name.startswith("access-control") for name in answer.headers)
            assert answer.error["type"] == "permission_error"
    assert titles(app) == []


def test_the_own_page_and_clients_that_are_no_browsers_may(app: Any):
    for i, headers in enumerate(
        [
            [],
            [("Origin", OWN)],
            [("Origin", OWN), ("Sec-Fetch-Site", "same-origin")],
            [("Sec-Fetch-Site", "none")],
            [("Host", "localhost"), ("Origin", "http://localhost")],
            [("Host", "localhost"), ("Origin", "http://localhost:80")],
            [("Host", "localhost"), ("Origin", "https://localhost")],  # a proxy has ended TLS
            [("Host", "[::1]:8000"), ("Origin", "http://[::1]:8000")],
        ]
    ):
        answer = ask(app, "POST", "/v1/sessions", [*headers, JSON], b'{"title": "mine"}')
        assert answer.status == 200, (headers, answer.body)
        assert len(titles(app)) == i + 1
    answer = ask(app, "GET", "/v1/sessions", [("Host", "localhost"), ("Origin", "http://localhost")], scheme="https")
    assert answer.status == 403, "a page that came without TLS is another origin than one that came with it"


def test_a_link_of_another_site_opens_the_page_alone(app: Any):
    link = [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")]
    assert ask(app, "GET", "/", link).status != 403
    frame = [*link[:2], ("Sec-Fetch-Dest", "iframe")]
    for method, path, headers in (("GET", "/v1/sessions/x/export", link), ("GET", "/", frame), ("POST", "/", link)):
        assert ask(app, method, path, headers).status == 403


def test_hosts_are_named_once(app: Any):
    assert ask(app, "GET", "/health", [("Host", "localhost"), ("Host", "localhost")]).status == 400
    assert ask(app, "GET", "/health", [("Host", "localhost"), ("Host", "evil.example")]).error["code"] is None
    answer = ask(app, "GET", "/health", [("Host", "evil.example")])
    assert answer.status == 403 and "does not answer for the host 'evil.example'" in answer.error["message"]
    assert answer.error["code"] == "host"


def test_an_origin_that_is_allowed_is_the_only_one(tmp_path: Path):
    store = Store(tmp_path / "data")
    secret = store.make_key("ann")
    app = create_app(None, store, "debug", ["https://app.example"])  # type: ignore[arg-type]
    allowed = ("Origin", "https://app.example")
    preflight = [
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "authorization,content-type"),
    ]
    answer = ask(app, "OPTIONS", "/v1/sessions", [allowed, ("Sec-Fetch-Site", "cross-site"), *preflight])
    assert answer.status == 200 and answer.headers["access-control-allow-origin"] == "https://app.example"
    assert "authorization" in answer.headers["access-control-allow-headers"]
    answer = ask(app, "POST", "/v1/sessions", [allowed, ("Sec-Fetch-Site", "cross-site"), JSON])
    assert answer.status == 401 and answer.headers["access-control-allow-origin"] == "https://app.example"
    assert "access-control-allow-credentials" not in answer.headers
    fault = ask(app, "GET", "/v1/models", [allowed, ("Authorization", f"Bearer {secret}")])
    assert fault.status == 500 and fault.headers["access-control-allow-origin"] == "https://app.example"
    for other in (EVIL, "http://app.example", "https://app.example:444", "https://app.example.evil.example", "null"):
        answer = ask(app, "OPTIONS", "/v1/sessions", [("Origin", other), *preflight])
        assert answer.status == 403 and "access-control-allow-origin" not in answer.headers
    assert ask(app, "POST", "/v1/sessions", [allowed, ("Origin", EVIL), JSON]).status == 403
    assert ask(app, "GET", "/v1/models", [allowed, ("Host", "evil.example")]).status == 403
    store.close()


def test_every_answer_says_what_browsers_may_do_with_it(app: Any, server: Running):
    answers: list[Answer | None] = [
        ask(app, "GET", path) for path in ("/health", "/v1/sessions", "/nothing", "/openapi.json", "/v1/models")
    ]  # the last fails: there is no model
    answers += [ask(app, "DELETE", "/health"), ask(app, "POST", "/v1/sessions", [JSON], b"{")]
    answers += [ask(app, "GET", "/health", [("Host", "evil.example")]), exchange(server, b"nonsense\r\n\r\n")]
    assert {answer.status for answer in answers if answer} == {200, 400, 403, 404, 405, 500}
    for answer in answers:
        assert answer is not None
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    policy = HEADERS["content-security-policy"]
    for rule in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "form-action 'self'"):
        assert rule in policy
    assert "unsafe" not in policy and "*" not in policy


def test_a_real_server_checks_the_names_too(server: Running):
    port = server.url.rpartition(":")[2]
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", "LOCALHOST", "localhost."):
        assert httpx.get(f"{server.url}/health", headers={"Host": host}).status_code == 200
    for request in (
        f"GET /v1/sessions HTTP/1.1\r\nHost: evil.example:{port}\r\n",
        f"GET http://evil.example/v1/sessions HTTP/1.1\r\nHost: evil.example:{port}\r\n",
        f"GET http://127.0.0.1:{port}/v1/sessions HTTP/1.1\r\nHost: evil.example\r\n",
        "GET /v1/sessions HTTP/1.0\r\n",
        "GET /v1/sessions HTTP/1.1\r\n",
        "GET /v1/sessions HTTP/1.1\r\nHost:\r\n",
        "GET /v1/sessions HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n",
        f"GET /v1/sessions HTTP/1.1\r\nHost : localhost:{port}\r\n",
        f"GET /v1/sessions HTTP/1.1\r\nX: y\r\n Host: localhost:{port}\r\n",
    ):
        answer = exchange(server, f"{request}Connection: close\r\n\r\n".encode())
        assert answer is not None and answer.status in (400, 403), (request, answer)
        assert answer.error


SCRIPT = """async url => {
  const seen = {};
  const attempt = async (name, action) => { try { seen[name] = await action() } catch { seen[name] = "blocked" } };
  const text = { method: "POST", mode: "no-cors", body: '{"title": "evil"}' };
  const form = new FormData();
  form.append("prompt", "evil");
  form.append("image", new Blob(["x"], { type: "image/png" }), "a.png");
  await attempt("read", async () => (await fetch(url + "/v1/sessions")).status);
  await attempt("json", async () => (await fetch(url + "/v1/sessions",
    { method: "POST", headers: { "content-type": "application/json" }, body: "{}" })).status);
  await attempt("text", async () => (await fetch(url + "/v1/sessions", text)).type);
  await attempt("form", async () => (await fetch(url + "/v1/images/edits",
    { method: "POST", mode: "no-cors", body: form })).type);
  await attempt("script", () => new Promise((done, fail) => {
    const tag = document.createElement("script");
    tag.src = url + "/openapi.json"; tag.onload = () => done("loaded"); tag.onerror = fail;
    document.body.append(tag) }));
  await attempt("frame", async () => {
    const frame = document.createElement("iframe");
    frame.src = url + "/health"; document.body.append(frame);
    await new Promise(done => frame.onload = done) });
  return seen }"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's chromium")
def test_pages_of_other_sites_in_chromium(server: Running):
    """A foreign site, another server of this machine, and a name that is pointed to this machine (DNS rebinding)."""
    from playwright.sync_api import sync_playwright

    class Site(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(b"<h1>another site</h1>")

        def log_message(self, *args: Any) -> None:
            pass

    site = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    port, own = site.server_address[1], server.url.rpartition(":")[2]
    before = httpx.get(f"{server.url}/v1/sessions").json()["data"]
    edits = [line for line in httpx.get(f"{server.url}/metrics").text.splitlines() if "images/edits" in line]
    try:
        with sync_playwright() as playwright:
            rules = "MAP evil.example 127.0.0.1, MAP rebind.example 127.0.0.1"
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"),
                args=["--no-sandbox", "--disable-gpu", f"--host-resolver-rules={rules}"],
            )
            for page_url, target in (
                (f"http://evil.example:{port}/", server.url),
                (f"http://localhost:{port}/", server.url),
                (f"http://localhost:{port}/", f"http://localhost:{own}"),
                (f"http://rebind.example:{own}/health", f"http://rebind.example:{own}"),
            ):
                page = browser.new_page()
                page.goto(page_url)
                seen = page.evaluate(SCRIPT, target)
                assert seen["read"] in ("blocked", 403) and seen["json"] in ("blocked", 403), (page_url, seen)
                assert seen["script"] == "blocked", (page_url, seen)
                for _ in range(100):
                    if page.frames[-1].url:
                        break
                    page.wait_for_timeout(100)
                assert page.frames[-1].url.startswith("chrome-error:"), "framed"
            browser.close()
    finally:
        site.shutdown()
        site.server_close()
    assert httpx.get(f"{server.url}/v1/sessions").json()["data"] == before
    after = [line for line in httpx.get(f"{server.url}/metrics").text.splitlines() if "images/edits" in line]
    assert after == edits, "refused before its route"
