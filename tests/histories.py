"""One client of a history: it works on every kind until it is killed, and notes what it was told.

Each line of `FOLDER/history` is one JSON list: `["begin", KIND, KEY, VALUE]` before an operation, then one of `"ok"`,
`"failed"` (certainly not done) and `"unknown"` with the same three. VALUE is a number, or null for a delete. A client
that is told or finds what must not be notes `"violation"`.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import sys
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec
from toy_kind import ToyKind

from prefect_snapshots import ArtifactRegistry, BackupManager, Repository, RetentionPolicy, SnapshotManager
from prefect_snapshots.artifacts import list_handlers
from prefect_snapshots.checkpoints import Snapper
from prefect_snapshots.errors import (
    ArtifactNotFound,
    BackupNotFound,
    CommitUnknown,
    IntegrityError,
    MissingChunk,
    PermissionDenied,
    SnapshotNotFound,
    SnapshotsError,
    StorageFull,
)
from prefect_snapshots.repository.contents import StagedPart
from prefect_snapshots.results import ResultLog

list_handlers()  # clients are forked from a process that has imported this, so that one reads what is installed for all

KEEP_ALL = RetentionPolicy(keep_last=-1)
NAME = "shared"
"""The name under which all clients write."""

KINDS = {"snapshots": 6, "artifacts": 5, "results": 6, "checkpoints": 1, "backups": 1, "staged": 3}
"""What is written, and how often."""

State: TypeAlias = set[int | None]
"""The values that a key may have."""


def value_of(number: int) -> bytes:
    """The bytes of a value: small ones travel inside events, others share chunks."""
    own = random.Random(number).randbytes((200, 20_000, 90_000)[number % 3])
    return own if number % 3 == 0 else random.Random(number % 5).randbytes(70_000) + own


def square(item: int) -> int:
    """What checkpoints compute."""
    return item * item


def items_of(number: int) -> range:
    """The items of one checkpointed run."""
    return range(number, number + 5)


def snapper_of(repository: Repository, key: str, number: int) -> Snapper[int, int]:
    return Snapper(items_of(number), square, repository=repository, name=key, function_version="1")


def backups_of(repository: Repository, folder: Path) -> BackupManager:
    return BackupManager(repository, name=folder.name, directories=[folder / "data"], retention=KEEP_ALL)


def joined_key(key: str, numbers: Iterable[int]) -> str:
    """The key of an item that consists of the values with these numbers."""
    return f"{key}={'-'.join(map(str, numbers))}"


def joined_value(key: str) -> bytes:
    """What the item with such a key has to be."""
    return b"".join(value_of(int(number)) for number in key.partition("=")[2].split("-"))


class Told:
    """For each kind, the values that each key may have, from what the clients were told."""

    def __init__(self) -> None:
        self.states: defaultdict[str, dict[str, State]] = defaultdict(dict)
        self._before: dict[tuple[str, str], State] = {}

    def apply(self, what: str, kind: str, key: str, value: int | None) -> None:
        """Take note of one line."""
        assert what != "violation", f"{kind} {key}"
        state = self.states[kind].setdefault(key, {None})
        if what == "begin":
            self._before[kind, key] = set(state)
            state.add(value)
        elif what == "ok":
            state.clear()
            state.add(value)
        elif what == "failed" and kind != "checkpoints":  # of a run, some results may be there
            state.clear()
            state |= self._before[kind, key]


class Client:
    """Performs random operations, each on keys of its own, in streams that it shares with the others.

    Args:
        hangs: Seconds until a forked child is said to hang. It then tells where it waits.
    """

    def __init__(
        self,
        url: str,
        folder: Path,
        seed: int,
        options: dict[str, Any],
        password: str | Literal[False] | None = None,
        hangs: float = 120,
    ) -> None:
        self.random = random.Random(seed)
        self.folder = folder
        (folder / "data").mkdir(parents=True, exist_ok=True)
        self.file = os.open(folder / "history", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.repository = Repository(url, storage_options=options, password=password)
        self.live: dict[str, list[str]] = {kind: [] for kind in KINDS}
        self.told = Told()
        self.numbers = 0
        self.hangs = hangs
        self._backup_names: dict[str, str] = {}

    def note(self, what: str, kind: str, key: str, value: int | None) -> None:
        os.write(self.file, (json.dumps([what, kind, key, value]) + "\n").encode())
        if what != "violation":
            self.told.apply(what, kind, key, value)

    def accuse(self, kind: str, key: str) -> None:
        """Note that what has just happened must not happen."""
        traceback.print_exc()
        self.note("violation", kind, key, None)

    def perform(
        self,
        kind: str,
        key: str,
        value: int | None,
        act: Callable[[str | None], Any],
        may: type[Exception] | tuple[()] = (),
    ) -> bool:
        """Do one operation; whatever the storage leaves open is asked again with the token. It may end in an error."""
        self.note("begin", kind, key, value)
        token: str | None = None
        for _ in range(20):
            try:
                act(token)
            except CommitUnknown as error:
                token = error.token
                time.sleep(self.random.uniform(0, 0.1))
            except (SnapshotNotFound, ArtifactNotFound, BackupNotFound):
                break  # an earlier try has deleted it
            except (StorageFull, PermissionDenied):
                self.note("failed", kind, key, value)
                time.sleep(0.02)  # what is refused at once would fill the history
                return False
            except SnapshotsError as error:
                if isinstance(error, IntegrityError) and not (may and isinstance(error, may)):
                    self.accuse(kind, key)
                print(f"{kind} {key}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                self.note("unknown", kind, key, value)
                return False
            else:
                break
        else:
            self.note("unknown", kind, key, value)
            return False
        self.note("ok", kind, key, value)
        return True

    def step(self) -> None:
        kind = self.random.choices((*KINDS, "read", "fork"), (*KINDS.values(), 3, 0.5))[0]
        getattr(self, f"_{kind}")()

    def _key(self, kind: str) -> tuple[str, int | None]:
        """A key to write to: a new one, one to overwrite, or one to delete."""
        known = self.live[kind]
        self.numbers += 1
        if known and self.random.random() < 0.3:
            return known.pop(self.random.randrange(len(known))), None
        if known and kind not in ("artifacts", "backups") and self.random.random() < 0.3:
            return self.random.choice(known), self.numbers
        key = f"{self.folder.name}-{self.numbers}"
        known.append(key)
        return key, self.numbers

    def _snapshots(self) -> None:
        manager = SnapshotManager(self.repository, name=NAME)
        key, value = self._key("snapshots")
        if value is None:
            self.perform("snapshots", key, None, lambda _: manager.delete_snapshot(key))
        else:
            data = value_of(value)
            self.perform(
                "snapshots", key, value, lambda token: manager.save_snapshot(data, key, overwrite=True, token=token)
            )

    def _artifacts(self) -> None:
        registry = ArtifactRegistry(self.repository)
        key, value = self._key("artifacts")

        def delete(_: str | None) -> None:
            for version in self._versions(key):
                registry.delete_version(NAME, version, force=True)

        if value is None:
            self.perform("artifacts", key, None, delete)
        else:
            self.perform(
                "artifacts",
                key,
                value,
                lambda token: registry.log_artifact(
                    NAME, value_of(value).hex(), "json", metadata={"key": key}, token=token
                ),
            )

    def _versions(self, key: str) -> list[str]:
        """The versions that were logged with a key: one, or none."""
        registry = ArtifactRegistry(self.repository)
        try:
            return [info.version for info in registry.list_versions(NAME) if info.metadata["key"] == key]
        except ArtifactNotFound:
            return []

    def _results(self) -> None:
        log = ResultLog(self.repository, NAME)
        key, value = self._key("results")
        if value is None:
            self.perform("results", key, None, lambda _: log.delete([key]))
        else:
            data = value_of(value)
            self.perform("results", key, value, lambda _: log.write(key, data))

    def _checkpoints(self) -> None:
        self.numbers += 1
        number = self.numbers
        key = f"{self.folder.name}-{number}"
        self.perform("checkpoints", key, number, lambda _: snapper_of(self.repository, key, number).start())

    def _backups(self) -> None:
        manager = backups_of(self.repository, self.folder)
        key, number = self._key("backups")
        if number is None:
            name = self._backup_names.pop(key, None)
            if name is not None:
                self.perform("backups", key, None, lambda _: manager.delete_backup(name))
            return
        (self.folder / "data" / "number").write_bytes(b"%d " % number + value_of(number))

        def create(token: str | None) -> None:
            self._backup_names[key] = manager.create_backup(str(number), token=token).name

        self.perform("backups", key, number, create)

    def _staged(self) -> None:
        """Stage a part for all clients, as processes of a JAX run do, and commit parts of several as one item."""
        place = self.folder.parent / "staged"
        place.mkdir(exist_ok=True)
        self.numbers += 1
        number = self.numbers
        part = self.repository.stage([value_of(number)])
        ready = place / f"{self.folder.name}-{number}"
        ready.with_suffix(".new").write_bytes(msgspec.msgpack.encode((number, part)))
        ready.with_suffix(".new").rename(ready)
        others = sorted(file for file in place.iterdir() if not file.suffix)
        chosen = [ready, *self.random.sample(others[-6:], min(2, len(others)))]
        numbers, parts = zip(
            *(msgspec.msgpack.decode(file.read_bytes(), type=tuple[int, StagedPart]) for file in chosen), strict=True
        )
        key = joined_key(f"{self.folder.name}-{number}", numbers)
        toy = ToyKind(self.repository, NAME)
        # A prune without grace time may have freed what is staged, which is said then.
        self.perform(
            "staged",
            key,
            number,
            lambda token: toy.join(key, parts, None if token is None else bytes.fromhex(token)),
            may=MissingChunk,
        )

    def _read(self, kinds: Sequence[str] = ("snapshots", "artifacts", "results")) -> None:
        """What this client was told of is there for itself at any time."""
        for kind in kinds:
            if not self.live[kind]:
                continue
            key = self.random.choice(self.live[kind])
            try:
                found = getattr(self, f"_read_{kind}")(key)
            except IntegrityError:
                self.accuse(kind, key)
                continue
            state = self.told.states[kind].get(key, {None})
            expected = {None if value is None else value_of(value) for value in state}
            if found not in expected:
                print(f"{kind} {key}: {len(found or b'')} bytes instead of {state}", file=sys.stderr, flush=True)
                self.note("violation", kind, key, None)

    def _read_snapshots(self, key: str) -> bytes | None:
        try:
            found: bytes = SnapshotManager[Any](self.repository, name=NAME).load_snapshot(key)
        except SnapshotNotFound:
            return None
        return found

    def _read_artifacts(self, key: str) -> bytes | None:
        versions = self._versions(key)
        if len(versions) > 1:
            self.note("violation", "artifacts", key, None)
        registry = ArtifactRegistry(self.repository)
        return bytes.fromhex(registry.load_artifact(NAME, versions[0])) if versions else None

    def _read_results(self, key: str) -> bytes | None:
        log = ResultLog(self.repository, NAME)
        return log.read(key) if key in log.keys() else None  # noqa: SIM118  # it is no dictionary

    def _fork(self) -> None:
        """Fork while a thread writes. The child reads and writes, and does not hang."""
        self.numbers += 1
        number = self.numbers
        thread = threading.Thread(target=self._results)
        thread.start()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                faulthandler.dump_traceback_later(self.hangs, exit=True)
                self._read(("snapshots", "artifacts"))
                self.live = {kind: [] for kind in KINDS}
                self.numbers = number - 1
                self.random.choice((self._snapshots, self._results))()
                status = 0
            except SnapshotsError:
                status = 0  # the storage is disturbed
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        thread.join()
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
            self.note("violation", "fork", self.folder.name, None)


def jumping_clock(seed: int) -> None:
    """Have the clock of this process jump by days, forth and back, as a broken one does."""
    jump, real, chance = 0, time.time_ns, random.Random(seed)

    def now() -> int:
        nonlocal jump
        if chance.random() < 0.01:
            jump = chance.randint(-(10**6), 10**6) * 10**9
        return real() + jump

    time.time_ns = now
    time.time = lambda: now() / 1e9


def run(
    what: str,
    url: str,
    copy: str,
    folder: Path,
    seed: int,
    options: dict[str, Any],
    password: str | Literal[False],
    hangs: float,
) -> None:
    """Work, prune or copy until the process is killed, together with what it has forked."""
    os.setpgid(0, 0)
    errors = os.open(folder / "errors", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(errors, 2)
    client = Client(url, folder, seed, options, password, hangs)
    other = Repository(copy, storage_options=options, password=password)
    if seed % 3 == 0:
        jumping_clock(seed)
    while True:
        begun = time.monotonic()
        try:
            if what == "work":
                client.step()
                continue
            if what == "prune":
                client.repository.prune(grace=0)
            else:
                for problem in client.repository.copy_to(other).problems:
                    print(problem, file=sys.stderr, flush=True)
                    client.note("violation", "copy", problem.path, None)
                if client.random.random() < 0.1:
                    other.prune(grace=0)
            client.note("ok", what, "", None)
        except IntegrityError:
            client.accuse(what, "")
        except SnapshotsError as error:
            # A read, a prune or a copy that a fault stopped. Nothing was promised.
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        # The others want the processor, too.
        time.sleep(min(client.random.uniform(1, 8) * (time.monotonic() - begun), 5))
