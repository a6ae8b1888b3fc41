"""`prefect-snapshots ls` and `cat`: the files of a repository, by the paths of `snapshots://`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

from ..errors import IntegrityError, PathNotFound
from .completion import completed, paths
from .output import Answer, columns, count_text, size_text, table, time_text
from .session import Session, SessionArgument

if TYPE_CHECKING:
    from ..filesystem import Contained, SnapshotsFileSystem

Path = Annotated[str, completed(paths)]

_PIECE = 4 * 1024 * 1024
"""Bytes to print at once: what one request of a bucket gets."""
_TYPES = {"file": "-", "directory": "d", "link": "l", "other": "p"}


def ls(path: Path = "", /, *, recursive: bool = False, session: SessionArgument) -> Answer:
    """List files of artifacts, releases, backups and snapshots, without reading them.

    Args:
        path: A path such as artifacts/features@production or backups/shop@latest/uploads, or a pattern such as
            'backups/shop@latest/**/*.jpg'. Default: the kinds.
        recursive: List everything below the path, too.
    """
    files = _open(session)
    stripped = files._strip_protocol(path)
    if not files.exists(stripped) and any(char in stripped for char in "*?["):
        found = [files.files.find(each) for each in files.glob(stripped)]
        if not found:
            raise PathNotFound(f"Nothing matches {path!r}. List what there is with `prefect-snapshots ls`.")
    else:
        start = files.files.find(stripped)
        found = list(_below(files, start, recursive)) if start.type == "directory" else [start]
    document = {"path": stripped, "entries": list(map(_described, found))}
    return Answer(document, _view, f"{count_text(len(found), 'entry', 'entries')}.")


def cat(path: Path, /, *, session: SessionArgument) -> None:
    """Print one file to standard output. Every byte is verified.

    Args:
        path: A path such as backups/shop@latest/uploads/photo.jpg. List paths with `prefect-snapshots ls`.
    """
    with _open(session).open(path) as file:
        while piece := file.read(_PIECE):
            sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


def mount(directory: str, path: str = "", /, *, session: SessionArgument) -> None:
    """Mount the repository as a read-only file system, until it is interrupted or unmounted. Needs FUSE.

    Args:
        directory: An empty directory.
        path: Mount only what is below this path, such as backups/shop@latest. Default: everything.
    """
    from ..filesystem.mounting import mount

    mount(_open(session), directory, path)


def _open(session: Session) -> SnapshotsFileSystem:
    from ..filesystem import SnapshotsFileSystem

    return SnapshotsFileSystem(session.open())


def _below(files: SnapshotsFileSystem, start: Contained, recursive: bool) -> Iterator[Contained]:
    from ..filesystem.contained import leave_out

    for each in files.files.children(start.path):
        yield each
        if recursive and each.type == "directory":
            try:
                yield from _below(files, each, recursive)
            except IntegrityError as error:
                leave_out(each.path, error)


def _described(found: Contained) -> dict[str, Any]:
    is_version = found.version is not None and "/" not in found.exact.partition("@")[2]
    return {
        **{name: getattr(found, name) for name in ("path", "type", "size", "mode", "link")},
        "modified_at": None if found.modified is None else datetime.fromtimestamp(found.modified, UTC),
        "version": found.version.key if found.version is not None else None,
        "aliases": list(found.version.aliases) if found.version is not None and is_version else [],
    }


def _view(document: dict[str, Any]) -> Iterator[str]:
    rows = [
        (
            _TYPES[each["type"]] + ("" if each["mode"] is None else f"{each['mode']:04o}"),
            size_text(each["size"]) if each["type"] == "file" else "",
            time_text(each["modified_at"], seconds=False) if each["modified_at"] else "",
            each["path"] + (f" -> {each['link']}" if each["link"] else ""),
            ", ".join(each["aliases"]),
        )
        for each in document["entries"]
    ]
    return table(columns("mode", ">size", "modified (local)", "path", "aliases"), rows)
