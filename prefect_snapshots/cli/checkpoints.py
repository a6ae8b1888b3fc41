"""`prefect-snapshots checkpoints ...`: what was done of long iterables, how it went, and forgetting it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from cyclopts import App

from ..errors import CheckpointNotFound
from .output import Answer, Column, count_text, table, time_text
from .session import SessionArgument

app = App(name="checkpoints", help="What was done of long iterables, how it went, and forgetting it.")


@app.command(name="list")
def list_all(name: str | None = None, /, *, session: SessionArgument) -> Answer:
    """List the checkpoints: a row for each version of a function.

    Arguments:
        name: Only those of this name.
    """
    from ..checkpoints import CheckpointManager

    repository = session.open()
    rows = CheckpointManager(repository).list_checkpoints(name)
    if name is not None and not rows:
        raise CheckpointNotFound(f"{repository.url} has no checkpoints of {name!r}")
    document = {"repository": repository.url, "checkpoints": [asdict(row) for row in rows]}
    return Answer(document, _view, "" if rows else "There are no checkpoints.")


@app.command
def report(name: str, /, *, fingerprint: str | None = None, session: SessionArgument) -> Answer:
    """Show how processing went: throughput, slow items, failures.

    Arguments:
        name: Of the checkpoints.
        fingerprint: Of a version of the function, as in the list. Default: the one that was started last.
    """
    from ..checkpoints import CheckpointManager
    from .documents import document_lines

    repository = session.open()
    manager = CheckpointManager(repository)
    document = json.loads(manager.report(name, fingerprint, format="json"))
    described = manager.describe(name, fingerprint)
    return Answer({"repository": repository.url, **document}, lambda _: document_lines(described))


@app.command
def clear(name: str, /, *, fingerprint: str | None = None, session: SessionArgument) -> Answer:
    """Forget results, so that their items are done again. Asks first.

    Arguments:
        name: Of the checkpoints.
        fingerprint: Only the results of this version of the function, as in the list.
    """
    from ..checkpoints import CheckpointManager

    repository = session.open(writing=True)
    manager = CheckpointManager(repository)
    rows = [row for row in manager.list_checkpoints(name) if fingerprint in (None, row.fingerprint)]
    if not rows:
        which = f" with the fingerprint {fingerprint}" if fingerprint else ""
        raise CheckpointNotFound(f"{repository.url} has no checkpoints of {name!r}{which}")
    results = count_text(sum(row.done for row in rows), "result")
    session.confirm(f"Forget {results} of {name}?")
    segments = manager.delete_checkpoint(name, fingerprint)
    document = {"name": name, "segments": segments, "cleared": [asdict(row) for row in rows]}
    return Answer(document, remark=f"Forgot {results}. `prefect-snapshots prune` frees the space.")


_COLUMNS = (
    Column("name", cut=True),
    Column("function", cut=True),
    Column("fingerprint"),
    Column("done", right=True),
    Column("failed", right=True),
    Column("segments", right=True),
    Column("started_at"),
)


def _view(document: dict[str, Any]) -> Iterator[str]:
    rows = document["checkpoints"]
    if rows:
        yield from table(
            _COLUMNS,
            [
                (
                    row["name"],
                    row["function"],
                    row["fingerprint"],
                    f"{row['done']:,}",
                    f"{row['failed']:,}",
                    f"{row['segments']:,}",
                    time_text(row["started_at"]),
                )
                for row in rows
            ],
        )
