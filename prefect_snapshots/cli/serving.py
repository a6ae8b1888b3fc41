"""`prefect-snapshots serve`: a browser of the repository on this machine, read-only.

Anybody on this machine can reach the port, and any web page can make a browser send requests to it. So every URL
contains a random token, the `Host` header has to name this machine (another name that leads here belongs to somebody
else's page), and nothing in a repository is ever sent as a page that could run code: not even its HTML files.
"""

from __future__ import annotations

import hmac
import re
import secrets
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_to_bytes

from ..errors import InvalidArgument, SnapshotsError
from ..redaction import hider
from .backup_sources import AS_CONFIGURED, manager_of
from .output import Answer, printable
from .session import SessionArgument

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..documents import Document
    from ..filesystem import Contained, RepositoryFiles

_ADDRESS = "127.0.0.1"
_PIECE = 4 * 1024 * 1024
"""Bytes to send at once: what one request of a bucket gets."""
_LOOK = 1024 * 1024
"""Bytes of a file that are shown: more is no longer read, and browsers become slow."""
_LARGEST_IMAGE = 32 * 1024 * 1024
"""Bytes of an image that is shown: a photograph, and not more memory than that for each request."""
_ROWS = 5_000
"""Entries of a directory that are shown, for the same reason."""
_LISTED = 50
"""Rows of the tables in the report."""
_PATIENCE = 60.0
"""Seconds to wait for a browser that neither sends nor takes anything, because each one keeps a thread."""
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")
_IMAGES = {"gif": "image/gif", "jpeg": "image/jpeg", "jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
"""Suffixes of files that are shown as they are. No browser runs code in these types."""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox allow-downloads"
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def serve(*, port: int = 0, session: SessionArgument) -> Answer:
    """Show the repository in a web browser on this machine, until you press Ctrl-C. Nothing can be changed.

    You can list, look at and download the files of artifacts, releases, backups and snapshots, and read the report.
    The printed URL contains a token: whoever knows it can read the repository.

    Args:
        port: The port. Default: a free one.
    """
    if not 0 <= port < 65536:
        raise InvalidArgument(f"--port must be between 0 and 65535, not {port}.")
    from ..filesystem import RepositoryFiles

    repository = session.open()
    hide = hider(session.url, session.storage_options)
    with Browser(RepositoryFiles(repository), port, hide) as browser:
        print(f"{printable(repository.url)} is at {browser.url} until you press Ctrl-C.", flush=True)
        try:
            browser.serve_forever()
        except KeyboardInterrupt:
            return Answer({"repository": repository.url, "url": browser.url}, remark="Stopped.")
    raise AssertionError("it serves until it is interrupted")


class Browser(ThreadingHTTPServer):
    """A server for the files of a repository, which only this machine can reach.

    Args:
        files: The files.
        port: The port. 0 means a free one.
        hide: A function that removes secrets from error messages.

    Attributes:
        url: The URL of the first page, with the token.
    """

    daemon_threads = True

    def __init__(self, files: RepositoryFiles, port: int = 0, hide: Callable[[str], str] = str) -> None:
        super().__init__((_ADDRESS, port), _Request)
        self.files = files
        self.hide = hide
        self.token = secrets.token_urlsafe(32)
        self.hosts = {f"{name}:{self.server_port}" for name in (_ADDRESS, "localhost")}
        self.url = f"http://{_ADDRESS}:{self.server_port}/{self.token}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """Log an error that no page could show, in one line. A browser that went away is none."""
        from ..messages import logger

        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):
            logger.error("A request failed: %s: %s", type(error).__name__, self.hide(str(error)))

    def report(self) -> str:
        """Return the report on the repository as a page."""
        from ..documents import html_page
        from ..reports import describe_repository

        repository = self.files.repository
        retention = manager_of(repository, AS_CONFIGURED).retention
        documents = describe_repository(repository, listed=_LISTED, retention=retention)
        return html_page(f"Report on {repository.url}", documents, datetime.now(UTC))

    def listing(self, path: str) -> str:
        """Return a directory as a page."""
        found = self.files.children(path)
        return self._page(path or self.files.repository.url, self._listed(path, found))

    def complaint(self, message: str) -> str:
        """Return an error message as a page."""
        from ..documents import Document, Note

        return self._page("This cannot be shown", Document("", (Note(self.hide(message)),)))

    def _page(self, title: str, document: Document) -> str:
        from ..documents import html_page

        return html_page(title, [document], datetime.now(UTC))

    def _listed(self, path: str, found: list[Contained]) -> Document:
        from ..documents import Column, Document, Facts, Link, Table

        ways: dict[str, str] = {"report": Link("the whole repository", f"/{self.token}/report")}
        if path:
            ways = {"above": Link(path.rpartition("/")[0] or "all kinds", self._to(path.rpartition("/")[0]))}
        columns = (
            Column("name", "name"),
            Column("size", "bytes"),
            Column("modified (UTC)", "time"),
            Column("stages"),
            Column("download"),
        )
        rows = tuple(
            (
                Link(_name(each), self._to(each.path)) if each.type in ("file", "directory") else _name(each),
                each.size if each.type == "file" else None,
                None if each.modified is None else datetime.fromtimestamp(each.modified, UTC),
                ", ".join(each.version.aliases) if each.version and "/" not in each.exact.partition("@")[2] else "",
                Link("download", self._to(each.path, "download")) if each.type == "file" else "",
            )
            for each in found[:_ROWS]
        )
        facts = Facts({word: (way, "text") for word, way in ways.items()})
        return Document("", (facts, Table("Content", columns, rows, len(found))))

    def _to(self, path: str, what: str = "files") -> str:
        return f"/{self.token}/{what}/{quote(path.encode('utf-8', 'surrogateescape'))}"


class _Request(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Browser
    server_version = "prefect-snapshots"
    sys_version = ""
    timeout = _PATIENCE

    def do_GET(self) -> None:
        if self.headers.get("Host") not in self.server.hosts:
            self._text(HTTPStatus.FORBIDDEN, "Open the URL that `prefect-snapshots serve` printed.")
            return
        token, _, rest = self.path.partition("?")[0].removeprefix("/").partition("/")
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            self._text(HTTPStatus.NOT_FOUND, "Open the URL that `prefect-snapshots serve` printed, with its token.")
            return
        what, _, quoted = rest.partition("/")
        try:
            self._answer(what, unquote_to_bytes(quoted).decode("utf-8", "surrogateescape").strip("/"))
        except FileNotFoundError as error:
            self._page(HTTPStatus.NOT_FOUND, self.server.complaint(str(error)))
        except SnapshotsError as error:
            self._page(HTTPStatus.INTERNAL_SERVER_ERROR, self.server.complaint(str(error)))

    do_HEAD = do_GET

    def _answer(self, what: str, path: str) -> None:
        if what == "report":
            self._page(HTTPStatus.OK, self.server.report())
            return
        found = self.server.files.find(path)
        if found.type == "directory":
            self._page(HTTPStatus.OK, self.server.listing(path))
            return
        from ..filesystem.contained import reader_of

        read = reader_of(found)
        if what == "download":
            self._download(found, read)
            return
        suffix = found.path.rpartition(".")[2].lower()
        image = _IMAGES.get(suffix) if found.size <= _LARGEST_IMAGE else None
        shown = read(0, min(found.size, _LARGEST_IMAGE if image else _LOOK))
        self._begin(HTTPStatus.OK, image or "text/plain; charset=utf-8", len(shown))
        self._send(iter([shown]))

    def _download(self, found: Contained, read: Callable[[int, int], bytes]) -> None:
        start, end, status = 0, found.size, HTTPStatus.OK
        if asked := _RANGE.fullmatch(self.headers.get("Range", "")):
            start = int(asked[1])
            end = min(int(asked[2] or found.size - 1) + 1, found.size)
            status = HTTPStatus.PARTIAL_CONTENT
            if start >= end:
                self._text(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, f"The file has {found.size} bytes.")
                return
        first = read(start, min(_PIECE, end - start))  # an error still becomes a page
        name = quote(found.path.rpartition("/")[2].encode("utf-8", "surrogateescape"), safe="")
        headers = {"Accept-Ranges": "bytes", "Content-Disposition": f"attachment; filename*=UTF-8''{name}"}
        if status == HTTPStatus.PARTIAL_CONTENT:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{found.size}"
        self._begin(status, "application/octet-stream", end - start, headers)

        def pieces() -> Iterator[bytes]:
            yield first
            for at in range(start + len(first), end, _PIECE):
                yield read(at, min(_PIECE, end - at))

        try:
            self._send(pieces())
        except SnapshotsError as error:
            # The browser gets fewer bytes than were announced, and says that the download failed.
            self.log_error("%s", self.server.hide(str(error)))

    def _page(self, status: HTTPStatus, page: str) -> None:
        data = page.encode("utf-8", "replace")
        self._begin(status, "text/html; charset=utf-8", len(data))
        self._send(iter([data]))

    def _text(self, status: HTTPStatus, text: str) -> None:
        data = f"{text}\n".encode()
        self._begin(status, "text/plain; charset=utf-8", len(data))
        self._send(iter([data]))

    def _begin(self, status: HTTPStatus, kind: str, length: int, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(length), **_HEADERS, **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, pieces: Iterator[bytes]) -> None:
        if self.command == "HEAD":
            return
        try:
            for piece in pieces:
                self.wfile.write(piece)
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            self.close_connection = True  # the browser went away

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Log nothing: the URL contains the token."""

    def log_error(self, message: str, *arguments: object) -> None:
        """Log damage and the like, in one line, without the URL."""
        from ..messages import logger

        if message == "%s":
            logger.error("%s", *arguments)


def _name(found: Contained) -> str:
    name = found.path.rpartition("/")[2]
    return f"{name} -> {found.link}" if found.link else name
