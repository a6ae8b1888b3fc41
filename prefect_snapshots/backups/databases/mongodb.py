"""MongoDB: `mongodump` of one database to one archive.

Collections are dumped one after the other: data that is written during a dump may be in one collection and not yet in
another. `mongodump` itself counts the documents. Built from the documented command lines of MongoDB's Database Tools
100.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar
from urllib.parse import quote

import msgspec

from ...errors import BackupFailed, MissingDependency
from ...redaction import safe_url
from ..sources import Database, DatabaseDescription, Dump, DumpFile, DumpReader, Switch
from .base import (
    DOCUMENTS,
    ServerDatabase,
    Tool,
    abandoned_here,
    beside_name,
    check_beside,
    check_only,
    local_scratch_name,
    private_file,
    read_settings,
    restoring,
)

if TYPE_CHECKING:
    from pymongo.database import Database as Connected

_ARCHIVE = "database.archive"
_SETTINGS = "database.json"
_PACKAGE = "mongodb-database-tools"
_DUMPED = re.compile(r"\bdone dumping `?(.+?)`? \((\d+) documents?\)")
_TIMEOUT = 15_000
"""Milliseconds to find the server: an election of a new primary takes about 12 s."""


_SERVERS_OWN = ("admin", "config", "local")
"""Databases of the server itself: `mongorestore` takes users and roles from a dump of `admin`, wherever it goes."""


class _MongoDBSettings(msgspec.Struct, forbid_unknown_fields=True):
    """What belongs to a database itself."""

    database: Annotated[str, msgspec.Meta(pattern=r"\A[^/\\. \"$*<>:|?\x00-\x1f]{1,63}\Z")]


@dataclass(frozen=True, repr=False)
class MongoDB(ServerDatabase):
    """A database of a MongoDB server, replica set or sharded cluster.

    Example:
        >>> from prefect_snapshots.backups.databases import MongoDB
        >>> MongoDB("mongodb://backup:secret@db1:27017,db2:27017/shop?replicaSet=rs0&authSource=admin").name
        'mongodb://db1:27017,db2:27017/shop'

    The URL is a MongoDB connection string, also with `mongodb+srv://`, that includes the database. Counting documents
    needs the package pymongo.
    """

    schemes: ClassVar[tuple[str, ...]] = ("mongodb",)
    kind: ClassVar[str] = "mongodb"
    swaps: ClassVar[bool] = False
    description: ClassVar[DatabaseDescription] = DatabaseDescription(
        title="MongoDB",
        urls="`mongodb://user@host/name?authSource=admin`",
        needs="MongoDB's Database Tools, `prefect-snapshots[mongodb]`",
        dump="one collection after the other (`mongodump`): **not** one moment while others write",
        restored=(
            "built in a temporary database and counted; then in place: each collection is dropped and restored; "
            "collections not in the backup are dropped"
        ),
        not_kept="users and roles, the oplog",
    )
    default_port: ClassVar[int] = 27017
    options: ClassVar[None] = None

    @property
    def name(self) -> str:
        # It may have several hosts, or one that is looked up.
        return re.sub(r"//[^/]*@", "//", safe_url(self.url).partition("?")[0])

    def check(self) -> list[str]:
        tools = [self._tool("mongodump"), self._tool("mongorestore")]
        versions = [tool.run("--version").decode().split("\n")[0] for tool in tools]
        with self._connected() as database:
            return [*versions, f"server {database.client.server_info()['version']}"]

    @contextlib.contextmanager
    def dump(self) -> Iterator[Dump]:
        with self._tool_at("mongodump", self.url) as tool, tempfile.TemporaryFile() as said:
            stream = tool.stream("--archive", stderr=said)
            with contextlib.closing(stream) as pieces:
                settings = json.dumps({"database": self.address.database}).encode()
                dump = Dump([])

                def archive() -> Iterator[bytes]:
                    yield from pieces
                    said.seek(0)
                    for name, documents in _DUMPED.findall(said.read().decode(errors="replace")):
                        dump.counts[name.removeprefix(f"{self.address.database}.")] = int(documents)

                dump.files = [DumpFile(_SETTINGS, iter([settings])), DumpFile(_ARCHIVE, archive())]
                yield dump

    def counts(self) -> dict[str, int]:
        with self._connected() as database:
            return {name: database[name].count_documents({}) for name in _collections(database)}

    @contextlib.contextmanager
    def stage(self, dump: DumpReader, only: Sequence[str] = ()) -> Iterator[Switch]:
        """See `StagedRestores`. The backup is built and counted in a temporary database, and then restored in place."""
        check_only(only, dump.counts, "collection")
        with restoring(self.name, "and is unchanged"):
            source = self._source_of(dump)
            warnings = check_beside(self._beside(beside_name(self.address.database)), dump, only)

        def switch() -> Sequence[str]:
            self._put(dump, source, only)
            return warnings

        yield switch

    def _source_of(self, dump: DumpReader) -> str:
        source = read_settings(dump, _SETTINGS, _MongoDBSettings).database
        if source in _SERVERS_OWN and source != self.address.database:
            raise BackupFailed(
                f"The backup is of {source}, which contains the users of a server. Restore it to a "
                f"database of this name, if you trust it."
            )
        return source

    def _put(self, dump: DumpReader, source: str, only: Sequence[str]) -> None:
        """Replace the collections in place."""
        target = self.address.database
        chosen = [f"--nsInclude={_escaped(f'{source}.{name}')}" for name in only] or [
            f"--nsInclude={_escaped(source)}.*"
        ]
        moved = [f"--nsFrom={_escaped(source)}.*", f"--nsTo={_escaped(target)}.*"]
        with restoring(self.name, "and contains only a part of the backup"):
            # A URL with a database would take only what was dumped from one of this name.
            with self._tool_at("mongorestore", self._of("")) as tool:
                tool.run("--archive", "--drop", "--stopOnError", *chosen, *moved, stdin=dump.open(_ARCHIVE))
            if not only:
                with self._connected() as database:
                    for name in set(_collections(database)) - set(dump.counts):
                        database.drop_collection(name)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Database]:
        with contextlib.suppress(BackupFailed):  # its user may not be allowed to list or drop databases
            self.drop_abandoned()
        with local_scratch_name(self.address.database) as name, self._beside(name) as other:
            yield other

    def drop_abandoned(self) -> list[str]:
        """See `DropsAbandoned`. The server has no locks, so only drills of this machine are known."""
        with self._connected() as database:
            left = abandoned_here(database.client.list_database_names())
            for name in left:
                database.client.drop_database(name)
        return left

    @contextlib.contextmanager
    def _beside(self, name: str) -> Iterator[Database]:
        """Another database, which is dropped when the block ends."""
        other = _BesideMongoDB(self._of(name), self.password)
        try:
            yield other
        finally:
            with other._connected() as database:
                database.client.drop_database(name)

    def _of(self, database: str) -> str:
        """The URL of another database, with the users of this one."""
        url = self.renamed(database)
        if not self.address.user or "authSource" in self.address.options:
            return url
        return f"{url}{'&' if '?' in url else '?'}authSource={quote(self.address.database, safe='')}"

    def _tool(self, name: str) -> Tool:
        tool = Tool.find(name, _PACKAGE, {}, self.secret(), quote(self.secret() or "", safe=""))
        return dataclasses.replace(tool, hidden=DOCUMENTS)

    def _with_password(self, url: str) -> str:
        secret = self.secret()
        if self.password is None or secret is None:
            return url
        scheme, _, rest = url.partition("://")
        return f"{scheme}://{quote(self.address.user, safe='')}:{quote(secret, safe='')}@{rest.rpartition('@')[2]}"

    @contextlib.contextmanager
    def _tool_at(self, name: str, url: str) -> Iterator[Tool]:
        """A tool with a file that says where the server is, and the password."""
        # JSON is YAML.
        with private_file(f"uri: {json.dumps(self._with_password(url))}\n") as (path, descriptor):
            yield dataclasses.replace(self._tool(name), arguments=(f"--config={path}",), descriptors=(descriptor,))

    @contextlib.contextmanager
    def _connected(self) -> Iterator[Connected[dict[str, Any]]]:
        try:
            import pymongo
            import pymongo.errors
        except ImportError as error:
            raise MissingDependency(
                'MongoDB needs the package pymongo. Run `pip install "prefect-snapshots[mongodb]"`.'
            ) from error
        try:
            url = self._with_password(self.url)
            with pymongo.MongoClient[dict[str, Any]](url, serverSelectionTimeoutMS=_TIMEOUT) as client:
                yield client[self.address.database]
        except pymongo.errors.PyMongoError as error:
            raise BackupFailed(f"{self.name}: MongoDB says: {error}") from error


@dataclass(frozen=True, repr=False)
class _BesideMongoDB(MongoDB):
    """A database of our own: nothing needs to be built beside it."""

    def restore(self, dump: DumpReader, only: Sequence[str] = ()) -> None:
        check_only(only, dump.counts, "collection")
        with restoring(self.name, "and is unchanged"):
            source = self._source_of(dump)
        self._put(dump, source, only)


def _collections(database: Connected[dict[str, Any]]) -> list[str]:
    found = database.list_collections(filter={"type": "collection"})
    return sorted(one["name"] for one in found if not one["name"].startswith("system."))


def _escaped(namespace: str) -> str:
    """A namespace that is no pattern."""
    return re.sub(r"([*$\\])", r"\\\1", namespace)
