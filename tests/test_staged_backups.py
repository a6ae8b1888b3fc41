"""Backups whose parts other processes have stored: one commit joins them, whatever was handed over."""

from __future__ import annotations

import pickle
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from prefect_snapshots import BackupManager, Repository, SnapshotManager
from prefect_snapshots.backups import manifest
from prefect_snapshots.backups.databases import SQLite
from prefect_snapshots.errors import BackupFailed, InvalidArgument, InvalidName, StagedPartsLost
from prefect_snapshots.repository.contents import TABLE, Content, StagedPart
from prefect_snapshots.trees.entries import Entry

PLACES = ("db1", "web1")
MB = 1 << 20


class Site:
    """Two machines with a database and a folder each, of the same names, and a repository that both can reach."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.url = str(folder / "repository")
        self.options = options
        for number, place in enumerate(PLACES):
            (folder / place / "data").mkdir(parents=True)
            (folder / place / "data" / "large").write_bytes(np.random.default_rng(number).bytes(5 * MB))
            (folder / place / "data" / "small").write_text(place)
            with closing(sqlite3.connect(folder / place / "app.db")) as connection, connection:
                connection.execute("CREATE TABLE users (name TEXT)")
                connection.executemany("INSERT INTO users VALUES (?)", [(place,)] * 10)

    def manager(self, place: str = "") -> BackupManager:
        """The manager on a machine, as another process opens it; without a place, that of who commits."""
        sources: dict[str, Any] = {}
        if place:
            sources["databases"] = [SQLite(str(self.folder / place / "app.db"))]
            sources["directories"] = [self.folder / place / "data"]
        return BackupManager(Repository(self.url, **self.options), name="all", **sources)

    def staged(self, places: Sequence[str] = PLACES) -> list[tuple[str, StagedPart]]:
        return [(place, self.manager(place).stage_backup(place)) for place in places]

    def names(self, place: str) -> list[str]:
        return [f"{place}::sqlite:///{self.folder / place / 'app.db'}", f"{place}::data"]


@pytest.fixture(params=[None, "secret words"], ids=["plain", "encrypted"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    return Site(tmp_path, password=request.param)


def test_one_backup_has_the_parts_of_all_machines(site: Site) -> None:
    parts = site.staged()
    manager = site.manager()
    assert manager.list_backups() == []
    backup = manager.create_backup("nightly", parts=parts)
    assert backup.part_names == [name for place in PLACES for name in site.names(place)]
    assert backup.counts == {site.names(place)[0]: {"users": 10} for place in PLACES}
    assert backup.versions.keys() == backup.counts.keys()
    assert backup.size > 10 * MB
    assert backup.written > 10 * MB
    assert manager.repository.check(read_data=True).ok
    assert manager.verify_backup("latest") == backup
    assert b"".join(manager.open_file("latest", "web1::data", "small")) == b"web1"
    target = site.folder / "restored"
    manager.restore_backup("latest", confirm=True, to={"web1::data": target}, only={"web1::data": []})
    assert (target / "large").read_bytes() == (site.folder / "web1" / "data" / "large").read_bytes()
    assert manager.drill("latest").ok


def test_what_has_not_changed_is_not_read_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefect_snapshots.trees.file_reading._SETTLED", -(10**18))
    site.manager().create_backup(parts=site.staged())
    read: list[int] = []
    part = site.manager("db1").stage_backup("db1", ["data"], lambda _, done, __: read.append(done))
    monkeypatch.setattr("prefect_snapshots.trees.file_reading.Tree._read", None)
    assert site.manager("db1").stage_backup("db1", ["data"]).content.written < 1000
    backup = site.manager().create_backup(parts=[("db1", part)])
    assert backup.part_names == ["db1::data"]
    assert backup.written < 2000


def test_each_machine_restores_and_proves_its_own_parts(site: Site) -> None:
    backup = site.manager().create_backup(parts=site.staged())
    for place in PLACES:
        manager = site.manager(place)
        (site.folder / place / "data" / "small").write_text("changed")
        with pytest.raises(InvalidArgument, match="No target for the parts 'db1::"):
            manager.restore_backup("latest", confirm=True)
        report = manager.restore_backup("latest", confirm=True, place=place)
        assert list(report.restored) == site.names(place)
        assert (site.folder / place / "data" / "small").read_text() == place
        drilled = manager.drill("latest", place=place)
        assert drilled.ok
        assert [row.part for row in drilled.rows] == site.names(place)
        assert manager.get_backup("latest") == backup  # half of it is no proof
        with pytest.raises(InvalidArgument, match="no part from 'db2'"):
            manager.drill("latest", place="db2")
    reports = [site.manager(place).drill("latest", place=place) for place in PLACES]
    newer = site.manager().create_backup(parts=site.staged())
    for wrong in (newer.name, "latest"):
        with pytest.raises(InvalidArgument, match="What was tried elsewhere must be parts of backup"):
            site.manager().drill(wrong, elsewhere=reports)
    together = site.manager().drill(backup.name, elsewhere=reports[:1], place="web1")
    assert [row.part for row in together.rows] == backup.part_names
    assert together.ok
    assert site.manager().get_backup(backup.name).proven_at is not None
    assert site.manager().drill("latest").ok
    assert site.manager().get_backup("latest").proven_at is not None


def test_own_sources_and_parts_are_one_backup(site: Site) -> None:
    manager = site.manager("db1")
    backup = manager.create_backup(parts=site.staged(["web1"]))
    own = [name.removeprefix("db1::") for name in site.names("db1")]
    assert backup.part_names == [*own, *site.names("web1")]
    twice = [("web1", site.manager("web1").stage_backup("web1", ["data"]))] * 2
    with pytest.raises(InvalidArgument, match="Two sources are named 'web1::data'"):
        manager.create_backup(parts=twice)
    with pytest.raises(InvalidArgument, match="no source named 'date'"):
        manager.stage_backup("db1", ["date"])
    with pytest.raises(InvalidArgument, match="nothing to back up"):
        site.manager().create_backup()
    for place in ("db1:", ".."):
        with pytest.raises(InvalidName):
            manager.create_backup(parts=[(place, twice[0][1])])


def test_a_part_is_small_and_travels(site: Site) -> None:
    part = site.manager("db1").stage_backup("db1")
    assert pickle.loads(pickle.dumps(part)) == part == StagedPart.from_text(part.to_text())
    assert len(part.to_text()) < 1000
    assert part.inline == b""
    texts: list[Any] = ["", "no part", part.to_text()[:-3], "ä", None, 3, part.to_text().encode()]
    for text in texts:
        with pytest.raises(InvalidArgument, match="no staged part"):
            StagedPart.from_text(text)


def test_a_source_that_fails_stages_nothing(site: Site) -> None:
    (site.folder / "web1" / "app.db").write_bytes(b"no database at all, but long enough to look like one" * 100)
    with pytest.raises(BackupFailed):
        site.staged()
    assert site.manager().list_backups() == []


# --- prunes -----------------------------------------------------------------------------------------------------------


def test_parts_that_a_prune_has_freed_are_named_and_staged_again(site: Site) -> None:
    parts = site.staged()
    kept = site.manager().create_backup(parts=parts[1:])
    site.manager().repository.prune(grace=0)
    manager = site.manager()
    with pytest.raises(StagedPartsLost) as lost:
        manager.create_backup(parts=parts)
    assert lost.value.parts[0] == 0
    assert manager.list_backups() == [kept]
    asked: list[Sequence[int] | None] = []

    def stage(numbers: Sequence[int] | None) -> Sequence[tuple[str, StagedPart]]:
        asked.append(numbers)
        return parts if numbers is None else site.staged([PLACES[number] for number in numbers])

    backup = manager.create_backup(parts=stage)
    assert asked == [None, lost.value.parts]
    assert len(backup.parts) == 4
    assert manager.repository.check(read_data=True).ok


# --- what a worker may hand over --------------------------------------------------------------------------------------


def forged(repository: Repository, parts: list[Any], told: list[Any], body: bytes = b"") -> StagedPart:
    """A part with any manifest."""
    encoded = msgspec.msgpack.encode([1, parts, told])
    return repository.stage(lambda writer: writer.store(encoded, [body]))


GOOD = manifest.BackupPart("web1::data", "directory", [Entry(b"a", 0o100600, 3)])
SAID = [[], False, []]


@pytest.mark.parametrize(
    ("part", "told", "why"),
    [
        (msgspec.structs.replace(GOOD, name="db1::data"), SAID, "not from there"),
        (msgspec.structs.replace(GOOD, name="data"), SAID, "not from there"),
        (msgspec.structs.replace(GOOD, name="web1::"), SAID, "not from there"),
        (msgspec.structs.replace(GOOD, name="web1::" + "x" * 100_000), SAID, "more than the limit"),
        (msgspec.structs.replace(GOOD, entries=[Entry(b"../a", 0o100600, 3)]), SAID, "leads out"),
        (msgspec.structs.replace(GOOD, entries=[Entry(b"a", 0o100600, 4)]), SAID, "do not add up"),
        (msgspec.structs.replace(GOOD, kind="sqlite", entries=[Entry(b"a", 0o120777, 0, b"/etc")]), SAID, "not a file"),
        (GOOD, [["note"], "yes", []], "damaged"),
        (GOOD, None, "damaged"),
        (GOOD, [[msgspec.Raw(b"\xa3\xed\xa0\x80")], False, []], "damaged"),
        (GOOD, [*SAID, msgspec.Raw(b"\x91" * 100_000)], "damaged"),
        ("nonsense", SAID, "damaged"),
        (None, None, "damaged"),
    ],
)
def test_a_forged_manifest_is_refused(tmp_path: Path, part: Any, told: Any, why: str) -> None:
    manager = BackupManager(tmp_path / "repository", name="all")
    staged = forged(manager.repository, [part] if part else [], [told] if told else [], b"abc")
    with pytest.raises(BackupFailed, match=why) as refused:
        manager.create_backup(parts=[("web1", staged)])
    assert "A part from 'web1' was refused" in str(refused.value)
    assert manager.list_backups() == []


def test_sizes_and_notes_are_not_what_was_told(tmp_path: Path) -> None:
    manager = BackupManager(tmp_path / "repository", name="all")
    staged = forged(manager.repository, [GOOD], [[["x" * 10**5] * 100, False, ["y" * 10**5] * 100]], b"abc")
    lying = msgspec.structs.replace(staged, content=msgspec.structs.replace(staged.content, written=-5))
    backup = manager.create_backup(parts=[("web1", lying)])
    assert (backup.size, backup.files) == (3, 1)
    assert backup.written >= 0
    assert sum(map(len, backup.parts[0].notes)) < 200_000


def with_rows(staged: StagedPart, change: Callable[[Any], Any]) -> StagedPart:
    rows = change(np.frombuffer(staged.content.table, TABLE).copy())
    size = int(rows["size"].sum(dtype=np.int64))
    return msgspec.structs.replace(
        staged, content=msgspec.structs.replace(staged.content, table=rows.tobytes(), size=size)
    )


def resized(rows: Any) -> Any:
    rows["size"][0] += 1
    rows["size"][-1] -= 1
    return rows


def shifted(rows: Any) -> Any:
    """Two chunks of the body with other sizes, of the same sum."""
    rows["size"][0] += 1
    rows["size"][1] -= 1
    return rows


def test_a_forged_table_is_refused_or_lost(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "repository")
    manager = BackupManager(repository, name="all")
    staged = forged(repository, [GOOD], [SAID], b"abc")
    one = repository.stage(lambda writer: writer.store(b"", [b"abc" + msgspec.msgpack.encode([1, [GOOD], [SAID]])]))
    whole = msgspec.structs.replace(one.content, manifest_size=one.content.size - 3)
    content = staged.content
    manifest_of_two = msgspec.msgpack.encode([1, [GOOD], [SAID]])
    two = repository.stage(lambda writer: writer.store_cut(manifest_of_two, [b"a", b"bc"]))
    assert manager.create_backup(parts=[("web1", two)]).size == 3
    manager.delete_backup(manager.list_backups()[0].name)
    for bad in (
        with_rows(two, shifted),
        with_rows(staged, resized),
        with_rows(staged, lambda rows: rows[:0]),
        with_rows(staged, lambda rows: rows[1:]),
        msgspec.structs.replace(one, content=whole),
        msgspec.structs.replace(staged, content=msgspec.structs.replace(content, depth=9)),
        msgspec.structs.replace(staged, content=msgspec.structs.replace(content, depth=2)),
        msgspec.structs.replace(staged, content=msgspec.structs.replace(content, table=b"\0" * 36)),
        msgspec.structs.replace(staged, content=msgspec.structs.replace(content, manifest_size=2**60)),
        msgspec.structs.replace(staged, content=Content(3, 0, 0, b"", 0), inline=b"abc"),
    ):
        with pytest.raises((BackupFailed, StagedPartsLost)):
            manager.create_backup(parts=[("web1", bad)])
    SnapshotManager(repository).save_snapshot(b"x" * 100_000, "other")
    assert manager.list_backups() == []
    assert repository.check().ok
    with pytest.raises(InvalidArgument, match="staged in repository"):
        BackupManager(tmp_path / "other").create_backup(parts=[("web1", staged)])
    with pytest.raises(InvalidArgument, match="what stage_backup returned"):
        manager.create_backup(parts=[("web1", "text")])  # type: ignore[list-item]
