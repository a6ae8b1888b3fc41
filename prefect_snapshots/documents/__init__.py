"""Documents for people: what a report says, apart from how it is shown.

A *document* is a title and *blocks*: headings, facts, tables, charts, calendars, timelines and notes. Cells and facts
are plain values; their *kind* says how a value is written. `markdown` shows a document on a page of the Prefect UI,
`html_page` several of them in one file that needs nothing else. Whatever a value says, it stays text in both.

Knows nothing but values.
"""

from __future__ import annotations

from .markdown import code, escape, markdown
from .model import Block, Calendar, Chart, Column, Day, Document, Facts, Heading, Note, Step, Table, Timeline
from .page import html_page

__all__ = [
    "Block",
    "Calendar",
    "Chart",
    "Column",
    "Day",
    "Document",
    "Facts",
    "Heading",
    "Note",
    "Step",
    "Table",
    "Timeline",
    "code",
    "escape",
    "html_page",
    "markdown",
]
