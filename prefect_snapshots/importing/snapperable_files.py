"""Import the files of snapperable: a database of SQLite with pickles, or one pickle."""

from __future__ import annotations

import itertools
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..checkpoints import Snapper
from ..checkpoints.keys import stable_hash
from ..errors import InvalidArgument, PickleRefused, UnhashableItem
from ..repository.choosing import RepositoryLike
from ..repository.progress import Progress
from ..values.pickling import load, require_pickle
from .reports import ImportReport, existing

_BATCH = 1000
"""Results that are written together."""


def import_snapperable(
    path: str | os.PathLike[str],
    function: Callable[[Any], Any],
    repository: RepositoryLike | None = None,
    *,
    name: str | None = None,
    function_version: object = None,
    key: Callable[[Any], Any] | None = None,
    allow_pickle: bool = False,
    progress: Progress | None = None,
) -> ImportReport:
    """Import the results in a file of snapperable, so that a `Snapper` of the same function computes only the rest.

    The file does not say which code computed the results. You say it: they count as results of this function as it is
    now. Items that failed are not imported, so they are computed again.

    Args:
        path: The file of `SQLiteSnapshotStorage` or `PickleSnapshotStorage`.
        function: The function that computed the results.
        repository: Where to store the results. A `Repository`, a URL, a path or a block.
        name, function_version, key: As you will pass them to `Snapper`.
        allow_pickle: The file contains pickles, and reading them runs code of whoever wrote them. Pass True if you
            trust them.
        progress: Called with a label, how many results were imported, and how many there are.

    Returns:
        The number of results as one name, and what was left out.

    Raises:
        PickleRefused: You did not pass `allow_pickle=True`.
        InvalidArgument: There is no such file, or it is no file of snapperable.

    Example:
        >>> import pickle, tempfile
        >>> def double(number):
        ...     return 2 * number
        >>> file = tempfile.NamedTemporaryFile(suffix=".pkl")
        >>> _ = file.write(pickle.dumps({"inputs": [1, 2], "processed": [2, 4]}))
        >>> file.flush()
        >>> options = {"repository": "memory://example-snapperable", "function_version": 1}
        >>> import_snapperable(file.name, double, allow_pickle=True, **options).imported
        ['2 results']
        >>> Snapper([1, 2], double, **options).load()
        [2, 4]
    """
    file = existing(path, "file of snapperable")
    require_pickle(allow_pickle, f"The results in {file} were")
    results: dict[bytes, Any] = {}
    inputs, report = [], ImportReport()
    for number, (item, result) in enumerate(_pairs(file)):
        try:
            identity = stable_hash(item)
        except UnhashableItem as error:
            report.left_out.append(f"Result {number} was not imported: its {error.reason}.")
            continue
        if identity not in results:  # the first result of an item counts, as in snapperable
            results[identity] = result
            inputs.append(item)
    options: dict[str, Any] = {"name": name, "function_version": function_version, "key": key, "max_retries": 0}
    snapper = Snapper(inputs, function, repository=repository, batch_size=_BATCH, **options)
    counted = itertools.count(1)

    def imported(item: Any) -> Any:
        if progress is not None:
            progress("importing", next(counted), len(inputs))
        return results[stable_hash(item)]

    snapper.job = replace(snapper.job, function=imported)
    snapper.start()
    done = snapper.counts.done
    if done:
        report.imported.append(f"{done} results")
    if len(inputs) > done:
        report.present.append(f"{len(inputs) - done} results")
    return report


def _pairs(file: Path) -> Iterator[tuple[Any, Any]]:
    """Yield each input with its result."""
    with file.open("rb") as stream:
        is_database = stream.read(16) == b"SQLite format 3\x00"
    try:
        yield from _in_database(file) if is_database else _in_pickle(file)
    except PickleRefused:
        raise
    except Exception as error:  # runs code of any class
        raise InvalidArgument(
            f"{file} cannot be read as a file of snapperable ({type(error).__name__}: {error}). Nothing was imported."
        ) from error


def _in_database(file: Path) -> Iterator[tuple[Any, Any]]:
    with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        # Both tables get their rows together, so the numbers of an input and of its result are the same.
        rows = connection.execute(
            "SELECT input_value, result FROM inputs JOIN processed_outputs USING (id) ORDER BY id"
        )
        for item, result in rows:
            yield load(item, allow_pickle=True), load(result, allow_pickle=True)


def _in_pickle(file: Path) -> Iterator[tuple[Any, Any]]:
    held = load(file.read_bytes(), allow_pickle=True)
    yield from zip(held["inputs"], held["processed"], strict=True)
