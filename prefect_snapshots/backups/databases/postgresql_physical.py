"""A whole PostgreSQL server as its files: base backups, from which a recovery with the archived WAL reaches any time.

The server sends its files as a tar stream (`pg_basebackup`), which becomes the files of a part. The WAL that makes them
consistent is among them, so a base backup can be recovered alone. `cluster.json` says what a recovery must know.

A server that summarizes its WAL sends only the blocks that have changed since the last base backup. What is stored is
whole all the same: see `changed_files`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar, cast
from urllib.parse import urlencode

import msgspec

from ...errors import BackupFailed, IntegrityError, InvalidArgument, RestoreFailed, SourceUnusable
from ...wal.names_and_headers import parse_lsn
from ..sources import (
    ChangedFile,
    Database,
    DatabaseDescription,
    Dump,
    DumpFile,
    DumpNote,
    DumpReader,
    DumpSince,
    Switch,
)
from ..working import check_space, working_folder
from .base import Address, ServerDatabase
from .postgresql import PostgreSQL
from .postgresql_facts import CLUSTER, ClusterFacts, read_facts
from .postgresql_files import ALGORITHM, MANIFEST, ClusterFiles, manifest_to_upload, read_manifest
from .postgresql_recovery import RecoveryTarget, build, run_recovery, temporary_folder, user_for

_TABLESPACES = "pg_tblspc"
_LABEL = "prefect-snapshots"
_INCREMENTAL = "incremental"
"""An option of URLs. With "false", every base backup reads the whole server."""

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
  'block', current_setting('block_size')::int,
  'summarized', current_setting('summarize_wal', true),
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
    options: ClassVar[tuple[str, ...] | None] = (*PostgreSQL.options, _INCREMENTAL)
    has_databases: ClassVar[bool] = False

    def check_url(self, address: Address) -> None:
        if address.database:
            raise InvalidArgument(
                "The URL of a whole PostgreSQL server as files ends with the host: postgresql+physical://user@host. "
                "A base backup contains all databases."
            )
        if address.options.get(_INCREMENTAL, "true") not in ("true", "false"):
            raise InvalidArgument(f"{_INCREMENTAL} in the URL of a PostgreSQL server must be true or false.")
        self._connection.check_url(address)

    def check(self) -> list[str]:
        with self._connection._session() as session:
            facts = session.ask(_FACTS)
        tool = self._connection._tool("pg_basebackup")
        return [tool.run("--version").decode().strip(), f"PostgreSQL {facts['version'] // 10000}"]

    @contextlib.contextmanager
    def dump(self) -> Iterator[Dump]:
        """See `Database`."""
        with self._dumped(None) as dump:
            files = (file for file in dump.files if isinstance(file, DumpFile))
            yield Dump(files, notes=dump.notes)

    @contextlib.contextmanager
    def dump_since(self, earlier: DumpReader) -> Iterator[DumpSince]:
        """See `DumpsChanges`."""
        with self._dumped(earlier) as dump:
            yield dump

    @contextlib.contextmanager
    def _dumped(self, earlier: DumpReader | None) -> Iterator[DumpSince]:
        with contextlib.ExitStack() as stack:
            session = stack.enter_context(self._connection._session())
            facts = session.ask(_FACTS)
            if facts["standby"]:
                raise SourceUnusable(f"{self.name} is a standby. Back up its primary.")
            notes: list[DumpNote] = []
            received = ClusterFiles(notes, facts["block"])
            streams = self._started(stack, facts, earlier, notes)

            def files() -> Iterator[DumpFile | ChangedFile]:
                for folder, stream in streams:
                    yield from received.read(folder, stream)
                received.check()
                known = {name: facts[name] for name in facts if name in ClusterFacts.__struct_fields__}
                known |= received.started() | session.ask(_END) | {"folders": received.empty(), "label": _LABEL}
                described = msgspec.convert(known, ClusterFacts)
                yield DumpFile(CLUSTER, iter([msgspec.json.encode(described)]))

            yield DumpSince(files(), notes=notes)

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
        options = {name: value for name, value in self.address.options.items() if name != _INCREMENTAL}
        url = self.renamed("postgres").partition("?")[0]
        return PostgreSQL(f"postgresql{url[len(self.kind) :]}?{urlencode(options)}", self.password)

    def _started(
        self, stack: contextlib.ExitStack, facts: dict[str, Any], earlier: DumpReader | None, notes: list[DumpNote]
    ) -> Iterable[tuple[str, IO[bytes]]]:
        """Start to read the server. Returns its tar streams: a folder, and the stream of what belongs into it."""
        if earlier is not None and self.address.options.get(_INCREMENTAL) != "false" and facts["summarized"] == "on":
            trying = stack.enter_context(contextlib.ExitStack())
            try:
                streams = self._streams(trying, facts, _uploaded(trying, facts, earlier))
            except (BackupFailed, IntegrityError) as error:
                trying.close()
                notes.append(
                    DumpNote(f"All files were read, because an incremental base backup was not possible: {error}")
                )
            else:
                return streams
        return self._streams(stack, facts, None)

    def _streams(
        self, stack: contextlib.ExitStack, facts: dict[str, Any], manifest: IO[bytes] | None
    ) -> Iterable[tuple[str, IO[bytes]]]:
        arguments = ["--format=tar", "--wal-method=fetch", "--checkpoint=fast", "--no-password", "--no-sync"]
        arguments += [f"--label={_LABEL}", f"--manifest-checksums={ALGORITHM}"]
        tool = self._connection._tool("pg_basebackup", server=facts["version"] // 10000)
        if manifest is not None:
            tool = dataclasses.replace(tool, descriptors=(manifest.fileno(),))
            arguments.append(f"--incremental=/dev/fd/{manifest.fileno()}")
        if not facts["tablespaces"]:
            process = stack.enter_context(
                tool.started("--pgdata=-", *arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
            )
            assert process.stdout is not None
            # If the server refuses, it does so before it sends anything.
            if not cast(io.BufferedReader, process.stdout).peek(1):
                stack.close()  # raises what it says
                raise BackupFailed(f"{tool.name} sent nothing.")
            return [("", process.stdout)]
        # A single stream cannot contain tablespaces.
        folder = stack.enter_context(working_folder("base-backup"))
        check_space(facts["size"], folder, f"The base backup of {self.name}")
        tool.run(f"--pgdata={folder}/tar", *arguments)
        return _written(folder / "tar")


def _uploaded(stack: contextlib.ExitStack, facts: dict[str, Any], earlier: DumpReader) -> IO[bytes]:
    """Return the manifest of an earlier base backup in a file, from which the server learns what it has.

    Raises:
        BackupFailed: It cannot say what this server has changed since.
        IntegrityError: The earlier base backup cannot be read.
    """
    if MANIFEST not in earlier.paths:
        raise BackupFailed("The last base backup has no manifest.")
    before = read_facts(earlier)
    data = b"".join(earlier.open(MANIFEST))
    try:
        ranges = read_manifest(data).ranges
    except ValueError as error:
        raise BackupFailed(f"The manifest of the last base backup is damaged: {error}.") from None
    # What a later manifest leaves out would be missing.
    if before.system != facts["system"] or before.first not in [parse_lsn(each.start) for each in ranges]:
        raise BackupFailed("The last base backup is of another server, or its manifest is of another base backup.")
    file = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  the stack closes it
    file.write(manifest_to_upload(data))
    file.seek(0)
    return file


def _written(folder: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield the streams that were written to a folder, as for `ClusterFiles.read`, and delete each file afterwards."""
    for path in sorted(folder.glob("*.tar"), key=lambda path: (path.stem != "base", path.stem)):
        with path.open("rb") as file:
            yield "" if path.stem == "base" else f"{_TABLESPACES}/{path.stem}/", file
        path.unlink()
    with (folder / MANIFEST).open("rb") as file:
        yield MANIFEST, file


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
