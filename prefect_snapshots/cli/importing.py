"""`prefect-snapshots import ...`: take over what other packages have written."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App

from ..errors import InvalidArgument
from .output import Answer, count_text, printable
from .session import SessionArgument

if TYPE_CHECKING:
    from ..importing import ImportReport

app = App(name="import", help="Import data of snapshot-manager, snapperable, lazyscribe, scaffold and Metis.")

_INCOMPLETE = 3
"""Exit code: something could not be imported."""


@app.command
def snapshot_manager(
    path: Path, /, *, name: str | None = None, allow_pickle: bool = False, session: SessionArgument
) -> Answer:
    """Import the snapshots in a file that snapshot-manager saved.

    Args:
        path: The file.
        name: The name of the snapshots. Default: the name of the file, without its suffix.
        allow_pickle: Read the file, which is a pickle. This runs code of whoever wrote it: use it only if you trust
            them.
    """
    from ..importing import import_snapshot_manager

    repository = session.open(create=True, allow_pickle=allow_pickle)
    with session.progress("item") as progress:
        report = import_snapshot_manager(path, repository, name=name, allow_pickle=allow_pickle, progress=progress)
    return _answer(report)


@app.command
def snapperable(
    path: Path,
    /,
    *,
    function: str,
    name: str | None = None,
    function_version: str | None = None,
    allow_pickle: bool = False,
    session: SessionArgument,
) -> Answer:
    """Import the results in a file of snapperable, as results of a function as it is now.

    Args:
        path: The file, a database of SQLite or a pickle.
        function: The function that computed the results, as MODULE:NAME. Its module is imported from the current
            directory, too.
        name: The name of the checkpoints. Default: that of the function.
        function_version: What you pass to Snapper as function_version.
        allow_pickle: Read the pickles in the file. This runs code of whoever wrote it: use it only if you trust them.
    """
    from ..importing import import_snapperable

    found = _function(function)
    repository = session.open(create=True, allow_pickle=allow_pickle)
    with session.progress("item") as progress:
        report = import_snapperable(
            path,
            found,
            repository,
            name=name,
            function_version=function_version,
            allow_pickle=allow_pickle,
            progress=progress,
        )
    return _answer(report)


@app.command
def lazyscribe(
    path: Path, /, *, collection: str = "default", allow_pickle: bool = False, session: SessionArgument
) -> Answer:
    """Import all artifacts of a repository or project of lazyscribe.

    Args:
        path: The file repository.json or project.json.
        collection: The collection for the artifacts of a repository. Those of an experiment go into one of its name.
        allow_pickle: Also import artifacts that are pickles. This runs code of whoever wrote them: use it only if you
            trust them.
    """
    from ..importing import import_lazyscribe

    repository = session.open(create=True, allow_pickle=allow_pickle)
    with session.progress("item") as progress:
        report = import_lazyscribe(
            path, repository, collection=collection, allow_pickle=allow_pickle, progress=progress
        )
    return _answer(report)


@app.command
def scaffold(path: Path, /, *, collection: str | None = None, session: SessionArgument) -> Answer:
    """Import the artifacts in a folder of scaffold's FileSystemArtifactManager.

    Args:
        path: The folder. If it is in a bucket, download it first.
        collection: Import only this collection.
    """
    from ..importing import import_scaffold

    repository = session.open(create=True)
    with session.progress("item") as progress:
        report = import_scaffold(path, repository, collection=collection, progress=progress)
    return _answer(report)


@app.command
def metis(path: Path, /, *, name: str = "metis", session: SessionArgument) -> Answer:
    """Import the snapshots of Metis's backup tool as backups.

    Args:
        path: The folder with the snapshots, or one snapshot.
        name: The name of the backups.
    """
    from ..importing import import_metis

    repository = session.open(create=True)
    with session.progress("item") as progress:
        report = import_metis(path, repository, name=name, progress=progress)
    return _answer(report)


def _function(text: str) -> Callable[[Any], Any]:
    module, _, name = text.partition(":")
    if not module or not name:
        raise InvalidArgument(f"--function must be MODULE:NAME, such as jobs:process, not {text!r}.")
    sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise InvalidArgument(f"--function {text} cannot be imported: {error}.") from error
    function: Callable[[Any], Any] = found
    return function


def _answer(report: ImportReport) -> Answer:
    remark = f"{len(report.imported)} imported, {len(report.present)} here already."
    if report.left_out:
        remark += f" {count_text(len(report.left_out), 'note')}: see above."
    return Answer(asdict(report), _lines, remark, status=_INCOMPLETE if report.left_out else 0)


def _lines(document: dict[str, Any]) -> list[str]:
    return [printable(line) for line in (*document["imported"], *document["left_out"])]
