"""Rounds of histories: several clients work on one repository and are hurt, and then what they were told is compared.

A round begins with an empty repository, so that the next one costs no more than the one before.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import forks
import histories
import msgspec
import servers
from histories import NAME, State, Told, backups_of, items_of, joined_value, snapper_of, square, value_of
from toy_kind import ToyKind

from prefect_snapshots import ArtifactRegistry, Repository, SnapshotManager
from prefect_snapshots.results import ResultLog

Line: TypeAlias = tuple[str, str, str, int | None]

_LINE = 45
"""Bytes of a line that a client notes, on average."""


class Process:
    """One client that runs. It is forked from a server that has imported everything, so that kills may be many.

    Args:
        history: What it belongs to.
        what: "work", "prune" or "copy".
        number: Of this client.
    """

    def __init__(self, history: History, what: str, number: int) -> None:
        self.what = what
        self.folder = history.folder / f"{what}-{number}"
        self.folder.mkdir(parents=True)
        chance = history.random
        self._lines = chance.randint(1, history.operations_a_kill * 4) if what == "work" else 0
        self._until = time.monotonic() + chance.uniform(0, 2 * history.seconds_a_kill)
        self.stopped_until = 0.0
        place = history.url, history.copy, self.folder
        arguments = *place, chance.randrange(10**6), history.work, history.password, history.hangs
        self.process = forks.context().Process(target=histories.run, args=(what, *arguments), daemon=False)
        self.process.start()

    @property
    def is_due(self) -> bool:
        """Whether it has done enough to be killed."""
        if self.what != "work":
            return time.monotonic() > self._until
        try:
            return (self.folder / "history").stat().st_size > self._lines * _LINE
        except FileNotFoundError:
            return False

    def signal(self, number: int) -> None:
        """Send a signal to the client, and to what it has forked."""
        assert self.process.pid is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, number)  # it may not have its group yet

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.join()
        self.process.close()


class CameToNothing(Exception):
    """The limit of a round was not reached in time, as on a machine that has other work. No promise was broken."""


@dataclass(frozen=True)
class Limit:
    """When a round ends: all of this has happened.

    Attributes:
        seconds: So much time has passed.
        kills: So many processes were killed.
        acknowledged: So many operations were acknowledged.
    """

    seconds: float = 0
    kills: int = 0
    acknowledged: int = 0


class History:
    """Runs clients, hurts them, and tells in the end what each key may be.

    Args:
        url, options: Where the repository is.
        copy: Where it is copied to.
        folder: For what the clients note.
        seed: Of the faults.
        work: The options with which the clients reach it.
        workers: How many clients work. Two more prune, and one copies.
        password: Of the repository and its copy.
        operations_a_kill: How many operations a client performs on average before it is killed.
        seconds_a_kill: How long a prune or copy works on average before it is killed.

    Attributes:
        counts: What has happened, by name.
    """

    def __init__(
        self,
        url: str,
        copy: str,
        folder: Path,
        seed: int,
        options: dict[str, Any],
        work: dict[str, Any],
        workers: int = 3,
        password: str | Literal[False] = False,
        operations_a_kill: int = 10,
        seconds_a_kill: float = 3,
    ) -> None:
        self.url = url
        self.copy = copy
        self.folder = folder
        self.options = options
        self.work = work
        self.password = password
        self.operations_a_kill = operations_a_kill
        self.seconds_a_kill = seconds_a_kill
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.hangs = max(120, 15 * workers)  # a child of many waits for its turn in the root stream
        self._workers = workers
        self._started = 0

    def start(self, what: str) -> Process:
        self._started += 1
        return Process(self, what, self._started)

    def run(self, limit: Limit, hurt: Callable[[History], float]) -> None:
        """Let clients work until the limit is reached, with a fault every now and then.

        Args:
            limit: When the round ends.
            hurt: Disturbs the storage. What it returns times about a second, it is called again.
        """
        begun = time.monotonic()
        for url in (self.url, self.copy):
            self._open(url).parts(writing=True)
        running = [self.start(what) for what in [*["work"] * self._workers, "prune", "prune", "copy"]]
        hurt_at = begun
        try:
            while not self._has_reached(limit, time.monotonic() - begun):
                if time.monotonic() - begun > 10 * limit.seconds + 5 * limit.kills + limit.acknowledged + 150:
                    raise CameToNothing
                time.sleep(0.01)
                for at, one in enumerate(running):
                    assert one.process.is_alive(), (one.folder / "errors").read_text()[-2000:]
                    if one.is_due:
                        one.kill()
                        self.counts["kills"] += 1
                        running[at] = self.start(one.what)
                self._stop_or_continue(running)
                if time.monotonic() > hurt_at:
                    self.counts["hurts"] += 1
                    hurt_at = time.monotonic() + self.random.uniform(0.1, 1.5) * hurt(self)
        finally:
            for one in running:
                one.kill()
            self.counts["seconds"] += round(time.monotonic() - begun)
        self.counts.update(what for what, kind, _, _ in self.told())
        self.counts.update(kind for what, kind, _, _ in self.told() if what == "ok")

    def _open(self, url: str) -> Repository:
        return Repository(url, storage_options=self.options, password=self.password)

    def _has_reached(self, limit: Limit, seconds: float) -> bool:
        # Counting comes last, because it reads what all clients have noted.
        return (
            seconds >= limit.seconds
            and self.counts["kills"] >= limit.kills
            and sum(what == "ok" for what, *_ in self.told()) >= limit.acknowledged
        )

    def _stop_or_continue(self, running: list[Process]) -> None:
        now = time.monotonic()
        stopped = [one for one in running if one.stopped_until]
        for one in stopped:
            if one.stopped_until < now:
                one.signal(signal.SIGCONT)
                one.stopped_until = 0
        if len(stopped) < 2 and self.random.random() < 0.02:
            one = self.random.choice(running)
            one.signal(signal.SIGSTOP)
            one.stopped_until = now + self.random.choice((0.05, 0.3, 2))
            self.counts["stops"] += 1

    # --- what was told ---------------------------------------------------------------------------------------------

    def told(self) -> Iterator[Line]:
        for file in sorted(self.folder.glob("work-*/history")):
            lines = file.read_bytes().rpartition(b"\n")[0]
            yield from msgspec.json.decode(b"[%s]" % lines.replace(b"\n", b","), type=list[Line])

    def allowed(self) -> Told:
        """What each key may be."""
        told = Told()
        for line in self.told():
            told.apply(*line)
        return told

    # --- what is there ---------------------------------------------------------------------------------------------

    def verify(self) -> None:
        """Compare everything that was told with everything that is there."""
        for file in self.folder.glob("*/history"):
            assert b"violation" not in file.read_bytes(), (file.parent / "errors").read_text()[-4000:]
        repository = self._open(self.url)
        assert repository.check(read_data=True).problems == []
        report = repository.prune(grace=0)
        assert report.packs_not_rewritten or repository.prune(dry_run=True, grace=0).bytes_freed == 0
        allowed = self.allowed().states
        for kind, found in (
            ("snapshots", self._snapshots(repository)),
            ("results", self._results(repository)),
            ("artifacts", self._artifacts(repository)),
            ("checkpoints", self._checkpoints(repository, allowed["checkpoints"])),
            ("backups", self._backups(repository)),
            ("staged", self._staged(repository)),
        ):
            states = allowed[kind]
            assert found.keys() <= states.keys(), kind
            wrong = {key: (state, found.get(key)) for key, state in states.items() if found.get(key) not in state}
            assert not wrong, f"{kind}: {wrong}"
        self._verify_copy(repository)

    def _verify_copy(self, repository: Repository) -> None:
        copy = self._open(self.copy)
        assert repository.copy_to(copy).problems == []
        report = repository.check(read_data=True, against=copy)
        assert report.problems == []
        assert not [note for note in report.notes if "copy" in note]
        assert copy.check(read_data=True).problems == []

    def _numbers(self, kind: str, key: str, data: bytes) -> int:
        """Which of the values that were ever written to a key these bytes are."""
        return next(number for number in self._written[kind, key] if value_of(number) == data)

    @cached_property
    def _written(self) -> dict[tuple[str, str], set[int]]:
        written: dict[tuple[str, str], set[int]] = {}
        for _, kind, key, value in self.told():
            if value is not None:
                written.setdefault((kind, key), set()).add(value)
        return written

    def _snapshots(self, repository: Repository) -> dict[str, int]:
        manager = SnapshotManager(repository, name=NAME)
        return {
            info.id: self._numbers("snapshots", info.id, manager[info.id].data) for info in manager.list_snapshots()
        }

    def _results(self, repository: Repository) -> dict[str, int]:
        log = ResultLog(repository, NAME)
        there = log.keys()
        return {key: self._numbers("results", key, log.read(key)) for key in there}

    def _artifacts(self, repository: Repository) -> dict[str, int]:
        registry = ArtifactRegistry(repository)
        found: dict[str, int] = {}
        infos = registry.list_versions(NAME) if registry.list_artifacts() else []
        for info in infos:
            key = info.metadata["key"]
            assert key not in found, f"{key} was logged twice"
            data = bytes.fromhex(registry.load_artifact(NAME, info.version))
            found[key] = self._numbers("artifacts", key, data)
        return found

    def _checkpoints(self, repository: Repository, states: dict[str, State]) -> dict[str, int]:
        found = {}
        for key, state in states.items():
            [number] = state - {None}
            assert number is not None
            there = snapper_of(repository, key, number).load(missing=None)
            results = [square(item) for item in items_of(number)]
            assert all(result in (None, expected) for result, expected in zip(there, results, strict=True))
            if there == results:
                found[key] = number
            else:
                assert None in state, f"{key} lost results: {there}"
        return found

    def _backups(self, repository: Repository) -> dict[str, int]:
        found: dict[str, int] = {}
        for folder in sorted(self.folder.glob("work-*")):
            manager = backups_of(repository, folder)
            for backup in manager.list_backups():
                data = b"".join(manager.open_file(backup.name, "data", "number"))
                number = int(data.split(b" ", 1)[0])
                key = f"{folder.name}-{number}"
                assert data == b"%d " % number + value_of(number)
                assert key not in found, f"{key} was backed up twice"
                found[key] = number
        return found

    def _staged(self, repository: Repository) -> dict[str, int]:
        toy = ToyKind(repository, NAME)
        toy.stream.refresh()
        puts = Counter(event.body["id"] for event in toy.events if event.kind == "put")
        assert max(puts.values(), default=1) == 1, f"committed twice: {puts}"
        for key in toy.items:
            assert toy.get(key) == joined_value(key)
        return {key: int(key.partition("=")[0].rpartition("-")[2]) for key in toy.items}


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 48 MB of its own."""
    root = [] if os.geteuid() == 0 else [shutil.which("sudo") or "sudo", "-n"]
    place = folder / "disk"
    place.mkdir()
    subprocess.run([*root, "mount", "-t", "tmpfs", "-o", "size=48m,mode=777", "none", place], check=True)
    try:
        yield place
    finally:
        subprocess.run([*root, "umount", "--lazy", place], check=True)


def fill_or_free(history: History) -> float:
    """Fill the disk to the last byte; the next time free it again, soon."""
    filling = Path(history.url).parent / "filling"
    if filling.exists():
        filling.unlink()
        return 1
    with suppress(OSError), filling.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(65536))
    return 0.2


def on_a_disk(folder: Path, limit: Limit, seed: int, **more: Any) -> Counter[str]:
    """Do one round on a disk that is sometimes full, and return what has happened."""
    with small_disk(folder) as place:
        history = History(str(place / "repository"), str(folder / "copy"), folder / "clients", seed, {}, {}, **more)
        try:
            history.run(limit, fill_or_free)
            (place / "filling").unlink(missing_ok=True)
            history.verify()
        except Exception:
            shutil.copytree(place, folder / "found")
            raise
    return history.counts


def on_s3(endpoint: str, folder: Path, limit: Limit, seed: int, **more: Any) -> Counter[str]:
    """Do one round on S3, where replies are lost, and return what has happened."""
    with servers.dropping_proxy(endpoint) as proxy:
        url, copy = (f"s3://{servers.BUCKET}/{uuid.uuid4().hex}" for _ in range(2))
        options = servers.s3_options(endpoint), servers.s3_options(proxy.endpoint)
        # A client starts slowly, because botocore reads the description of S3 first.
        history = History(url, copy, folder / "clients", seed, *options, seconds_a_kill=15, **more)

        def lose_replies(history: History) -> float:
            """Some replies in a row. Clients that hear nothing at all would do nothing."""
            if not proxy.lost_replies:
                proxy.lost_replies = history.random.randint(1, 4)
            return 1

        history.run(limit, lose_replies)
        history.verify()
    return history.counts
