"""Copy what a repository contains into another one.

Whatever a reader of the copy could miss is there before it is named: chunks before the event, and artifacts before the
releases that contain them. Everything that is read is verified, and everything is written as by any other writer, so
that prunes and writers on both sides need not stop. After a kill, the next run continues with the next event.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from ...errors import CommitUnknown, CopyDiverged, IntegrityError, InvalidArgument, InvalidName, ObjectMissing
from ...messages import hint
from .. import logs
from ..catalog import OMITTED, RENAMING, Event, Stream
from ..commits import Draft, MakeDraft, commit
from ..contents import ContentReader, Stored, Writer
from ..keyed import PREFIX, Listed, ValuesOfName, values_in
from ..maintenance.checking import Problem
from ..maintenance.liveness import version_label
from ..names import check_name
from ..opened import Opened
from ..progress import Progress
from .histories import Histories, deleted, name_of, travels
from .log_copies import (
    Copied,
    Originals,
    body_of_start,
    clearing,
    count_records,
    merged,
    merging,
    reader_of,
    write_copy,
)
from .value_copies import ValueCopier, missing

_READ_FIRST = frozenset({"releases"})
"""Kinds whose events name versions of other streams. They are read first and copied last: what they name is there."""

_CONTAINED = {"releases": "artifacts"}
"""Kinds that are selected with another one."""

_KINDS = ("snapshots", "checkpoints", "artifacts", "backups", "results", "wal")
"""Kinds that can be selected in every repository. One with a kind of a plugin has more."""

_ATTEMPTS = 5
"""How often a name is compared again if another run copies it, too. Each time, one of them advances."""

_NAMES_AT_ONCE = 4
"""How many names are copied at the same time if a storage is remote, where most of the time is spent waiting. Each can
hold a pack in memory."""

_LEARNED = 8
"""How many copied versions of a name tell which chunks are known if the keys differ. The last ones
have most in common with the next one."""


@dataclass(slots=True)
class CopyReport:
    """The result of `copy_to`: what was copied or, with `dry_run`, would be copied.

    Attributes:
        dry_run: Whether nothing was written.
        names: How many names were compared.
        versions: How many versions were copied.
        size: Their size in bytes, uncompressed.
        written: Bytes that were written for them. The rest was there already, or was saved by compression.
        events: How many other changes were copied: metadata, tags, stages, pins, releases.
        segments: How many files with results of checkpoints were copied.
        problems: What could not be copied, and why.
    """

    dry_run: bool = False
    names: int = 0
    versions: int = 0
    size: int = 0
    written: int = 0
    events: int = 0
    segments: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Return whether everything was copied."""
        return not self.problems

    def add(self, other: CopyReport) -> None:
        """Add what another report counts."""
        for count in ("names", "versions", "size", "written", "events", "segments", "problems"):
            setattr(self, count, getattr(self, count) + getattr(other, count))


@dataclass(frozen=True, slots=True)
class Selection:
    """What is copied.

    Attributes:
        kinds: These kinds. Empty: all. Releases belong to artifacts.
        names: Names or patterns. Empty: all. Releases are copied only together with all artifacts.
        since: Versions that were committed from this time on, in nanoseconds since 1970. None: all.
    """

    kinds: Collection[str] = ()
    names: Collection[str] = ()
    since: int | None = None

    def contains(self, kind: str, name: str) -> bool:
        """Return whether a name is selected."""
        if kind in _READ_FIRST and (self.names or self.since is not None):
            return False
        selected = not self.kinds or _CONTAINED.get(kind, kind) in self.kinds
        return selected and (not self.names or any(_matches(name, one) for one in self.names))

    def check_kinds(self, found: Iterable[str]) -> None:
        """Check that every selected kind can exist. A misspelled one would never be copied, and nobody would know.

        Args:
            found: The kinds in the repository.

        Raises:
            InvalidArgument: A kind does not exist.
        """
        known = sorted({*_KINDS, *found} - _CONTAINED.keys())
        for kind in self.kinds:
            if kind not in known:
                raise InvalidArgument(f"There is no kind {kind!r}. Nothing was copied. {hint(kind, known)}")

    def unmatched(self, found: Collection[tuple[str, str]]) -> Iterator[Problem]:
        """Yield a problem for each name or pattern that nothing in the repository has.

        Args:
            found: The kinds and names in the repository.
        """
        there = sorted({name for kind, name in found if kind not in _READ_FIRST and kind in (self.kinds or {kind})})
        for one in self.names:
            if not any(_matches(name, one) for name in there):
                yield Problem(one, f"nothing to copy has this name ({hint(one, there).rstrip('.')})", ())

    def concerns(self, stream: Stream) -> bool:
        """Return whether a selected name has anything to copy: a version that is new enough, or results."""
        since = self.since
        return since is None or any(
            event.time >= since for event in stream.events if event.content is not None or "segment" in event.body
        )


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)


def copy(
    source: Opened, target: Opened | None, selection: Selection, dry_run: bool, progress: Progress | None = None
) -> CopyReport:
    """See `Repository.copy_to`. The target is None if it does not exist yet, which only a dry run allows."""
    report = CopyReport(dry_run)
    listing = source.store.location.list(PREFIX)
    found = list(source.catalog.streams().values())
    report.problems += selection.unmatched(found)
    chosen = sorted(one for one in found if selection.contains(*one))
    last = [one for one in chosen if one[0] in _READ_FIRST]
    # Read now, so that all artifacts that they name are read later and copied earlier.
    early = {one: _read(source, *one, report) for one in last}
    done = 0

    def copy_name(name: tuple[str, str]) -> CopyReport:
        found = CopyReport(dry_run)
        stream = early[name] if name in early else _read(source, *name, found)
        if stream is not None and selection.concerns(stream):
            found.names = 1
            try:
                _copy_name(source, target, stream, selection.since, found)
            except IntegrityError as error:
                found.problems.append(Problem(stream.label, str(error), (stream.label,)))
        return found

    is_local = source.store.location.is_local and (target is None or target.store.location.is_local)
    with ThreadPoolExecutor(1 if is_local else _NAMES_AT_ONCE, "prefect-snapshots-copy") as threads:
        for names in ([one for one in chosen if one not in early], last):
            running = [threads.submit(copy_name, name) for name in names]
            try:
                for copied in running:
                    report.add(copied.result())
                    done += 1
                    if progress is not None:
                        progress("copying", done, len(chosen))
            finally:
                for waiting in running:
                    waiting.cancel()
    # After the events that some of them refer to.
    for values in values_in(source, listing):
        if selection.contains(values.kind, values.name):
            _copy_values(source, target, values, selection.since, report)
    return report


def _copy_values(
    source: Opened, target: Opened | None, values: ValuesOfName, since: int | None, report: CopyReport
) -> None:
    """Copy the values of one name that have an object each."""
    wanted = missing(values, target, since)
    if target is None or report.dry_run:
        copied: Iterable[tuple[Listed, Problem | None]] = [(one, None) for one in wanted]
    else:
        copied = ValueCopier(source, target, values).run(wanted)
    for one, problem in copied:
        if problem is not None:
            report.problems.append(problem)
        elif not one.elsewhere:
            report.versions += 1
            report.size += one.size
            report.written += 0 if report.dry_run else one.info.size


def _read(source: Opened, kind: str, name: str, report: CopyReport) -> Stream | None:
    """Return a stream of the source, or None if its name or one of its events is damaged."""
    label = f"{kind}/{name}"
    try:
        check_name(kind, "kind")  # an empty one would be the root stream of the target
        stream = Stream(lambda: source.catalog, kind, check_name(name), lambda _: None)
        stream.refresh()
    except (IntegrityError, InvalidName) as error:
        report.problems.append(Problem(label, str(error), (label,)))
        return None
    return stream


class _LookAgain(Exception):
    """The copy has an event that is unknown: another run may have copied it from a newer state of the source."""


def _copy_name(source: Opened, target: Opened | None, stream: Stream, since: int | None, report: CopyReport) -> None:
    """Copy the events of one name that its source has now."""
    end = stream.head
    for attempt in range(_ATTEMPTS):
        copier = _Copier(source, target, stream, since, end, report)
        try:
            copier.run()
            return
        except _LookAgain:
            if attempt == _ATTEMPTS - 1:
                copier.histories.check()
                raise CopyDiverged(stream.label, copier.copy.head) from None
            stream.refresh()


class _Copier:
    """Copies one name.

    Args:
        source: The repository that is copied.
        target: The repository that contains the copy. None: it does not exist yet.
        stream: The stream in the source, which has been read.
        since: As in `Selection`.
        end: How many events of the source are copied. Later ones may name what is not there yet.
        report: What is copied is counted here.
    """

    def __init__(
        self,
        source: Opened,
        target: Opened | None,
        stream: Stream,
        since: int | None,
        end: int,
        report: CopyReport,
    ) -> None:
        self._source = source
        self._target = target
        self._stream = stream
        self._since = since
        self._end = end
        self._report = report
        self._same_keys = target is not None and source.sealer.names_like(target.sealer)
        self._names: _Names | None = None
        self.histories = Histories(stream)
        self._segments = Copied(self.histories)
        self.copy = Stream(
            lambda: None if target is None else target.catalog, stream.kind, stream.name, self._apply, self._forget
        )

    def _apply(self, event: Event) -> None:
        self.histories.apply(event)
        self._segments.apply(event)

    def _forget(self) -> None:
        self.histories.forget()
        self._segments = Copied(self.histories)

    def run(self) -> None:
        """Copy what is missing.

        Raises:
            CopyDiverged: The copy has events that the source has not.
        """
        self.copy.refresh()
        if self.histories.foreign is not None:
            raise _LookAgain
        events = self._stream.events[: self._end]
        gone = deleted(self._stream.events)
        last = self.histories.last
        contents = [place for place, event in enumerate(events) if event.content is not None]
        omitted: set[str | bytes] = set()
        for place, event in enumerate(events):
            name = name_of(event)
            if place <= last:
                if event.content is not None:
                    (omitted.discard if self.histories.is_copied(place) else omitted.add)(name)
            elif not travels(event) or (event.kind == "annotate" and name in omitted):
                continue
            elif event.content is None:
                self._copy_change(events, place)
            elif event.sequence not in gone and event.time >= (self._since or event.time) and self._copy_version(place):
                omitted.discard(name)
            else:
                omitted.add(name)
                if place == contents[-1]:
                    self._commit(place, lambda event=event: Draft(OMITTED, {"id": event.body.get("id")}))  # type: ignore[misc]
        if any("segment" in event.body for event in events):
            self._update_segments()

    # --- events and contents -----------------------------------------------------------------------------------------

    def _commit(
        self,
        place: int,
        draft: MakeDraft,
        *,
        content: Stored | None = None,
        store: Callable[[Writer], Stored] | None = None,
    ) -> Event | None:
        """Commit the copy of an event, unless another run has committed it or a later one."""
        event = self._stream.events[place]

        def checked() -> Draft | None:
            self._check()
            plan = draft() if place > self.histories.last else None
            return plan and Draft(plan.kind, plan.body, plan.deletes, event.time, event.token)

        return self._commit_own(checked, content=content, store=store)

    def _commit_own(
        self, draft: MakeDraft, *, content: Stored | None = None, store: Callable[[Writer], Stored] | None = None
    ) -> Event | None:
        if self._report.dry_run:
            return None
        target = self._target
        assert target is not None
        try:
            return commit(target.catalog, target.store, self.copy, draft, content=content, store=store)
        except CommitUnknown as error:
            # Whether it was written or not, the next run continues from there.
            raise error.unavailable(f"{self._stream.label} could not be copied completely") from error

    def _check(self) -> None:
        """Begin again if there is an unknown event in the copy."""
        if self.histories.foreign is not None:
            raise _LookAgain

    def _copy_change(self, events: list[Event], place: int) -> None:
        """Copy an event without content."""
        event = events[place]
        if event.kind == "merged":
            self._replace_segment(str(event.body.get("segment")), place)
            return
        body = body_of_start(event) if event.kind == "start" else self.histories.body_of(event)
        # What a name had before it became the new one of another is void, and could never be deleted later.
        void = list(self.histories.live.values()) if event.kind == RENAMING else ()
        self._commit(place, lambda: Draft(event.kind, body, void))
        self._report.events += 1

    def _copy_version(self, place: int) -> bool:
        """Copy an event with its content. Return False if the content is deleted or damaged in the source."""
        event = self._stream.events[place]
        name = name_of(event)

        def draft() -> Draft:
            # Two versions of one name cannot be told apart, so that the old one could never be deleted.
            replaced = self.histories.live.get(name)
            return Draft(event.kind, self.histories.body_of(event), [] if replaced is None else [replaced])

        try:
            original = self._original(event)
            if not self._report.dry_run:
                self._copy_content(place, draft, original)
        except _DamagedSource as error:
            self._stream.refresh()
            if event.sequence not in deleted(self._stream.events):
                label = version_label(self._stream, event)
                self._report.problems.append(Problem(label, f"it cannot be read, and was left out ({error})", (label,)))
            return False
        self._report.versions += 1
        self._report.size += original.size
        return True

    def _copy_content(self, place: int, draft: MakeDraft, original: _Original) -> None:
        if original.inline is not None:
            self._commit(place, draft, content=original.inline)
            return
        translate = None if self._same_keys else self._known_names().translate
        done = self._commit(place, draft, store=lambda writer: writer.adopt(original, translate=translate))
        if done is not None and done.content is not None:
            self._report.written += done.content.written
            if not self._same_keys:
                self._learn(original, done)

    def _original(self, event: Event) -> _Original:
        assert event.content is not None
        with _at_source():
            data = self._stream.inline(event.sequence) if event.content.depth == 0 else b""
            return _Original(self._source.reader, event.content, data)

    def _known_names(self) -> _Names:
        """Return the names of chunks in both repositories, as far as the last copied versions tell them."""
        if self._names is None:
            self._names = _Names()
            live = set(self.histories.live.values())
            copied = [event for event in self.copy.events if event.sequence in live and event.content]
            for event in copied[-_LEARNED:]:
                original = self.histories.original(event)
                if original is not None and original.content is not None:
                    # If it cannot be read any more, its chunks are read again.
                    with contextlib.suppress(IntegrityError, _DamagedSource, ObjectMissing):
                        self._learn(self._original(original), event)
        return self._names

    def _learn(self, original: ContentReader, event: Event) -> None:
        assert self._names is not None
        assert self._target is not None
        if event.content is not None and event.content.depth:
            self._names.learn(original.table, ContentReader(self._target.reader, event.content).table)

    # --- log segments ------------------------------------------------------------------------------------------------

    def _update_segments(self) -> None:
        """Copy the segments that are new or have grown."""
        originals = Originals(self._stream.events)
        for segment in originals.wanted:
            held = originals.holders(segment, self._segments)
            if held and self._is_behind(originals, segment, held):
                self._replace_segment(segment)

        def clear() -> Draft | None:
            self._check()
            body = clearing(self._stream.events, self._segments)
            return None if body is None else Draft("clear", body)

        self._commit_own(clear)

    def _is_behind(self, originals: Originals, segment: str, held: set[str]) -> bool:
        there = [self._segments.extents.get(one) for one in held]
        known = originals.extents.get(segment)
        copied = sum(extent.records for extent in there if extent is not None)
        if known is not None and known.digest and copied >= known.records:
            return False
        reader = reader_of(self._source, self._stream.id, segment, known)
        with self._source_segment(segment):
            records, _ = count_records(reader)
            return records > copied
        return False

    def _replace_segment(self, segment: str, place: int | None = None) -> None:
        """Copy a segment of the source, in place of what the copy has of it or of those that it replaced.

        Args:
            segment: The segment.
            place: The place of the event that registered it, if that is not copied yet.
        """
        originals = Originals(self._stream.events)
        event = originals.events.get(segment)
        drops = originals.holders(segment, self._segments)
        # Without any, the retention of the copy has cleared them.
        if segment not in originals.wanted or event is None or not drops:
            return
        self._report.segments += 1
        if self._report.dry_run:
            return
        target = self._target
        assert target is not None
        new = logs.new_segment()

        def announce() -> Draft:
            self._check()
            return merging(event, new, self._segments)

        def is_next() -> bool:
            return place is not None and place > self.histories.last

        def finish() -> Draft | None:
            self._check()
            return merged(event, new, extent, drops, self._segments, is_next)

        self._commit_own(announce)
        extent = logs.Extent(0, 0)
        with self._source_segment(segment):
            reader = reader_of(self._source, self._stream.id, segment, originals.extents.get(segment))
            extent = write_copy(reader, target, self.copy.id, new)
        if extent.records:
            self._commit_own(finish)

    @contextlib.contextmanager
    def _source_segment(self, segment: str) -> Iterator[None]:
        """Report damage of a segment in the source. A segment that was dropped meanwhile is not damaged."""
        try:
            yield
        except (IntegrityError, ObjectMissing) as error:
            self._stream.refresh()
            if segment in Originals(self._stream.events).wanted:
                label = self._stream.label
                self._report.problems.append(Problem(label, f"some results cannot be read ({error})", (label,)))


# --- the source ------------------------------------------------------------------------------------------------------


class _DamagedSource(Exception):
    """A content cannot be read in the source."""


@contextlib.contextmanager
def _at_source() -> Iterator[None]:
    try:
        yield
    except (IntegrityError, ObjectMissing) as error:
        raise _DamagedSource(str(error)) from error


class _Original(ContentReader):
    """A content of the source. Damage there is distinguished from damage in the target."""

    @property
    def table(self) -> Any:
        with _at_source():
            return super().table

    def chunks(self, rows: Any) -> list[bytearray]:
        with _at_source():
            return super().chunks(rows)


class _Names:
    """The names of the same chunks in two repositories with different keys."""

    def __init__(self) -> None:
        self._there = np.empty(0, "S32")  # compared as 32 bytes: numpy pads both sides with zeros
        self._here = np.empty(0, "V32")

    def learn(self, there: Any, here: Any) -> None:
        """Learn from the tables of a content and of its copy."""
        if len(there) != len(here) or (there["size"] != here["size"]).any():
            return
        names = np.concatenate([self._there, np.ascontiguousarray(there["chunk"]).view("S32")])
        self._there, first = np.unique(names, return_index=True)
        self._here = np.concatenate([self._here, np.ascontiguousarray(here["chunk"])])[first]

    def translate(self, names: list[bytes]) -> list[bytes | None]:
        """Return the names here for names there. None if they are not known."""
        if not len(self._there):
            return [None] * len(names)
        wanted = np.array(names, "S32")
        at = np.minimum(self._there.searchsorted(wanted), len(self._there) - 1)
        known = self._there[at] == wanted
        return [self._here[one].tobytes() if is_known else None for one, is_known in zip(at, known, strict=True)]
