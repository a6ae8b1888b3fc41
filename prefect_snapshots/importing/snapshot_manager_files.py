"""Import the files of snapshot-manager: pickles of plain values, with or without compression."""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InvalidArgument, PickleRefused, SnapshotsError
from ..messages import printable
from ..repository.choosing import RepositoryLike, as_repository
from ..repository.progress import Progress
from ..repository.times import to_nanoseconds
from ..snapshots import SnapshotManager
from ..snapshots.requests import SaveRequest
from ..values.pickling import load, require_pickle
from .reports import UNREADABLE, ImportReport, existing, moment, reason, watched_items


def import_snapshot_manager(
    path: str | os.PathLike[str],
    repository: RepositoryLike | None = None,
    *,
    name: str | None = None,
    allow_pickle: bool = False,
    progress: Progress | None = None,
) -> ImportReport:
    """Import a file that `SnapshotManager.save_to_file` of snapshot-manager wrote.

    Ids, times, metadata, tags and the order are kept. Limits are not: pass `max_snapshots=` to your own manager.

    Args:
        path: The file.
        repository: Where to store the snapshots. A `Repository`, a URL, a path or a block.
        name: The name of the snapshots. Default: the name of the file, without its suffix.
        allow_pickle: The file is a pickle, and reading it runs code of whoever wrote it. Pass True if you trust them.
        progress: Called with a label, how many snapshots were looked at, and how many there are.

    Returns:
        The ids of the snapshots.

    Raises:
        PickleRefused: You did not pass `allow_pickle=True`.
        InvalidArgument: There is no such file, or it is no file of snapshot-manager.

    Example:
        >>> import pickle, tempfile
        >>> row = {"id": "best", "data": [1, 2], "metadata": {"loss": 0.5}, "tags": ["done"], "timestamp": 1.7e9}
        >>> file = tempfile.NamedTemporaryFile(suffix=".pkl")
        >>> _ = file.write(pickle.dumps({"snapshots": [row], "insertion_order": ["best"]}))
        >>> file.flush()
        >>> import_snapshot_manager(file.name, "memory://example-import", name="old", allow_pickle=True).imported
        ['best']
    """
    file = existing(path, "file of snapshot-manager")
    rows = _rows(file, allow_pickle)
    manager: SnapshotManager[Any] = SnapshotManager(as_repository(repository), name=name or file.stem)
    report = ImportReport()
    for row in watched_items("importing", rows, progress):
        label = str(row.get("id"))
        try:
            if label in manager:
                report.present.append(label)
                continue
            manager.save(row["data"], _request(row))
        except (SnapshotsError, *UNREADABLE) as error:
            report.left_out.append(printable(f"Snapshot {label!r} was not imported: {reason(error)}."))
        else:
            report.imported.append(label)
    return report


def _rows(file: Path, allow_pickle: bool) -> list[Mapping[str, Any]]:
    """Return the snapshots in a file, oldest first."""
    require_pickle(allow_pickle, f"{file} was")
    data = file.read_bytes()
    with contextlib.suppress(zlib.error):  # not if it was saved with compress=False
        data = zlib.decompress(data)
    try:
        state = load(data, allow_pickle=allow_pickle, what=f"{file} was")
        rows = {row["id"]: row for row in state["snapshots"]}
        order = [key for key in state.get("insertion_order") or rows if key in rows]
    except PickleRefused:
        raise
    except Exception as error:  # runs code of any class
        raise InvalidArgument(
            f"{file} cannot be read as a file of snapshot-manager ({type(error).__name__}: {error}). "
            "Nothing was imported."
        ) from error
    return [rows[key] for key in [*order, *(key for key in rows if key not in order)]]


def _request(row: Mapping[str, Any]) -> SaveRequest:
    checked = SaveRequest.of(row["id"], row.get("metadata") or {}, list(row.get("tags") or ()))
    made = moment(row.get("timestamp"))
    return SaveRequest(checked.id, checked.metadata, checked.tags, time=None if made is None else to_nanoseconds(made))
