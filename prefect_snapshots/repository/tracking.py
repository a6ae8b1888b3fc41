"""Follow one stream and change it: the one way in which every kind reads and writes its state.

A kind says what its events mean: its *state* takes them one by one. `TrackedStream` does everything that is the same
for all kinds: it reads before it decides, creates nothing when there is nothing to change, lets writers land in the
order of their calls, never makes a reader wait for an upload, attributes damage to a version, and suggests similar
names when something is not found.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, Protocol, Self, TypeVar

from ..errors import DamagedVersion, IntegrityError
from .catalog import Event, Stream
from .commits import MakeDraft
from .contents import ContentReader, Stored, Writer, inline
from .location import Buffer
from .repository import Repository
from .threads import Turns


class State(Protocol):
    """What a kind knows of one name, computed from its events."""

    def apply(self, event: Event) -> None:
        """Take one event into account."""

    def copy(self) -> Self:
        """Return a copy that later events do not change, without copying what never changes."""


S = TypeVar("S", bound=State)


class TrackedStream(Generic[S]):
    """Follow one stream of a kind, and commit events to it.

    Args:
        repository: The repository that holds the stream. It need not exist yet.
        kind: The kind of the stream, such as "snapshots".
        name: Which stream of this kind.
        state: An empty state.

    Attributes:
        state: The state as of the last refresh. Use it inside drafts only: elsewhere other threads change it.
    """

    def __init__(self, repository: Repository, kind: str, name: str, state: S) -> None:
        self.repository = repository
        self.name = name
        self.state = state
        self._empty = state.copy()
        self._shared = False
        self._turns = Turns()
        self.stream: Stream = repository.stream(kind, name, self._apply, self._forget)

    @property
    def events(self) -> Sequence[Event]:
        """All events, oldest first, as of the last refresh."""
        return self.stream.events

    def refresh(self) -> S:
        """Read new events, those of other writers included, and return the state.

        What you get never changes: the next event is applied to a copy.
        """
        with self.stream.lock:
            self.stream.refresh()
            return self.view

    @property
    def view(self) -> S:
        """The state as of the last refresh. It never changes, as that of `refresh`."""
        with self.stream.lock:
            self._shared = True
            return self.state

    def change(self, draft: MakeDraft, *, dry_run: bool = False) -> Event | None:
        """Commit an event without content. Creates no repository.

        Args:
            draft: Returns what to commit, given the current state; None commits nothing. It is called again after
                another writer was faster.
            dry_run: Call `draft` once and commit nothing.
        """
        with self.stream.lock:
            self.stream.refresh()
            if dry_run or not self.repository.exists():
                draft()
                return None
        return self.repository.commit(self.stream, draft)

    def put(
        self, draft: MakeDraft, manifest: bytes, buffers: Sequence[Buffer], *, token: bytes | None = None
    ) -> Event | None:
        """Commit an event with content. Small content travels inside the event."""
        return self.store(draft, inline(manifest, buffers), lambda writer: writer.store(manifest, buffers), token=token)

    def store(
        self, draft: MakeDraft, content: Stored | None, store: Callable[[Writer], Stored], *, token: bytes | None = None
    ) -> Event | None:
        """Commit an event with the given content, or with the content that `store` stores if there is none yet.

        Several calls land in the order in which they were made: the second does not overtake a longer first one.
        """
        with self._turns.turn():
            return self.repository.commit(
                self.stream, draft, store=None if content else store, content=content, token=token
            )

    def adopt(
        self, draft: MakeDraft, source: ContentReader, passed: Callable[[int], None] = lambda _: None
    ) -> Event | None:
        """Commit an event whose content is stored already, in this or another repository."""
        with self._turns.turn():
            self.stream.refresh()
            return self.repository.adopt(self.stream, draft, source, passed=passed)

    @contextlib.contextmanager
    def reading(self, event: Event, label: str) -> Iterator[ContentReader]:
        """Open the content of an event. Damage is raised as `DamagedVersion` of `label`."""
        with damage_of(label):
            yield self.repository.read(self.stream, event)

    def _apply(self, event: Event) -> None:
        if self._shared:
            self.state = self.state.copy()
            self._shared = False
        self.state.apply(event)

    def _forget(self) -> None:
        self.state = self._empty.copy()
        self._shared = False


@contextlib.contextmanager
def damage_of(label: str) -> Iterator[None]:
    """Raise damage that is found inside the block as `DamagedVersion` of `label`."""
    try:
        yield
    except DamagedVersion:
        raise
    except IntegrityError as error:
        raise DamagedVersion(label, "", str(error)) from error


def close_names(wanted: object, existing: Iterable[str]) -> list[str]:
    """Return up to three existing names that resemble `wanted`, or else the last three."""
    names = list(existing)
    return difflib.get_close_matches(str(wanted), names, 3, 0.5) or names[-3:]


def hint(wanted: object, existing: Iterable[str]) -> str:
    """Return the last sentence of a message about a name that was not found: similar names, or else the last three.

    Example:
        >>> hint("trian", ["train", "test"]), hint("x", ["train", "test"]), hint("x", ["train"]), hint("x", [])
        ("Did you mean 'train'?", 'There are: train, test.', "There is only 'train'.", 'There are none.')
    """
    names = list(existing)
    if close := difflib.get_close_matches(str(wanted), names, 3, 0.5):
        *others, last = map(repr, close)
        return f"Did you mean {', '.join(others)} or {last}?" if others else f"Did you mean {last}?"
    if len(names) < 2:
        return f"There is only {names[0]!r}." if names else "There are none."
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return f"There are: {', '.join(names[-3:])}{more}."
