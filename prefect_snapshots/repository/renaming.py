"""Rename what one stream records: copy all of it into the stream of the new name, then delete it under the old one.

A stream cannot change its name. So its events are committed again, in their order and with their times, to the stream
of the new name. Contents are adopted, so that no data is copied. When all of them are there, one event deletes
everything under the old name. After a kill, the same call continues: the token of each copied event says of which
event it is the copy.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Any

import msgspec
from blake3 import blake3

from ..errors import CommitConflict, CommitUnknown, InvalidArgument, StorageUnavailable
from .catalog import OMITTED, RENAMED, RENAMING, Event, Stream
from .commits import Draft, MakeDraft
from .contents import Stored, Writer
from .repository import Repository
from .tracking import damage_of

_NOT_COPIED = frozenset({"fence", "lost", RENAMED})
"""Kinds of events that concern one stream only."""

_MARK = 8
"""Bytes of the token of a copied event that say which rename it belongs to. The other eight are the number of the
event that it is the copy of."""

_ROUNDS = 20
"""How often events that others have committed meanwhile are copied. Each round is shorter than the one before."""


def rename(
    repository: Repository,
    kind: str,
    old: str,
    new: str,
    *,
    label: str,
    finish: Callable[[], None] = lambda: None,
    dry_run: bool = False,
) -> None:
    """Give a name another name. A kill at any time loses nothing, and another call continues.

    Args:
        repository: The repository.
        kind: The kind of the two streams.
        old, new: The names of the streams, which are valid. The old one has something under it.
        label: The new name, for messages.
        finish: Called before anything is deleted, when everything stands under the new name.
        dry_run: Change nothing, and only raise the error that would be raised.

    Raises:
        InvalidArgument: The new name is the old one, or has something under it.
        CommitConflict: Others wrote to one of the two names all the time.
    """
    if new == old:
        raise InvalidArgument(f"{label} has this name already. Nothing was changed.")
    source = repository.stream(kind, old, lambda _: None)
    copy = _Copy(repository, source, new, label)
    copy.begin()
    if dry_run:
        return
    since = _begin_of(source)
    for _ in range(_ROUNDS):
        source.refresh()
        if _begin_of(source) != since:
            raise CommitConflict(
                f"Somebody else has renamed the old name of {label} meanwhile. What was copied to {label} stays. Look "
                "at both new names, and delete the one that you do not want."
            )
        head, kept = source.head, _kept(source)
        copy.complete(kept)
        finish()

        def draft(head: int = head, kept: list[Event] = kept) -> Draft | None:
            gone = [event.sequence for event in kept if event.content is not None]
            return Draft(RENAMED, {"to": new}, gone) if source.head == head else None

        if repository.commit(source, draft) is not None:
            return
    raise CommitConflict(
        f"Others kept writing to the old name of {label}. Everything is under both names now. Stop them, then try "
        "again."
    )


def _kept(source: Stream) -> list[Event]:
    """Return the events of the current life of a name, without those whose only purpose is gone."""
    events = [event for event in source.events[_begin_of(source) :] if event.kind not in _NOT_COPIED]
    gone = {sequence for event in source.events for sequence in event.deletes}
    last = max((event.sequence for event in events if event.content is not None), default=0)
    # The last version is copied as `omitted`, so that its number is not given again.
    return [
        Event(event.sequence, b"", 0, event.token, event.time, OMITTED, {"id": event.body.get("id")})
        if event.sequence in gone
        else event
        for event in events
        if event.content is None or event.sequence not in gone or event.sequence == last
    ]


def _begin_of(source: Stream) -> int:
    """Return the number of the event with which the current life of a name begins."""
    return max((event.sequence for event in source.events if event.kind in (RENAMING, RENAMED)), default=0)


class _Copy:
    """The stream of the new name, and how much of the old one it has.

    Attributes:
        copied: The number of each event of the old name that was copied -> the number of its copy.
    """

    def __init__(self, repository: Repository, source: Stream, new: str, label: str) -> None:
        self._repository = repository
        self._source = source
        self._body_of_begin = {"from": source.name, "since": _begin_of(source)}
        self._label = label
        self._forget()
        self._stream = repository.stream(source.kind, new, self._apply, self._forget)

    def _forget(self) -> None:
        self.copied: dict[int, int] = {}
        self._mark: bytes | None = None
        self._foreign = False
        self._live: set[int] = set()

    def _apply(self, event: Event) -> None:
        self._live.difference_update(event.deletes)
        if event.content is not None:
            self._live.add(event.sequence)
        if event.kind in (RENAMING, RENAMED):
            begins = event.kind == RENAMING and event.body == self._body_of_begin
            self._mark = blake3(event.token).digest(_MARK) if begins else None
            self.copied, self._foreign = {}, False
        elif self._mark is not None and event.token[:_MARK] == self._mark:
            self.copied[int.from_bytes(event.token[_MARK:])] = event.sequence
        elif event.kind != "fence":
            self._foreign = True

    def complete(self, kept: list[Event]) -> None:
        """Copy the events that are missing, in their order."""
        self._stream.refresh()
        self._commit(self.begin)
        for event in kept:
            if event.sequence > next(reversed(self.copied), 0):
                with damage_of(f"{event.body.get('id') or 'an event'} of {self._source.label}"):
                    self._copy(event)

    def begin(self) -> Draft | None:
        """Return the event that begins the copy, or None if it has begun. Raise an error if the name is taken."""
        if self._mark is not None and not self._foreign:
            return None
        if self._live and self._mark is not None:
            raise self._conflict()
        if self._live:
            raise InvalidArgument(f"{self._label} exists already. Nothing was changed. Choose another name.")
        return Draft(RENAMING, self._body_of_begin)

    def _copy(self, event: Event) -> None:
        def draft() -> Draft | None:
            if self._foreign or self._mark is None:
                raise self._conflict()
            deletes = [self.copied[sequence] for sequence in event.deletes if sequence in self.copied]
            if event.sequence in self.copied or (event.content is None and event.deletes and not deletes):
                return None
            token = self._mark + event.sequence.to_bytes(len(event.token) - _MARK)
            return Draft(event.kind, self._body(event), deletes, event.time, token)

        if event.content is None:
            self._commit(draft)
            return
        content, written = self._repository.read(self._source, event), event.content.written

        def store(writer: Writer) -> Stored:
            stored = writer.adopt(content)
            # Nothing is written now, but the version still is what added these bytes to the repository.
            return Stored(msgspec.structs.replace(stored.content, written=written), stored.inline)

        self._commit(draft, content.inline, None if content.inline else store)

    def _body(self, event: Event) -> dict[str, Any]:
        """Return the body of a copy. The number of an event in it becomes that of its copy."""
        order = event.body.get("order")
        if type(order) is not int:
            return event.body
        numbers = list(self.copied)
        at = bisect_right(numbers, order)
        return {**event.body, "order": self.copied[numbers[at - 1]] if at else 0}

    def _commit(
        self, draft: MakeDraft, content: Stored | None = None, store: Callable[[Writer], Stored] | None = None
    ) -> None:
        try:
            self._repository.commit(self._stream, draft, content=content, store=store)
        except CommitUnknown as error:
            raise self._unfinished(error) from error

    def _conflict(self) -> CommitConflict:
        return CommitConflict(
            f"Others wrote to {self._label} while it was becoming the new name. Everything is still under the old "
            "name. Delete the new one, then try again."
        )

    def _unfinished(self, error: CommitUnknown) -> StorageUnavailable:
        return error.unavailable(f"{self._label} is not complete. Everything is still under the old name")
