"""Compare a repository with its copy, to find what neither of them shows alone.

Whoever can write to a storage can take the newest events away, replace whole streams by older ones, or write an object
again. Each repository is then valid by itself, but differs from the other one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...errors import IntegrityError, ObjectMissing
from ..catalog import OMITTED, Event, Stream
from ..contents import ContentReader
from ..maintenance.checking import CheckReport, Problem
from ..maintenance.liveness import version_label
from ..opened import Opened
from ..progress import Progress, silent
from .histories import Histories, deleted

_PIECE = 4 << 20
"""How many bytes of two contents are compared at a time."""


def compare(
    opened: Opened, copy: Opened, read_data: bool, report: CheckReport, progress: Progress | None = None
) -> None:
    """Add to a report how a repository differs from its copy. See `Repository.check`."""
    say = progress or silent
    here, there = set(opened.catalog.streams().values()), sorted(copy.catalog.streams().values())
    for number, (kind, name) in enumerate(there):
        say("comparing", number, len(there))
        label = f"{kind}/{name}"
        if (kind, name) not in here:
            what = (
                "it is in the copy, but not here. It was taken away, unless it got this name in the copy, or another "
                "repository is copied there, too"
            )
            report.problems.append(Problem(label, what, (label,)))
            continue
        try:
            report.problems += _compare_name(opened, copy, kind, name, read_data, report)
        except (IntegrityError, ObjectMissing) as error:
            report.problems.append(Problem(label, f"it cannot be compared with the copy ({error})", (label,)))
    missing = sorted(f"{kind}/{name}" for kind, name in here - set(there))
    report.notes += [f"{label} is not copied yet" for label in missing]


def _compare_name(
    opened: Opened, copy: Opened, kind: str, name: str, read_data: bool, report: CheckReport
) -> Iterator[Problem]:
    stream = Stream(lambda: opened.catalog, kind, name, lambda _: None)
    # The copy first: what was copied while this runs is then known here, too.
    copied = Stream(lambda: copy.catalog, kind, name, lambda _: None)
    copied.refresh()
    stream.refresh()
    histories = Histories(stream)
    for event in copied.events:
        histories.apply(event)
    if histories.foreign is not None:
        behind = histories.last == len(stream.events) - 1
        what = (
            "the copy has newer events than there are here: they were taken away here, or somebody wrote to the copy"
            if behind
            else "the copy has other events than there are here: one of the two was replaced"
        )
        yield Problem(stream.label, what, (stream.label,))
    gone = deleted(stream.events), deleted(copied.events)
    newer = stream.events[histories.last + 1 :]
    waiting = sum(event.content is not None and event.sequence not in gone[0] for event in newer)
    if waiting:
        versions = "1 newer version" if waiting == 1 else f"{waiting:,} newer versions"
        report.notes.append(f"{stream.label} has {versions} than the copy")
    left_out = sum(
        event.content is not None and event.sequence not in gone[0] and not histories.is_copied(place)
        for place, event in enumerate(stream.events[: histories.last + 1])
    )
    if left_out:
        versions = "1 version" if left_out == 1 else f"{left_out:,} versions"
        report.notes.append(
            f"{versions} of {stream.label} will never be in the copy: too old for the `since` of the copy, or damaged "
            "when others were copied"
        )
    for event in copied.events:
        original = histories.original(event)
        if original is None:
            continue
        label = version_label(stream, original)
        if (original.kind, original.time) != (event.kind, event.time) and event.kind != OMITTED:
            yield Problem(label, "it differs from its copy: one of the two was replaced", (label,))
        elif original.content is not None and event.content is not None:
            a, b = original.content, event.content
            if (a.size, a.manifest_size) != (b.size, b.manifest_size):
                yield Problem(label, "it has another size than its copy: one of the two was replaced", (label,))
            elif read_data and original.sequence not in gone[0] and event.sequence not in gone[1]:
                yield from _compare_bytes(opened, copy, stream, original, copied, event, report)


def _compare_bytes(
    opened: Opened, copy: Opened, stream: Stream, original: Event, copied: Stream, event: Event, report: CheckReport
) -> Iterator[Problem]:
    """Compare two contents. Without a difference between the keys, the names of the chunks are compared instead."""
    label = version_label(stream, original)
    try:
        a, b = content_of(opened, stream, original), content_of(copy, copied, event)
        same = a.names_like(copy.sealer) and a.inline is None and b.inline is None
        if same and len(a.table) == len(b.table):
            equal = bool(np.array_equal(a.table, b.table))
        else:
            equal = all(
                a.read(start, min(_PIECE, a.size - start)) == b.read(start, min(_PIECE, a.size - start))
                for start in range(0, a.size, _PIECE)
            )
            report.bytes_read += a.size + b.size
    except (IntegrityError, ObjectMissing) as error:
        yield Problem(label, f"it cannot be compared with its copy ({error})", (label,))
        return
    if not equal:
        yield Problem(label, "its data differs from that of its copy: one of the two was replaced", (label,))


def content_of(opened: Opened, stream: Stream, event: Event) -> ContentReader:
    """Return a reader for the content of an event."""
    assert event.content is not None
    data = stream.inline(event.sequence) if event.content.depth == 0 else b""
    return ContentReader(opened.reader, event.content, data)
