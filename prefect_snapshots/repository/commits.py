"""Commit one event: data first, then its name.

A commit ends in one of three ways: the event is stored, or it is not, or `CommitUnknown` is raised with a token, with
which you can try again safely. No other error leaves the outcome open.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import CommitUnknown, DamagedObject, IntegrityError, ObjectMissing, StorageError, StorageFull
from .catalog import Catalog, Event, Stream, new_token, slot_path
from .chunking import cut
from .contents import Store, Stored, Writer, inline
from .location import Buffer
from .reserve import spare_reserve, with_reserve

_STORE_ATTEMPTS = 3
"""How often content is stored before its pack is reported missing. A prune deletes the unfinished pack of a writer only
after a day. If this happens twice to one commit, something else deletes packs."""


@dataclass(frozen=True, slots=True)
class Draft:
    """An event to commit, based on the current state of the stream.

    Attributes:
        kind: The type of the event, as the kind of the stream defines it.
        body: The fields of the event, in plain types.
        deletes: The sequences of earlier events whose content is deleted.
        time: When it was first committed, for a copy of an event of another repository. Default: now.
        token: The token of that event. Default: the token of this commit.
    """

    kind: str
    body: dict[str, Any] = field(default_factory=dict)
    deletes: Sequence[int] = ()
    time: int | None = None
    token: bytes | None = None


MakeDraft = Callable[[], Draft | None]
"""A function that returns the event to commit for the current state of the stream, or None to commit nothing."""


def commit(
    catalog: Catalog,
    chunks: Store,
    stream: Stream,
    draft: MakeDraft,
    *,
    store: Callable[[Writer], Stored] | None = None,
    content: Stored | None = None,
    token: bytes | None = None,
) -> Event | None:
    """Commit one event. See `Repository.commit`."""

    def act() -> Event | None:
        return _commit(catalog, chunks, stream, draft, store, content, token)

    try:
        streams = _count_streams(catalog)
        if store is None and content is None:
            # An event without content deletes or annotates. On a full disk, this is the first step to free space.
            return with_reserve(chunks.location, act, leave_for=streams)
        spare_reserve(chunks.location, streams)
        return act()
    except CommitUnknown:
        raise
    except StorageError as error:
        if token is None and isinstance(error, StorageFull):
            raise StorageFull(
                f"{str(error).rstrip('. ')}. Nothing was committed. Delete what you do not need, then run "
                "`prefect-snapshots prune` to free its space."
            ) from error
        if token is None:
            raise
        # The request of the earlier attempt may succeed as late as now, whatever stopped this attempt.
        raise CommitUnknown(token.hex(), str(error)) from error


def stage(catalog: Catalog, chunks: Store, content: Sequence[Buffer] | Callable[[Writer], Stored]) -> Stored:
    """Store content that no event names yet. See `Repository.stage`."""
    if not callable(content):
        few = inline(b"", content)
        if few is not None:
            return few
        separate = [chunk for buffer in content for chunk in cut([buffer])]
    spare_reserve(chunks.location, _count_streams(catalog))
    store = content if callable(content) else lambda writer: writer.store_cut(b"", separate)
    # A later commit finds out by itself whether these chunks are still stored, so nobody needs the epoch.
    return _store(catalog, chunks, store, None)[0]


def _count_streams(catalog: Catalog) -> int:
    """Return for how many streams prune needs a part of the reserve, on a disk.

    A process that has just begun knows of none. Without a look it would take what prune needs for all of their fences.
    """
    if catalog.location.is_local and not catalog.root.loaded:
        # Whoever needs what is damaged gets the error; this commit may need none of it.
        with contextlib.suppress(IntegrityError):
            catalog.root.refresh()
    return len(catalog.state.streams)


def _commit(
    catalog: Catalog,
    chunks: Store,
    stream: Stream,
    draft: MakeDraft,
    store: Callable[[Writer], Stored] | None,
    content: Stored | None,
    token: bytes | None,
) -> Event | None:
    with stream.lock:
        if token is not None or not stream.loaded:
            stream.refresh()
    epoch = -1
    stored = content
    attempt = 0
    own_token = token or new_token()
    seen = 0 if token is not None else stream.head
    while True:
        with stream.lock:
            # A request that was abandoned earlier may have succeeded by now. Without this check, it would count twice.
            landed = stream.find(own_token, seen)
            if landed is not None:
                return landed
            seen = stream.head
            plan = draft()
            if plan is None:
                return None
            if stream.head == 0 or not catalog.knows(stream):
                _register(catalog, stream)
            # If a prune has condemned packs since the content was stored, it has put a fence with a newer epoch into
            # the stream. Without storing again, the event would refer to packs that are about to be deleted.
            required = stream.epoch if stream.head else catalog.state.epoch
            if store is None or (stored is not None and epoch >= required):
                event = stream.append(
                    plan.kind,
                    plan.body,
                    epoch=max(epoch, required),
                    token=plan.token or own_token,
                    at=plan.time,
                    content=stored.content if stored else None,
                    inline=stored.inline if stored else b"",
                    deletes=plan.deletes,
                )
                if event is not None:
                    return event
                attempt += 1
                stream.back_off(attempt)
                stream.refresh()
                continue
        # Without the lock, so that readers never wait for an upload. Afterwards the draft is made again.
        assert store is not None
        stored, epoch = _store(catalog, chunks, store, required)
        if epoch < required and catalog.state.epoch < required:
            raise DamagedObject(
                slot_path(stream.id, stream.head), f"it has epoch {required}, but the root stream has only {epoch}"
            )


def _register(catalog: Catalog, stream: Stream) -> None:
    """Register the stream in root before its first event, because prune must find every stream with content."""
    try:
        catalog.register(stream)
    except CommitUnknown as error:
        # Registering twice is harmless, and the caller does not need its token: none of their data was committed.
        raise error.unavailable(f"{stream.label} could not be registered, and nothing was committed") from error


def _store(
    catalog: Catalog, chunks: Store, store: Callable[[Writer], Stored], required: int | None
) -> tuple[Stored, int]:
    """Store content. Return where it is, and the epoch on which the choice of reused chunks is based.

    For a commit, the root stream is read only if its stream has a newer epoch, `required`, than is known here. If the
    stream has none of a newer condemnation yet, then its next event is the fence or comes before it, so that the commit
    fails or prune sees it. What is staged has no stream that would tell, so `required` is None, and root is read.
    """
    for attempt in range(_STORE_ATTEMPTS):
        if attempt or required is None or not catalog.root.loaded or catalog.state.epoch < required:
            catalog.root.refresh()
        if not chunks.index.loaded:
            chunks.index.load()
        # Read the epoch before the packs: after a condemnation in between, its packs are avoided without its epoch.
        epoch = catalog.state.epoch
        try:
            with Writer(chunks, epoch, frozenset(catalog.state.condemned)) as writer:
                stored = store(writer)
                # Packs before the index, and both before the event, so that an event never names missing data.
                writer.flush()
                return stored, writer.epoch
        except ObjectMissing:
            # A prune deleted the unfinished pack of a writer that was paused. Nothing was published, so begin again.
            if attempt == _STORE_ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")
