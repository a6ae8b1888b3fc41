"""`prefect-snapshots report`: show what is in a repository, in the terminal or as an HTML file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import InvalidArgument
from ..private_files import as_private
from .backup_sources import AS_CONFIGURED, manager_of
from .output import Answer
from .session import SessionArgument

if TYPE_CHECKING:
    from ..documents import Document

_BRIEFLY, _AT_LENGTH = 10, 50
"""Rows of a table on a terminal, and in a file."""


def report(
    *,
    html: Path | None = None,
    name: list[str] | None = None,
    rank_by: str | None = None,
    mode: Literal["min", "max"] | None = None,
    session: SessionArgument,
) -> Answer:
    """Show what is in a repository: backups, snapshots, checkpoints and artifacts.

    Everything comes from the repository: no Prefect server is needed.

    Args:
        html: Write the report with charts into this self-contained file. An existing file is replaced.
        name: Show only what has this name. Repeat it for several.
        rank_by: The metadata key by which the best snapshot is marked.
        mode: Whether the largest value of that key is best, or the smallest. Default: max.
    """
    if mode is not None and rank_by is None:
        raise InvalidArgument("--mode needs --rank-by, the metadata key that ranks.")
    from ..documents import html_page
    from ..reports import describe_repository
    from .documents import document_lines

    repository = session.open()
    retention = manager_of(repository, AS_CONFIGURED).retention
    listed = _BRIEFLY if html is None else _AT_LENGTH
    documents = describe_repository(
        repository, name or (), listed=listed, retention=retention, rank_by=rank_by, mode=mode or "max"
    )
    document = {"repository": repository.url, "reports": [_plain(each) for each in documents]}
    if html is None:
        return Answer(document, lambda _: _lines(map(document_lines, documents)))
    _write(html, html_page(f"Report on {repository.url}", documents, datetime.now(UTC)))
    return Answer(document, remark=f"Wrote {html}.")


def _lines(documents: Iterable[Iterable[str]]) -> Iterator[str]:
    for number, lines in enumerate(documents):
        if number:
            yield ""
            yield ""
        yield from lines


def _plain(document: Document) -> dict[str, Any]:
    import msgspec

    blocks = ({"block": type(block).__name__.lower(), **msgspec.to_builtins(block)} for block in document.blocks)
    return {"kind": document.kind, "title": document.title, "blocks": list(blocks)}


def _write(path: Path, text: str) -> None:
    """Replace the file at once: a reader sees the old one or the new one."""
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
        try:
            file.write(text)
            file.close()
            as_private(Path(file.name))
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
