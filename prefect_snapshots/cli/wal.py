"""`prefect-snapshots wal ...`: archive the write-ahead log of PostgreSQL servers, and fetch it for a recovery."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from ..errors import WalNotFound
from .output import RED, Answer, FailedWith, columns, count_text, size_text, styled, table, time_text
from .session import SessionArgument

app = App(name="wal", help="Archive the write-ahead log (WAL) of PostgreSQL servers, and fetch it for a recovery.")

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


@app.command(name="list")
def list_all(system: str | None = None, /, *, session: SessionArgument) -> Answer:
    """List the timelines in the archive: their segments, and gaps between them. The exit code is 3 if there is a gap.

    Args:
        system: List only the WAL of the server with this system identifier.
    """
    from ..wal import WalArchive, list_systems

    repository = session.open()
    systems = list_systems(repository) if system is None else [system]
    found = [timeline for each in systems for timeline in WalArchive(repository, each).list_timelines()]
    document = {"repository": repository.url, "timelines": [asdict(each) for each in found]}
    gaps = sum(len(each.missing) for each in found)
    remark = f"{count_text(gaps, 'gap')}: no recovery can pass it." if gaps else ""
    return Answer(document, _view_list, remark if found else "There is no WAL.", status=_INCOMPLETE if gaps else 0)


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
