"""Snapshots that all processes of a JAX run save together: each stores what only it has, and process 0 commits."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import msgspec
import numpy as np

from ..errors import IntegrityError, NotSupported, ProcessesDisagree, ProcessFailed, StagedPartsLost, UnserialisableLeaf
from ..repository.catalog import Event
from ..repository.chunking import cut
from ..repository.commits import Draft, MakeDraft
from ..repository.contents import ContentReader, Item, Kept, StagedPart, Stored, Writer
from ..repository.location import Buffer
from ..repository.repository import Repository
from ..values import LeafInfo, SharedValue, Spread, describe, encode_shared, without_pickles
from .backends import Durable, detached, nothing
from .processes import Turn, together, turn_of
from .records import Record

_NOTHING = "Nothing was saved. Pass the same in every process."

_ATTEMPTS = 3
"""How often parts that a prune has freed are staged again. A prune spares what is younger than its grace time."""


class ArrayPiece(msgspec.Struct, array_like=True, frozen=True):
    """A piece of an array: the number of the array among those that are spread over the processes, the number of the
    cell, and its size in bytes."""

    array: int
    cell: int
    size: int


class Report(msgspec.Struct, array_like=True, frozen=True):
    """What a process has to contribute to a snapshot."""

    agreed: dict[str, Any]
    """What must be equal in all processes, by the name that error messages use."""
    manifest: bytes
    pieces: list[ArrayPiece]
    """The pieces in its part, in order."""
    part: StagedPart | None


class CommitAnswer(msgspec.Struct, array_like=True, frozen=True):
    """What process 0 says after an attempt to commit."""

    sequence: int | None
    """The event of the snapshot, or None if it ranks too low to be kept."""
    again: list[int] | None = None
    """The processes that have to stage their parts again."""


@dataclass(frozen=True, slots=True)
class SharedSave:
    """A value that is ready to be saved by all processes.

    Attributes:
        turn: The turn of this save.
        agreed: See `Report`.
        manifest: The manifest of the value.
        body: The body in order: bytes that process 0 stores, and arrays of which each process has pieces.
        mine: The pieces that this process has, with their bytes.
    """

    turn: Turn
    agreed: dict[str, Any]
    manifest: bytes
    body: list[Buffer | Spread]
    mine: list[tuple[ArrayPiece, Buffer]]


class Shared(Durable):
    """The snapshots of one name in a repository, in a run of one or of several processes."""

    def __init__(self, repository: Repository, name: str, timeout: float) -> None:
        super().__init__(repository, name)
        self._timeout = timeout

    def prepare(
        self, value: Any, deepcopy: bool | None, *, detach: bool = False, agreed: Mapping[str, Any] | None = None
    ) -> Any:
        turn = self._turn()
        if turn is None:
            return super().prepare(value, deepcopy, detach=detach)
        try:
            return self._share(turn, encode_shared(value, allow_pickle=self.repository.allow_pickle), agreed, detach)
        except BaseException as error:
            turn.fail(error)
            raise

    def refuse(self, error: Exception) -> None:
        turn = self._turn()
        if turn is not None:
            turn.fail(error)

    def value_of(self, prepared: Any) -> Any:
        if isinstance(prepared, SharedSave):
            raise UnserialisableLeaf("", "No process has the whole value. Rank by rank_by, or by metadata in cmp.")
        return super().value_of(prepared)

    def put(self, draft: MakeDraft, prepared: Any, token: bytes | None, otherwise: MakeDraft = nothing) -> Event | None:
        if not isinstance(prepared, SharedSave):
            return super().put(draft, prepared, token, otherwise)
        turn = prepared.turn
        try:
            if turn.leads:
                return self._commit(draft, prepared, token, otherwise)
            sequence = self._contribute(prepared)
        except BaseException as error:
            turn.fail(error)
            raise
        return self._event(sequence)

    def note(self, draft: MakeDraft, *, dry_run: bool = False) -> Event | None:
        turn = None if dry_run else self._turn()
        if turn is None:
            return super().note(draft, dry_run=dry_run)

        def plan() -> dict[str, Any]:
            plans: list[Draft | None] = []
            Durable.note(self, lambda: plans.append(draft()), dry_run=True)
            return {} if plans[0] is None else {"change": plans[0].kind, **plans[0].body}

        return self._once(turn, plan, lambda: Durable.note(self, draft))

    def clone(self, draft: MakeDraft, source: Record, otherwise: MakeDraft = nothing) -> Event | None:
        turn = self._turn()
        if turn is None:
            return super().clone(draft, source, otherwise)
        plan = {"snapshot_id": source.id}
        return self._once(turn, lambda: plan, lambda: Durable.clone(self, draft, source, otherwise))

    def rename(self, new: str, dry_run: bool) -> None:
        if self._turn() is not None:
            raise NotSupported("Several processes that save together cannot rename. Rename in one process, afterwards.")
        super().rename(new, dry_run)

    # --- inside ----------------------------------------------------------------------------------------------

    def _turn(self) -> Turn | None:
        return turn_of(f"{self.repository.url} {self._tracked.name}", self._timeout)

    def _once(self, turn: Turn, plan: Callable[[], dict[str, Any]], act: Callable[[], Event | None]) -> Event | None:
        def sequence() -> int | None:
            event = act()
            return None if event is None else event.sequence

        return self._event(together(turn, plan, sequence, _check_plan))

    def _event(self, sequence: int | None) -> Event | None:
        if sequence is None:
            return None
        self._tracked.stream.refresh()
        return self.events[sequence - 1]

    def _share(self, turn: Turn, value: SharedValue, agreed: Mapping[str, Any] | None, detach: bool) -> SharedSave:
        body: list[Buffer | Spread] = []
        mine: list[tuple[ArrayPiece, Buffer]] = []
        arrays = itertools.count()
        for part in value.body:
            if isinstance(part, Spread):
                array = next(arrays)
                mine += [(ArrayPiece(array, cell, size), read()) for cell, size, read in part.mine]
                body.append(part)
            elif not turn.leads:
                body.append(b"")  # only process 0 stores what all have
            else:
                buffer = part() if callable(part) else part
                body.append(detached([buffer])[0] if detach else buffer)
        if detach:
            copies = detached([buffer for _, buffer in mine])
            mine = [(piece, copy) for (piece, _), copy in zip(mine, copies, strict=True)]
        return SharedSave(turn, dict(agreed or {}), value.manifest, body, mine)

    def _contribute(self, share: SharedSave) -> int | None:
        """Stage the part of this process, and return the sequence of the event that process 0 has committed."""
        turn, wanted = share.turn, True
        while True:
            if wanted:
                turn.report(self._stage(share))
            answer = turn.wait(CommitAnswer)
            if answer.again is None:
                return answer.sequence
            wanted = turn.index in answer.again
            turn.attempt += 1

    def _stage(self, share: SharedSave) -> Report:
        """Store the pieces that this process has, and return what to report about them."""
        part = self.repository.stage([buffer for _, buffer in share.mine]) if share.mine else None
        return Report(share.agreed, share.manifest, [piece for piece, _ in share.mine], part)

    def _commit(self, draft: MakeDraft, share: SharedSave, token: bytes | None, otherwise: MakeDraft) -> Event | None:
        """Commit what this process and the others have stored. Ask those again whose parts a prune has freed."""
        turn = share.turn
        # While the others store their parts, not after it.
        reports = {turn.index: self._stage(share)}
        reports.update(turn.reports(Report, range(1, turn.count)))
        for process, report in reports.items():
            _check_agreed(share, process, report)

        def store(writer: Writer) -> Stored:
            return self._join(writer, share, reports)

        while True:
            try:
                event = self._tracked.store(draft, None, store, token=token)
            except StagedPartsLost as lost:
                if turn.attempt == _ATTEMPTS - 1:
                    raise
                turn.answer(CommitAnswer(None, list(lost.parts)))
                turn.attempt += 1
                if turn.index in lost.parts:
                    reports[turn.index] = self._stage(share)
                reports.update(turn.reports(Report, [process for process in lost.parts if process != turn.index]))
                continue
            if event is None:
                Durable.note(self, otherwise)
            turn.answer(CommitAnswer(None if event is None else event.sequence))
            return event

    def _join(self, writer: Writer, share: SharedSave, reports: Mapping[int, Report]) -> Stored:
        """Store what all processes have, and refer to the pieces that they have stored."""
        pieces: dict[tuple[int, int], list[Item]] = {}
        lost = []
        for process, report in reports.items():
            if report.part is None:
                continue
            try:
                pieces.update(_split(writer, self.repository.staged(report.part), report.pieces))
            except IntegrityError:
                lost.append(process)
        if lost:
            raise StagedPartsLost(*lost)
        return writer.store_cut(share.manifest, _items(share.body, pieces))


def _split(
    writer: Writer, part: ContentReader, pieces: Sequence[ArrayPiece]
) -> Iterator[tuple[tuple[int, int], list[Item]]]:
    """Yield each piece of a part as what `Writer.store_cut` takes. A piece begins and ends where chunks do."""
    ends = np.cumsum([piece.size for piece in pieces], dtype=np.int64)
    if part.inline is not None:
        data = memoryview(part.read(0, part.size))
        for piece, end in zip(pieces, ends, strict=True):
            yield (piece.array, piece.cell), [*cut([data[end - piece.size : end]])]
        return
    rows = writer.keep(part)
    bounds = np.searchsorted(np.cumsum(rows["size"], dtype=np.int64), ends, side="right")
    first = 0
    for piece, bound in zip(pieces, bounds, strict=True):
        yield (piece.array, piece.cell), [Kept(rows[first:bound])]
        first = int(bound)


def _items(body: Sequence[Buffer | Spread], pieces: Mapping[tuple[int, int], list[Item]]) -> Iterator[Item]:
    """Yield the body in order."""
    arrays = itertools.count()
    for spread, run in itertools.groupby(body, lambda part: isinstance(part, Spread)):
        if not spread:
            yield from cut(cast("Iterator[Buffer]", run))
            continue
        for part, array in zip(run, arrays, strict=False):
            for cell in range(cast("Spread", part).cells):
                if (array, cell) not in pieces:
                    raise ProcessFailed("No process of this run has a piece of an array that is spread over them.")
                yield from pieces[array, cell]


def _check_agreed(share: SharedSave, process: int, report: Report) -> None:
    """Raise `ProcessesDisagree` if another process has called the same method with other arguments."""
    _check_plan(share.agreed, process, report.agreed)
    manifests = share.manifest, report.manifest
    if share.manifest != report.manifest and len(set(map(without_pickles, manifests))) > 1:
        mine, other = ({leaf.path: _compared(leaf) for leaf in describe(each)} for each in manifests)
        for path in (*mine, *other):
            if mine.get(path) != other.get(path):
                _compare(f"leaf {path}", _shown(mine.get(path)), _shown(other.get(path)), process)
        raise ProcessesDisagree(f"Processes 0 and {process} save values with different containers. {_NOTHING}")


def _check_plan(mine: Mapping[str, Any], process: int, other: Mapping[str, Any]) -> None:
    """Raise `ProcessesDisagree` if another process has passed other arguments."""
    for name in sorted(mine.keys() | other.keys()):
        here, there = mine.get(name), other.get(name)
        if isinstance(here, dict) and isinstance(there, dict):
            for key in sorted(here.keys() | there.keys()):
                _compare(f"{name}[{key!r}]", here.get(key), there.get(key), process)
        else:
            _compare(name, here, there, process)


def _compare(what: str, mine: Any, other: Any, process: int) -> None:
    # Compare encoded values, because a NaN is not equal to itself.
    if msgspec.msgpack.encode(mine) != msgspec.msgpack.encode(other):
        raise ProcessesDisagree(
            f"The processes of this run disagree about {what}: it is {mine!r:.80} in process 0, and {other!r:.80} in "
            f"process {process}. {_NOTHING}"
        )


def _compared(leaf: LeafInfo) -> LeafInfo:
    """Return what must be equal in all processes of the description of a leaf."""
    return dataclasses.replace(leaf, offset=0, nbytes=0 if leaf.kind == "pickle" else leaf.nbytes)


def _shown(leaf: LeafInfo | None) -> str:
    if leaf is None:
        return "missing"
    if leaf.inline:
        return repr(leaf.value)
    return f"{leaf.kind} {leaf.dtype or ''}{list(leaf.shape or ())}, {leaf.nbytes} bytes"
