"""Follow one stream and change it. All kinds read and write their state in this way.

A kind defines the meaning of its events by its *state*, to which they are applied one by one. `TrackedStream` does what
is the same for all kinds: it reads before it decides, creates no repository if there is nothing to change, commits in
the order of the calls, never makes a reader wait for an upload, and assigns damage to a version.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, Protocol, Self, TypeVar

from ..errors import DamagedVersion, IntegrityError
from ..messages import hint, logger
from .catalog import Event, Stream
from .commits import MakeDraft
from .contents import ContentReader, Stored, Writer, inline
from .location import Buffer
from .metadata import is_deep
from .repository import Repository
from .threads import Turns


class State(Protocol):
    """The state of one name of a kind, computed from its events."""

    def apply(self, event: Event) -> None:
        """Apply one event."""

    def copy(self) -> Self:
        """Return a copy that is independent of later events. Immutable parts may be shared."""


S = TypeVar("S", bound=State)


class TrackedStream(Generic[S]):
    """Follow one stream of a kind, and commit events to it.

    Args:
        repository: The repository of the stream. It need not exist yet.
        kind: The kind of the stream, such as "snapshots".
        name: The name of the stream within the kind.
        state: An empty state.

    Attributes:
        state: The state as of the last refresh. Use it only inside drafts, because other threads may change it.
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
        """Read new events, including those of other writers, and return the state.

        The returned state never changes, because the next event is applied to a copy.
        """
        with self.current():
            return self.view

    @contextlib.contextmanager
    def current(self) -> Iterator[S]:
        """Read new events, and lend the state, which must not change or be used after the `with` block.

        Unlike after `refresh`, the next event needs no copy, whose cost grows with the number of versions.
        """
        with self.stream.lock:
            self.stream.refresh()
            yield self.state

    @property
    def view(self) -> S:
        """The state as of the last refresh. It never changes."""
        with self.stream.lock:
            self._shared = True
            return self.state

    def change(self, draft: MakeDraft, *, dry_run: bool = False) -> Event | None:
        """Commit an event without content. Creates no repository.

        Args:
            draft: A function that returns the event to commit for the current state, or None to commit nothing. It is
                called again if another writer was faster.
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
        """Commit an event with content. Small content is stored inside the event."""
        return self.store(draft, inline(manifest, buffers), lambda writer: writer.store(manifest, buffers), token=token)

    def store(
        self, draft: MakeDraft, content: Stored | None, store: Callable[[Writer], Stored], *, token: bytes | None = None
    ) -> Event | None:
        """Commit an event with the given content or, if it is None, with the content that `store` stores.

        Several calls are committed in their order: a short second one does not overtake a long first one.
        """
        with self._turns.turn():
            return self.repository.commit(
                self.stream, draft, store=None if content else store, content=content, token=token
            )

    def adopt(
        self, draft: MakeDraft, source: ContentReader, passed: Callable[[int], None] = lambda _: None
    ) -> Event | None:
        """Commit an event with content that is already stored in this or another repository."""
        with self._turns.turn():
            self.stream.refresh()
            return self.repository.adopt(self.stream, draft, source, passed=passed)

    @contextlib.contextmanager
    def reading(self, event: Event, label: str) -> Iterator[ContentReader]:
        """Open the content of an event. Damage raises `DamagedVersion` with `label`."""
        with damage_of(label):
            yield self.repository.read(self.stream, event)

    def _apply(self, event: Event) -> None:
        if self._shared:
            self.state = self.state.copy()
            self._shared = False
        if is_deep(event.body.values()):
            raise ValueError("lists or dictionaries that are nested too deeply to be copied or shown")
        self.state.apply(event)

    def _forget(self) -> None:
        self.state = self._empty.copy()
        self._shared = False


def absence(repository: Repository, kind: str, name: str) -> str:
    """Return the end of a sentence that there is nothing under a name: where, and which similar names there are.

    The name or the URL may be misspelt.

    Args:
        repository: The repository that was searched. It need not exist.
        kind: The kind, such as "snapshots". Names of other kinds are not similar names.
        name: The name under which there is nothing.

    Example:
        >>> absence(Repository("memory://example-absence"), "snapshots", "train")
        ': there is no repository at memory://example-absence. Check the URL.'
    """
    if not repository.exists():
        return f": there is no repository at {repository.url}. Check the URL."
    others = [each for each in repository.names(kind) if each != name]
    return f" in {repository.url}.{f' {hint(name, others)}' if others else ''}"


@contextlib.contextmanager
def damage_of(label: str) -> Iterator[None]:
    """Turn damage that is found in the `with` block into `DamagedVersion` with `label`."""
    try:
        yield
    except DamagedVersion:
        raise
    except IntegrityError as error:
        raise DamagedVersion(label, "", str(error)) from error


@contextlib.contextmanager
def leaving_out_damage(what: str, *, when: bool = True) -> Iterator[None]:
    """Log damage that is found in the `with` block, and go on: one name that cannot be read hides no other one.

    Args:
        what: What cannot be read then, for the message.
        when: Whether to do so. If not, as where the user has named what is damaged, the error is raised.
    """
    try:
        yield
    except IntegrityError as error:
        if not when:
            raise
        logger.warning("%s cannot be read: %s", what, error)
