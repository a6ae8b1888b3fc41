"""The browser of a repository shows every file, sends nothing that runs, and answers nobody without its token."""

from __future__ import annotations

import http.client
import random
import re
import socket
import threading
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefect_snapshots import ArtifactRegistry, BackupManager, Repository, SnapshotManager
from prefect_snapshots.cli.serving import Browser
from prefect_snapshots.filesystem import RepositoryFiles

DATA = random.Random(0).randbytes(5_000_000)
HOSTILE = "<img src=x onerror=alert(1)>.html"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("served")
    folder = top / "uploads"
    (folder / "a&b").mkdir(parents=True)
    (folder / "a&b" / HOSTILE).write_text("<script>alert(2)</script>")
    (folder / '"onload=x \n\r\x1b[2J').write_text("y")
    (folder / "größe #1?.txt").write_text("grüße")
    (folder / "data").write_bytes(DATA)
    (folder / "dot.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "link").symlink_to("/etc/passwd")
    registry = ArtifactRegistry(top / "repository")
    registry.log_artifact("model<b>", "text", "text", metadata={"<i>": "<u>"})
    registry.promote_artifact("model<b>", 0, to="production")
    registry.create_release("2026/<1>")
    BackupManager(top / "repository", name="shop", directories=[folder]).create_backup("first")
    SnapshotManager[Any](top / "repository", name="train").save_snapshot({"<w>": np.arange(3)}, "step-1")
    return top / "repository"


@pytest.fixture(scope="module")
def browser(place: Path) -> Iterator[Browser]:
    with Browser(RepositoryFiles(Repository(place, read_only=True))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(browser: Browser, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """What the server answers to one request, whose path is as it is sent."""
    connection = http.client.HTTPConnection("127.0.0.1", browser.server_port)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        reply = connection.getresponse()
        return reply.status, dict(reply.getheaders()), reply.read()
    finally:
        connection.close()


def links(page: bytes) -> list[str]:
    return [unescape(link) for link in re.findall(r'href="([^"]*)"', page.decode())]


def test_every_page_leads_to_pages_of_this_server_and_every_file_downloads(browser: Browser) -> None:
    top = f"/{browser.token}/"
    waiting, seen = [top], dict[str, bytes]()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        status, headers, seen[path] = ask(browser, path)
        assert status == 200, path
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        if headers["Content-Type"].startswith("text/html"):
            page = seen[path].decode()
            assert "<script" not in page
            assert "<img" not in page
            assert "<b>" not in page
            assert "\x1b" not in page
            assert not re.search(r"<[^>]*(src|action|background)=|@import|url\(", page)
            found = links(seen[path])
            assert all(link.startswith((top, "#")) for link in found)
            waiting += [link for link in found if not link.startswith("#")]
    bodies = [body for path, body in seen.items() if "/download/" in path]
    assert {DATA, b"y", "grüße".encode(), b"<script>alert(2)</script>", b"text"} <= set(bodies)
    assert any(path.endswith("/report") for path in seen)
    assert any(b"production" in body for path, body in seen.items() if path.endswith("/files/artifacts"))


def test_a_file_is_shown_as_text_or_as_an_image_and_never_as_a_page(browser: Browser) -> None:
    def shown(name: str) -> tuple[str, bytes]:
        from urllib.parse import quote

        path = f"/{browser.token}/files/backups/shop@latest/uploads/{quote(name)}"
        status, headers, body = ask(browser, path)
        assert status == 200
        return headers["Content-Type"], body

    assert shown(f"a&b/{HOSTILE}") == ("text/plain; charset=utf-8", b"<script>alert(2)</script>")
    assert shown("dot.png")[0] == "image/png"
    assert shown("data") == ("text/plain; charset=utf-8", DATA[: 1024 * 1024])


def test_a_download_keeps_its_name_and_its_ranges(browser: Browser) -> None:
    path = f"/{browser.token}/download/backups/shop@latest/uploads/"
    status, headers, _ = ask(browser, f"{path}%22onload=x%20%0A%0D%1B%5B2J")
    assert status == 200
    assert headers["Content-Disposition"] == "attachment; filename*=UTF-8''%22onload%3Dx%20%0A%0D%1B%5B2J"
    assert headers["Content-Type"] == "application/octet-stream"
    for asked, want in (("bytes=10-19", (10, 20)), ("bytes=4999990-", (4_999_990, 5_000_000))):
        status, headers, body = ask(browser, f"{path}data", Range=asked)
        assert (status, body) == (206, DATA[want[0] : want[1]])
        assert headers["Content-Range"] == f"bytes {want[0]}-{want[1] - 1}/5000000"
    assert ask(browser, f"{path}data", Range="bytes=5000000-")[0] == 416
    status, headers, body = ask(browser, f"{path}data", "HEAD")
    assert (status, headers["Content-Length"], body) == (200, "5000000", b"")


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/", {}, 404),
        ("/x/files/artifacts", {}, 404),
        ("/{token}x/", {}, 404),
        ("/{token}/", {"Host": "evil.example:{port}"}, 403),
        ("/{token}/", {"Host": "127.0.0.1"}, 403),
        ("/{token}/", {"Host": "localhost:{port}"}, 200),
        ("/{token}/files/artifacts/nothing@v1", {}, 404),
        ("/{token}/files/../../../etc/passwd", {}, 404),
        ("/{token}/files/backups/shop@latest/uploads/link", {}, 404),
        ("/{token}/files/backups/shop@latest/uploads/..%2f..%2f..%2fetc%2fpasswd", {}, 404),
    ],
)
def test_who_may_ask_and_for_what(browser: Browser, path: str, headers: dict[str, str], status: int) -> None:
    words = {"token": browser.token, "port": browser.server_port}
    got, _, body = ask(
        browser, path.format(**words), **{name: value.format(**words) for name, value in headers.items()}
    )
    assert got == status
    assert b"root:" not in body
    if status != 200:
        assert browser.token.encode() not in body


@pytest.mark.parametrize("path", [b"http://[/", b"//[", b"/\xff?\x00", b"*", b"/%00", b"x" * 70_000])
def test_a_request_of_anybody_that_makes_no_sense_shows_nothing_on_the_terminal(
    browser: Browser, path: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    host = f"127.0.0.1:{browser.server_port}"
    with socket.create_connection(("127.0.0.1", browser.server_port)) as connection:
        connection.sendall(b"GET %s HTTP/1.0\r\nHost: %s\r\n\r\n" % (path, host.encode()))
        assert connection.recv(100).startswith(b"HTTP/1.0 4")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_changed(browser: Browser, method: str) -> None:
    assert ask(browser, f"/{browser.token}/", method)[0] == 501


def test_damage_is_a_page_or_a_download_that_fails(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = random.Random(1).randbytes(9_000_000)
    (tmp_path / "data").write_bytes(data)
    ArtifactRegistry(tmp_path / "repository").log_files("data", tmp_path / "data")
    for pack in (tmp_path / "repository" / "packs").rglob("*"):
        if pack.is_file():
            pack.chmod(0o600)
            content = bytearray(pack.read_bytes())
            content[-len(content) // 4] ^= 1
            pack.write_bytes(content)
    with Browser(RepositoryFiles(Repository(tmp_path / "repository", read_only=True))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        path = f"/{server.token}/download/artifacts/data@v0/data"
        with pytest.raises(http.client.IncompleteRead):
            ask(server, path)
        status, _, page = ask(server, path, Range="bytes=6000000-")
        server.shutdown()
        thread.join()
    assert status == 500
    assert b"default/data:v0, file" in page
