"""The flows that look after a repository do it, and say so in the Prefect UI."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import struct
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from database_servers import until
from flat_database import Flat
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import Artifact
from prefect.deployments.runner import RunnerDeployment
from prefect.flows import load_flow_from_entrypoint
from prefect_support import events_about

from prefect_snapshots import ArtifactRegistry, BackupManager, Repository, Snapper, SnapshotManager
from prefect_snapshots.backups import Backup, recovery_windows
from prefect_snapshots.documents import Table
from prefect_snapshots.errors import (
    BackupFailed,
    BackupNotFound,
    IntegrityError,
    InvalidArgument,
    RepositoryNotFound,
    RestoreFailed,
)
from prefect_snapshots.flows import (
    check_repository,
    copy_repository,
    maintenance,
    prune_repository,
    recovery_drill,
    watch_repository,
    watching,
)
from prefect_snapshots.integration.live import artifact_key
from prefect_snapshots.reports.overview import about_repository
from prefect_snapshots.wal import SQLiteFollower, WalArchive

pytestmark = [pytest.mark.xdist_group("prefect"), pytest.mark.usefixtures("prefect_server")]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two snapshots of their own bytes, one of which was removed."""
    manager = SnapshotManager(tmp_path / "repository")
    manager.save_snapshot(bytes(range(256)) * 1000, "kept")
    manager.save_snapshot(bytes(reversed(range(256))) * 1000, "removed")
    manager.remove_snapshot("removed")
    return tmp_path / "repository"


def report_on(repository: Path, key: str) -> Artifact:
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
    [artifact] = [one for one in found if str(repository) in str(one.description)]
    return artifact


def test_a_sound_repository_passes(repository: Path) -> None:
    report = check_repository(str(repository), read_data=True)
    assert (report.versions, report.problems) == (1, [])
    assert "0 problems, 1 version in 1 stream" in str(report_on(repository, maintenance.CHECK).description)


def test_a_damaged_one_fails_the_run_and_is_reported(repository: Path) -> None:
    for pack in (repository / "packs").rglob("*"):
        if pack.is_file():
            pack.write_bytes(pack.read_bytes()[:-100])
    with pytest.raises(IntegrityError, match=r"problems\. The first is in packs/"):
        check_repository(str(repository), read_data=True)
    assert "packs/" in str(report_on(repository, maintenance.CHECK).data)


def test_prune_frees_what_nobody_needs(repository: Path) -> None:
    assert prune_repository(str(repository)).packs_waiting == 1  # an upload may still be running
    two_days_ago = time.time() - 2 * 24 * 3600
    for pack in (repository / "packs").rglob("*"):
        os.utime(pack, (two_days_ago, two_days_ago))
    planned = prune_repository(str(repository), dry_run=True)
    report = prune_repository(str(repository))
    assert planned.packs_deleted == report.packs_deleted == 1
    assert report.bytes_freed > 0
    assert SnapshotManager(repository)["kept"].data == bytes(range(256)) * 1000
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[maintenance.PRUNE])))
    assert sum(str(repository) in str(artifact.description) for artifact in found) == 3


def events_of(repository: Path, expected: int) -> list[Any]:
    return events_about(f"prefect-snapshots.repositories.file://{repository}", expected)


def test_each_look_is_an_event(repository: Path) -> None:
    check_repository(str(repository))
    prune_repository(str(repository), dry_run=True)
    prune_repository(str(repository))
    for pack in (repository / "packs").rglob("*/*"):
        data = bytearray(pack.read_bytes())
        data[50] ^= 1
        pack.write_bytes(data)
    with pytest.raises(IntegrityError):
        check_repository(str(repository), read_data=True)
    checked, pruned, damaged = events_of(repository, 3)
    assert [event.event.rpartition(".")[2] for event in (checked, pruned, damaged)] == ["checked", "pruned", "damaged"]
    assert (checked.payload["count"], checked.payload["versions"]) == (0, 1)
    assert pruned.payload["packs_deleted"] == 0
    assert damaged.payload["count"] > 0
    assert damaged.payload["hits"] == ["snapshots/default:kept"]


def test_a_copy_is_an_event_and_fails_if_it_is_incomplete(repository: Path, tmp_path: Path) -> None:
    target = tmp_path / "second"
    assert copy_repository(str(target), str(repository)).versions == 1
    SnapshotManager(target).save_snapshot(1, "own")
    with pytest.raises(IntegrityError, match=r"1 problem while .* The first is snapshots/default: .*Everything else"):
        copy_repository(str(target), str(repository))
    copied, refused = events_of(repository, 2)
    assert [each.event.rpartition(".")[2] for each in (copied, refused)] == ["copied", "not-copied"]
    assert (copied.payload["versions"], copied.payload["target"]) == (1, f"file://{target}")
    assert refused.payload["problems"][0].startswith("snapshots/default: ")


def test_a_backup_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, place = uuid.uuid4().hex, tmp_path / "repository"
    (tmp_path / "data").mkdir()
    manager = BackupManager(place, name=name, directories=[tmp_path / "data"])

    def made(days_ago: int) -> Backup:
        class Clock(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return datetime.now(tz) - timedelta(days=days_ago)

        with monkeypatch.context() as patch:
            patch.setattr("prefect_snapshots.backups.making.datetime", Clock)
            return manager.create_backup()

    made(-40)  # by a clock that is ahead
    old = made(2)

    def watch(every: timedelta | str, margin: timedelta = timedelta(hours=1), of: str = name) -> watching.WatchReport:
        return watch_repository({of: every}, margin=margin, repository=str(place))

    assert watch("3d").ok
    assert watch("1d", timedelta(days=2)).ok
    (missed,) = watch("1d").backups
    assert missed.overdue
    assert missed.newest == old
    (event,) = events_about(f"prefect-snapshots.backups.{name}", 1)
    assert event.event == "prefect-snapshots.backup.overdue"
    assert (event.payload["name"], event.payload["backup"]) == (name, old.name)
    latest = manager.create_backup()
    assert watch("1d").ok
    proven: dict[str, Any] = {"proven": {name: "1d"}, "repository": str(place)}
    assert watch_repository(**proven).unproven == (name,)
    manager.drill(old.name)
    assert not watch_repository(**proven).ok, "what counts is when the proven backup was made"
    manager.drill(latest.name)
    assert watch_repository(**proven).ok
    told = [event.payload for event in events_about(f"prefect-snapshots.backups.{name}", 3)][1:]
    assert [each["backup"] for each in told] == [None, old.name]
    (never,) = watch(timedelta(hours=1), of="never").backups
    assert never.overdue
    assert never.newest is None


def test_what_a_watch_saw_is_a_table(repository: Path) -> None:
    watch_repository({"never": "1d"}, limit=10**9, repository=str(repository))
    never, growth = json.loads(str(report_on(repository, watching.WATCH).data))
    assert (never["what"], never["found"], never["ok"]) == ("newest backup of never", "none", "NO")
    assert (growth["expected"], growth["ok"]) == ("at most 1.0 GB", "yes")


def test_a_watch_shows_the_whole_repository_on_one_page(tmp_path: Path) -> None:
    place = Repository(tmp_path / "all")
    (tmp_path / "data").mkdir()
    manager = BackupManager(place, name="shop", directories=[tmp_path / "data"])
    manager.create_backup()
    (tmp_path / "data").rmdir()
    with pytest.raises(BackupFailed):
        manager.create_backup()
    SnapshotManager(place, name="train").save_snapshot({"step": 1})
    registry = ArtifactRegistry(place)
    registry.log_artifact("model", {"weights": [1]}, "json")
    registry.promote_artifact("model", "v0", to="production")
    Snapper([0, 1], lambda x: 1 / x, repository=place, name="inverse", skip_item_errors=True, max_retries=0).start()

    watch_repository({"shop": "1d", "blog": "1d"}, repository=str(tmp_path / "all"))
    page = str(report_on(tmp_path / "all", artifact_key("repositories", place.url)).data)
    needs, _, rest = page.partition("without deduplication")
    for words in ("backups of blog are overdue", "The last backup of shop failed at", "1 of 2 items of inverse failed"):
        assert words in needs
    rows = {cells[1].strip(" `"): cells for line in rest.splitlines() if len(cells := line.split("|")) > 3}
    assert {"shop", "train", "inverse", "default/model"} <= set(rows)
    assert "v0" in rows["default/model"][5]


def test_what_a_watch_saw_is_a_file_for_prometheus(repository: Path, tmp_path: Path) -> None:
    flat = Flat(tmp_path / "flat")
    flat.path.write_text("old\n")
    manager = BackupManager(repository, name="shop", databases=[flat])
    backup = manager.create_backup()
    assert manager.restore_backup("latest", confirm=True).safety_backup  # which is newer, and does not count
    file = tmp_path / "snapshots.prom"
    for _ in range(2):  # the second time it is replaced
        report = watch_repository({"shop": "1d", "never": "1d"}, repository=str(repository), metrics_file=str(file))
    assert [each.newest and each.newest.name for each in report.backups] == [backup.name, None]
    assert [path.name for path in tmp_path.iterdir() if "prom" in path.name] == [file.name]
    text = file.read_text()
    labels = f'{{repository="file://{repository}",name="shop"}}'
    assert f"prefect_snapshots_backup_last_timestamp_seconds{labels} {backup.created_at.timestamp()}\n" in text
    assert f"prefect_snapshots_backup_overdue{labels} 0\n" in text
    assert f"prefect_snapshots_backup_overdue{labels.replace('shop', 'never')} 1\n" in text
    assert text.endswith("# EOF\n")
    assert len([line for line in text.splitlines() if line.startswith("# TYPE")]) == len(set(text.split("# TYPE ")[1:]))
    for path, why in (("/etc/passwd", r"must end with \.prom"), ("/nowhere/a.prom", "does not exist")):
        with pytest.raises(InvalidArgument, match=why):
            watch_repository(repository=str(repository), metrics_file=path)


def test_growth_is_what_was_written_lately(repository: Path) -> None:
    manager = SnapshotManager(repository)
    manager.save_snapshot(bytes(range(256)) * 1000, "equal")  # is there already
    before = watch_repository(repository=str(repository))
    manager.save_snapshot(os.urandom(1_000_000), "new")
    manager.remove_snapshot("new")
    report = watch_repository(limit=1_000_000, repository=str(repository))
    assert before.ok
    assert 1_000_000 < report.written["snapshots"] - before.written["snapshots"] < 1_010_000
    assert report.growing
    assert not watch_repository(limit=1_000_000, within=timedelta(0), repository=str(repository)).written
    (event,) = events_of(repository, 1)
    assert (event.event, event.payload["limit"]) == ("prefect-snapshots.repository.growing", 1_000_000)


def test_wal_of_a_server_without_a_base_backup_is_reported(tmp_path: Path) -> None:
    system, file = str(uuid.uuid4().int >> 65), tmp_path / "000000010000000000000003"
    header = struct.pack("=HHIQI4xQII", 0xD110, 2, 1, 3 << 20, 0, int(system), 1 << 20, 8192)
    file.write_bytes(header + bytes((1 << 20) - len(header)))
    WalArchive(Repository(tmp_path / "vault"), system).push(file)
    assert watch_repository(repository=str(tmp_path / "vault")).ok
    report = watch_repository(wal=timedelta(hours=1), repository=str(tmp_path / "vault"))
    assert not report.ok
    (event,) = events_about(f"prefect-snapshots.wal.{system}", 1)
    assert (event.event, event.payload["base_backups"]) == ("prefect-snapshots.wal.late", 0)


def test_recoveries_are_drilled_and_the_page_shows_what_can_be_recovered(tmp_path: Path) -> None:
    database, name, vault = tmp_path / "app.db", f"app-{uuid.uuid4().hex}", Repository(tmp_path / "vault")
    with pytest.raises(BackupNotFound, match="no WAL"):
        recovery_drill(repository=vault.url)
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t AS SELECT randomblob(100000)")
        ending = threading.Event()
        thread = threading.Thread(target=SQLiteFollower(vault, database, name).run, args=[ending])
        thread.start()
        until(lambda: vault.exists() and recovery_windows(vault) != [], lambda: time.sleep(0.05))
        ending.set()
        thread.join()
    (drill,) = recovery_drill(repository=vault.url)
    assert (drill.system, drill.error) == (f"sqlite/{name}", None)
    assert [table.title for table in about_repository(vault, 9) if isinstance(table, Table)] == ["Any point in time"]
    assert watch_repository(wal=timedelta(hours=1), repository=vault.url).ok
    for pack in (tmp_path / "vault" / "packs").rglob("*"):
        if pack.is_file():
            pack.write_bytes(bytes(pack.stat().st_size))
    with pytest.raises(RestoreFailed, match=f"sqlite/{name} could not be recovered"):
        recovery_drill(repository=vault.url)
    told = [event.event for event in events_about(f"prefect-snapshots.wal.sqlite/{name}", 2)]
    assert told == ["prefect-snapshots.wal.drilled", "prefect-snapshots.wal.drill-failed"]


def test_since_when_a_backup_is_due() -> None:
    latest = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)  # half an hour after the clocks went forward in Berlin
    for every, timezone, expected in (
        ("0 2 * * *", "UTC", datetime(2026, 3, 28, 2, tzinfo=UTC)),
        ("0 3 * * *", "Europe/Berlin", datetime(2026, 3, 29, 1, tzinfo=UTC)),
        ("1 day", "Europe/Berlin", datetime(2026, 3, 28, 1, 30, tzinfo=UTC)),
        (timedelta(hours=1), "UTC", datetime(2026, 3, 29, 0, 30, tzinfo=UTC)),
    ):
        assert watching._before(latest, every, timezone) == expected


@pytest.mark.parametrize("every", ["99999999d", "-1d", timedelta.max, "0 0 30 2 *", "60 * * * *"])
def test_impossible_times_between_backups_are_refused(every: timedelta | str) -> None:
    with pytest.raises(InvalidArgument):
        watching._before(datetime.now(UTC), every, "UTC")


def test_what_cannot_be_watched_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="'daily' is neither a duration"):
        watch_repository({"x": "daily"}, repository=str(tmp_path))
    with pytest.raises(InvalidArgument, match="'Nowhere' is not a time zone"):
        watch_repository({"x": "0 2 * * *"}, timezone="Nowhere", repository=str(tmp_path))
    with pytest.raises(RepositoryNotFound):
        watch_repository({"x": "1d"}, repository=str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    "name", ["check_repository", "copy_repository", "prune_repository", "expire_results", "watch_repository"]
)
def test_deployable_by_the_name_of_the_module(name: str) -> None:
    deployable: Flow[..., Any] = load_flow_from_entrypoint(f"prefect_snapshots.flows.{name}")
    deployment = deployable.to_deployment("weekly", cron="0 4 * * 0")
    assert isinstance(deployment, RunnerDeployment)
    assert deployment.schedules
