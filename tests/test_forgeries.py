"""Every field of every record, replaced by what no writer of ours stores: it costs that name alone, and little.

Whoever can write to a plain repository can seal what they like. Each forgery here is one field of one event, manifest
or password, replaced by one hostile value. Looking at it works or ends in an error of this package, in little time and
memory; everybody else, `check` and `prune` go on. One value per field is tried here, and all of them nightly.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import msgspec
import pytest
from forging import MISSING, VALUES, Field, fields_of, replaced

from prefect_snapshots import ArtifactRegistry, BackupManager, Repository, Snapper, SnapshotManager
from prefect_snapshots.backups.databases import PostgreSQL
from prefect_snapshots.backups.sources import Dump, DumpFile, DumpNote
from prefect_snapshots.checkpoints import CheckpointManager
from prefect_snapshots.errors import IntegrityError, SnapshotsError
from prefect_snapshots.repository.catalog import Event, slot_path
from prefect_snapshots.repository.configuration import CONFIG, CONFIG_COPY
from prefect_snapshots.repository.contents import Content
from prefect_snapshots.repository.maintenance.liveness import stream_of
from prefect_snapshots.results import ResultLog

MOST_SECONDS = 5.0
"""CPU for one look. A look takes milliseconds; a loop over a stored number would take for ever."""
MOST_MEMORY = 2 * 1024**3
"""Bytes beyond what the process has: a table for a stored number would take far more."""

encode = msgspec.msgpack.encode
decode = msgspec.msgpack.decode


def square(number: int) -> int:
    return number * number


@dataclass(frozen=True)
class Victim:
    """One stored object, and what of it can be forged."""

    label: str
    kind: str
    fields: Any
    write: Callable[[Path, Any], None]


class Recorded(PostgreSQL):
    """A database whose server is not there: what is stored of it is."""

    def check(self) -> list[str]:
        return ["PostgreSQL 15"]

    def check_restorable(self) -> list[str]:
        return []

    @contextmanager
    def dump(self) -> Iterator[Dump]:
        files = [DumpFile("database.json", iter([b"{}"])), DumpFile("database.pgdump", iter([b"PGDMP"]))]
        yield Dump(files, {"public.t": 1}, [DumpNote("View v is left out.", left_out=True)])


@dataclass(frozen=True)
class Stage:
    """A repository in which there is one of everything, and the same again for somebody else."""

    base: Path
    sources: Path
    victims: list[Victim]

    def look(self, kind: str, place: Path, name: str, *, prove: bool = True) -> None:
        """Read all there is of one name."""
        repository = Repository(place)
        if kind == "snapshots":
            manager = SnapshotManager(repository, name=name)
            for snapshot in manager.list_snapshots():
                manager.get_snapshot(snapshot.id)
                manager.get_metadata(snapshot.id)
        elif kind == "artifacts":
            registry = ArtifactRegistry(repository)
            for version in registry.list_versions(name):
                registry.load_artifact(name, version.version)
            registry.get_alias_history(name, "champion")
        elif kind == "releases":
            for release in ArtifactRegistry(repository).list_releases():
                assert isinstance(release.tag, str)
        elif kind == "backups":
            manager_ = self.manager(repository, name)
            for backup in manager_.list_backups():
                for part in backup.part_names:
                    for file in manager_.list_files(backup.name, part):
                        assert file.path
            for record in manager_.list_interrupted_restores():
                assert record.described()
            with suppress(SnapshotsError):  # a forged target is refused, and so is a forged backup
                manager_.resume_restore()
            manager_.verify_backup("latest")
            if prove:
                manager_.drill("latest")
        elif kind == "results":
            log = ResultLog(repository, name)
            for key in log.keys():  # noqa: SIM118  # it is no dictionary
                log.read(key)
        elif kind == "checkpoints":
            Snapper(range(3), square, repository=repository, name=name, function_version="1").load()
            CheckpointManager(repository).get_checkpoint(name)

    def manager(self, repository: Repository, name: str, *, making: bool = False) -> BackupManager:
        return BackupManager(
            repository,
            name=name,
            directories=[self.sources / "folder"],
            databases=[
                f"sqlite:///{self.sources}/a.sqlite",
                f"duckdb:///{self.sources}/b.duckdb",
                *([Recorded(f"{SERVER}/shop")] if making else [f"{SERVER}/*"]),
            ],
        )


SERVER = "postgresql://127.0.0.1:1"
"""Nothing listens there."""
KINDS = ("snapshots", "artifacts", "releases", "backups", "results", "checkpoints")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    folder = tmp_path_factory.mktemp("forgeries")
    base, sources = folder / "base", folder / "sources"
    (sources / "folder").mkdir(parents=True)
    (sources / "folder" / "file").write_text("x")
    with closing(sqlite3.connect(sources / "a.sqlite")) as connection:
        connection.execute("create table t (a)")
    with closing(duckdb.connect(str(sources / "b.duckdb"))) as connection:
        connection.execute("create table t (a int)")
    stage = Stage(base, sources, [])
    repository = Repository(base)
    registry = ArtifactRegistry(repository)
    for name in ("victim", "other"):
        SnapshotManager(repository, name=name).save_snapshot({"a": 1}, "one", metadata={"m": 1.5}, tags=["t"])
        SnapshotManager(repository, name=name).update_metadata("one", {"m": 2.5})
        registry.log_artifact(name, "x" * 10, "json", metadata={"k": 1})
        registry.set_alias(name, "v0", "champion")
        registry.set_stage(name, "v0", "production")
        backups = stage.manager(repository, name, making=True)
        backup = backups.create_backup("b")
        backups.edit_backup(backup.name, description="c")
        backups.pin(backup.name)
        backups.restore_backup(backup.name, confirm=True, only={"folder": []})
        log = ResultLog(repository, name)
        log.write("old", b"v")
        log.expire("2100-01-01")
        log.write("k", b"v")
        log.write("large", b"v" * 100_000)
        Snapper(range(3), square, repository=repository, name=name, function_version="1").start()
    registry.create_release("1.0", {"victim": "v0"}, metadata={"m": 1})
    stage.victims.extend(_victims(repository))
    return stage


def _victims(repository: Repository) -> Iterator[Victim]:
    """Yield the body and the manifest of every event of the victim, and the root events and passwords of everybody."""
    opened = repository.parts()
    for kind, name in list(opened.catalog.streams().values()):
        shown = "releases" if "release" in kind + name else kind
        if shown != "releases" and not name.split(":")[-1].startswith("victim"):
            continue
        stream = stream_of(opened, kind, name)
        stream.refresh()
        for event in stream.events:
            label = f"{kind}-{event.kind}-{event.sequence}"
            inline, body, manifest = b"", b"", b""
            if event.content is not None:
                content = repository.read(stream, event)
                inline = content.inline.inline if content.inline is not None else b""
                body, manifest = content.read(0, content.body_size), content.manifest
            yield Victim(label, shown, event.body, _body_writer(stream.id, event, inline))
            if manifest and len(body) + len(manifest) <= 16_000:
                try:
                    fields = decode(manifest)
                except msgspec.DecodeError:
                    continue
                yield Victim(f"{label}-manifest", shown, fields, _manifest_writer(stream.id, event, body))
    for event in opened.catalog.root.events[: len(KINDS)]:
        yield Victim(f"root-{event.kind}-{event.sequence}", "", event.body, _root_writer(event.kind))


def _seal(place: Path, stream: str, event: Event, inline: bytes) -> None:
    """Put an event in the place of one, and drop those that follow: their chain of hashes is broken."""
    path = slot_path(stream, event.sequence)
    for file in (place / path).parent.iterdir():
        if file.name >= Path(path).name:
            file.unlink()
    opened = Repository(place).parts()
    assert opened.store.location.create(path, opened.sealer.seal(path, [encode(event), inline]))


def _body_writer(stream: str, event: Event, inline: bytes) -> Callable[[Path, Any], None]:
    return lambda place, body: _seal(place, stream, msgspec.structs.replace(event, body=body), inline)


def _manifest_writer(stream: str, event: Event, body: bytes) -> Callable[[Path, Any], None]:
    def write(place: Path, fields: Any) -> None:
        manifest = encode(fields)
        content = Content(len(body) + len(manifest), len(manifest), 0, b"", 1)
        _seal(place, stream, msgspec.structs.replace(event, content=content), body + manifest)

    return write


def _root_writer(kind: str) -> Callable[[Path, Any], None]:
    def write(place: Path, body: Any) -> None:
        root = Repository(place).parts().catalog.root
        root.refresh()
        _seal(place, root.id, Event(root.head + 1, root._hash, 0, os.urandom(16), 0, kind, body), b"")

    return write


def _forgeries(victims: list[Victim], every: bool) -> Iterator[tuple[Victim, Field, Any]]:
    """Yield every field with all values, or some with one each: all values have their turn."""
    turn = itertools.cycle(VALUES)
    for victim in victims:
        fields = list(fields_of(victim.fields))
        # The manifest of a backup has many entries, which are all alike.
        for at in fields if every else fields[:: 2 if len(fields) < 100 else 8]:
            for value in VALUES if every else [next(turn)]:
                yield victim, at, value


def _assert_nobody_else_is_hurt(stage: Stage, place: Path, victim: Victim, value: Any) -> None:
    def timed(what: str, call: Callable[[], Any]) -> None:
        before = time.process_time()
        call()
        assert time.process_time() - before < MOST_SECONDS, what

    def own() -> None:
        with suppress(SnapshotsError):
            stage.look(victim.kind, place, "victim")

    timed("look", own)
    # What cannot be decoded in root may name streams and packs: nobody goes on.
    readable = victim.kind or not isinstance(value, msgspec.Raw)
    with suppress(*[] if readable else [SnapshotsError]):
        for kind in [victim.kind] if victim.kind else KINDS[:2]:
            if kind != "releases":
                timed("others", partial(stage.look, kind, place, "other", prove=False))
    timed("check", lambda: Repository(place).check(read_data=True))
    with suppress(*[] if readable else [IntegrityError]):
        timed("repair", lambda: Repository(place).repair(dry_run=True))
    with suppress(*[] if readable else [IntegrityError]):
        timed("prune", lambda: Repository(place).prune(grace=0))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Where a forged repository lies: in memory if possible, because a disk takes three times as long."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder) / "r"


def _run(stage: Stage, place: Path, every: bool) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MOST_MEMORY, before[1]))
    found, count = [], 0
    try:
        for victim, at, value in _forgeries(stage.victims, every):
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(stage.base, place)
            victim.write(place, replaced(victim.fields, at, value))
            count += 1
            try:
                _assert_nobody_else_is_hurt(stage, place, victim, value)
            except Exception as error:
                found.append((victim.label, at, repr(value)[:60], repr(error)[:300]))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert not found, "\n".join(map(str, found))
    assert count > 100


@pytest.mark.long
def test_a_field_that_is_forged_hurts_its_name_alone(stage: Stage, place: Path) -> None:
    _run(stage, place, every=False)


def test_values_that_once_hung_or_had_no_name(stage: Stage, tmp_path: Path) -> None:
    raw = msgspec.Raw(b"\xa3\xed\xa0\x80")
    found = {
        ("checkpoints-closed-2", ("size",)): 2**62,
        ("backups-backup-1-manifest", (1, 0, 1)): raw,
        ("artifacts-alias-3", ("alias",)): 7,
    }
    for (label, at), value in found.items():
        [victim] = [victim for victim in stage.victims if victim.label == label]
        shutil.copytree(stage.base, tmp_path / label)
        victim.write(tmp_path / label, replaced(victim.fields, at, value))
        _assert_nobody_else_is_hurt(stage, tmp_path / label, victim, value)


@pytest.mark.nightly
@pytest.mark.timeout(3600)  # 8,000 forgeries, about ten a second
def test_no_value_in_any_field_hurts_more_than_its_name(stage: Stage, place: Path) -> None:
    _run(stage, place, every=True)


def test_a_password_that_is_forged_is_named(tmp_path: Path) -> None:
    """Every value in every field of a password: it opens, or it is said why not."""
    folder = tmp_path / "r"
    SnapshotManager(Repository(folder, password="one")).save_snapshot(1, "one")
    config = json.loads((folder / CONFIG).read_bytes())
    values = [v for v in VALUES if v is MISSING or not isinstance(v, bytes | msgspec.Raw)]
    for name, value in itertools.product([*config["passwords"][0], None], values):
        forged = [replaced(config["passwords"][0], (name,), value)] if name else value
        if forged is MISSING:
            continue
        for file in (CONFIG, CONFIG_COPY):
            (folder / file).write_text(json.dumps({**config, "passwords": forged}))
        before = time.process_time()
        with suppress(SnapshotsError):
            Repository(folder, password="one").check()
        assert time.process_time() - before < MOST_SECONDS, (name, repr(value)[:60])
