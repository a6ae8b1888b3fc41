"""Documents as lines for a terminal."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from datetime import datetime

from ..documents import Block, Calendar, Chart, Curves, Document, Facts, Heading, Note, Table, Timeline
from ..documents.charts import describe, endpoints, extremes, sparkline
from ..documents.texts import Kind, Value, is_numeric, shown_text, text_of
from .output import OutputColumn, columns, fields, printable, table, time_text


def document_lines(document: Document) -> Iterator[str]:
    """Return the lines of one document."""
    yield printable(f"{document.title} ({document.kind})" if document.kind else document.title)
    for drawn, blocks in itertools.groupby(document.blocks, lambda block: isinstance(block, Chart)):
        run = list(blocks)
        for lines in map(list, [_charts(run)] if drawn else map(_lines, run)):
            if lines:
                yield ""
                yield from lines


def _lines(block: Block) -> Iterator[str]:
    match block:
        case Heading(text) | Note(text):
            yield printable(text)
        case Facts(facts):
            yield from fields({_local(word): _text(value, kind) for word, (value, kind) in facts.items()})
        case Curves(title, across, kind, curves):
            yield printable(f"{title} by {across}")
            yield from fields(
                {
                    name: f"{sparkline([value for _, value in points])}  {endpoints(points, kind)}"
                    for name, points in curves.items()
                }
            )
        case Calendar():
            yield printable(describe(block))
        case Timeline(title, steps, of) if steps:
            yield _titled(title, len(steps), of)
            rows = [(time_text(step.when), step.what, step.about) for step in steps]
            yield from table(columns("when (local)", "what", "…"), rows)
        case Table() if block.rows:
            yield from _table(block)


def _charts(charts: Iterable[Block]) -> Iterator[str]:
    drawn = {each.title: f"{sparkline(each.values)}  {extremes(each)}" for each in charts if isinstance(each, Chart)}
    return fields(drawn)


def _table(shown: Table) -> Iterator[str]:
    yield _titled(shown.title, len(shown.rows), shown.of)
    kinds = [each.kind for each in shown.columns]
    headings = [
        OutputColumn(
            _local(each.title), is_numeric(each.kind), each.kind == "text" and at == 0, each.kind == "text" and at > 0
        )
        for at, each in enumerate(shown.columns)
    ]
    yield from table(headings, [map(_text, row, kinds) for row in shown.rows])


def _local(title: str) -> str:
    return title.replace("(UTC)", "(local)")


def _text(value: Value, kind: Kind) -> str:
    return time_text(value) if isinstance(value, datetime) else text_of(value, kind)


def _titled(title: str, shown: int, of: int) -> str:
    part = shown_text(shown, of)
    return printable(f"{title} ({part})" if part else title)
