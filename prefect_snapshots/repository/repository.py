"""Repository: open, commit, read - what the rooms above use.

A repository is any fsspec URL with a `repository.json`. Opening reads that; creating claims it exclusively. A room
keeps one *stream* for each of its names and commits *events* to it, some of them with a *content*.
"""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from ..errors import (
    DamagedObject,
    InvalidArgument,
    InvalidName,
    NotARepository,
    ObjectMissing,
    ReadOnlyRepository,
    RepositoryChanged,
    RepositoryNotFound,
    StorageUnavailable,
    UnsupportedFormat,
    WrongPassword,
)
from ..redaction import harmless_options
from . import chunking, known
from .catalog import Catalog, Event, Stream
from .commits import MakeDraft, commit
from .contents import ChunkReader, ContentReader, Store, Stored, Writer
from .envelopes import MOST_ENVELOPES, Envelope, opened_by, parse_envelopes
from .index import Index
from .location import Location, open_location
from .names import check_name
from .passwords import PASSWORD_SETTING, Password, PasswordSource
from .sealing import Compression, Sealer
from .threads import Lock

if TYPE_CHECKING:
    from .maintenance import CheckReport, PruneReport, RepairReport, Statistics

CONFIG = "repository.json"
CONFIG_COPY = "repository.copy.json"
FORMAT = 1

DEFAULT_URL = "./snapshots"
SETTING = "PREFECT_INTEGRATIONS_SNAPSHOTS_REPOSITORY"

# A configuration has a few KB. Whoever can write to the bucket could put gigabytes there.
_MOST_CONFIG = 64 * 1024

_open: weakref.WeakValueDictionary[str, Repository] = weakref.WeakValueDictionary()


@dataclass(frozen=True, slots=True)
class PasswordInfo:
    """A password of a repository.

    Attributes:
        name: Its name.
        created: When it was added or last changed, in UTC.
    """

    name: str
    created: datetime


class Repository:
    """One place for everything that must outlive a run.

    Nothing is read or written before the first use: writing then creates the repository when the URL is missing or
    empty; reading never creates one.

    Arguments:
        url: any fsspec URL or path. Default: the repository of the enclosing `use_repository`, else the environment
            variable `PREFECT_INTEGRATIONS_SNAPSHOTS_REPOSITORY`, else `./snapshots`.
        storage_options: passed to the fsspec filesystem (credentials, endpoint).
        password: The password that opens the repository, or encrypts a new one: a string, or a function that returns
            it. With a password, a repository without encryption is refused; pass False to open one. Default: the
            environment variable `PREFECT_INTEGRATIONS_SNAPSHOTS_PASSWORD`, else the content of the file in
            `PREFECT_INTEGRATIONS_SNAPSHOTS_PASSWORD_FILE`, else the output of the command in
            `PREFECT_INTEGRATIONS_SNAPSHOTS_PASSWORD_COMMAND`, else none.
        id: The id that the repository must have, as `prefect-snapshots stats` shows it. Another one is refused, and
            none is created. Default: the id that it had when you last opened it encrypted, if that is known.
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
        password: Password = None,
        id: str | None = None,
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
        self._password = PasswordSource(password)
        self._expected_id = id
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
        draft: MakeDraft,
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
        return commit(opened.catalog, opened.store, stream, draft, store=store, content=content, token=token)

    def adopt(
        self,
        stream: Stream,
        draft: MakeDraft,
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

    # --- passwords ------------------------------------------------------------------------------------------

    def list_passwords(self) -> list[PasswordInfo]:
        """Return the passwords that open the repository, newest first. Empty if it is not encrypted."""
        self._reading()
        config = read_config(self.location) or {"passwords": []}
        infos = [PasswordInfo(found.name, found.created) for found in parse_envelopes(config["passwords"])]
        return sorted(infos, key=lambda info: (info.created, info.name), reverse=True)

    def add_password(self, name: str, password: str) -> None:
        """Add a password that opens the repository, beside those that it has.

        Args:
            name: What to call it, such as `"ci"` or `"laptop of Ada"`. Everybody who can read the bucket sees it.
            password: The password.

        Raises:
            WrongPassword: The repository is not encrypted.
            InvalidName: A password has this name already, or it is no proper name.
            InvalidArgument: The password is empty, or there are 16 passwords already.
        """

        def add(envelopes: list[Envelope], secret: bytes) -> list[Envelope]:
            if any(envelope.name == name for envelope in envelopes):
                raise InvalidName(f"{self.url} has a password named {name!r} already. Choose another name.")
            if len(envelopes) >= MOST_ENVELOPES:
                raise InvalidArgument(
                    f"{self.url} has {MOST_ENVELOPES} passwords already. Remove one before you add another."
                )
            return [*envelopes, self._envelope(name, password, secret)]

        self._edit_passwords(add)

    def change_password(self, new: str, name: str | None = None) -> None:
        """Replace a password. The data keeps its keys, so that nothing is written anew.

        Whoever knew the old password may have kept the secret, and can go on reading: after a leak, copy the data into
        a new repository.

        Args:
            new: The new password.
            name: The name of the password to replace. Default: the one that you opened the repository with.

        Raises:
            WrongPassword: The repository is not encrypted.
            InvalidName: No password has this name.
            InvalidArgument: The new password is empty.
        """
        own = self._writing().password_name
        chosen = own if name is None else name

        def change(envelopes: list[Envelope], secret: bytes) -> list[Envelope]:
            self._check_password_name(envelopes, chosen)
            new_one = self._envelope(chosen, new, secret)
            return [new_one if envelope.name == chosen else envelope for envelope in envelopes]

        self._edit_passwords(change)
        if chosen == own:
            self._password.use(new)

    def remove_password(self, name: str) -> None:
        """Remove a password: it opens the repository no more.

        Whoever knew it may have kept the secret, or a copy of `repository.json` from before, and can go on reading.

        Args:
            name: The name of the password.

        Raises:
            WrongPassword: The repository is not encrypted.
            InvalidName: No password has this name.
            InvalidArgument: You opened the repository with this password, so that the last one stays.
        """
        own = self._writing().password_name

        def remove(envelopes: list[Envelope], secret: bytes) -> list[Envelope]:
            self._check_password_name(envelopes, name)
            if name == own:
                raise InvalidArgument(
                    f"{self.url} was opened with the password {name!r}. Open it with another one to remove this one."
                )
            return [envelope for envelope in envelopes if envelope.name != name]

        self._edit_passwords(remove)

    def _envelope(self, name: str, password: str, secret: bytes) -> Envelope:
        if not password:
            raise InvalidArgument("A password must not be empty.")
        return Envelope.seal(name, password, secret, self.id)

    def _check_password_name(self, envelopes: Sequence[Envelope], name: str) -> None:
        names = sorted(envelope.name for envelope in envelopes)
        if name not in names:
            raise InvalidName(f"{self.url} has no password named {name!r}. It has: {', '.join(names)}.")

    def _edit_passwords(self, edit: Callable[[list[Envelope], bytes], list[Envelope]]) -> None:
        opened = self._writing()
        if opened.secret is None:
            raise WrongPassword(
                f"{self.url} is not encrypted, and never will be. Create a new repository with a password, and copy."
            )
        # As it is now: somebody may have added a password since this repository was opened.
        current = read_config(self.location)
        if current is None or current["id"] != opened.id:
            raise RepositoryChanged(f"{self.url} is no more the repository that you opened. Nothing was changed.")
        envelopes = edit(parse_envelopes(current["passwords"]), opened.secret)
        data = config_bytes({**current, "passwords": [envelope.record() for envelope in envelopes]})
        # The copy first: if the second write fails, the repository still opens, with the old passwords.
        for path in (CONFIG_COPY, CONFIG):
            self.location.replace(path, data)

    # --- opening --------------------------------------------------------------------------------------------

    def parts(self, *, writing: bool = False) -> Opened:
        """What the repository consists of, for `maintenance`."""
        return self._writing() if writing else self._reading()

    def _reading(self) -> Opened:
        if self._opened is None:
            with self._lock:
                if self._opened is None:
                    config = read_config(self.location)
                    if config is None and not self.location.is_empty():
                        # Somebody may have created the repository between these two looks.
                        config = read_config(self.location)
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

    def _create_config(self) -> dict[str, Any]:
        """Claim the URL. Who loses the race adopts the winner's configuration."""
        password = self._password()
        if self._expected_id is not None:
            raise RepositoryNotFound(
                f"There is no repository at {self.url}, and none is created, because id={self._expected_id!r} was "
                "given. Check the URL, or leave out id to create a new one."
            )
        if password is None and not self._password.is_refused and known.known_id(self.location) is not None:
            raise WrongPassword(
                f"There was an encrypted repository at {self.url} when you last looked, and now there is none. It is "
                "not replaced by one without encryption: pass a password, or password=False (--no-password)."
            )
        if not self._single_writer:
            self.location.prove_exclusive()
        repository_id, secret = os.urandom(16).hex(), os.urandom(32)
        config = {
            "format": FORMAT,
            "id": repository_id,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "chunking": chunking.parameters(),
            "passwords": [Envelope.seal("default", password, secret, repository_id).record()] if password else [],
        }
        data = config_bytes(config)
        try:
            claimed = self.location.create(CONFIG, data)
        except StorageUnavailable:
            claimed = False
        if claimed:
            # What was here before is gone, and this one is ours.
            known.forget(self.location)
            return config
        found = read_config(self.location)
        if found is None:
            raise StorageUnavailable(f"{self.url} did not confirm that the repository was created: try again")
        return found

    def _check_id(self, config: dict[str, Any]) -> None:
        """Refuse a repository that is not the one that is expected here."""
        if self._expected_id is not None:
            if config["id"] != self._expected_id:
                raise RepositoryChanged(
                    f"{self.url} holds the repository {config['id']}, but id={self._expected_id!r} was given. "
                    "Somebody may have replaced it. Nothing was read from it."
                )
            return
        before = known.known_id(self.location)
        if before is not None and (before != config["id"] or not config["passwords"]):
            now = config["id"] if config["passwords"] else f"{config['id']}, which is not encrypted"
            raise RepositoryChanged(
                f"{self.url} held the encrypted repository {before} when you last opened it, and now holds {now}. "
                "Somebody may have replaced it. Nothing was read from it. If you know why it changed, run "
                f"`prefect-snapshots --repository {self.url} password trust`, or pass id={config['id']!r}."
            )

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
        self._check_id(config)
        name, secret = self._unlock(config)
        if secret is not None:
            known.remember(self.location, config["id"])
        sealer = Sealer(bytes.fromhex(config["id"]), secret, self._compression)
        return _assemble(self.location, config, secret, name, sealer, self.read_only)

    def _unlock(self, config: dict[str, Any]) -> tuple[str, bytes | None]:
        """Return the name of the password that opened the repository, and the secret. Both are nothing in a plain one.

        A configured password means that the repository is encrypted. Otherwise whoever can write to the bucket could
        put a plain one there, have you unpickle what is in it, and read what you save next.
        """
        password = self._password()
        if not config["passwords"]:
            if password is not None:
                raise WrongPassword(
                    f"{self.url} is not encrypted, but a password is configured for it. Somebody may have replaced the "
                    "repository. If it is meant to be open, pass password=False (--no-password on the command line)."
                )
            return "", None
        if password is None:
            raise WrongPassword(f"{self.url} is encrypted. Pass a password, or set {PASSWORD_SETTING}.")
        found = opened_by(parse_envelopes(config["passwords"]), password, config["id"])
        if found is None:
            raise WrongPassword(f"The password does not open {self.url}. Check it, and the URL.")
        return found

    # --- elsewhere --------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"Repository({self.url!r}{', read_only=True' if self.read_only else ''})"

    def __reduce__(self) -> tuple[Callable[..., Repository], tuple[Any, ...]]:
        options = {
            "compression": self._compression,
            "allow_pickle": self.allow_pickle,
            "read_only": self.read_only,
            "single_writer": self._single_writer,
            "id": self._expected_id,
            # That no encryption is wanted is no secret, and has to hold in the other process, too.
            **({"password": False} if self._password.is_refused else {}),
        }
        return _restore, (self._token, self.location.url, harmless_options(self.location.storage_options), options)


@dataclass(frozen=True, slots=True)
class Opened:
    """The parts of an open repository."""

    id: str
    config: dict[str, Any]
    secret: bytes | None
    password_name: str
    sealer: Sealer
    catalog: Catalog
    index: Index
    store: Store
    reader: ChunkReader

    def apart(self, *, writing: bool) -> Opened:
        """The same repository, with a catalog and an index of its own: no other thread moves them on meanwhile."""
        return _assemble(self.store.location, self.config, self.secret, self.password_name, self.sealer, not writing)


def _assemble(
    location: Location,
    config: dict[str, Any],
    secret: bytes | None,
    password_name: str,
    sealer: Sealer,
    read_only: bool,
) -> Opened:
    catalog = Catalog(location, sealer, read_only=read_only)
    index = Index(location, sealer, read_only=read_only)
    store = Store(location, sealer, index, lambda: catalog.state.condemned)
    return Opened(config["id"], config, secret, password_name, sealer, catalog, index, store, ChunkReader(store))


def read_config(location: Location) -> dict[str, Any] | None:
    """Return `repository.json`, or its copy if it is damaged; None if there is none."""
    damage: Exception | None = None
    for path in (CONFIG, CONFIG_COPY):
        try:
            return parse_config(path, location.read_range(path, 0, _MOST_CONFIG))
        except ObjectMissing:
            continue
        except DamagedObject as error:
            damage = damage or error
    if damage is not None:
        raise damage
    return None


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
            return {**config, "chunking": chunking.parameters(), "passwords": []}
        if config["checksum"] != _checksum(config):
            raise DamagedObject(path, "it does not match its checksum")
        if len(bytes.fromhex(config["id"])) != 16:
            raise ValueError("an id has 16 bytes")
        parse_envelopes(config["passwords"])
        del config["checksum"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
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
            "password": False if one._password.is_refused else one._password(),
            "id": one._expected_id,
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
