"""etcd: the snapshot of a cluster's key space.

A restore starts a temporary server from the snapshot, which listens only on a Unix socket. Then it compares the keys
with the running cluster: keys that differ are written, and keys that are not in the backup are deleted. Keys lose their
leases and their history. Users and roles are in the snapshot, but are not restored.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import ssl
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

from ...errors import BackupFailed, InvalidArgument
from ..sources import Database, DatabaseDescription, Dump, DumpFile, DumpNote, DumpReader, Switch
from ..working import working_folder
from .base import Address, LocalHTTP, ServerDatabase, Tool, check_counts, file_pieces, restoring, write

_FILE = "snapshot.db"
_KEYS = "keys"
_STATUS = "/v3/maintenance/status"
_PACKAGE = "etcd-client"
_SOCKET = "client:1"  # etcd wants the name of a socket to look like a host and a port
_PAGE = 500
"""Keys in one answer: few round trips, and little memory for values of usual size."""
_OPERATIONS, _BYTES = 100, 500_000
"""The limits of one transaction: a server accepts 128 operations and 1.5 MB."""
_SHOWN, _ASKED = 5, 50
"""The most keys with leases that a note names, and the most leases that are asked for their keys."""
_TIMEOUT = 60.0
"""Seconds to wait for an answer. A busy cluster may be slow, but a dead one must not block a backup forever."""
_PATIENCE = 60.0
"""Seconds for the temporary server to start. It reads its files, which takes a while on a busy disk."""


@dataclass(frozen=True, repr=False)
class Etcd(ServerDatabase):
    """An etcd cluster, by one of its members.

    Example:
        >>> from prefect_snapshots.backups.databases import Etcd
        >>> Etcd("etcd://127.0.0.1:2379").name
        'etcd://127.0.0.1:2379/'

    The URL can have the options `?cacert=`, `cert=` and `key=`, which enable TLS.
    """

    schemes: ClassVar[tuple[str, ...]] = ("etcd",)
    kind: ClassVar[str] = "etcd"
    swaps: ClassVar[bool] = False
    description: ClassVar[DatabaseDescription] = DatabaseDescription(
        title="etcd",
        urls="`etcd://host:2379`",
        needs="`etcd-client`; to restore `etcd-server`",
        dump="one revision (`etcdctl snapshot save`), keys counted at that revision",
        restored=(
            "loaded by a temporary server and counted; then in place: keys that differ are written, keys that are not "
            "in the backup are deleted"
        ),
        not_kept=(
            "leases (a backup names keys with leases), revisions and versions of keys. Users and roles are in the "
            "snapshot, but not restored"
        ),
    )
    default_port: ClassVar[int] = 2379
    options: ClassVar[tuple[str, ...]] = ("cacert", "cert", "key", "unix_socket")
    has_databases: ClassVar[bool] = False

    def check_url(self, address: Address) -> None:
        if address.database:
            raise InvalidArgument("A backup of etcd contains all keys. Leave the path out of the URL.")

    def check(self) -> list[str]:
        tool = self._tool().run("version").decode().split("\n")[0]
        Tool.find("etcd", "etcd-server")
        with self._gateway() as gateway:
            return [tool, f"server {gateway.call(_STATUS, {})['version']}"]

    @contextlib.contextmanager
    def dump(self) -> Iterator[Dump]:
        with working_folder("etcd") as folder:
            file = folder / _FILE
            with self._gateway() as gateway:
                # Otherwise etcdctl would wait forever for a server that does not answer.
                gateway.call(_STATUS, {})
                self._tool().run("snapshot", "save", str(file))
                status = json.loads(_snapshots().run("snapshot", "status", str(file), "--write-out=json"))
                counts = {_KEYS: gateway.count(status["revision"])}
                notes = _leases(gateway)
            yield Dump([DumpFile(_FILE, file_pieces(file))], counts, notes)

    def counts(self) -> dict[str, int]:
        with self._gateway() as gateway:
            return {_KEYS: gateway.count()}

    @contextlib.contextmanager
    def stage(self, dump: DumpReader, only: Sequence[str] = ()) -> Iterator[Switch]:
        """See `StagedRestores`. A temporary server loads the backup before the first key is written."""
        if only:
            raise InvalidArgument(
                "An etcd cluster has no tables. Restore all keys, or restore to another cluster and copy from there."
            )
        with contextlib.ExitStack() as stack:
            with restoring(self.name, "and is unchanged"):
                folder = stack.enter_context(working_folder("etcd"))
                write(folder / _FILE, dump.open(_FILE))
                restored = [f"--data-dir={folder}/data", "--name=default", "--initial-cluster=default=unix://peer:1"]
                _snapshots().run(
                    "snapshot", "restore", str(folder / _FILE), *restored, "--initial-advertise-peer-urls=unix://peer:1"
                )
                stack.enter_context(_member(folder))
                source = stack.enter_context(self._gateway(folder / _SOCKET))
                check_counts({_KEYS: source.count()}, dump.counts)

            def switch() -> Sequence[str]:
                with restoring(self.name, "and contains only a part of the backup"), self._gateway() as target:
                    _copy(source, target)
                return []

            yield switch

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Database]:
        with working_folder("etcd") as folder, _member(folder):
            # The user is needed to read a snapshot of a cluster that has users.
            yield Etcd(f"etcd://{quote(self.address.user)}@localhost?unix_socket={folder}/{_SOCKET}", self.secret())

    def _tool(self) -> Tool:
        address, secret = self.address, self.secret()
        place = f"{address.host or 'localhost'}:{address.port or self.default_port}"
        path = address.options.get("unix_socket")
        environment = {
            "ETCDCTL_API": "3",
            "ETCDCTL_ENDPOINTS": f"unix://{path}" if path else f"{'https' if self._tls else 'http'}://{place}",
            "ETCDCTL_USER": address.user,
            "ETCDCTL_PASSWORD": secret or "",
            # Within etcdctl's own 2 s a busy server does not even compare the password.
            "ETCDCTL_DIAL_TIMEOUT": f"{_TIMEOUT}s",
            "ETCDCTL_COMMAND_TIMEOUT": f"{_TIMEOUT}s",
            **{f"ETCDCTL_{option.upper()}": value for option, value in address.options.items()},
        }
        given = {name: value for name, value in environment.items() if value}
        return Tool.find("etcdctl", _PACKAGE, given, secret)

    @property
    def _tls(self) -> bool:
        return not self.address.options.keys().isdisjoint({"cacert", "cert", "key"})

    @contextlib.contextmanager
    def _gateway(self, path: Path | None = None) -> Iterator[_Gateway]:
        """Return the HTTP interface of the cluster, or of the temporary server with its socket at a path."""
        address, secret = self.address, self.secret()
        place = str(path) if path else address.options.get("unix_socket")
        connection: http.client.HTTPConnection
        if place:
            connection = LocalHTTP(place, _TIMEOUT)
        elif self._tls:
            context = ssl.create_default_context(cafile=address.options.get("cacert"))
            if certificate := address.options.get("cert"):
                context.load_cert_chain(certificate, address.options.get("key"))
            connection = http.client.HTTPSConnection(
                address.host, address.port or self.default_port, timeout=_TIMEOUT, context=context
            )
        else:
            connection = http.client.HTTPConnection(
                address.host or "localhost", address.port or self.default_port, timeout=_TIMEOUT
            )
        try:
            with contextlib.closing(connection):
                gateway = _Gateway(connection)
                if secret:
                    gateway.log_in(address.user, secret)
                yield gateway
        except (OSError, http.client.HTTPException) as error:
            raise BackupFailed(f"{self.name} does not answer: {error}") from error


class _Gateway:
    """The part of etcd's JSON interface that backups need."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection
        self._headers = {"Content-Type": "application/json"}

    def call(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Make one call, and return the answer.

        Raises:
            BackupFailed: The server refuses it.
        """
        self._connection.request("POST", path, json.dumps(body), self._headers)
        reply = self._connection.getresponse()
        answer = reply.read()
        if reply.status != http.HTTPStatus.OK:
            raise BackupFailed(f"The etcd server refused {path}: {answer[:500].decode(errors='replace')}")
        found: dict[str, Any] = json.loads(answer)
        return found

    def log_in(self, user: str, password: str) -> None:
        try:
            answer = self.call("/v3/auth/authenticate", {"name": user, "password": password})
        except BackupFailed as error:
            # A server without authentication needs no password.
            if "authentication is not enabled" in str(error):
                return
            raise
        self._headers["Authorization"] = answer["token"]

    def count(self, revision: int = 0) -> int:
        """Return the number of keys, now or at an earlier revision."""
        body = {"key": "AA==", "range_end": "AA==", "count_only": True, "revision": str(revision)}
        return int(self.call("/v3/kv/range", body).get("count", 0))

    def keys(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield all keys and values of one revision, in order."""
        start, revision = b"\0", "0"
        while True:
            body = {"key": _text(start), "range_end": "AA==", "limit": str(_PAGE), "revision": revision}
            answer = self.call("/v3/kv/range", body)
            revision = answer["header"]["revision"] if revision == "0" else revision
            found = [(_bytes(pair["key"]), _bytes(pair.get("value", ""))) for pair in answer.get("kvs", [])]
            yield from found
            if not answer.get("more"):
                return
            start = found[-1][0] + b"\0"

    def write(self, operations: list[dict[str, Any]]) -> None:
        """Run operations in one transaction."""
        if operations:
            self.call("/v3/kv/txn", {"success": operations})


def _leases(gateway: _Gateway) -> list[DumpNote]:
    """Return what to say of keys that expire, and would stay after a restore."""
    found = [each["ID"] for each in gateway.call("/v3/lease/leases", {}).get("leases", [])]
    keys: list[str] = []
    for number, lease in enumerate(found):
        if number == _ASKED or len(keys) > _SHOWN:
            break
        with contextlib.suppress(BackupFailed):  # it has expired by now
            bound = gateway.call("/v3/lease/timetolive", {"ID": lease, "keys": True}).get("keys", [])
            keys += [repr(_bytes(key).decode(errors="replace")) for key in bound]
    if not keys:
        return []
    more = " and others" if len(keys) > _SHOWN or len(found) > _ASKED else ""
    return [
        DumpNote(f"Leases are not kept: after a restore, these keys do not expire: {', '.join(keys[:_SHOWN])}{more}.")
    ]


def _copy(source: _Gateway, target: _Gateway) -> None:
    operations: list[dict[str, Any]] = []
    size = 0
    for key, new, old in _joined(source.keys(), target.keys()):
        if new == old:
            continue
        if len(operations) == _OPERATIONS or size + len(new or b"") > _BYTES:
            target.write(operations)
            operations, size = [], 0
        if new is None:
            operations.append({"request_delete_range": {"key": _text(key)}})
        else:
            operations.append({"request_put": {"key": _text(key), "value": _text(new)}})
            size += len(key) + len(new)
    target.write(operations)


def _joined(
    first: Iterator[tuple[bytes, bytes]], second: Iterator[tuple[bytes, bytes]]
) -> Iterator[tuple[bytes, bytes | None, bytes | None]]:
    """Yield every key with its values in two sorted listings."""
    left, right = next(first, None), next(second, None)
    while left is not None or right is not None:
        key = min(pair[0] for pair in (left, right) if pair is not None)
        new = old = None
        if left is not None and left[0] == key:
            new, left = left[1], next(first, None)
        if right is not None and right[0] == key:
            old, right = right[1], next(second, None)
        yield key, new, old


@contextlib.contextmanager
def _member(folder: Path) -> Iterator[None]:
    """Run a server on a socket in a folder, with the data in the folder, or empty."""
    client, peer = f"unix://{_SOCKET}", "unix://peer:1"
    options = [f"--data-dir={folder}/data", f"--listen-client-urls={client}", f"--advertise-client-urls={client}"]
    options += [f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", "--name=default"]
    options += [f"--initial-cluster=default={peer}", "--unsafe-no-fsync"]
    tool = Tool.find("etcd", "etcd-server")
    with (
        (folder / "log").open("wb") as log,
        tool.dying_with_us().started(*options, stdin=subprocess.DEVNULL, stdout=log, cwd=folder) as process,
    ):
        try:
            deadline = time.monotonic() + _PATIENCE
            while not _is_healthy(folder / _SOCKET):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise BackupFailed("An etcd server does not start from the snapshot.")
                time.sleep(0.05)
            yield
        finally:
            process.terminate()
            process.wait()
            # It ended because it was told to.
            process.returncode = 0


def _is_healthy(path: Path) -> bool:
    with (
        contextlib.suppress(OSError, http.client.HTTPException),
        contextlib.closing(LocalHTTP(str(path), _TIMEOUT)) as connection,
    ):
        connection.request("GET", "/health")
        return b"true" in connection.getresponse().read()
    return False


def _snapshots() -> Tool:
    """Return the program that reads snapshots: since etcd 3.6 it is a separate one."""
    return Tool.find("etcdutl etcdctl", _PACKAGE, {"ETCDCTL_API": "3"})


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text)
