"""Render documents as Markdown for a page in the Prefect UI.

The UI of Prefect 3.8 shows tables and `data:` images, removes inline SVG, and gives no control over the colours and
sizes of Mermaid charts. So charts are images with a description as their alternative text.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Sequence

from .charts import describe, image, sparkline
from .model import Block, Calendar, Chart, Column, Curves, Document, Facts, Graph, Heading, Note, Table, Timeline
from .texts import Kind, Link, Value, is_numeric, shown_text, text_of

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&$])")


def markdown(document: Document, *, images: bool = True) -> str:
    """Render a document as Markdown.

    Args:
        document: The document.
        images: Whether to draw charts as images (default) or as one line of text.

    Example:
        >>> from prefect_snapshots.documents import Document, Facts
        >>> print(markdown(Document("Demo", (Facts({"rows": (1797, "number")}),))))
        ## Demo
        <BLANKLINE>
        | | |
        |---|---|
        | rows | 1,797 |
        <BLANKLINE>
    """
    parts = [[f"## {escape(document.title)}"], *(list(_lines(block, images)) for block in document.blocks)]
    return "\n\n".join("\n".join(lines) for lines in parts if lines) + "\n"


def _lines(block: Block, images: bool) -> Iterator[str]:
    match block:
        case Heading(text):
            yield f"### {escape(text)}"
        case Note(text):
            yield f"**Note:** {escape(text)}"
        case Facts(facts):
            shown = [(word, _cell(value, kind)) for word, (value, kind) in facts.items() if value not in (None, "")]
            if shown:
                yield from _table([("", "---"), ("", "---")], ([escape(word), text] for word, text in shown))
        case Table(title, columns, rows, of) if rows:
            yield from _title(title, len(rows), of)
            used = [at for at, _ in enumerate(columns) if any(row[at] not in (None, "") for row in rows)]
            heads = [_head(columns[at]) for at in used]
            yield from _table(heads, ([_cell(row[at], columns[at].kind) for at in used] for row in rows))
        case Timeline(title, steps, of) if steps:
            yield from _title(title, len(steps), of)
            heads = [_head(Column(word)) for word in ("when (UTC)", "what", "")]
            yield from _table(
                heads, ([_cell(step.when, "time"), escape(step.what), escape(step.about)] for step in steps)
            )
        case Chart(title, values=values) if not images:
            yield f"{escape(title)} `{sparkline(values)}`"
        case Curves(title, curves=curves) if not images:
            for name, points in curves.items():
                yield f"{escape(title)} {code(name)} `{sparkline([value for _, value in points])}`  "
        case Chart() | Curves() | Calendar() | Graph() if images:
            encoded = base64.b64encode(image(block).encode()).decode()
            yield f"![{escape(describe(block))}](data:image/svg+xml;base64,{encoded})"


def _title(title: str, shown: int, of: int) -> Iterator[str]:
    part = shown_text(shown, of)
    yield f"#### {escape(title)}{f' ({part})' if part else ''}"
    yield ""


def _head(column: Column) -> tuple[str, str]:
    return escape(column.title), "---:" if is_numeric(column.kind) else "---"


def _table(heads: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(title for title, _ in heads)} |" if any(title for title, _ in heads) else "| | |"
    yield f"|{'|'.join(rule for _, rule in heads)}|"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _cell(value: Value, kind: Kind) -> str:
    text = text_of(value, kind)
    if is_numeric(kind):
        return text.replace(" ", "\N{NO-BREAK SPACE}")
    if isinstance(value, Link) and value.is_safe:
        return f"[{escape(text)}]({value.url})"
    return code(text) if kind == "name" and text else escape(text)


def code(text: str) -> str:
    """Return a name as a code span, or as escaped text if it contains characters that break code spans.

    Example:
        >>> code("train/epoch"), code("a`b")
        ('`train/epoch`', 'a\\\\`b')
    """
    shown = text_of(text, "text")
    # Markdown renderers disagree on how to escape these characters in a code span, especially in a table.
    return f"`{shown}`" if shown and not set("`|\\") & set(shown) else escape(shown)


def escape(text: str) -> str:
    """Return a string as Markdown that shows it unchanged, without markup, HTML or images.

    Example:
        >>> escape("![x](https://host/x.png)")
        '!\\\\[x\\\\](https://host/x.png)'
    """
    return _SPECIAL.sub(r"\\\1", text_of(text, "text"))
