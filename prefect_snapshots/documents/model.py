"""What a document consists of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

from .texts import Kind, Value

Day = Literal["kept", "pinned", "going"]
"""What a calendar says of a day: the best of what happened on it."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table, and the kind of its values."""

    title: str
    kind: Kind = "text"


@dataclass(frozen=True, slots=True)
class Heading:
    """Begins another part of a document."""

    text: str


@dataclass(frozen=True, slots=True)
class Facts:
    """Words, each with a value and its kind. A value that is None or an empty text is left out."""

    facts: Mapping[str, tuple[Value, Kind]]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of values. A column without any value is left out.

    Attributes:
        title: says what the rows are.
        of: how many rows there are, where these are only the first ones.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]
    of: int = 0


@dataclass(frozen=True, slots=True)
class Chart:
    """Values in order, as a line or as bars.

    Attributes:
        title: says what the values are.
        kind: of the values.
        values: None, NaN and infinities are gaps.
        labels: one for each value; the first and the last one are written below it.
        failed: of bars: how much of each one stands for failures.
        marked: the position of the best one.
    """

    title: str
    form: Literal["line", "bars"]
    kind: Kind
    values: tuple[float | None, ...]
    labels: tuple[str, ...]
    failed: tuple[float, ...] = ()
    marked: int | None = None


@dataclass(frozen=True, slots=True)
class Calendar:
    """Days on which something happened, week by week."""

    title: str
    days: Mapping[date, Day]


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happened: when (UTC), what, and more about it."""

    when: datetime
    what: str
    about: str = ""


@dataclass(frozen=True, slots=True)
class Timeline:
    """Steps, the latest first."""

    title: str
    steps: tuple[Step, ...]
    of: int = 0
    """How many there are, where these are only the first ones."""


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence that a person should read."""

    text: str


Block = Heading | Facts | Table | Chart | Calendar | Timeline | Note


@dataclass(frozen=True, slots=True)
class Document:
    """What there is to say of one thing.

    Attributes:
        title: what it is about.
        blocks: what is said.
        kind: The kind of what it describes, such as "backups"; empty for a summary of several kinds.
    """

    title: str
    blocks: tuple[Block, ...]
    kind: str = ""
