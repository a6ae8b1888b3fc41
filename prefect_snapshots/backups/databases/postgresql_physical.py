"""A whole PostgreSQL server as its files: base backups, from which a recovery with the archived WAL reaches any time.

The server sends its files as a tar stream (`pg_basebackup`), which becomes the files of a part. The WAL that makes them
consistent is among them, so a base backup can be recovered alone. `cluster.json` says what a recovery must know.
"""

from __future__ import annotations

import contextlib
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

import msgspec

from ...errors import BackupFailed, InvalidArgument, RestoreFailed
from ...wal.names_and_headers import lsn_text, parse_lsn
from ..sources import Database, DatabaseDescription, Dump, DumpFile, DumpNote, DumpReader, Switch
from ..working import check_space, working_folder
from .base import PIECE, Address, ServerDatabase
from .postgresql import PostgreSQL
from .postgresql_facts import CLUSTER, ClusterFacts, read_facts
from .postgresql_recovery import RecoveryTarget, build, run_recovery, temporary_folder, user_for

_TABLESPACES = "pg_tblspc"

_FACTS = """
SELECT jsonb_build_object(
  'version', current_setting('server_version_num')::int,
  'system', (SELECT system_identifier::text FROM pg_control_system()),
  'timeline', (SELECT timeline_id FROM pg_control_checkpoint()),
  'segment_size', (SELECT bytes_per_wal_segment FROM pg_control_init()),
  'superuser', (SELECT rolname FROM pg_roles WHERE oid = 10),
  'prepared', current_setting('max_prepared_transactions')::int,
  'tablespaces', (SELECT count(*) FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')),
  'size', (SELECT sum(pg_database_size(oid))::bigint FROM pg_database),
  'standby', pg_is_in_recovery())
"""
_END = """
SELECT jsonb_build_object('stop', pg_current_wal_insert_lsn()::text,
  'finished', to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.USZ'))
"""


@dataclass(frozen=True, repr=False)
class PostgreSQLCluster(ServerDatabase):
    """A whole PostgreSQL server, version 13 or newer, as its files. With the archived WAL you can recover it to any
    time.

    Example:
        >>> from prefect_snapshots.backups.databases import open_database
        >>> open_database("postgresql+physical://replicator@db.example.com")
        PostgreSQLCluster('postgresql+physical://replicator@db.example.com')

    The role of the URL needs the attribute REPLICATION.
    """

    schemes: ClassVar[tuple[str, ...]] = ("postgresql+physical",)
    kind: ClassVar[str] = "postgresql+physical"
    swaps: ClassVar[bool] = True
    description: ClassVar[DatabaseDescription] = DatabaseDescription(
        title="PostgreSQL 13+, whole servers as files",
        urls="`postgresql+physical://user@host`",
        needs="`postgresql-client` of the server's version or newer; for a recovery also `postgresql`",
        dump="the files of the server with the WAL that makes them consistent (`pg_basebackup`); nothing is counted",
        restored="into a new data directory, by [a recovery](howto/point-in-time.md) to any time",
        not_kept="configuration files outside of the data directory, replication slots, statistics of a running server",
    )
    default_port: ClassVar[int] = 5432
    options: ClassVar[tuple[str, ...] | None] = PostgreSQL.options
    has_databases: ClassVar[bool] = False

    def check_url(self, address: Address) -> None:
        if address.database:
            raise InvalidArgument(
                "The URL of a whole PostgreSQL server as files ends with the host: postgresql+physical://user@host. "
                "A base backup contains all databases."
            )
        self._connection.check_url(address)

    def check(self) -> list[str]:
        with self._connection._session() as session:
            facts = session.ask(_FACTS)
        tool = self._connection._tool("pg_basebackup")
        return [tool.run("--version").decode().strip(), f"PostgreSQL {facts['version'] // 10000}"]

    @contextlib.contextmanager
    def dump(self) -> Iterator[Dump]:
        """See `Database`."""
        with contextlib.ExitStack() as stack:
            session = stack.enter_context(self._connection._session())
            facts = session.ask(_FACTS)
            if facts.pop("standby"):
                raise BackupFailed(f"{self.name} is a standby. Back up its primary.")
            notes: list[DumpNote] = []
            streams = self._streams(stack, facts)

            def files() -> Iterator[DumpFile]:
                reader = _ClusterTar(notes)
                for folder, stream in streams:
                    yield from reader.read(folder, stream)
                if reader.label is None:
                    raise BackupFailed("The base backup has no backup_label. Nothing was saved.")
                known = {name: facts[name] for name in facts if name not in ("tablespaces", "size")}
                known |= reader.started() | session.ask(_END) | {"folders": reader.empty(), "label": _LABEL}
                described = msgspec.convert(known, ClusterFacts)
                yield DumpFile(CLUSTER, iter([msgspec.json.encode(described)]))

            yield Dump(files(), notes=notes)

    def counts(self) -> dict[str, int]:
        return {}

    @contextlib.contextmanager
    def stage(self, dump: DumpReader, only: Sequence[str] = ()) -> Iterator[Switch]:
        """See `StagedRestores`. A running server cannot be replaced from outside."""
        raise RestoreFailed(
            f"{self.name} was not restored and is unchanged: the files of a server cannot be replaced while it runs. "
            "Recover it into a new data directory with `prefect-snapshots wal recover DIRECTORY`."
        )
        yield

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Database]:
        """See `Database`."""
        yield _ScratchCluster(self.url, self.password)

    @property
    def _connection(self) -> PostgreSQL:
        url = self.renamed("postgres")
        return PostgreSQL(f"postgresql{url[len(self.kind) :]}", self.password)

    def _streams(self, stack: contextlib.ExitStack, facts: dict[str, Any]) -> Iterator[tuple[str, IO[bytes]]]:
        """Yield the tar streams of the server: a folder, and the stream of what belongs into it."""
        arguments = ["--format=tar", "--wal-method=fetch", "--checkpoint=fast", "--no-password", "--no-manifest"]
        arguments += [f"--label={_LABEL}", "--no-sync"]
        tool = self._connection._tool("pg_basebackup", server=facts["version"] // 10000)
        if not facts["tablespaces"]:
            process = stack.enter_context(
                tool.started("--pgdata=-", *arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
            )
            assert process.stdout is not None
            yield "", process.stdout
            return
        # A single stream cannot contain tablespaces.
        folder = stack.enter_context(working_folder("base-backup"))
        check_space(facts["size"], folder, f"The base backup of {self.name}")
        tool.run(f"--pgdata={folder}/tar", *arguments)
        for path in sorted((folder / "tar").glob("*.tar"), key=lambda path: (path.stem != "base", path.stem)):
            with path.open("rb") as file:
                yield "" if path.stem == "base" else f"{_TABLESPACES}/{path.stem}/", file
            path.unlink()


_LABEL = "prefect-snapshots"


class _ClusterTar:
    """Reads tar streams of a server.

    Attributes:
        label: The content of `backup_label`.
    """

    def __init__(self, notes: list[DumpNote]) -> None:
        self.label: bytes | None = None
        self._notes = notes
        self._folders: set[str] = set()
        self._filled: set[str] = set()

    def read(self, folder: str, stream: IO[bytes]) -> Iterator[DumpFile]:
        """Yield the files of a stream."""
        try:
            with tarfile.open(fileobj=stream, mode="r|", bufsize=PIECE) as archive:
                for member in archive:
                    path = folder + member.name.removeprefix("./").rstrip("/")
                    if member.isdir():
                        self._folders.add(path)
                    elif member.isreg():
                        content = archive.extractfile(member)
                        assert content is not None
                        self._filled.update(_parents(path))
                        yield DumpFile(path, self._pieces(path, content))
                    elif not path.startswith(f"{_TABLESPACES}/"):
                        self._notes.append(DumpNote(f"File {path!r} is left out, because it is a link.", left_out=True))
        except tarfile.TarError as error:
            raise BackupFailed(f"The files of the server could not be read: {error}. Nothing was saved.") from None
        while stream.read(PIECE):
            pass  # what follows the end of an archive: the program would fail if nobody read it

    def _pieces(self, path: str, content: IO[bytes]) -> Iterator[bytes]:
        while piece := content.read(PIECE):
            if path == "backup_label":
                self.label = (self.label or b"") + piece
            yield piece

    def started(self) -> dict[str, Any]:
        """Return what `backup_label` says: where the WAL begins, and on which timeline."""
        lines = (self.label or b"").decode("utf-8", "replace").splitlines()
        said = dict(line.split(": ", 1) for line in lines if ": " in line)
        try:
            start = said["START WAL LOCATION"].split()[0]
            return {"start": lsn_text(parse_lsn(start)), "timeline": int(said["START TIMELINE"])}
        except (LookupError, ValueError):
            raise BackupFailed("The backup_label of the server is not understood. Nothing was saved.") from None

    def empty(self) -> list[str]:
        """Return the empty folders."""
        return sorted(self._folders - self._filled - {"", "."})


def _parents(path: str) -> Iterable[str]:
    steps = path.split("/")
    return ("/".join(steps[:depth]) for depth in range(1, len(steps)))


@dataclass(frozen=True, repr=False)
class _ScratchCluster(PostgreSQLCluster):
    """A base backup in a temporary folder, for a drill."""

    def restore(self, dump: DumpReader, only: Sequence[str] = ()) -> None:
        """See `Database`."""
        facts = read_facts(dump)
        user = user_for(Path(tempfile.gettempdir()))
        with temporary_folder() as folder:
            check_space(getattr(dump, "stored", 0), folder, f"A drill of {self.name}")
            build(dump, facts, folder / "data")
            run_recovery(folder / "data", facts, RecoveryTarget(base_only=True), None, user)
