"""One client of a history: it works on every kind until it is killed, and notes what it was told.

Each line of `FOLDER/history` is one JSON list: `["begin", KIND, KEY, VALUE]` before an operation, then one of `"ok"`,
`"failed"` (certainly not done) and `"unknown"` with the same three. VALUE is a number, or null for a delete.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect_snapshots import ArtifactRegistry, BackupManager, Repository, RetentionPolicy, SnapshotManager
from prefect_snapshots.checkpoints import Snapper
from prefect_snapshots.errors import (
    CommitUnknown,
    PermissionDenied,
    SnapshotNotFound,
    SnapshotsError,
    StorageFull,
)
from prefect_snapshots.results import ResultLog

KEEP_ALL = RetentionPolicy(keep_last=-1)


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


class Client:
    """Performs random operations, each on keys of its own, in streams that it shares with the others."""

    def __init__(self, url: str, folder: Path, seed: int, options: dict[str, Any]) -> None:
        self.random = random.Random(seed)
        self.folder = folder
        (folder / "data").mkdir(parents=True, exist_ok=True)
        self.file = os.open(folder / "history", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.repository = Repository(url, storage_options=options)
        self.live: dict[str, list[str]] = {"snapshots": [], "artifacts": [], "results": []}
        self.numbers = 0

    def note(self, what: str, kind: str, key: str, value: int | None) -> None:
        os.write(self.file, (json.dumps([what, kind, key, value]) + "\n").encode())

    def perform(self, kind: str, key: str, value: int | None, act: Callable[[str | None], Any]) -> bool:
        """Do one operation; whatever the storage leaves open is asked again with the token."""
        self.note("begin", kind, key, value)
        token: str | None = None
        for _ in range(20):
            try:
                act(token)
            except CommitUnknown as error:
                token = error.token
                time.sleep(self.random.uniform(0, 0.1))
            except SnapshotNotFound:
                break  # an earlier try has deleted it
            except (StorageFull, PermissionDenied):
                self.note("failed", kind, key, value)
                return False
            except SnapshotsError as error:
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
        kind = self.random.choices(
            ("snapshots", "artifacts", "results", "checkpoints", "backups", "read"), (6, 5, 6, 1, 1, 4)
        )[0]
        getattr(self, f"_{kind}")()

    def _key(self, kind: str) -> tuple[str, int | None]:
        """A key to write to: a new one, one to overwrite, or one to delete."""
        known = self.live[kind]
        self.numbers += 1
        if known and self.random.random() < 0.3:
            return known.pop(self.random.randrange(len(known))), None
        if known and self.random.random() < 0.3:
            return self.random.choice(known), self.numbers
        key = f"{self.folder.name}-{self.numbers}"
        known.append(key)
        return key, self.numbers

    def _snapshots(self) -> None:
        manager = SnapshotManager(self.repository, name="shared")
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
        self.numbers += 1
        number = self.numbers
        self.perform(
            "artifacts",
            f"{self.folder.name}-{number}",
            number,
            lambda token: registry.log_artifact(
                "shared",
                value_of(number).hex(),
                "json",
                metadata={"key": f"{self.folder.name}-{number}"},
                token=token,
            ),
        )

    def _results(self) -> None:
        log = ResultLog(self.repository, "shared")
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
        self.numbers += 1
        number = self.numbers
        (self.folder / "data" / "number").write_bytes(b"%d " % number + value_of(number))
        manager = backups_of(self.repository, self.folder)
        self.perform(
            "backups",
            f"{self.folder.name}-{number}",
            number,
            lambda token: manager.create_backup(str(number), token=token),
        )

    def _read(self) -> None:
        """What this client was told of is there for itself, and for a forked child, at any time."""
        known = self.live["snapshots"]
        SnapshotManager(self.repository, name="shared").list_snapshots()
        if known and self.random.random() < 0.3:
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    SnapshotManager(self.repository, name="shared").list_snapshots()
                    status = 0
                except SnapshotsError:
                    status = 0  # the storage is disturbed; that it hangs is what must not happen
                finally:
                    os._exit(status)
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


def run(what: str, url: str, folder: Path, seed: int, options: dict[str, Any]) -> None:
    """Work or prune until the process is killed."""
    errors = os.open(folder / "errors", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(errors, 2)
    client = Client(url, folder, seed, options)
    if seed % 3 == 0:
        jumping_clock(seed)
    while True:
        try:
            if what == "prune":
                client.repository.prune(grace=0)
                client.note("ok", "prune", "", None)
                time.sleep(client.random.uniform(0, 1))  # the others want the processor, too
            else:
                client.step()
        except SnapshotsError as error:
            # A read or a prune that a fault stopped. Nothing was promised.
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            time.sleep(0.05)
