"""Small values by key: one object for each, which one request writes and one request reads.

A write replaces the object of its key, so that the last one wins and writers never wait for each other. Nothing is
created exclusively here, so a delete could hit a value that was written again a moment ago. Therefore nobody deletes
where anybody writes:

- The objects of a name are in *generations*, numbered folders. Writers write to the latest one. Readers look there, and
  then in the one before.
- To delete, a new generation is begun first, by an event in the stream of the name. When nobody can write to the
  former one any more, old objects are deleted there. It must be empty before the next generation begins.
- A writer has finished when its object is written *and* no generation has begun since: otherwise it writes once more.
  It looks for that event afterwards. On remote storage this would double the requests, so that one look is valid for
  `LEASE` seconds; whoever begins a generation waits as long before it is used, and before anything is deleted.

`docs/prune.md` explains why this is safe, and `docs/format.md` describes the bytes.
"""

from __future__ import annotations

import base64
import contextlib
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

import msgspec

from ..errors import UNDECODABLE, CommitUnknown, DamagedObject, IntegrityError, InvalidName, ObjectMissing, StorageError
from ..messages import logger
from .catalog import Event, Stream
from .commits import Draft, MakeDraft, commit
from .location import Buffer, ObjectInfo
from .opened import Opened
from .reserve import spare_reserve
from .sealing import Sealer
from .threads import Lock

PREFIX = "keyed"

LEASE = 5.0
"""Seconds for which a look at the latest generation of remote storage is valid: few enough to wait for them, and long
enough for hundreds of values."""

VALUE = 0
"""The object contains the value."""
ELSEWHERE = 1
"""The value is the content of an event, in a stream that the kind chooses."""
DELETED = 2
"""The key has no value."""

_PATH = re.compile(rf"{PREFIX}/([0-9a-f]{{32}})/([0-9]{{6,15}})/([0-9a-v]{{26,255}}|x[0-9a-v]{{26}})")
_LONGEST = 127
"""The longest key in bytes that its object can be named after: file systems allow names of 255 characters."""
_LARGE = 2**62
"""Added to the number of an event. It takes as many bytes as a time, so that the size of an object tells its form."""
_FIRST_FRAME, _SECOND_FRAME = 24 + 25, 25
"""Bytes that sealing adds to one frame, and to each further one."""


class Value(msgspec.Struct, frozen=True):
    """What an object says of its key.

    Attributes:
        key: The key.
        form: `VALUE`, `ELSEWHERE` or `DELETED`.
        data: The bytes of a `VALUE`. Otherwise empty.
        number: When a `VALUE` was written, in nanoseconds since 1970 in UTC, by the clock of the writer. If it is
            `ELSEWHERE`, the number of the event. Otherwise 0.
    """

    key: str
    form: int
    data: Buffer = b""
    number: int = 0


@dataclass(frozen=True, slots=True)
class Listed:
    """An object in a listing.

    Attributes:
        generation: Its generation.
        name: The name that stands for its key.
        key: The key. None: it is too long to be in the name.
        info: Its path, size and time.
    """

    generation: int
    name: str
    key: str | None
    info: ObjectInfo

    @property
    def deleted(self) -> bool:
        """Whether it says that the key has no value. Such an object is shorter than any other."""
        return self.info.size == _FIRST_FRAME + len(_head(DELETED, 0, ""))

    @property
    def elsewhere(self) -> bool:
        """Whether the value is somewhere else. An object without a second frame has this size, and no other one."""
        return self.key is not None and self.info.size == _FIRST_FRAME + len(_head(ELSEWHERE, _LARGE, self.key))

    @property
    def size(self) -> int:
        """The bytes of the value as they are stored here. If they were not compressed, these are all of its bytes."""
        head = 0 if self.key is None else len(_head(VALUE, _LARGE, self.key))
        return max(self.info.size - _FIRST_FRAME - _SECOND_FRAME - head, 0)

    def is_older(self, seconds: float) -> bool:
        """Return whether it was certainly written before a time, in seconds since 1970. Some stores omit fractions."""
        modified = self.info.modified
        return modified + (modified == int(modified)) <= seconds


# --- names and bytes --------------------------------------------------------------------------------------------------


def name_of(sealer: Sealer, stream: str, key: str) -> str:
    """Return the name of the object of a key."""
    plain = bytes_of_key(key)
    digest, hidden = sealer.hide_key(stream, plain)
    return "x" + _encoded(digest) if len(plain) > _LONGEST else _encoded(digest + hidden)


def bytes_of_key(key: str) -> bytes:
    """Return the bytes of a key.

    Raises:
        InvalidName: It is not valid Unicode.
    """
    try:
        return key.encode()
    except UnicodeEncodeError:
        raise InvalidName(f"The key {key!r} contains half of a surrogate pair, which cannot be stored.") from None


def key_of(sealer: Sealer, stream: str, name: str) -> str | None:
    """Return the key of an object from its name, or None for a long key.

    Raises:
        ValueError: It is the name of no key.
    """
    if name.startswith("x"):
        return None
    data = _decoded(name)
    key = sealer.unhide_key(data[:16], data[16:]).decode()
    if name_of(sealer, stream, key) != name:
        raise ValueError("it is not the name of a key")
    return key


def seal_value(sealer: Sealer, path: str, value: Value) -> bytes:
    """Return the object to store at `path`."""
    if value.form == DELETED:
        return sealer.seal(path, [_head(DELETED, 0, "")])
    if value.form == ELSEWHERE:
        return sealer.seal(path, [_head(ELSEWHERE, _LARGE + value.number, value.key)])
    return sealer.seal(path, [_head(VALUE, value.number, value.key), value.data])


def open_value(sealer: Sealer, path: str, data: Buffer, key: str | None = None) -> Value:
    """Return what an object says. `key` is the key that it must have, if that is known.

    Raises:
        DamagedObject: It is damaged, or says something of another key.
    """
    frames = sealer.open(path, data)
    try:
        form, number, own = _decode_head(frames[0])
    except (*UNDECODABLE, IndexError) as error:
        raise DamagedObject(path, f"it cannot be read as a value ({type(error).__name__})") from None
    if form == DELETED and len(frames) == 1:
        return Value(key or "", DELETED)
    if (form, len(frames)) not in ((VALUE, 2), (ELSEWHERE, 1)):
        raise DamagedObject(path, "it has another number of frames than its form needs")
    if key is not None and own != key:
        raise DamagedObject(path, "it has the value of another key")
    if form == ELSEWHERE:
        return Value(own, form, number=number - _LARGE)
    return Value(own, form, frames[1], number)


def listed(sealer: Sealer, infos: Iterable[ObjectInfo]) -> Iterator[tuple[str, list[Listed], list[str]]]:
    """Yield for each stream in a listing its id, its objects, and the paths of objects that no writer has named."""
    for stream, group in groupby(infos, lambda info: info.path.split("/")[1]):
        found: list[Listed] = []
        foreign: list[str] = []
        for info in group:
            match = _PATH.fullmatch(info.path)
            try:
                if match is None:
                    raise ValueError
                found.append(Listed(int(match[2]), match[3], key_of(sealer, stream, match[3]), info))
            except ValueError:
                foreign.append(info.path)
        yield stream, found, foreign


@dataclass(frozen=True, slots=True)
class ValuesOfName:
    """The values of one name, for maintenance.

    Attributes:
        kind, name: The kind and name of the stream that says which generation is the latest.
        stream: The id of that stream.
        objects: Its objects, which may be many of one key.
        live: The object of every key that has a value, by name.
        foreign: The paths of objects that no writer has named.
    """

    kind: str
    name: str
    stream: str
    objects: list[Listed]
    live: dict[str, Listed]
    foreign: list[str]

    def label(self, one: Listed) -> str:
        """Return the name of a value for messages."""
        return f"{self.kind}/{self.name}:{one.name if one.key is None else one.key}"


def values_in(opened: Opened, infos: Iterable[ObjectInfo]) -> Iterator[ValuesOfName]:
    """Yield the values of each registered name in a listing, unless the events of the name are damaged."""
    mine = (info for info in infos if info.path.startswith(f"{PREFIX}/"))
    streams = opened.catalog.streams()
    for stream, objects, foreign in listed(opened.sealer, mine):
        if stream in streams:
            kind, name = streams[stream]
            try:
                first = KeyedValues(opened, kind, name).look() - 1
            except IntegrityError:
                continue
            yield ValuesOfName(kind, name, stream, objects, live(objects, first), foreign)


def live(objects: Iterable[Listed], first: int) -> dict[str, Listed]:
    """Return the object of every key that has a value, by name, given the first generation that is read."""
    found = {one.name: one for one in sorted(objects, key=lambda one: one.generation) if one.generation >= first}
    return {name: one for name, one in found.items() if not one.deleted}


_encode = msgspec.msgpack.Encoder().encode
_decode_head = msgspec.msgpack.Decoder(tuple[int, int, str]).decode


def _head(form: int, number: int, key: str) -> bytes:
    return _encode((form, number, key))


def _encoded(data: bytes) -> str:
    return base64.b32hexencode(data).decode().rstrip("=").lower()


def _decoded(name: str) -> bytes:
    return base64.b32hexdecode(name.upper() + "=" * (-len(name) % 8))


# --- reading and writing ----------------------------------------------------------------------------------------------


class KeyedValues:
    """The values of one name. Any number of processes and threads can read and write.

    Args:
        opened: The repository.
        kind, name: The kind and name of the stream that says which generation is the latest.
    """

    def __init__(self, opened: Opened, kind: str, name: str) -> None:
        self._opened = opened
        self._location = opened.store.location
        self._sealer = opened.sealer
        self.stream = Stream(lambda: opened.catalog, kind, name, self._apply, self._forget)
        self._lock = Lock()
        self._looked_at = self._began_at = 0.0
        self._registered = False
        self._forget()

    @property
    def lease(self) -> float:
        """Seconds for which a look is valid. On a local disk, looking takes less time than remembering would save."""
        return 0.0 if self._location.is_local else LEASE

    def _forget(self) -> None:
        self.generation = 0
        self._ready = True
        self.begun = 0
        """When the latest generation began, in nanoseconds, by the clock of whoever began it. 0: it is the first."""

    def _apply(self, event: Event) -> None:
        if event.kind not in ("begin", "ready"):
            return
        number = event.body["generation"]
        if type(number) is not int or not self.generation <= number < 10**15:
            raise ValueError("the number of a generation is invalid")
        if event.kind == "begin" and number > self.generation:
            self._ready, self.begun, self._began_at = False, event.time, clock()
        elif event.kind == "ready":
            self._ready = True
        self.generation = number

    def look(self) -> int:
        """Read which generation is the latest, and return its number."""
        began = clock()
        with self.stream.lock:
            if self.stream.loaded and self._location.is_local and self._is_unchanged():
                return self.generation
            self.stream.refresh()
            self._looked_at = max(self._looked_at, began)
            return self.generation

    def get(self, key: str, *, keep: bool = False) -> Value | None:
        """Return the value of a key, or None if it has none.

        Args:
            key: The key.
            keep: Copy a value of the former generation to the latest one, so that it counts as new. Default: False.

        Raises:
            DamagedObject: It is damaged.
        """
        if not self.stream.loaded:
            self.look()
        while True:
            latest = self.generation
            # Look which generation is the latest only afterwards: if it is still this one, it was so during the read.
            try:
                generation, value = self._read(key, latest)
            except DamagedObject:
                if self._is_still(latest):
                    raise
                continue
            if not self._is_still(latest):
                continue
            if value is None or value.form == DELETED:
                return None
            if keep and generation < latest:
                self._keep(value, latest)
            return value

    def put(self, value: Value, *, durable: bool = True, urgent: bool = False) -> int:
        """Write the value of a key, which replaces an older one, and return the generation that it is in.

        Args:
            value: The value.
            durable: Whether it must survive a loss of power, on a disk. Default: True.
            urgent: Whether it may use the reserve of a full disk. Default: False.
        """
        self._register()
        if not urgent:
            spare_reserve(self._location, len(self._opened.catalog.state.streams))
        while True:
            generation = self.writable()
            path = self._path(generation, self.name_of(value.key))
            self._location.put(path, seal_value(self._sealer, path, value), durable=durable)
            if self._is_still(generation):
                return generation

    def writable(self) -> int:
        """Return the generation to write to. Waits while a new one has begun, and others may not know that yet."""
        if not self.stream.loaded or (self.lease and not self._is_fresh()):
            self.look()
        while not self._ready and (left := self._began_at + self.lease - clock()) > 0:
            wait(min(left, self.lease / 10))
            self.look()
        return self.generation

    def list(self) -> list[Listed]:
        """Return all objects, also those of deleted keys, with several of one key if it is in several generations."""
        infos = self._location.list(f"{PREFIX}/{self.stream.id}")
        return [one for _, objects, _ in listed(self._sealer, infos) for one in objects]

    def live(self) -> dict[str, Listed]:
        """Return the object of every key that has a value, by name."""
        first = self.look() - 1
        return live(self.list(), first)

    def name_of(self, key: str) -> str:
        """Return the name of the objects of a key."""
        return name_of(self._sealer, self.stream.id, key)

    def exists(self, key: str) -> bool:
        """Return whether there is any object of a key, even one that says that it has no value."""
        name = self.name_of(key)
        paths = (self._path(one, name) for one in (self.generation, self.generation - 1))
        return any(self._location.size(path) is not None for path in paths)

    def begin(self, after: int) -> None:
        """Begin a generation, unless another one than `after` is the latest. `settle` makes the former one deletable.

        Only do this if the generation before it is empty: nobody looks there afterwards.
        """
        self._note(lambda: Draft("begin", {"generation": after + 1}) if self.generation == after else None)

    def settle(self) -> int:
        """Wait until nobody writes to former generations any more, and return the number of the latest one.

        Everything that was written there can be listed afterwards, and nothing is ever added to it that counts.
        """
        number = self.look()
        if not self._ready:
            while (left := self._began_at + self.lease - clock()) > 0:
                wait(left)
            self._note(lambda: None if self._ready else Draft("ready", {"generation": self.generation}))
        return number

    def delete(self, objects: Iterable[Listed]) -> None:
        """Delete objects of former generations, after `settle`."""
        self._location.delete(one.info.path for one in objects)

    def read_keys(self, objects: Iterable[Listed]) -> dict[str, Listed]:
        """Return objects by key. Those of long keys are read, and left out if they are gone or damaged."""
        found = {}
        long = []
        for one in objects:
            if one.key is None:
                long.append(one)
            else:
                found[one.key] = one
        for one, data in zip(long, self._location.read_many([one.info.path for one in long]), strict=True):
            if data is not None:
                try:
                    found[open_value(self._sealer, one.info.path, data).key] = one
                except DamagedObject:
                    continue
        return found

    def _path(self, generation: int, name: str) -> str:
        return f"{PREFIX}/{self.stream.id}/{generation:06d}/{name}"

    def _read(self, key: str, latest: int) -> tuple[int, Value | None]:
        """Return the value of a key in the latest generation or else in the former one, and which it was."""
        name = self.name_of(key)
        for generation in range(latest, max(latest - 2, -1), -1):
            path = self._path(generation, name)
            with contextlib.suppress(ObjectMissing):
                return generation, open_value(self._sealer, path, self._location.read(path), key)
        return latest, None

    def _keep(self, value: Value, generation: int) -> None:
        """Copy a value to the latest generation, unless there is a newer one."""
        if self._opened.catalog.read_only:
            return
        path = self._path(generation, self.name_of(value.key))
        try:
            self._location.create(path, seal_value(self._sealer, path, value))
        except StorageError as error:
            logger.warning("A value of %s was read, but could not be kept for longer: %s", self.stream.label, error)

    def _is_fresh(self) -> bool:
        return self.stream.loaded and clock() - self._looked_at < self.lease

    def _is_still(self, generation: int) -> bool:
        """Return whether a generation is the latest one, at least until now."""
        fresh = self._is_fresh()
        return (self.generation if fresh else self.look()) == generation

    def _is_unchanged(self) -> bool:
        return self._location.size(self.stream.next_path) is None

    def _note(self, draft: MakeDraft) -> None:
        try:
            commit(self._opened.catalog, self._opened.store, self.stream, draft)
        except CommitUnknown as error:
            # Whether it was written or not, the next attempt continues from there.
            raise error.unavailable(f"{self.stream.label} could not be tidied") from error
        with self.stream.lock:
            self.stream.refresh()

    def _register(self) -> None:
        """Register the stream in root, because maintenance must find everything."""
        if not self._registered:
            with self._lock:
                try:
                    self._opened.catalog.register(self.stream)
                except CommitUnknown as error:
                    raise error.unavailable(f"{self.stream.label} could not be registered") from error
                self._registered = True


def clock() -> float:
    """Return the seconds since some moment, including those in which this machine slept."""
    return time.clock_gettime(_CLOCK)


_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

wait = time.sleep
