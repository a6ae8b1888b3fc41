"""Repository: open, commit, read - what the rooms above use.

A repository is any fsspec URL with a `repository.json`. Opening reads that; creating claims it exclusively. A room
keeps one *stream* for each of its names and commits *events* to it, some of them with a *content*.
"""

from __future__ import annotations

import contextlib
import contextvars
import json
import os
import subprocess
import unicodedata
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from blake3 import blake3

from ..errors import (
    DamagedObject,
    InvalidArgument,
    InvalidName,
    NotARepository,
    ObjectMissing,
    ReadOnlyRepository,
    RepositoryNotFound,
    StorageUnavailable,
    UnsupportedFormat,
    WrongPassword,
)
from ..redaction import harmless_options
from . import chunking
from .catalog import Catalog, Event, Stream, new_token
from .contents import ChunkReader, ContentReader, Store, Stored, Writer, inline
from .index import Index
from .location import Buffer, Location, open_location
from .sealing import Compression, Sealer, make_envelope, open_envelope
from .threads import Lock

if TYPE_CHECKING:
    from .maintenance import CheckReport, PruneReport, RepairReport, Statistics

CONFIG = "repository.json"
CONFIG_COPY = "repository.copy.json"
FORMAT = 1

DEFAULT_URL = "./snapshots"
SETTING = "PREFECT_INTEGRATIONS_SNAPSHOTS_REPOSITORY"
PASSWORD_SETTING = "PREFECT_INTEGRATIONS_SNAPSHOTS_PASSWORD"
PASSWORD_COMMAND_SETTING = "PREFECT_INTEGRATIONS_SNAPSHOTS_PASSWORD_COMMAND"

_STORE_ATTEMPTS = 3

NAME_LIMIT = 512
"""Most characters in a name, an id or a tag."""

_selected: contextvars.ContextVar[Repository | None] = contextvars.ContextVar(
    "prefect_snapshots_repository", default=None
)
_open: weakref.WeakValueDictionary[str, Repository] = weakref.WeakValueDictionary()


@dataclass(frozen=True, slots=True)
class Draft:
    """An event that a room wants to commit, given what the stream says right now."""

    kind: str
    body: dict[str, Any] = field(default_factory=dict)
    deletes: Sequence[int] = ()


class Repository:
    """One place for everything that must outlive a run.

    Nothing is read or written before the first use: writing then creates the repository when the URL is missing or
    empty; reading never creates one.

    Arguments:
        url: any fsspec URL or path. Default: the repository of the enclosing `use_repository`, else the environment
            variable `PREFECT_INTEGRATIONS_SNAPSHOTS_REPOSITORY`, else `./snapshots`.
        storage_options: passed to the fsspec filesystem (credentials, endpoint).
        password: encrypts a new repository, or opens an encrypted one. A function is asked for it if the repository is
            new or encrypted. Default: the environment variable
            `PREFECT_INTEGRATIONS_SNAPSHOTS_PASSWORD`, else the output of the command in
            `PREFECT_INTEGRATIONS_SNAPSHOTS_PASSWORD_COMMAND`.
        compression: "auto" (zstd where it pays), "high" or "none". Each writer decides for itself.
        allow_pickle: whether objects stored with pickle may be loaded. Say False for a repository that others write.
        read_only: write nothing at all, not even summaries.
        single_writer: accept a storage that cannot create objects exclusively, promising that there is one writer.

    Example:
        >>> from prefect_snapshots import Repository, SnapshotManager
        >>> repository = Repository("memory://example")
        >>> SnapshotManager(repository).save_snapshot({"a": 1}, snapshot_id="first")
        'first'
        >>> repository.check().ok
        True
    """

    def __init__(
        self,
        url: str | os.PathLike[str] | None = None,
        *,
        storage_options: Mapping[str, Any] | None = None,
        password: str | Callable[[], str | None] | None = None,
        compression: Compression = "auto",
        allow_pickle: bool = True,
        read_only: bool = False,
        single_writer: bool = False,
    ) -> None:
        if compression not in ("auto", "high", "none"):
            raise InvalidArgument(f'compression is "auto", "high" or "none", not {compression!r}')
        if url is None:
            url = os.environ.get(SETTING) or DEFAULT_URL
        self.location: Location = open_location(url, storage_options)
        self.allow_pickle = allow_pickle
        self.read_only = read_only
        self._password = password
        self._compression: Compression = compression
        self._single_writer = single_writer
        self._lock = Lock()
        self._opened: Opened | None = None
        self._complete = False
        self._token = os.urandom(16).hex()
        _open[self._token] = self

    @property
    def url(self) -> str:
        """Where the repository lies, without secrets."""
        return self.location.url

    @property
    def id(self) -> str:
        """The repository's id, 32 hexadecimal digits."""
        return self._reading().id

    @property
    def encrypted(self) -> bool:
        """Whether the repository has a password."""
        return self._reading().sealer.encrypted

    def exists(self) -> bool:
        """Whether there is a repository at the URL. Writes nothing."""
        try:
            self._reading()
        except RepositoryNotFound:
            return False
        return True

    # --- streams and contents: for the rooms ----------------------------------------------------------------

    def stream(
        self, kind: str, name: str, apply: Callable[[Event], None], forget: Callable[[], None] = lambda: None
    ) -> Stream:
        """The stream of a kind and name, read to its head. `apply` sees every event, now and later.

        `forget` is called before every event is applied once more, which a fork can make necessary.

        A repository that does not exist yet has only empty streams, unless it was opened read-only.
        """
        check_name(name)

        def catalog() -> Catalog | None:
            try:
                return self._reading().catalog
            except RepositoryNotFound:
                if self.read_only:
                    raise
                return None

        stream = Stream(catalog, kind, name, apply, forget)
        stream.refresh()
        return stream

    def names(self, kind: str) -> list[str]:
        """The names of all streams of a kind, sorted."""
        return sorted(name for its_kind, name in self._reading().catalog.streams().values() if its_kind == kind)

    def commit(
        self,
        stream: Stream,
        draft: Callable[[], Draft | None],
        *,
        store: Callable[[Writer], Stored] | None = None,
        content: Stored | None = None,
        token: bytes | None = None,
    ) -> Event | None:
        """Commit one event: data first, then its name.

        Arguments:
            stream: where to commit.
            draft: says what to commit, given what the stream says now. It is asked again whenever another writer was
                faster, and may raise, or return None to commit nothing.
            store: stores the event's content. It may be called again, when a prune condemned what was reused.
            content: a content that travels inside the event, instead of `store`.
            token: of an earlier attempt whose outcome is unknown. If that one landed, its event is returned.

        Returns:
            The event; None when the draft was None.

        Raises:
            CommitUnknown: the storage did not say whether the commit landed.
        """
        opened = self._writing()
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
                # A request that was given up earlier may land as late as now.
                landed = stream.find(own_token, seen)
                if landed is not None:
                    return landed
                seen = stream.head
                plan = draft()
                if plan is None:
                    return None
                if stream.head == 0 or not opened.catalog.knows(stream):
                    opened.catalog.register(stream)
                required = stream.epoch if stream.head else opened.catalog.state.epoch
                if store is None or (stored is not None and epoch >= required):
                    event = stream.append(
                        plan.kind,
                        plan.body,
                        epoch=max(epoch, required),
                        token=own_token,
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
            # Without the lock: nobody who only looks waits for an upload. Afterwards the draft is asked again.
            assert store is not None
            stored, epoch = self._store(opened, store)

    def adopt(
        self,
        stream: Stream,
        draft: Callable[[], Draft | None],
        source: ContentReader,
        *,
        token: bytes | None = None,
        passed: Callable[[int], None] = lambda _: None,
    ) -> Event | None:
        """Commit one event with a content that is stored already, here or in another repository.

        Only chunks that are not here are copied. A second try after a kill copies the rest.

        Arguments:
            stream, draft, token: as for `commit`.
            source: the content.
            passed: called with bytes that are here now.
        """
        if source.inline is not None:
            return self.commit(stream, draft, content=source.inline, token=token)
        return self.commit(stream, draft, store=lambda writer: writer.adopt(source, passed), token=token)

    def read(self, stream: Stream, event: Event) -> ContentReader:
        """The content of an event."""
        if event.content is None:
            raise InvalidArgument(f"event {event.sequence} of {stream.label} has no content")
        data = stream.inline(event.sequence) if event.content.depth == 0 else b""
        return ContentReader(self._reading().reader, event.content, data)

    # --- looking after it -----------------------------------------------------------------------------------

    def check(self, read_data: bool = False) -> CheckReport:
        """Verify that everything committed is there; with `read_data` read and verify every byte."""
        from .maintenance import check

        return check(self, read_data)

    def prune(self, dry_run: bool = False, *, grace: float = 24 * 3600.0) -> PruneReport:
        """Free the space of what no version needs any more. Safe beside any number of writers, also paused ones.

        Arguments:
            dry_run: only say what would be freed.
            grace: seconds during which a pack that nothing refers to yet is left to the upload it may belong to. It
                only spares a slow writer from repeating its work; safety does not depend on it.
        """
        from .maintenance import prune

        return prune(self, dry_run, grace)

    def repair(self, dry_run: bool = False) -> RepairReport:
        """Save what can be saved, and say what is lost."""
        from .maintenance import repair

        return repair(self, dry_run)

    def stats(self) -> Statistics:
        """Objects, bytes, what deduplication saved, and the requests that this process made."""
        from .maintenance import statistics

        return statistics(self)

    def change_password(self, new: str) -> None:
        """Set another password. The data keeps its keys, so that nothing is written anew.

        Who knew the old password may have kept the keys: after a leak, copy the data into a new repository.
        """
        opened = self._writing()
        if opened.secret is None:
            raise WrongPassword(f"{self.url} is not encrypted: create a new repository with a password")
        config = {**opened.config, "key": make_envelope(new, opened.secret)}
        for path in (CONFIG_COPY, CONFIG):
            self.location.replace(path, config_bytes(config))
        self._password = new

    # --- opening --------------------------------------------------------------------------------------------

    def parts(self, *, writing: bool = False) -> Opened:
        """What the repository consists of, for `maintenance`."""
        return self._writing() if writing else self._reading()

    def _reading(self) -> Opened:
        if self._opened is None:
            with self._lock:
                if self._opened is None:
                    config = self._read_config()
                    if config is None and not self.location.is_empty():
                        # Somebody may have created the repository between these two looks.
                        config = self._read_config()
                        if config is None:
                            raise NotARepository(
                                f"{self.url} is not empty and is no repository: choose an empty or a new place"
                            )
                    if config is None:
                        raise RepositoryNotFound(
                            f"there is no repository at {self.url} (reading never creates one; saving does)"
                        )
                    self._opened = self._open(config)
        return self._opened

    def _writing(self) -> Opened:
        if self.read_only:
            raise ReadOnlyRepository(f"{self.url} was opened with read_only=True")
        if not self._complete:
            with self._lock:
                try:
                    opened = self._reading()
                except RepositoryNotFound:
                    opened = self._opened = self._open(self._create_config())
                # Whoever created the repository may have been killed before there was a copy.
                if self.location.size(CONFIG_COPY) is None:
                    self.location.create(CONFIG_COPY, config_bytes(opened.config))
                self._complete = True
        return self._reading()

    def _read_config(self) -> dict[str, Any] | None:
        """`repository.json`, or its copy when it is damaged; None when there is none."""
        damage: Exception | None = None
        for path in (CONFIG, CONFIG_COPY):
            try:
                return parse_config(path, self.location.read(path))
            except ObjectMissing:
                continue
            except DamagedObject as error:
                damage = damage or error
        if damage is not None:
            raise damage
        return None

    def _create_config(self) -> dict[str, Any]:
        """Claim the URL. Who loses the race adopts the winner's configuration."""
        if not self._single_writer:
            self.location.prove_exclusive()
        password = self._find_password()
        config = {
            "format": FORMAT,
            "id": os.urandom(16).hex(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "chunking": chunking.parameters(),
            "key": make_envelope(password, os.urandom(32)) if password else None,
        }
        data = config_bytes(config)
        try:
            claimed = self.location.create(CONFIG, data)
        except StorageUnavailable:
            claimed = False
        if claimed:
            return config
        found = self._read_config()
        if found is None:
            raise StorageUnavailable(f"{self.url} did not confirm that the repository was created: try again")
        if password and found["key"] is None:
            raise WrongPassword(f"somebody else created {self.url} at the same moment, and without a password")
        return found

    def _open(self, config: dict[str, Any]) -> Opened:
        if config["format"] > FORMAT:
            raise UnsupportedFormat(
                f"{self.url} has repository format {config['format']}; this version reads up to {FORMAT}. "
                "Upgrade prefect-snapshots."
            )
        if config["chunking"] != chunking.parameters() and not self.read_only:
            raise UnsupportedFormat(
                f"{self.url} cuts its chunks in another way ({config['chunking']}); open it with read_only=True"
            )
        secret = self._unlock(config)
        sealer = Sealer(bytes.fromhex(config["id"]), secret, self._compression)
        return _assemble(self.location, config, secret, sealer, self.read_only)

    def _unlock(self, config: dict[str, Any]) -> bytes | None:
        if config["key"] is None:
            if isinstance(self._password, str):
                raise WrongPassword(f"{self.url} is not encrypted: open it without a password")
            return None
        password = self._find_password()
        if password is None:
            raise WrongPassword(f"{self.url} is encrypted: give a password, or set {PASSWORD_SETTING}")
        try:
            return open_envelope(password, config["key"])
        except WrongPassword:
            raise WrongPassword(f"the password does not open {self.url}") from None

    def _find_password(self) -> str | None:
        if not isinstance(self._password, str):
            self._password = (self._password or _environment_password)()
        return self._password

    def _store(self, opened: Opened, store: Callable[[Writer], Stored]) -> tuple[Stored, int]:
        for attempt in range(_STORE_ATTEMPTS):
            opened.catalog.root.refresh()
            if not opened.index.loaded:
                opened.index.load()
            state = opened.catalog.state
            try:
                with Writer(opened.store, state.epoch, frozenset(state.condemned)) as writer:
                    stored = store(writer)
                    writer.flush()
                    return stored, writer.epoch
            except ObjectMissing:
                # A prune took the unfinished pack of a writer that slept. Nothing was published: begin again.
                if attempt == _STORE_ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    # --- elsewhere --------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"Repository({self.url!r}{', read_only=True' if self.read_only else ''})"

    def __reduce__(self) -> tuple[Callable[..., Repository], tuple[Any, ...]]:
        options = {
            "compression": self._compression,
            "allow_pickle": self.allow_pickle,
            "read_only": self.read_only,
            "single_writer": self._single_writer,
        }
        return _restore, (self._token, self.location.url, harmless_options(self.location.storage_options), options)


@dataclass(frozen=True, slots=True)
class Opened:
    """The parts of an open repository."""

    id: str
    config: dict[str, Any]
    secret: bytes | None
    sealer: Sealer
    catalog: Catalog
    index: Index
    store: Store
    reader: ChunkReader

    def apart(self, *, writing: bool) -> Opened:
        """The same repository, with a catalog and an index of its own: no other thread moves them on meanwhile."""
        return _assemble(self.store.location, self.config, self.secret, self.sealer, not writing)


def _assemble(
    location: Location, config: dict[str, Any], secret: bytes | None, sealer: Sealer, read_only: bool
) -> Opened:
    catalog = Catalog(location, sealer, read_only=read_only)
    index = Index(location, sealer, read_only=read_only)
    store = Store(location, sealer, index, lambda: catalog.state.condemned)
    return Opened(config["id"], config, secret, sealer, catalog, index, store, ChunkReader(store))


class RepositorySource(Protocol):
    """Anything that configures a repository, such as the Prefect block."""

    def get_repository(self) -> Repository: ...


RepositoryLike = Repository | RepositorySource | str | os.PathLike[str]


@contextlib.contextmanager
def use_repository(repository: RepositoryLike) -> Iterator[Repository]:
    """Make a repository the default within a block, also for tasks called inside it.

    Example:
        >>> from prefect_snapshots import use_repository
        >>> with use_repository("memory://example") as repository:
        ...     repository.url
        'memory://example'
    """
    chosen = as_repository(repository)
    token = _selected.set(chosen)
    try:
        yield chosen
    finally:
        _selected.reset(token)


def selected_repository() -> Repository | None:
    """The repository of the enclosing `use_repository`, if any."""
    return _selected.get()


def as_repository(repository: RepositoryLike | None) -> Repository:
    """A repository from whatever a user may hand in; None means the default one."""
    if repository is None:
        return selected_repository() or Repository()
    if isinstance(repository, str | os.PathLike):
        return Repository(repository)
    return repository if isinstance(repository, Repository) else repository.get_repository()


def _environment_password() -> str | None:
    if os.environ.get(PASSWORD_SETTING):
        return os.environ[PASSWORD_SETTING]
    command = os.environ.get(PASSWORD_COMMAND_SETTING)
    return password_from(command) if command else None


def password_from(command: str) -> str:
    """The password that a command prints.

    Raises:
        WrongPassword: it failed, or printed nothing.
    """
    done = subprocess.run(command, shell=True, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode or not done.stdout.strip("\r\n"):
        raise WrongPassword(f"the password command gave no password (exit {done.returncode})")
    return done.stdout.rstrip("\r\n")


def check_name(name: str, what: str = "name") -> str:
    """Refuse names that cannot be kept apart or shown safely. Returns the name.

    Raises:
        InvalidName: for anything but a plain text of 1 to 512 characters in normal form.
    """
    if not isinstance(name, str):
        raise InvalidName(f"a {what} is a text, not {type(name).__name__}")
    if not name or len(name) > NAME_LIMIT:
        raise InvalidName(f"a {what} has 1 to {NAME_LIMIT} characters, not {len(name)}")
    shown = name if len(name) <= 40 else name[:40] + "..."
    if any(unicodedata.category(char) in ("Cc", "Cs", "Cf", "Zl", "Zp", "Co", "Cn") for char in name):
        raise InvalidName(f"the {what} {shown!r} has control or invisible characters")
    if unicodedata.normalize("NFC", name) != name:
        raise InvalidName(f"the {what} {shown!r} is not in Unicode normal form C, so that a twin of it looks the same")
    if name != name.strip() or any(part in ("", ".", "..") for part in name.split("/")):
        raise InvalidName(f"the {what} {shown!r} has an empty, '.' or '..' part, or spaces around it")
    if "\\" in name:
        raise InvalidName(f"the {what} {shown!r} has a backslash: use '/'")
    return name


def config_bytes(config: dict[str, Any]) -> bytes:
    """A configuration as it is stored."""
    return (json.dumps({**config, "checksum": _checksum(config)}, indent=1) + "\n").encode()


def _checksum(config: dict[str, Any]) -> str:
    plain = {key: value for key, value in config.items() if key != "checksum"}
    return blake3(json.dumps(plain, sort_keys=True).encode()).hexdigest(16)


def parse_config(path: str, data: bytes) -> dict[str, Any]:
    """A configuration as it was stored. Raises `DamagedObject`."""
    try:
        config: dict[str, Any] = json.loads(data)
        version = config["format"]
        if isinstance(version, int) and version > FORMAT:
            return {**config, "chunking": chunking.parameters(), "key": None}
        if config["checksum"] != _checksum(config):
            raise DamagedObject(path, "it does not match its checksum")
        bytes.fromhex(config["id"])
        del config["checksum"]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedObject(path, f"it cannot be read ({error})") from None
    if data != config_bytes(config):
        raise DamagedObject(path, "it is not as it was written")
    return config


def _restore(token: str, url: str, storage_options: dict[str, Any], options: dict[str, Any]) -> Repository:
    """Unpickle: the same object within one process, else opened anew with this process's own credentials."""
    return _open.get(token) or Repository(url, storage_options=storage_options, **options)


class WithSecrets:
    """A repository that keeps its secrets when it is pickled: for what works for this process, and never to be stored.

    Arguments:
        repository: which.
    """

    def __init__(self, repository: Repository) -> None:
        self.repository = repository

    def __reduce__(self) -> tuple[Callable[..., WithSecrets], tuple[Any, ...]]:
        one = self.repository
        options = {
            "storage_options": one.location.storage_options,
            "password": one._password,
            "compression": one._compression,
            "allow_pickle": one.allow_pickle,
            "read_only": one.read_only,
            "single_writer": one._single_writer,
        }
        return _restore_with_secrets, (one._token, one.location.url, options)


_restored: dict[str, WithSecrets] = {}
"""By token: what a process was handed once is opened once."""


def _restore_with_secrets(token: str, url: str, options: dict[str, Any]) -> WithSecrets:
    if token not in _restored:
        _restored[token] = WithSecrets(_open.get(token) or Repository(url, **options))
    return _restored[token]


__all__ = ["Buffer", "Draft", "Event", "Repository", "Stored", "Stream", "WithSecrets", "inline", "use_repository"]
