"""`prefect-snapshots wal ...`: archive write-ahead logs of PostgreSQL and SQLite, and recover to any point in time."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from ..errors import InvalidArgument, WalNotFound
from ..messages import hint
from .output import (
    RED,
    Answer,
    FailedWith,
    columns,
    count_text,
    deleted,
    printable,
    size_text,
    styled,
    table,
    time_text,
)
from .session import SessionArgument

app = App(name="wal", help="Archive write-ahead logs (WAL) of PostgreSQL and SQLite, and recover to any point in time.")

_ABORT = 126
"""Exit code of `fetch`: see `wal.answering`."""
_INCOMPLETE = 3
"""Exit code: segments are missing."""

System = Annotated[
    str | None,
    Parameter(
        help="The system identifier of the server. Default: the one in global/pg_control beside the folder pg_wal."
    ),
]


@app.command
def push(path: str, /, *, system: System = None, session: SessionArgument) -> Answer:
    """Archive a file of the WAL. For archive_command = 'prefect-snapshots wal push %p'.

    Archiving identical bytes again succeeds. Other bytes under the same name are refused.

    Args:
        path: The path of the file, %p.
    """
    from ..wal import WalArchive

    archive = WalArchive.of(session.open(create=True), path, system)
    new = archive.push(path)
    document = {"system": archive.system, "file": Path(path).name, "new": new}
    return Answer(document)


@app.command
def archive(data: str, folder: str, /, *, once: bool = False, session: SessionArgument) -> Answer:
    """Archive the WAL of a server in a running process. For archive_command = 'FOLDER/push %p'.

    It runs until it is interrupted, under systemd for example. It archives segments ahead, so that the command costs
    the server no more than a small shell script, which needs neither Python nor the password.

    Args:
        data: The data directory of the server.
        folder: A folder for the script and what was archived. Only its owner may be able to write to it.
        once: Archive what waits now, and end.
    """
    from ..wal import WalArchiver

    archiver = WalArchiver(session.open(create=True), data, folder)
    if once:
        files = archiver.archive_ready()
        return Answer({"files": files}, remark=f"Archived {count_text(len(files), 'file')}.")
    ending = _ended_by_signals()
    if not session.quiet:
        print(f"archive_command = '{printable(archiver.command)}'", file=sys.stderr, flush=True)
    archiver.run(ending)
    return Answer({"files": None})


@app.command
def fetch(file: str, path: str, /, *, system: System = None, session: SessionArgument) -> Answer:
    """Write a file of the archive. For restore_command = 'prefect-snapshots wal fetch %f %p'.

    The exit code is 1 if the archive has no such file, which ends a recovery, and 126 after any other error, which
    aborts it.

    Args:
        file: The name of the file, %f.
        path: The path to write to, %p.
    """
    try:
        from ..wal import WalArchive

        archive = WalArchive.of(session.open(), path, system)
        archive.fetch(file, path)
    except WalNotFound:
        raise
    except Exception as error:
        raise FailedWith(error, _ABORT) from error
    return Answer({"system": archive.system, "file": file, "size": os.path.getsize(path)})


@app.command
def recover(
    directory: str | None = None,
    /,
    *,
    at: str | None = None,
    to_lsn: str | None = None,
    to_name: str | None = None,
    timeline: int | None = None,
    backup: str | None = None,
    system: str | None = None,
    drill: bool = False,
    session: SessionArgument,
) -> Answer:
    """Recover a PostgreSQL server to a point in time, into a new data directory. Default: to the end of the archive.

    A server applies the WAL to a base backup beside the directory, is promoted, looked at, and stopped. Only then the
    files move to their place. The running server is not touched.

    Args:
        directory: The new data directory. It must not exist, or be empty.
        at: Recover to this time, such as 2026-11-20T12:00:03Z. Without a zone it is UTC.
        to_lsn: Recover to this position in the WAL, such as 0/3000028.
        to_name: Recover to this restore point, which pg_create_restore_point has made.
        timeline: Follow this timeline. Default: the latest in the archive.
        backup: The name of the base backup. Default: the last one before the target.
        system: The system identifier of the server, if there are base backups of several.
        drill: Recover into a temporary place, look, and delete it. Without a target, to a random position.
    """
    from ..backups import RecoveryTarget
    from ..backups import recover as recover_server
    from ..repository.times import parse_time

    if drill == (directory is not None):
        raise InvalidArgument("Pass a DIRECTORY to recover into, or --drill.")
    target = RecoveryTarget(parse_time(at) if at is not None else None, to_lsn, to_name, timeline)
    with session.progress() as progress:
        report = recover_server(
            session.open(), directory or "", target, backup=backup, system=system, drill=drill, progress=progress
        )
    last = f", up to the transaction of {report.last_commit}" if report.last_commit else ""
    where = "in a temporary place, and it works" if drill else f"in {report.directory}"
    remark = f"Recovered {report.backup} to {report.target}{last} {where}. Its timeline is {report.timeline}."
    return Answer({**asdict(report), "drill": drill}, remark=remark)


@app.command
def follow(
    path: str,
    /,
    *,
    name: str | None = None,
    keep: float | None = None,
    base_every: float = 24,
    session: SessionArgument,
) -> Answer:
    """Archive every transaction of a SQLite database in WAL mode, until it is interrupted.

    Others read and write meanwhile. The name of the database in the archive is the name of its file.

    Args:
        path: The path of the database.
        name: Another name for it in the archive.
        keep: Delete what no time in the last so many days needs. Default: keep everything.
        base_every: Store a base copy every so many hours. A restore applies the log since the last one.
    """
    from ..wal import SQLiteFollower

    follower = SQLiteFollower(
        session.open(create=True),
        path,
        name,
        base_every=timedelta(hours=base_every),
        keep=timedelta(days=keep) if keep is not None else None,
    )
    ending = _ended_by_signals()

    def begun() -> None:
        if not session.quiet:
            print(f"following {printable(path)}", file=sys.stderr, flush=True)

    follower.run(ending, begun)
    return Answer({"name": follower.archive.name})


@app.command
def restore(
    name: str, path: str | None = None, /, *, at: str | None = None, drill: bool = False, session: SessionArgument
) -> Answer:
    """Restore a SQLite database that is followed, into a new file. Default: its latest state.

    The file appears only when it is complete and checked.

    Args:
        name: The name of the database in the archive.
        path: The new file. It must not exist.
        at: Restore the state at this time, such as 2026-11-20T12:00:03Z. Without a zone it is UTC.
        drill: Restore into a temporary place, check, and delete it. Without a time, a random one is chosen.
    """
    from ..backups import restore_sqlite
    from ..repository.times import parse_time

    if drill == (path is not None):
        raise InvalidArgument("Pass a PATH to restore to, or --drill.")
    moment = parse_time(at) if at is not None else None
    repository = session.open()
    with session.progress("byte") as progress:
        report = restore_sqlite(repository, name, path or "", moment, drill=drill, progress=progress)
    where = "in a temporary place, and it works" if drill else f"in {report.path}"
    remark = f"Restored {report.name} of {report.at} {where}. Complete up to {report.complete_until}. {report.problems}"
    return Answer(asdict(report), remark=remark.rstrip())


@app.command
def status(*, late_after: float | None = None, data: str | None = None, session: SessionArgument) -> Answer:
    """Show which times can be recovered. The exit code is 3 if a server has a gap, no base backup, or is late.

    Args:
        late_after: A server is late if its last file was archived longer ago than this many minutes, or if the first
            file in --data waits longer. Default: never.
        data: The data directory of a server on this machine. Shows also how much WAL waits there to be archived.
    """
    from ..backups import recovery_windows
    from ..wal import waiting_wal

    waiting = waiting_wal(data) if data is not None else None
    repository = session.open()
    now = datetime.now(UTC)
    servers = []
    for window in recovery_windows(repository):
        age = None if window.until is None else (now - window.until).total_seconds()
        there = waiting if waiting is not None and waiting.system == window.system else None
        waits = (now - there.oldest).total_seconds() if there is not None and there.oldest is not None else None
        late = late_after is not None and (age is None or max(age, waits or 0) > late_after * 60)
        local = {"waiting": None if there is None else there.files, "waits": waits}
        servers.append({**asdict(window), "lag": age, **local, "late": late, "ok": window.ok and not late})
    ok = bool(servers) and all(each["ok"] for each in servers)
    document = {"repository": repository.url, "servers": servers}
    remark = "" if servers else "There is no WAL, and no base backup of a PostgreSQL server."
    return Answer(document, _view_status, remark, status=0 if ok else _INCOMPLETE)


@app.command
def cleanup(*, dry_run: bool = False, session: SessionArgument) -> Answer:
    """Delete WAL that no base backup needs. Servers without a base backup keep all of theirs.

    Making a base backup does this, too. `prefect-snapshots prune` reclaims the space.

    Args:
        dry_run: Only show what would be deleted.
    """
    from ..backups import clean_wal

    found = clean_wal(session.open(writing=not dry_run), dry_run=dry_run)
    count = sum(map(len, found.values()))
    return deleted(count_text(count, "file") + " of the WAL", {"deleted": found}, dry_run)


@app.command(name="list")
def list_all(system: str | None = None, /, *, session: SessionArgument) -> Answer:
    """List the timelines in the archive: their segments, and gaps between them. The exit code is 3 if there is a gap.

    Args:
        system: List only the WAL of the server with this system identifier.
    """
    from ..wal import WalArchive, list_systems

    repository = session.open()
    systems = list_systems(repository)
    if system is not None:
        if system not in systems:
            raise WalNotFound(f"There is no WAL of a server {system!r}. {hint(system, systems)}")
        systems = [system]
    found = [timeline for each in systems for timeline in WalArchive(repository, each).list_timelines()]
    document = {"repository": repository.url, "timelines": [asdict(each) for each in found]}
    gaps = sum(len(each.missing) for each in found)
    remark = f"{count_text(gaps, 'gap')}: no recovery can pass it." if gaps else ""
    return Answer(document, _view_list, remark if found else "There is no WAL.", status=_INCOMPLETE if gaps else 0)


def _ended_by_signals() -> threading.Event:
    """Return an event that is set when the process is to end."""
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    return ending


def _view_status(document: dict[str, Any]) -> Iterator[str]:
    rows = [
        (
            each["system"],
            f"{len(each['base_backups']):,}",
            time_text(each["since"]) if each["since"] else "never",
            time_text(each["until"]) if each["until"] else "no WAL",
            size_text(each["size"]),
            size_text(each["written"]),
            ", ".join(_problems(each)) or "ok",
        )
        for each in document["servers"]
    ]
    yield from table(columns("system", ">base backups", "from (local)", "to (local)", ">WAL", ">written", ""), rows)


def _problems(server: dict[str, Any]) -> Iterator[str]:
    if not server["base_backups"]:
        yield "no base backup"
    if server["missing"]:
        yield f"{count_text(len(server['missing']), 'gap')} in the WAL"
    if server["late"]:
        yield "late"
    if server["waiting"]:
        yield f"{count_text(server['waiting'], 'file')} waiting for {server['waits']:.0f} s"


def _view_list(document: dict[str, Any]) -> Iterator[str]:
    rows = [
        (
            each["system"],
            str(each["timeline"]),
            f"{each['segments']:,}",
            each["first"],
            each["last"],
            size_text(each["size"]),
            size_text(each["written"]),
            time_text(each["archived_at"]),
        )
        for each in document["timelines"]
    ]
    titles = ("system", ">timeline", ">segments", "first", "last", ">size", ">written", "archived (local)")
    yield from table(columns(*titles), rows)
    for each in document["timelines"]:
        for first, last in each["missing"]:
            yield f"{styled('missing', RED)} {first if first == last else f'{first} to {last}'}"
