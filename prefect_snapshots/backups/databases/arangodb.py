"""ArangoDB: `arangodump` of one database to a folder, several collections at the same time.

Named graphs and analyzers are in the system collections `_graphs` and `_analyzers` and are backed up, and so are views.
Other system collections belong to the server. Documents are counted in the files of the dump, which have one document
per line. Built from the documented options of ArangoDB 3.11 and 3.12 and its HTTP interface.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import http.client
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import msgspec

from ...errors import BackupFailed, InvalidArgument
from ..sources import Database, DatabaseDescription, Dump, DumpFile, DumpReader, Switch
from ..working import working_folder
from .base import (
    DOCUMENTS,
    Address,
    LocalHTTP,
    ServerDatabase,
    Tool,
    abandoned_here,
    beside_name,
    check_beside,
    check_only,
    file_pieces,
    local_scratch_name,
    private_file,
    read_settings,
    restoring,
)

_PACKAGE = "arangodb3-client"
_KEPT = ("_analyzers", "_graphs")
"""System collections that hold what people made."""
_VARIABLE = "PREFECT_SNAPSHOTS_ARANGODB_PASSWORD"
_TIMEOUT = 60.0
"""Seconds for an answer: a busy server may need long, and one that is gone must not hold a backup for ever."""
_VIEW, _STRUCTURE = ".view.json", ".structure.json"
_DOCUMENTS = re.compile(r"(.*?)(?:\.\d+)?\.data\.json", re.DOTALL)
"""The name of a file of documents; a large collection may have several."""
_OWN_FILES = ("dump.json", "ENCRYPTION")
"""What `arangodump` says about the whole dump."""
_LINE_FEED = re.compile(r"[\r\n]")


@dataclass(frozen=True, repr=False)
class ArangoDB(ServerDatabase):
    """A database of an ArangoDB server or cluster.

    Example:
        >>> from prefect_snapshots.backups.databases import ArangoDB
        >>> ArangoDB("arangodb://root:secret@127.0.0.1:8529/shop").name
        'arangodb://127.0.0.1:8529/shop'
        >>> ArangoDB("arangodb+unix:///run/arangodb3/arangodb.sock?database=shop").name
        'arangodb+unix:///run/arangodb3/arangodb.sock?database=shop'

    `arangodb+ssl://` connects with TLS. The default user is "root". The URL can have the option `?threads=`: how many
    collections are dumped or restored at the same time (default: 4).
    """

    schemes: ClassVar[tuple[str, ...]] = ("arangodb",)
    kind: ClassVar[str] = "arangodb"
    swaps: ClassVar[bool] = False
    description: ClassVar[DatabaseDescription] = DatabaseDescription(
        title="ArangoDB",
        urls="`arangodb://user@host/name`, `arangodb+unix:///socket?database=name`",
        needs="ArangoDB's client tools",
        dump="one moment for a single server; in a cluster one moment per shard (`arangodump`)",
        restored=(
            "built in a temporary database and counted; then in place: each collection is overwritten; collections and "
            "views not in the backup are dropped"
        ),
        not_kept="users, Foxx services and queues. Of the system collections, only `_graphs` and `_analyzers` are kept",
    )
    default_port: ClassVar[int] = 8529
    options: ClassVar[tuple[str, ...]] = ("threads", "database")

    def check_url(self, address: Address) -> None:
        if address.driver not in ("", "ssl", "unix"):
            raise InvalidArgument(
                "Write the URL of an ArangoDB database as arangodb://, arangodb+ssl:// or arangodb+unix://."
            )
        if "database" in address.options and not self._socket:
            raise InvalidArgument("The option database= of an ArangoDB URL is for arangodb+unix:// alone.")
        if not re.fullmatch(r"[0-9]{1,3}", address.options.get("threads", "4")):
            raise InvalidArgument("In the URL of an ArangoDB database, threads= is a number up to 999.")
        if _LINE_FEED.search(self._database + address.user):
            raise InvalidArgument("Names of databases and users of ArangoDB have no line feeds.")

    @property
    def name(self) -> str:
        if self._socket:
            return f"arangodb+unix://{quote(self._socket)}?database={quote(self._database, safe='')}"
        return super().name

    def check(self) -> list[str]:
        tools = [self._tool("arangodump"), self._tool("arangorestore")]
        versions = [f"{tool.name} {tool.run('--version').decode().split()[0]}" for tool in tools]
        with self._server() as server:
            return [*versions, f"server {server.call('GET', '/_api/version')['version']}"]

    @contextlib.contextmanager
    def dump(self) -> Iterator[Dump]:
        with self._server() as server:
            collections = server.collections()
        with working_folder("arangodb") as folder:
            output = folder / "dump"
            self._run("arangodump", [f"output-directory = {output}", "compress-output = false"], collections)
            paths = sorted(path for path in output.rglob("*") if path.is_file())
            names = _names(paths)
            dump = Dump([], dict.fromkeys(names.values(), 0))
            dump.files = [
                DumpFile(path.relative_to(output).as_posix(), _counted(path, names, dump.counts)) for path in paths
            ]
            yield dump

    def counts(self) -> dict[str, int]:
        with self._server() as server:
            return server.counts()

    @contextlib.contextmanager
    def stage(self, dump: DumpReader, only: Sequence[str] = ()) -> Iterator[Switch]:
        """See `StagedRestores`. The backup is built and counted in a temporary database, and then restored in place."""
        check_only(only, dump.counts, "collection")
        with restoring(self.name, "and is unchanged"):
            _refuse_others(dump)
            warnings = check_beside(self._beside(beside_name(self._database)), dump, only)

        def switch() -> Sequence[str]:
            self._put(dump, only)
            return warnings

        yield switch

    def _put(self, dump: DumpReader, only: Sequence[str]) -> None:
        """Replace the collections in place."""
        with restoring(self.name, "and contains only a part of the backup"), working_folder("arangodb") as folder:
            source = folder / "dump"
            source.mkdir()
            dump.extract(source)
            options = [f"input-directory = {source}", "create-database = true", "include-system-collections = true"]
            self._run("arangorestore", options, only)
            if not only:
                with self._server() as server:
                    server.drop_others(
                        set(dump.counts), {path.removesuffix(_VIEW) for path in dump.paths if path.endswith(_VIEW)}
                    )

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Database]:
        with contextlib.suppress(BackupFailed):  # its user may not be allowed to list or drop databases
            self.drop_abandoned()
        with local_scratch_name(self._database) as name, self._beside(name) as other:
            yield other

    def drop_abandoned(self) -> list[str]:
        """See `DropsAbandoned`. The server has no locks, so only drills of this machine are known."""
        with dataclasses.replace(self, url=self._renamed("_system"))._server() as server:
            left = abandoned_here(server.call("GET", "/_api/database")["result"])
            for name in left:
                server.call("DELETE", f"/_api/database/{quote(name, safe='')}")
        return left

    @contextlib.contextmanager
    def _beside(self, name: str) -> Iterator[Database]:
        """Another database, which is dropped when the block ends."""
        other = _BesideArangoDB(self._renamed(name), self.password)
        with dataclasses.replace(self, url=self._renamed("_system"))._server() as server:
            with contextlib.suppress(BackupFailed):  # there is none, unless a restore of this database was killed
                server.call("DELETE", f"/_api/database/{quote(name, safe='')}")
            server.call("POST", "/_api/database", {"name": name})
            try:
                yield other
            finally:
                server.call("DELETE", f"/_api/database/{quote(name, safe='')}")

    # --- names, tools and the server ---

    @property
    def _socket(self) -> str:
        return f"/{self.address.database}" if self.address.driver == "unix" else ""

    @classmethod
    def database_in(cls, address: Address) -> str:
        return address.options.get("database", "") if address.driver == "unix" else address.database

    @property
    def _database(self) -> str:
        return self.database_in(self.address)

    def _renamed(self, database: str) -> str:
        if self._socket:
            return f"{self.url.partition('?')[0]}?database={quote(database, safe='')}"
        return self.renamed(database)

    def _tool(self, name: str) -> Tool:
        secret = self.secret()
        tool = Tool.find(name, _PACKAGE, {_VARIABLE: secret} if secret else {}, secret)
        return dataclasses.replace(tool, hidden=DOCUMENTS)

    def _run(self, name: str, options: Sequence[str], collections: Sequence[str]) -> None:
        """Run a tool with a file of options, which has room for many collections, and in which no name is an option."""
        address = self.address
        endpoint = f"unix://{self._socket}"
        if not self._socket:
            place = f"{address.host or 'localhost'}:{address.port or self.default_port}"
            endpoint = f"{address.driver or 'tcp'}://{place}"
        # The tool itself puts the variable in; a password in this file would lose blanks at its ends.
        password = f"@{_VARIABLE}@" if self.secret() else ""
        lines = [
            *options,
            *("overwrite = true", f"threads = {address.options.get('threads', '4')}", "progress = false"),
            *(f"collection = {_value(collection)}" for collection in collections),
            "[server]",
            f"endpoint = {endpoint}",
            f"database = {_value(self._database)}",
            f"username = {_value(address.user or 'root')}",
            f"password = {password}",
        ]
        with private_file("\n".join([*lines, ""])) as (path, descriptor):
            tool = dataclasses.replace(self._tool(name), descriptors=(descriptor,))
            tool.run("--configuration", path)

    @contextlib.contextmanager
    def _server(self) -> Iterator[_Server]:
        address = self.address
        place = (address.host or "localhost", address.port or self.default_port)
        connection: http.client.HTTPConnection
        if self._socket:
            connection = LocalHTTP(self._socket, _TIMEOUT)
        elif address.driver == "ssl":
            connection = http.client.HTTPSConnection(*place, timeout=_TIMEOUT)
        else:
            connection = http.client.HTTPConnection(*place, timeout=_TIMEOUT)
        told = base64.b64encode(f"{address.user or 'root'}:{self.secret() or ''}".encode()).decode()
        try:
            with contextlib.closing(connection):
                yield _Server(connection, self._database, {"Authorization": f"Basic {told}"})
        except (OSError, http.client.HTTPException) as error:
            raise BackupFailed(f"{self.name} does not answer: {error}") from error


@dataclass(frozen=True, repr=False)
class _BesideArangoDB(ArangoDB):
    """A database of our own: nothing needs to be built beside it."""

    def restore(self, dump: DumpReader, only: Sequence[str] = ()) -> None:
        check_only(only, dump.counts, "collection")
        with restoring(self.name, "and is unchanged"):
            _refuse_others(dump)
        self._put(dump, only)


@dataclass(frozen=True)
class _Server:
    """The HTTP interface of a database."""

    connection: http.client.HTTPConnection
    database: str
    headers: dict[str, str]

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """One call.

        Raises:
            BackupFailed: the server refuses it.
        """
        url = f"/_db/{quote(self.database, safe='')}{path}"
        self.connection.request(method, url, None if body is None else json.dumps(body), self.headers)
        reply = self.connection.getresponse()
        answer = reply.read()
        if not reply.status // 100 == 2:
            raise BackupFailed(f"ArangoDB refused {method} {url}: {answer[:500].decode(errors='replace')}")
        return json.loads(answer)

    def collections(self) -> list[str]:
        found = self.call("GET", "/_api/collection")["result"]
        return sorted(one["name"] for one in found if not one["name"].startswith("_") or one["name"] in _KEPT)

    def counts(self) -> dict[str, int]:
        return {
            name: int(self.call("GET", f"/_api/collection/{quote(name, safe='')}/count")["count"])
            for name in self.collections()
        }

    def drop_others(self, collections: set[str], views: set[str]) -> None:
        """Drop all collections and views but these."""
        for view in sorted({one["name"] for one in self.call("GET", "/_api/view")["result"]} - views):
            self.call("DELETE", f"/_api/view/{quote(view, safe='')}")
        for collection in sorted(set(self.collections()) - collections - set(_KEPT)):
            self.call("DELETE", f"/_api/collection/{quote(collection, safe='')}")


def _names(paths: Sequence[Path]) -> dict[str, str]:
    """The collections of a dump, by what the names of their files begin with."""
    structures = [path for path in paths if path.name.endswith(_STRUCTURE)]
    return {
        path.name.removesuffix(_STRUCTURE): json.loads(path.read_bytes())["parameters"]["name"] for path in structures
    }


class _Parameters(msgspec.Struct):
    name: str


class _Structure(msgspec.Struct):
    """What `arangorestore` makes a collection of."""

    parameters: _Parameters


def _refuse_others(dump: DumpReader) -> None:
    """Refuse a dump with more than the collections and views that a backup takes.

    `arangorestore` would restore any system collection that a forged dump has: users, or services, which are code.

    Raises:
        BackupFailed: It has more.
    """
    stems = {path.removesuffix(_STRUCTURE) for path in dump.paths if path.endswith(_STRUCTURE)}
    for path in dump.paths:
        documents = _DOCUMENTS.fullmatch(path)
        if path.endswith(_STRUCTURE):
            name = read_settings(dump, path, _Structure).parameters.name
            known = name in dump.counts and (name in _KEPT or not name.startswith("_"))
        else:
            known = path in _OWN_FILES or path.endswith(_VIEW) or (documents is not None and documents[1] in stems)
        if not known or "/" in path:
            raise BackupFailed(f"The backup has a file {path!r} that no dump of ArangoDB has: it is damaged or forged.")


def _counted(path: Path, names: Mapping[str, str], counts: dict[str, int]) -> Iterator[bytes]:
    """What a file holds; if it is documents, they are counted."""
    documents = _DOCUMENTS.fullmatch(path.name)
    for piece in file_pieces(path):
        if documents:
            counts[names[documents[1]]] += piece.count(b"\n")
        yield piece


def _value(text: str) -> str:
    """A value in a file of options, where a single @ would begin a variable, and a line feed the next option."""
    if _LINE_FEED.search(text):
        raise InvalidArgument(f"{text!r} is not a valid name in ArangoDB: it has a line feed.")
    return text.replace("@", "@@")
