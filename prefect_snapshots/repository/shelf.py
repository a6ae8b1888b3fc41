"""A shelf: one name of a room, followed and changed. Every room keeps what it has on shelves.

A room says what its events mean, as a *state* that takes them one by one. Everything that is the same in every room is
here: looking before deciding, changing nothing that does not exist, saying whose bytes are damaged, and naming what
there is where something is not.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from ..errors import DamagedVersion, IntegrityError
from .catalog import Event, Stream
from .contents import ContentReader, Stored, Writer, inline
from .location import Buffer
from .repository import Draft, Repository


class State(Protocol):
    """What a room knows of a name."""

    def apply(self, event: Event) -> None:
        """Take one event into account."""


S = TypeVar("S", bound=State)
MakeDraft = Callable[[], Draft | None]


class Shelf(Generic[S]):
    """One name of a room.

    Arguments:
        repository: where it is.
        kind: of the room.
        name: keeps shelves of a room apart.
        state: knows nothing yet.
    """

    def __init__(self, repository: Repository, kind: str, name: str, state: S) -> None:
        self.repository = repository
        self.name = name
        self.state = state
        self.stream: Stream = repository.stream(kind, name, state.apply)

    @property
    def events(self) -> Sequence[Event]:
        """Everything that ever happened, as of the last look."""
        return self.stream.events

    def now(self) -> S:
        """The state, other writers' changes included."""
        self.stream.refresh()
        return self.state

    def change(self, draft: MakeDraft, *, dry_run: bool = False) -> Event | None:
        """Commit an event without a content. Creates no repository; with `dry_run` only asks for the draft."""
        self.stream.refresh()
        if dry_run or not self.repository.exists():
            draft()
            return None
        return self.repository.commit(self.stream, draft)

    def put(
        self, draft: MakeDraft, manifest: bytes, buffers: Sequence[Buffer], *, token: bytes | None = None
    ) -> Event | None:
        """Commit an event with a content: within the event if that is small."""
        return self.store(draft, inline(manifest, buffers), lambda writer: writer.store(manifest, buffers), token=token)

    def store(
        self, draft: MakeDraft, content: Stored | None, store: Callable[[Writer], Stored], *, token: bytes | None = None
    ) -> Event | None:
        """The same, with a content that travels within the event, or else one that `store` stores."""
        return self.repository.commit(
            self.stream, draft, store=None if content else store, content=content, token=token
        )

    def adopt(
        self, draft: MakeDraft, source: ContentReader, passed: Callable[[int], None] = lambda _: None
    ) -> Event | None:
        """Commit an event with a content that is stored already, here or elsewhere."""
        self.stream.refresh()
        return self.repository.adopt(self.stream, draft, source, passed=passed)

    @contextlib.contextmanager
    def reading(self, event: Event, label: str) -> Iterator[ContentReader]:
        """The content of an event. What is damaged in it is said of `label`."""
        with damage_of(label):
            yield self.repository.read(self.stream, event)


@contextlib.contextmanager
def damage_of(label: str) -> Iterator[None]:
    """What is damaged within the block is said of a version."""
    try:
        yield
    except DamagedVersion:
        raise
    except IntegrityError as error:
        raise DamagedVersion(label, "", str(error)) from error


def near(wanted: object, there: Iterable[str]) -> list[str]:
    """Up to three names that somebody who wrote `wanted` may have meant; else the last ones that there are."""
    names = list(there)
    return difflib.get_close_matches(str(wanted), names, 3, 0.5) or names[-3:]


def offer(wanted: object, there: Iterable[str]) -> str:
    """What a message about something missing ends with."""
    names = near(wanted, there)
    return f"(there is: {', '.join(names)})" if names else "(there is none at all)"
