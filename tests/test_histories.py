"""Histories: what clients were told is compared with what is there in the end, in the way of Jepsen.

Several processes work on every kind at once, while rival prunes run, and are killed, stopped, forked, and deceived by
lost replies, full disks and jumping clocks. An operation that was acknowledged must have happened, one that was refused
must not, and one in between may or may not - once.
"""

from __future__ import annotations

import json
import multiprocessing
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
from functools import cached_property
from pathlib import Path
from typing import Any

import histories
import pytest
import servers
from histories import backups_of, items_of, snapper_of, square, value_of

from prefect_snapshots import ArtifactRegistry, Repository, SnapshotManager
from prefect_snapshots.results import ResultLog

FORKS = multiprocessing.get_context("forkserver")

State = set[int | None]
"""The values that a key may have."""


class Process:
    """One client that runs. It is forked from a server that has imported everything, so that kills may be many."""

    def __init__(self, what: str, url: str, folder: Path, seed: int, options: dict[str, Any]) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.process = FORKS.Process(target=histories.run, args=(what, url, folder, seed, options), daemon=False)
        self.process.start()

    @property
    def lines(self) -> int:
        """How much it has noted."""
        file = self.folder / "history"
        return file.read_bytes().count(b"\n") if file.exists() else 0

    def signal(self, number: int) -> None:
        assert self.process.pid is not None
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.join()


class History:
    """Runs clients, hurts them, and tells in the end what each key may be.

    Args:
        url, options: Where the repository is.
        folder: For what the clients note.
        seed: Of the faults.
        work: The options with which the clients reach it.
        workers: How many clients work. Two more prune.
    """

    def __init__(
        self, url: str, folder: Path, seed: int, options: dict[str, Any], work: dict[str, Any], workers: int = 3
    ) -> None:
        self.url = url
        self.folder = folder
        self.options = options
        self.random = random.Random(seed)
        self.faults: Counter[str] = Counter()
        self._work = work
        self._workers = workers
        self._started = 0

    def start(self, what: str) -> Process:
        self._started += 1
        folder = self.folder / f"{what}-{self._started}"
        return Process(what, self.url, folder, self.random.randrange(10**6), self._work)

    def run(self, seconds: float, least: int, hurt: Callable[[History], None]) -> None:
        """Let clients work for some time and until enough was acknowledged, with a fault every now and then."""
        Repository(self.url, storage_options=self.options).parts(writing=True)
        running = [self.start("work") for _ in range(self._workers)] + [self.start("prune") for _ in range(2)]
        stopped: list[Process] = []
        begun = time.monotonic()
        try:
            while time.monotonic() - begun < seconds or self.acknowledged < least:
                assert time.monotonic() - begun < 10 * seconds + 150, "the clients came to nothing"
                time.sleep(self.random.uniform(0.03, 0.3))
                at = self.random.randrange(len(running))
                one = running[at]
                assert one.process.is_alive(), (one.folder / "errors").read_text()[-2000:]
                fault = self.random.choices(("kill", "stop", "go on", "hurt"), (3, 2, 4, 2))[0]
                if fault == "kill" and one.lines > (5 if "work" in one.folder.name else 0):
                    one.kill()
                    running[at] = self.start(one.folder.name.partition("-")[0])
                    stopped = [each for each in stopped if each is not one]
                elif fault == "stop" and len(stopped) < 2:
                    one.signal(signal.SIGSTOP)
                    stopped.append(one)
                elif fault == "go on" and stopped:
                    stopped.pop(0).signal(signal.SIGCONT)
                elif fault == "hurt":
                    hurt(self)
                else:
                    continue
                self.faults[fault] += 1
        finally:
            for one in running:
                one.kill()

    @property
    def acknowledged(self) -> int:
        """How many operations were acknowledged."""
        return sum(what == "ok" for what, *_ in self.told())

    # --- what was told ---------------------------------------------------------------------------------------------

    def told(self) -> Iterator[tuple[str, str, str, int | None]]:
        for file in sorted(self.folder.glob("work-*/history")):
            for line in file.read_text().rpartition("\n")[0].splitlines():
                what, kind, key, value = json.loads(line)
                yield what, kind, key, value

    def allowed(self) -> dict[str, dict[str, State]]:
        """For each kind, the values that each key may have."""
        states: dict[str, dict[str, State]] = {}
        for what, kind, key, value in self.told():
            assert what != "violation", (kind, key)
            state = states.setdefault(kind, {}).setdefault(key, {None})
            if what == "begin":
                self.before = set(state)
                state.add(value)
            elif what == "ok":
                state.clear()
                state.add(value)
            elif what == "failed" and kind != "checkpoints":  # of a run, some results may be there
                state.clear()
                state |= self.before
        return states

    # --- what is there ---------------------------------------------------------------------------------------------

    def verify(self) -> None:
        """Compare everything that was told with everything that is there."""
        repository = Repository(self.url, storage_options=self.options)
        assert repository.check(read_data=True).problems == []
        report = repository.prune(grace=0)
        assert report.packs_not_rewritten or repository.prune(dry_run=True, grace=0).bytes_freed == 0
        allowed = self.allowed()
        for kind, found in (
            ("snapshots", self._snapshots(repository)),
            ("results", self._results(repository)),
            ("artifacts", self._artifacts(repository)),
            ("checkpoints", self._checkpoints(repository, allowed.get("checkpoints", {}))),
            ("backups", self._backups(repository, allowed.get("backups", {}))),
        ):
            states = allowed.get(kind, {})
            assert found.keys() <= states.keys(), kind
            wrong = {key: (state, found.get(key)) for key, state in states.items() if found.get(key) not in state}
            assert not wrong, f"{kind}: {wrong}"

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
        manager = SnapshotManager(repository, name="shared")
        return {
            info.id: self._numbers("snapshots", info.id, manager[info.id].data) for info in manager.list_snapshots()
        }

    def _results(self, repository: Repository) -> dict[str, int]:
        log = ResultLog(repository, "shared")
        there = log.keys()
        return {key: self._numbers("results", key, log.read(key)) for key in there}

    def _artifacts(self, repository: Repository) -> dict[str, int]:
        registry = ArtifactRegistry(repository)
        found: dict[str, int] = {}
        infos = registry.list_versions("shared") if registry.list_artifacts() else []
        for info in infos:
            key = info.metadata["key"]
            assert key not in found, f"{key} was logged twice"
            data = bytes.fromhex(registry.load_artifact("shared", info.version))
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

    def _backups(self, repository: Repository, states: dict[str, State]) -> dict[str, int]:
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


@contextmanager
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MB of its own."""
    root = [] if os.geteuid() == 0 else [shutil.which("sudo") or pytest.fail("mounting needs root or sudo"), "-n"]
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run([*root, "mount", "-t", "tmpfs", "-o", "size=48m,mode=777", "none", place], check=True)
    try:
        yield place
    finally:
        subprocess.run([*root, "umount", "--lazy", place], check=True)


def fill_or_free(history: History) -> None:
    """Fill the disk to the last byte; the next time free it again."""
    filling = Path(history.url).parent / "filling"
    if filling.exists():
        filling.unlink()
        return
    with suppress(OSError), filling.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(65536))


def on_a_disk(tmp_path: Path, seconds: float, seed: int, least: int) -> History:
    with disk(tmp_path) as place:
        history = History(str(place / "repository"), tmp_path / "clients", seed, {}, {})
        history.run(seconds, least, fill_or_free)
        (place / "filling").unlink(missing_ok=True)
        history.verify()
    return history


def on_s3(endpoint: str, tmp_path: Path, seconds: float, seed: int, least: int, workers: int = 3) -> History:
    with servers.dropping_proxy(endpoint) as proxy:
        url, options = f"s3://{servers.BUCKET}/{uuid.uuid4().hex}", servers.s3_options(endpoint)
        history = History(url, tmp_path / "clients", seed, options, servers.s3_options(proxy.endpoint), workers)

        since = [0]

        def lose_replies(history: History) -> None:
            """Some replies in a row, after enough others: clients that hear nothing do nothing."""
            if not proxy.lost_replies and history.acknowledged > since[0] + 3:
                since[0] = history.acknowledged
                proxy.lost_replies = history.random.randint(1, 4)

        history.run(seconds, least, lose_replies)
        history.verify()
    return history


@pytest.mark.timeout(280)
def test_a_history_on_a_disk(tmp_path: Path) -> None:
    on_a_disk(tmp_path, 10, seed=int.from_bytes(os.urandom(4)), least=25)


@pytest.mark.timeout(280)
def test_a_history_on_s3(moto_endpoint: str, tmp_path: Path) -> None:
    on_s3(moto_endpoint, tmp_path, 10, seed=int.from_bytes(os.urandom(4)), least=25)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(4))
def test_a_long_history_on_a_disk(tmp_path: Path, part: int) -> None:
    history = on_a_disk(tmp_path, 600, seed=part, least=500)
    print(f"{dict(history.faults)}, {Counter(what for what, *_ in history.told())}")


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(4))
def test_a_long_history_on_s3(moto_endpoint: str, tmp_path: Path, part: int) -> None:
    history = on_s3(moto_endpoint, tmp_path, 600, seed=part, least=500)
    print(f"{dict(history.faults)}, {Counter(what for what, *_ in history.told())}")


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_sixty_four_writers_on_s3(moto_endpoint: str, tmp_path: Path) -> None:
    history = on_s3(moto_endpoint, tmp_path, 60, seed=64, least=640, workers=64)
    print(f"{dict(history.faults)}, {Counter(what for what, *_ in history.told())}")
