"""Backups are there whole or not at all, come back as they were, and go only when they should.

Held here: the workflows of a person who backs up a SQLite database and a directory; names, retention and deletion;
restores that are verified before they touch anything; damage, kills and hostile names.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import random
import signal
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import database_servers
import pytest
import zstandard
from flat_database import Flat
from servers import Storage

from prefect_snapshots import BackupManager, Repository, RetentionPolicy, safe_experiment
from prefect_snapshots.backups import HookCall, Hooks
from prefect_snapshots.backups.databases import MariaDB, PostgreSQL, SQLite, open_databases
from prefect_snapshots.backups.directories import SourceSummary
from prefect_snapshots.backups.records import BackupRecords, backup_name, part_record, slug
from prefect_snapshots.backups.sources import Database, Dump, DumpReader
from prefect_snapshots.errors import (
    BackupFailed,
    BackupNotFound,
    ConfirmationRequired,
    DamagedObject,
    DamagedVersion,
    InvalidArgument,
    InvalidName,
    Pinned,
    RestoreFailed,
    SnapshotsError,
)
from prefect_snapshots.repository.catalog import Event
from prefect_snapshots.repository.origin import git_state

WRITER = Path(__file__).parent / "backup_writer.py"


class World:
    """A database, a directory and a manager of both."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.path = folder / "app.db"
        self.bulk = folder / "bulk"
        self.bulk.mkdir()
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute("CREATE TABLE papers (id INTEGER PRIMARY KEY, title TEXT)")
            connection.execute("CREATE TABLE code (id INTEGER PRIMARY KEY, text TEXT)")
        self.write("old", 5)
        self.database = SQLite(str(self.path))
        self.url = str(folder / "repository")
        self.manager = BackupManager(
            self.url, name="metis", databases=[self.database], directories=[self.bulk], **options
        )

    def write(self, text: str, rows: int) -> None:
        """Put the database and the directory into a state."""
        with closing(sqlite3.connect(self.path)) as connection, connection:
            for table, column in (("papers", "title"), ("code", "text")):
                connection.execute(f"DELETE FROM {table}")
                values = [(f"{text}-{row}",) for row in range(rows)]
                connection.executemany(f"INSERT INTO {table} ({column}) VALUES (?)", values)
        for path in self.bulk.iterdir():
            path.unlink()
        for number in range(rows):
            (self.bulk / f"{number}.txt").write_text(f"{text} {number}")

    def state(self) -> tuple[list[str], list[str], dict[str, str]]:
        """What the database and the directory hold."""
        with closing(sqlite3.connect(self.path)) as connection:
            rows = [
                [title for (title,) in connection.execute(f"SELECT {column} FROM {table} ORDER BY id")]
                for table, column in (("papers", "title"), ("code", "text"))
            ]
        files = {str(path.relative_to(self.bulk)): path for path in self.bulk.rglob("*") if path.is_file()}
        return rows[0], rows[1], {name: path.read_text(errors="replace") for name, path in files.items()}

    def names(self) -> list[str]:
        """The names of all backups, newest first."""
        return [backup.name for backup in self.manager.list_backups()]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


# --- the workflows -----------------------------------------------------------------------------------------------


def test_safe_experimentation(world: World) -> None:
    before = world.state()
    backup = world.manager.create_backup("Before CF validation Phase 4 - clean baseline")
    stamp = f"{backup.created_at:%Y%m%d_%H%M%S}"
    assert backup.name == f"metis_{stamp}_before_cf_validation_phase_4_clean_baseline"
    assert backup.counts == {world.database.name: {"code": 5, "papers": 5}}
    assert [part.kind for part in backup.parts] == ["sqlite", "directory"]
    assert [part.files for part in backup.parts] == [2, 5]  # of SQLite its mode and owner, too
    assert backup.size == sum(part.size for part in backup.parts) > 0
    assert backup.duration > 0
    assert backup.host
    assert backup.versions[world.database.name]

    world.write("experiment", 9)
    (world.bulk / "sub").mkdir()
    (world.bulk / "sub" / "leftover").write_text("x")
    with pytest.raises(ConfirmationRequired, match=r"Nothing was changed\. Pass confirm=True"):
        world.manager.restore_backup(backup.name)
    assert len(world.state()[0]) == 9
    report = world.manager.restore_backup(backup.name, confirm=True)
    assert world.state() == before
    assert report.restored == tuple(backup.part_names)
    assert report.safety_backup is None
    assert world.names() == [backup.name]


def test_production_baselines(world: World) -> None:
    permanent = world.manager.create_backup("Word2Vec dataset complete - 5 papers + code", permanent=True)
    world.manager.create_backup("Baseline before Transformer analysis", permanent=True)
    other = world.manager.create_backup("Daily")
    assert [backup.pinned for backup in world.manager.list_backups()] == [False, True, True]
    world.manager.pin(other.name)
    world.manager.unpin(permanent.name)
    assert [backup.pinned for backup in world.manager.list_backups()] == [True, True, False]
    again = BackupManager(world.url, name="metis")
    assert [backup.pinned for backup in again.list_backups()] == [True, True, False]


def test_daily_development(world: World) -> None:
    for day in range(4):
        world.manager.create_backup(f"Daily backup {day}")
    keep_two = BackupManager(world.url, name="metis", retention=RetentionPolicy(keep_last=2, keep_weekly_within=None))
    dry = keep_two.cleanup(dry_run=True)
    assert [(row.keep, row.reasons) for row in dry.rows] == [(True, ("last",))] * 2 + [(False, ())] * 2
    assert list(dry.deleted) == world.names()[2:]
    assert len(world.names()) == 4
    done = keep_two.cleanup()
    assert (done.rows, done.deleted) == (dry.rows, dry.deleted)
    assert len(world.names()) == 2
    world.manager.restore_backup(world.names()[-1], confirm=True)


def test_database_only_operations(world: World) -> None:
    backup = world.manager.create_backup("Before schema migration", include_directories=False)
    assert [part.kind for part in backup.parts] == ["sqlite"]
    both = world.manager.create_backup("both")
    world.write("new", 2)
    world.manager.restore_backup(both.name, confirm=True, include_directories=False)
    papers, _, files = world.state()
    assert papers[0] == "old-0"
    assert files["0.txt"] == "new 0"
    world.manager.restore_backup(both.name, confirm=True, include_databases=False)
    assert world.state()[2]["0.txt"] == "old 0"
    with pytest.raises(InvalidArgument, match="nothing to restore"):
        world.manager.restore_backup(backup.name, confirm=True, include_databases=False)
    directory_only = BackupManager(world.url, directories=[world.bulk])
    with pytest.raises(InvalidArgument, match="nothing to back up"):
        directory_only.create_backup(include_directories=False)


def test_programmatic_usage(world: World) -> None:
    backup = world.manager.create_backup(description="Before experiment", permanent=False, include_directories=True)
    assert [f"{one.name}: {one.description}" for one in world.manager.list_backups()] == [
        f"{backup.name}: Before experiment"
    ]
    assert world.manager.get_backup(backup.name) == backup
    world.manager.restore_backup(backup.name, confirm=True, include_directories=True)
    assert world.manager.cleanup(dry_run=False).deleted == ()
    assert json.dumps(backup.to_dict())


def test_delete(world: World) -> None:
    kept = world.manager.create_backup("kept", permanent=True)
    gone = world.manager.create_backup("gone")
    world.manager.delete_backup(gone.name)
    with pytest.raises(BackupNotFound, match=kept.name):
        world.manager.get_backup(gone.name)
    with pytest.raises(Pinned, match="force=True"):
        world.manager.delete_backup(kept.name)
    with pytest.raises(BackupNotFound, match=rf"no backup 'latest'\. Did you mean {kept.name}\? Nothing was changed"):
        world.manager.delete_backup("latest", force=True)
    assert world.names() == [kept.name]
    world.manager.delete_backup(kept.name, force=True)
    assert world.names() == []
    world.manager.repository.prune(grace=0)
    assert world.manager.repository.check().packs == 0


def test_safe_experiment(world: World) -> None:
    before = world.state()
    with pytest.raises(ZeroDivisionError), safe_experiment(world.manager, "Phase 5") as backup:
        world.write("wrong", 3)
        assert world.manager.get_backup(backup.name).pinned
        raise ZeroDivisionError
    assert world.state() == before
    assert not world.manager.get_backup(backup.name).pinned
    with safe_experiment(world.manager):
        world.write("right", 3)
    assert world.state()[0] == ["right-0", "right-1", "right-2"]
    assert [one.pinned for one in world.manager.list_backups()] == [False, False]


# --- with a real server -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Callable[[str, str], str]]:
    """A server; called with a database and statements, it gives what psql prints."""
    with database_servers.postgresql() as server:
        psql = str(database_servers.newest("/usr/lib/postgresql/*/bin") / "psql")
        environment = {**os.environ, "PGPASSWORD": database_servers.PASSWORD, "PGUSER": "postgres"}
        environment |= {"PGHOST": "127.0.0.1", "PGPORT": str(server.port)}

        def run(database: str, statements: str) -> str:
            command = [psql, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", statements]
            return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout

        run.__dict__["port"] = server.port
        yield run


def test_the_workflows_with_postgresql(world: World, postgresql: Any) -> None:
    postgresql("postgres", "CREATE DATABASE shop")
    postgresql(
        "shop",
        "CREATE TABLE authors (id serial PRIMARY KEY, name text); INSERT INTO authors (name) VALUES ('Zoë'), (NULL);"
        "CREATE TABLE books (id serial PRIMARY KEY, author int REFERENCES authors, pages bytea);"
        "INSERT INTO books (author, pages) SELECT 1, decode(repeat('00ff', n), 'hex') FROM generate_series(1, 50) n",
    )
    everything = (
        "SELECT * FROM authors ORDER BY id; SELECT * FROM books ORDER BY id; SELECT last_value FROM books_id_seq"
    )
    before = postgresql("shop", everything)
    source = PostgreSQL(f"postgresql://postgres@127.0.0.1:{postgresql.port}/shop", password=database_servers.PASSWORD)
    manager = BackupManager(world.url, name="shop", databases=[source], directories=[world.bulk])

    baseline = manager.create_backup("Before schema migration", permanent=True)
    assert sorted(baseline.counts[source.name].values()) == [2, 50]
    assert database_servers.PASSWORD not in str(baseline.to_dict()) + repr(manager)
    postgresql("shop", "DROP TABLE books; CREATE TABLE leftover (id int); DELETE FROM authors")
    world.write("new", 2)
    report = manager.restore_backup(baseline.name, confirm=True)
    assert report.safety_backup is None
    assert postgresql("shop", everything) == before
    assert postgresql("shop", "SELECT to_regclass('leftover')") == "\n"
    assert world.state()[2]["0.txt"] == "old 0"

    postgresql("postgres", "DROP DATABASE shop")
    with pytest.raises(BackupFailed, match="shop"):
        manager.create_backup("gone")
    manager.restore_backup(baseline.name, confirm=True, include_directories=False)
    assert postgresql("shop", everything) == before

    postgresql("shop", "DELETE FROM books; INSERT INTO authors (name) VALUES ('late')")
    (books,) = (name for name in baseline.counts[source.name] if "books" in name)
    manager.restore_backup(baseline.name, confirm=True, only={source: [books]})
    assert postgresql("shop", "SELECT count(*) FROM books; SELECT count(*) FROM authors") == "50\n3\n"

    report_of_drill = manager.drill(baseline.name)
    assert report_of_drill.ok, report_of_drill
    with pytest.raises(ZeroDivisionError), safe_experiment(manager):
        postgresql("shop", "DROP TABLE books")
        raise ZeroDivisionError
    assert postgresql("shop", "SELECT count(*) FROM books") == "50\n"
    names = postgresql("postgres", "SELECT datname FROM pg_database ORDER BY 1").split()
    assert names == ["postgres", "shop", "template0", "template1"]


def test_mariadb_is_backed_up_before_it_is_restored(world: World) -> None:
    with database_servers.mariadb() as server:

        def mariadb(statements: str) -> str:
            options = ["--no-defaults", "-h", "127.0.0.1", "-P", str(server.port), "-u", "admin", "-N", "-B"]
            environment = {**os.environ, "MYSQL_PWD": database_servers.PASSWORD}
            command = ["mariadb", *options, "-e", statements]
            return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout

        mariadb("CREATE DATABASE shop; CREATE TABLE shop.books (id int); INSERT INTO shop.books VALUES (1), (2)")
        source = MariaDB(f"mariadb://admin@127.0.0.1:{server.port}/shop", password=database_servers.PASSWORD)
        manager = BackupManager(world.url, name="shop", databases=[source])
        backup = manager.create_backup("one")
        mariadb("DELETE FROM shop.books; CREATE TABLE shop.leftover (id int)")
        report = manager.restore_backup(backup.name, confirm=True)
        assert mariadb("SELECT id FROM shop.books; SHOW TABLES FROM shop") == "1\n2\nbooks\n"
        assert report.safety_backup is not None
        assert manager.drill(backup.name).ok
        manager.restore_backup(report.safety_backup, confirm=True, safety=False)
        assert mariadb("SHOW TABLES FROM shop") == "books\nleftover\n"

        mariadb("DROP DATABASE shop")
        report = manager.restore_backup(backup.name, confirm=True)
        assert report.safety_backup is None, "there was nothing to back up"
        assert mariadb("SELECT count(*) FROM shop.books") == "2\n"


# --- names, records, facts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ("", ""),
        ("Before CF validation Phase 4", "before_cf_validation_phase_4"),
        ("../../etc/passwd", "etc_passwd"),
        ("; rm -rf / #$(x)`y`", "rm_rf_x_y"),
        ("Zürich, Ångström, ﬁne, Straße", "zurich_angstrom_fine_strasse"),
        ("日本語 バックアップ", "日本語_バックアップ"),
        ("\n\t\0", ""),
        ("a" * 100, "a" * 60),
        ("a" * 59 + " b", "a" * 59),
        ("\ud800", ""),
    ],
)
def test_a_description_becomes_a_slug(description: str, expected: str) -> None:
    assert slug(description) == expected
    name = backup_name("x", datetime(2026, 1, 31, 12, 5, 9, tzinfo=UTC), description)
    assert name == "x_20260131_120509" + f"_{expected}" * bool(expected)


def test_a_name_that_is_taken_gets_a_number(world: World) -> None:
    names = [world.manager.create_backup("same").name for _ in range(12)]
    assert len(set(names)) == 12
    by_second: dict[str, list[str]] = {}
    for name in names:
        by_second.setdefault(name[:21], []).append(name[21:])
    for suffixes in by_second.values():
        assert suffixes == ["_same", *(f"_same_{number}" for number in range(2, len(suffixes) + 1))]


@pytest.mark.parametrize("name", ["", "..", "/", ".", "a\nb", "'; DROP TABLE x", "$(touch x)", "*", "metis", None, 7])
def test_a_wrong_name_deletes_and_restores_nothing(world: World, name: Any) -> None:
    world.manager.create_backup("one")
    before = world.state(), world.names()
    for act in (world.manager.delete_backup, world.manager.get_backup, world.manager.verify_backup):
        with pytest.raises(BackupNotFound):
            act(name)
    with pytest.raises(BackupNotFound):
        world.manager.delete_backup(name, force=True)
    with pytest.raises(BackupNotFound):
        world.manager.restore_backup(name, confirm=True)
    assert (world.state(), world.names()) == before


@pytest.mark.parametrize("url", ["postgrsql://ada:secret@host/shop", "PostgreSQL://host/shop", "postgrsql://host/*"])
def test_a_misspelt_scheme_of_a_database_is_hinted(url: str) -> None:
    with pytest.raises(InvalidArgument, match=r"Did you mean postgresql://\? Write one of") as caught:
        open_databases(url)
    assert "secret" not in str(caught.value)
    with pytest.raises(InvalidArgument, match=r"'oracle'\. Write one of"):
        open_databases("oracle://host/shop")


def test_what_is_no_source_is_refused(tmp_path: Path) -> None:
    for one in ("app.db", {"app.db": 1}):
        with pytest.raises(InvalidArgument, match=r"databases must be a list, not (str|dict)"):
            BackupManager(tmp_path / "repository", databases=one)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match=r"A source must be a database, .* not int"):
        BackupManager(tmp_path / "repository", databases=[3])  # type: ignore[list-item]
    with pytest.raises(InvalidArgument, match=r"retention must be a RetentionPolicy, such as .* not 'daily'"):
        BackupManager(tmp_path / "repository", retention="daily")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="policy must be a RetentionPolicy, not str"):
        BackupManager(tmp_path / "repository").cleanup("daily")  # type: ignore[arg-type]


def test_a_wrong_argument_is_no_failed_backup(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    told: list[HookCall] = []
    manager = BackupManager(
        tmp_path / "repository", directories=[tmp_path / "data"], hooks=Hooks(after_backup=[told.append])
    )
    manager.create_backup("first")
    for wrong in (
        *({"description": 5}, {"tags": "nightly"}, {"tags": [5]}, {"run": "x"}, {"token": 5}, {"token": "x"}),
        *({"parts": 5}, {"progress": 5}, {"description": "\ud800"}),
    ):
        with pytest.raises((InvalidArgument, InvalidName)):
            manager.create_backup(**wrong)
    with pytest.raises(InvalidArgument, match="must be a dictionary, not int"):
        manager.drill(run=5)  # type: ignore[arg-type]
    assert manager.list_failed_backups() == []
    assert [call.result for call in told] == ["succeeded"]
    assert manager.get_backup("latest").proven_at is None


@pytest.mark.parametrize("name", ["", "..", "/", "a/../b", "a\nb", "a\\b", " a"])
def test_a_manager_with_a_wrong_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidName):
        BackupManager(tmp_path / "repository", name=name)


def test_looking_creates_no_repository(tmp_path: Path) -> None:
    manager = BackupManager(tmp_path / "repository")
    assert manager.list_backups() == []
    assert manager.cleanup().rows == manager.cleanup(dry_run=True).rows == ()
    with pytest.raises(BackupNotFound, match=r"of 'default': there is no repository at"):
        manager.delete_backup("x")
    assert not (tmp_path / "repository").exists()


def test_names_keep_managers_apart(world: World) -> None:
    world.manager.create_backup("one")
    other = BackupManager(world.url, name="team/metis", directories=[world.bulk])
    assert other.list_backups() == []
    assert other.create_backup().name.startswith("team/metis_2")
    assert len(world.names()) == 1


def test_the_state_of_the_code(world: World) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=x", "-c", "user.email=x@example.com", "-C", str(world.bulk), *arguments]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    git("init", "--quiet", "--initial-branch", "feature/case-study")
    state = world.manager.create_backup("nothing committed").git
    assert state is not None
    assert (state.commit, state.branch, state.dirty) == (None, "feature/case-study", False)
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    state = world.manager.create_backup("committed").git
    assert state is not None
    assert (state.commit, state.branch, state.dirty) == (git("rev-parse", "HEAD"), "feature/case-study", False)
    (world.bulk / "0.txt").write_text("changed")
    git("checkout", "--quiet", "--detach")
    state = world.manager.create_backup("changed").git
    assert state is not None
    assert (state.branch, state.dirty) == (None, True)
    assert world.manager.list_backups()[0].git == state


def test_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert git_state([tmp_path / "missing"]) is None
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert git_state([]) is None
    monkeypatch.chdir(tmp_path)
    ran = tmp_path / "ran"
    (programs := tmp_path / "bin").mkdir()
    (programs / "git").write_text(f"#!/bin/sh\n: > {ran}\n")
    (programs / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    assert git_state([tmp_path]) is None
    assert not ran.exists()  # starting it takes longer than to see that there is no work tree
    monkeypatch.setenv("PATH", "")
    assert git_state([Path(__file__).parent]) is None


def test_git_runs_no_program_of_a_folder(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    config = f"""
[core]
    repositoryformatversion = 1
    fsmonitor = "touch {ran}"
[extensions]
    partialClone = origin
[remote "origin"]
    url = "ext::touch {ran}"
    promisor = true
[protocol]
    allow = always
[filter "a=b.c"]
    clean = "touch {ran}; cat"
    required = true
"""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    (tmp_path / ".gitattributes").write_text("* filter=a=b.c\n")
    (tmp_path / "file").write_text("old")
    git("add", ".")
    git("commit", "--quiet", "-m", "x")
    tree = git("rev-parse", "HEAD^{tree}")
    with (tmp_path / ".git" / "config").open("a") as file:
        file.write(config)
    (tmp_path / "file").write_text("new")
    state = git_state([tmp_path])
    assert state is not None
    assert (state.dirty, ran.exists()) == (True, False)
    (tmp_path / ".git" / "objects" / tree[:2] / tree[2:]).unlink()
    git_state([tmp_path])
    assert not ran.exists()


def test_a_run_and_tags_go_along(world: World) -> None:
    run = {"flow_run": "fast-owl", "id": "1234"}
    backup = world.manager.create_backup("tagged", tags=["nightly", "nightly", "gold"], run=run)
    assert (backup.tags, backup.run) == (("nightly", "gold"), run)
    assert BackupManager(world.url, name="metis").get_backup(backup.name) == backup
    with pytest.raises(InvalidName):
        world.manager.create_backup("x", tags=["../x", ""])


def test_two_sources_of_one_name(world: World) -> None:
    with pytest.raises(InvalidArgument, match="Two sources"):
        BackupManager(world.url, databases=[world.database, SQLite(str(world.path))])


def test_a_manager_is_pickled_as_a_reference(world: World) -> None:
    backup = world.manager.create_backup("one")
    copy = pickle.loads(pickle.dumps(world.manager))
    assert copy.list_backups() == [backup]
    assert copy.create_backup("two").part_names == backup.part_names


# --- only what is whole ------------------------------------------------------------------------------------------


def test_a_source_that_fails_commits_nothing_and_is_named(world: World) -> None:
    flat = world.folder / "flat"
    flat.write_text("a\nb\nc\n" * 1000)
    manager = BackupManager(
        world.url, name="metis", databases=[world.database, Flat(flat, fail_after=1500)], directories=[world.bulk]
    )
    with pytest.raises(BackupFailed, match="flat://"):
        manager.create_backup("fails")
    assert manager.list_backups() == []
    assert manager.repository.check(read_data=True).ok
    manager.databases[1].fail_after = None  # type: ignore[attr-defined]
    manager.create_backup("works")
    manager.verify_backup(world.names()[0])


def test_a_database_that_vanishes(world: World) -> None:
    world.manager.create_backup("there")
    world.path.unlink()
    with pytest.raises(BackupFailed, match=r"app\.db"):
        world.manager.create_backup("gone")
    assert len(world.names()) == 1
    assert not world.path.exists()
    world.manager.restore_backup(world.names()[0], confirm=True)
    assert world.state()[0][0] == "old-0"


def test_a_directory_that_is_not_there(world: World) -> None:
    manager = BackupManager(world.url, directories=[world.folder / "missing"])
    with pytest.raises(SnapshotsError, match="missing"):
        manager.create_backup()
    assert manager.list_backups() == []


def test_a_repository_in_the_directory_is_left_out_and_left_alone(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "notes").write_text("first")
    manager = BackupManager(project / "my [snap] shots", name="inside", directories=[project])
    first = manager.create_backup()
    assert manager.create_backup().files == first.files == 1
    (project / "notes").write_text("second")
    with pytest.raises(InvalidArgument, match="contains the repository"):
        manager.restore_backup(first.name, confirm=True)
    assert (project / "notes").read_text() == "second"
    manager.restore_backup(first.name, confirm=True, in_place=True)
    assert (project / "notes").read_text() == "first"
    assert manager.repository.check(read_data=True).ok
    assert len(manager.list_backups()) == 2


def test_each_source_goes_on_from_its_own_last_backup(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = world.folder / "many"
    folder.mkdir()
    for number in range(20):
        (folder / str(number)).write_bytes(random.Random(number).randbytes(50_000))
    time.sleep(2.1)  # what changed less than 2 s before a backup is read again by the next one
    database = SQLite(path=str(world.folder / "app.db"))
    manager = BackupManager(world.folder / "repository", name="both", databases=[database], directories=[folder])
    assert manager.create_backup().written > 1_000_000
    manager.create_backup(include_directories=False)

    def refuse(*_: Any) -> None:
        raise AssertionError("an unchanged file was read")

    monkeypatch.setattr("prefect_snapshots.trees.file_reading._read_small", refuse)
    assert manager.create_backup().written < 20_000


def test_retention_that_fails_warns(world: World, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(RetentionPolicy):
        def plan(self, items: Any, now: Any = None) -> Any:
            raise RuntimeError("no plan")

    manager = BackupManager(world.url, name="metis", databases=[world.database], retention=Broken())
    with caplog.at_level(logging.WARNING):
        backup = manager.create_backup("made")
    assert "retention policy could not be applied" in caplog.text
    manager.verify_backup(backup.name)


def test_many_at_once_all_land(world: World) -> None:
    managers = [BackupManager(world.url, name="metis", directories=[world.bulk]) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        made = [backup.name for backup in pool.map(lambda manager: manager.create_backup("at once"), managers * 2)]
    assert len(set(made)) == 8
    assert set(world.names()) == set(made)
    for name in made:
        world.manager.verify_backup(name)


@pytest.mark.parametrize("place", ["memory_storage", "s3_storage"])
def test_in_a_bucket(world: World, place: str, request: pytest.FixtureRequest) -> None:
    storage: Storage = request.getfixturevalue(place)
    repository = Repository(storage.url, storage_options=storage.storage_options, password="secret")
    manager = BackupManager(repository, databases=[world.database], directories=[world.bulk])
    before = world.state()
    first = manager.create_backup("one")
    world.write("new", 3)
    manager.create_backup("two")
    manager.delete_backup(manager.list_backups()[0].name)
    manager.cleanup()
    manager.restore_backup(first.name, confirm=True)
    assert world.state() == before
    assert manager.drill().ok


def test_a_directory_without_permission() -> None:
    nobody = 65534
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in (folder, folder / "bulk", folder / "bulk" / "closed"):
            path.mkdir(exist_ok=True)
            os.chown(path, nobody, nobody)
        (folder / "bulk" / "closed" / "file").write_text("x")
        (folder / "bulk" / "closed").chmod(0)
        os.seteuid(nobody)
        try:
            manager = BackupManager(folder / "repository", directories=[folder / "bulk"])
            with pytest.raises(BackupFailed, match="closed"):
                manager.create_backup()
            assert manager.list_backups() == []
        finally:
            os.seteuid(0)


def test_what_happened_to_files_is_noted() -> None:
    summary = SourceSummary(
        "bulk", "directory", files=1, size=9, changed=["a", "b"], skipped=[f"{n}" for n in range(12)]
    )
    record = part_record(summary)
    assert record.notes == [
        "2 files changed while being read: a, b",
        "12 sockets or devices could not be backed up: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...",
    ]


def test_looking_does_not_wait_for_a_backup(world: World) -> None:
    begun, looked = threading.Event(), threading.Event()

    class Slow(Flat):
        @contextmanager
        def dump(self) -> Iterator[Dump]:
            begun.set()
            assert looked.wait(60)
            with super().dump() as dump:
                yield dump

    first = world.manager.create_backup("first")
    (world.folder / "flat").write_text("a\n")
    manager = BackupManager(world.url, name="metis", databases=[Slow(world.folder / "flat")])
    with ThreadPoolExecutor(1) as pool:
        backup = pool.submit(manager.create_backup, "slow")
        assert begun.wait(60)
        assert manager.list_backups() == [first]
        looked.set()
        assert manager.list_backups()[-1] == first
        assert manager.get_backup(backup.result().name) == backup.result()


def test_a_backup_whose_landing_was_unknown_is_made_once(world: World) -> None:
    token = "ab" * 16
    backup = world.manager.create_backup("one", token=token)
    assert world.manager.create_backup("one", token=token) == backup
    assert world.names() == [backup.name]
    with pytest.raises(InvalidArgument, match="not a token"):
        world.manager.create_backup("one", token="x")


# --- retention ---------------------------------------------------------------------------------------------------


def test_retention_follows_every_backup(world: World) -> None:
    policy = RetentionPolicy(keep_last=2, keep_weekly_within=None, keep_tags=("gold",))
    manager = BackupManager(world.url, name="metis", databases=[world.database], retention=policy)
    permanent = manager.create_backup("permanent", permanent=True).name
    gold = manager.create_backup("gold", tags=["gold"]).name
    rest = [manager.create_backup(f"{number}").name for number in range(4)]
    assert set(world.names()) == {permanent, gold, *rest[2:]}


def test_what_goes_frees_its_space(world: World) -> None:
    (world.bulk / "large").write_bytes(random.Random(1).randbytes(3_000_000))
    world.manager.create_backup("large")
    (world.bulk / "large").unlink()
    world.manager.create_backup("small")
    for path in (world.folder / "repository" / "packs").rglob("*"):
        os.utime(path, (0, 0))  # their grace time is over
    keep_one = BackupManager(world.url, name="metis", retention=RetentionPolicy(keep_last=1, keep_weekly_within=None))
    dry = keep_one.cleanup(dry_run=True)
    assert dry.freed > 2_900_000
    assert len(world.names()) == 2
    assert keep_one.cleanup(prune=False).freed == 0
    assert keep_one.cleanup().freed > 2_900_000
    world.manager.verify_backup(world.names()[0])


def test_the_grace_time_is_told(tmp_path: Path) -> None:
    (tmp_path / "bulk").mkdir()
    large = tmp_path / "bulk" / "large"
    policy = RetentionPolicy(keep_last=1, keep_weekly_within=None)
    keep_all = BackupManager(tmp_path / "repository", directories=[tmp_path / "bulk"])
    keep_one = BackupManager(tmp_path / "repository", retention=policy)
    for number in range(2):
        large.write_bytes(random.Random(number).randbytes(3_000_000))
        keep_all.create_backup(f"{number}")
    dry, done = keep_one.cleanup(dry_run=True), keep_one.cleanup()
    assert dry.freed == done.freed == 0
    assert dry.freed_later == done.freed_later > 2_900_000


def test_the_last_backup_stays_whatever_the_policy_says(world: World) -> None:
    policy = RetentionPolicy(keep_last=0, keep_weekly_within=None, keep_tags=("gold",))
    manager = BackupManager(world.url, name="metis", databases=[world.database], retention=policy)
    gold = manager.create_backup("gold", tags=["gold"]).name
    plain = manager.create_backup("plain").name
    assert world.names() == [plain, gold]
    assert [row.reasons for row in manager.cleanup().rows] == [("latest",), ("has tags [gold]",)]


def test_a_clock_that_is_behind_costs_no_backup(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = RetentionPolicy(keep_last=1, keep_weekly_within=None)
    manager = BackupManager(world.url, name="metis", databases=[world.database], retention=policy)
    manager.create_backup("sound")
    real = time.time_ns
    with monkeypatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: real() - 90 * 86_400 * 10**9)
        behind = manager.create_backup("behind")
    last = manager.create_backup("last")
    assert world.names() == [last.name, behind.name]
    manager.create_backup("later still")
    (row,) = (row for row in manager.cleanup().rows if row.name == behind.name)
    assert row.reasons == ("its clock was 90 days behind",)


# --- restoring ---------------------------------------------------------------------------------------------------


def test_to_another_target(world: World) -> None:
    backup = world.manager.create_backup("one")
    world.write("new", 2)
    other = SQLite(str(world.folder / "other.db"))
    sqlite3.connect(other.path).close()
    report = world.manager.restore_backup(
        backup.name, confirm=True, to={"app.db": other, "bulk": world.folder / "elsewhere"}
    )
    assert len(report.restored) == 2
    assert other.counts() == {"code": 5, "papers": 5}
    assert (world.folder / "elsewhere" / "4.txt").read_text() == "old 4"
    assert world.state()[0] == ["new-0", "new-1"]
    with pytest.raises(BackupNotFound, match="no part named"):
        world.manager.restore_backup(backup.name, confirm=True, to={"nothing": other})
    with pytest.raises(InvalidArgument, match="cannot be restored to"):
        world.manager.restore_backup(backup.name, confirm=True, to={"app.db": Flat(world.folder / "flat")})


def test_a_manager_without_the_source_says_so(world: World) -> None:
    backup = world.manager.create_backup("one")
    stranger = BackupManager(world.url, name="metis")
    with pytest.raises(InvalidArgument, match="or pass to="):
        stranger.restore_backup(backup.name, confirm=True)
    stranger.restore_backup(backup.name, confirm=True, include_directories=False, to={"app.db": world.database})


def test_one_table_and_one_file(world: World) -> None:
    backup = world.manager.create_backup("one")
    world.write("new", 2)
    world.manager.restore_backup(backup.name, confirm=True, only={"app.db": ["papers"]})
    papers, code, files = world.state()
    assert (papers[0], code[0], files["0.txt"]) == ("old-0", "new-0", "new 0")
    world.manager.restore_backup(backup.name, confirm=True, only={"bulk": ["1.txt"]})
    assert world.state()[2]["1.txt"] == "old 1"
    assert world.state()[2]["0.txt"] == "new 0"
    for wrong in ({"only": ["bulk"]}, {"to": ["app.db"]}):
        with pytest.raises(InvalidArgument, match="= must be a dictionary with the names of parts as keys, not list"):
            world.manager.restore_backup(backup.name, confirm=True, **wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="Pass only= as a list"):
        world.manager.restore_backup(backup.name, confirm=True, only={"bulk": "1.txt"})
    with pytest.raises(InvalidArgument, match=r"Pass only= as a list .*, not as one int"):
        world.manager.restore_backup(backup.name, confirm=True, only={"bulk": 5})  # type: ignore[dict-item]


def test_what_cannot_be_swapped_is_backed_up_first(world: World) -> None:
    path = world.folder / "flat"
    path.write_text("old\n")
    flat = Flat(path)
    manager = BackupManager(world.url, name="metis", databases=[flat])
    backup = manager.create_backup("one")
    path.write_text("new\nnew\n")
    report = manager.restore_backup(backup.name, confirm=True)
    assert path.read_text() == "old\n"
    assert report.safety_backup == manager.list_backups()[0].name
    safety = manager.get_backup(report.safety_backup or "")
    assert (safety.description, safety.pinned) == (f"before restoring {backup.name}", False)
    manager.restore_backup(safety.name, confirm=True, safety=False)
    assert path.read_text() == "new\nnew\n"
    assert len(manager.list_backups()) == 2


def test_a_restore_that_fails_says_what_is_new_and_what_is_old(world: World) -> None:
    path = world.folder / "flat"
    path.write_text("old\n")
    third = SQLite(str(world.folder / "third.db"))
    sqlite3.connect(third.path).close()
    flat = Flat(path)
    manager = BackupManager(world.url, name="metis", databases=[world.database, flat, third])
    backup = manager.create_backup("one")
    world.write("new", 2)
    path.write_text("new\n")
    flat.fail_after = 100
    with pytest.raises(RestoreFailed) as failure:
        manager.restore_backup(backup.name, confirm=True)
    message = str(failure.value)
    assert f"{flat.name} was put back from backup {manager.list_backups()[0].name}" in message
    assert f"Restored: {world.database.name}." in message
    assert f"Unchanged: {third.name}." in message
    assert world.state()[0][0] == "old-0"
    assert path.read_text() == "new\n"


def test_a_target_that_cannot_be_replaced_stays(world: World) -> None:
    backup = world.manager.create_backup("one")
    file = world.folder / "file"
    file.write_text("precious")
    world.write("new", 2)
    before = world.state()
    with pytest.raises(InvalidArgument, match="is not a directory"):
        world.manager.restore_backup(backup.name, confirm=True, to={"bulk": file})
    assert file.read_text() == "precious"
    assert world.state() == before


def test_a_damaged_directory_keeps_no_database_from_coming_back(world: World) -> None:
    packs = world.folder / "repository" / "packs"
    world.manager.create_backup("database", include_directories=False)
    of_database = set(packs.rglob("*"))
    (world.bulk / "large").write_bytes(random.Random(1).randbytes(300_000))
    backup = world.manager.create_backup("both")
    for pack in set(packs.rglob("*")) - of_database:
        if pack.is_file():
            _damage(pack)
    world.write("new", 2)
    with pytest.raises(DamagedVersion, match="bulk"):
        world.manager.restore_backup(backup.name, confirm=True)
    assert world.state()[0] == ["new-0", "new-1"]
    world.manager.restore_backup(backup.name, confirm=True, only={world.database: []})
    assert len(world.state()[0]) == 5


def test_a_drill_compares_what_came_back(world: World) -> None:
    path = world.folder / "flat"
    path.write_text("a\nb\n")
    manager = BackupManager(world.url, name="metis", databases=[world.database, Flat(path)], directories=[world.bulk])
    with pytest.raises(BackupNotFound, match="no backup yet"):
        manager.drill()
    manager.create_backup("one")
    world.write("new", 2)
    before = world.state()
    report = manager.drill()
    assert report.ok, report
    assert [row.counts for row in report.rows] == [{"code": 5, "papers": 5}, {"lines": 2}, {}]
    assert report.rows[2].files == 5
    assert world.state() == before
    stranger = BackupManager(world.url, name="metis")
    found = [(row.ok, row.tried) for row in stranger.drill().rows]
    assert found == [(True, True), (False, False), (True, True)], "only a server has to be named"


def test_a_drill_finds_what_does_not_come_back(world: World) -> None:
    class Forgetful(Flat):
        @contextmanager
        def scratch(self) -> Iterator[Database]:
            with super().scratch() as scratch:
                scratch.restore = lambda dump, only=(): scratch.path.write_text("a\n")  # type: ignore[attr-defined, method-assign]
                yield scratch

    path = world.folder / "flat"
    path.write_text("a\nb\n")
    manager = BackupManager(world.url, name="metis", databases=[Forgetful(path)])
    manager.create_backup("one")
    report = manager.drill()
    assert not report.ok
    assert report.rows[0].problems == ("lines: 1 restored, 2 expected",)


def test_a_drill_finds_rows_that_come_back_different(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    restore = SQLite.restore

    def lossy(self: SQLite, dump: DumpReader, only: Sequence[str] = ()) -> None:
        restore(self, dump, only)
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute("UPDATE papers SET title = 'another' WHERE rowid = 2")

    world.manager.create_backup("one")
    monkeypatch.setattr(SQLite, "restore", lossy)
    report = world.manager.drill()
    assert [row.problems for row in report.rows] == [
        ("papers: the counts are equal, but the contents differ",),
        (),
    ]


# --- damage ------------------------------------------------------------------------------------------------------


def _damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def test_damaged_data_is_found_before_anything_is_touched(world: World) -> None:
    (world.bulk / "large").write_bytes(random.Random(1).randbytes(300_000))
    backup = world.manager.create_backup("one")
    world.write("new", 2)
    now = world.state()
    for pack in (world.folder / "repository" / "packs").rglob("*"):
        if pack.is_file():
            _damage(pack)
    for act in (world.manager.verify_backup, lambda name: world.manager.restore_backup(name, confirm=True)):
        with pytest.raises(DamagedVersion, match=backup.name):
            act(backup.name)
    assert world.state() == now


def test_a_damaged_record_hides_no_other(world: World) -> None:
    names = [world.manager.create_backup(f"{number}").name for number in range(3)]
    stream = max((world.folder / "repository" / "catalog").iterdir(), key=lambda path: path.name != "root")
    _damage(sorted(stream.iterdir())[1])
    fresh = BackupManager(world.url, name="metis", databases=[world.database], directories=[world.bulk])
    listed = fresh.list_backups()
    assert [backup.name for backup in listed if backup.broken is None] == [names[2], names[0]]
    (broken,) = [backup for backup in listed if backup.broken is not None]
    assert broken.name == "event-2"
    with pytest.raises(DamagedObject, match="repair"):
        fresh.restore_backup(names[0], confirm=True)
    fresh.repository.repair()
    fresh = BackupManager(world.url, name="metis", databases=[world.database], directories=[world.bulk])
    assert [backup.name for backup in fresh.list_backups()] == [names[2], names[0]]
    fresh.restore_backup(names[0], confirm=True)


def test_a_record_that_makes_no_sense_is_broken_and_stays() -> None:
    records = BackupRecords()
    good = {"id": "b", "description": "", "time": 1, "pinned": False, "tags": [], "parts": [], "duration": 0.0}
    bodies: list[dict[str, Any]] = [{"id": "a", "description": 7}, {"id": "b"}, {}, {**good, "host": "h", "id": "c"}]
    for number, body in enumerate(bodies, 1):
        records.apply(Event(number, b"", 0, b"", 0, "backup", body))
    backups = {name: backup for name, (_, backup) in records.by_name.items()}
    assert [(name, backup.broken is None) for name, backup in backups.items()] == [
        ("a", False),
        ("b", False),
        ("event-3", False),
        ("c", True),
    ]
    assert all(backup.pinned for backup in backups.values() if backup.broken)
    records.apply(Event(5, b"", 0, b"", 0, "remove", {}, None, (1, 4)))
    assert list(records.by_name) == ["b", "event-3"]


# --- export ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".tar", ".tar.zst"])
def test_an_export_needs_nothing_of_ours(world: World, suffix: str) -> None:
    (world.bulk / "run.sh").write_text("#!/bin/sh\n")
    (world.bulk / "run.sh").chmod(0o750)
    os.utime(world.bulk / "run.sh", ns=(0, 1_600_000_000_123_456_789))
    os.link(world.bulk / "run.sh", world.bulk / "twin")
    (world.bulk / "link").symlink_to("run.sh")
    (world.bulk / "empty").mkdir()
    (world.bulk / "large").write_bytes(random.Random(1).randbytes(3_000_000))
    backup = world.manager.create_backup("to go")
    path = world.manager.export(backup.name, world.folder / f"export{suffix}")
    out = world.folder / "out"
    out.mkdir()
    with zstandard.open(path) if suffix.endswith("zst") else path.open("rb") as packed:
        (world.folder / "plain").write_bytes(packed.read())
    subprocess.run(["tar", "-x", "-f", world.folder / "plain", "-C", out], check=True)
    listing = subprocess.run(["tar", "-t", "-f", world.folder / "plain"], check=True, stdout=subprocess.PIPE, text=True)
    assert listing.stdout.splitlines()[0] == "metadata.json"
    metadata = json.loads((out / "metadata.json").read_text())
    assert metadata["name"] == backup.name
    assert metadata["created_at"] == backup.created_at.isoformat().replace("+00:00", "Z")
    folders = {part["name"]: out / part["folder"] for part in metadata["parts"]}
    assert len(folders) == 2
    tree = folders[backup.part_names[1]]
    found = subprocess.run(["diff", "-r", "--no-dereference", str(world.bulk), str(tree)], check=False)
    assert found.returncode == 0
    assert (tree / "run.sh").stat().st_mode & 0o7777 == 0o750
    assert (tree / "run.sh").stat().st_mtime_ns == 1_600_000_000_123_456_789
    assert (tree / "twin").stat().st_ino == (tree / "run.sh").stat().st_ino
    assert os.readlink(tree / "link") == "run.sh"
    database, _ = sorted(folders[world.database.name].iterdir(), key=lambda path: path.suffix, reverse=True)
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT count(*) FROM papers").fetchone() == (5,)


@pytest.mark.parametrize(("time", "said"), [(-(10**9) // 2, "-0.500000000"), (-1_500_000_000, "-1.500000000")])
def test_an_export_has_times_before_1970(world: World, time: int, said: str) -> None:
    early = world.bulk / "early"
    early.write_text("early")
    os.utime(early, ns=(time, time))
    path = world.manager.export(world.manager.create_backup().name, world.folder / "early.tar")
    with tarfile.open(path) as tar:
        (found,) = [member for member in tar.getmembers() if member.name.endswith("/early")]
        assert (found.pax_headers["mtime"], found.mtime) == (said, float(said))


def test_an_export_replaces_nothing(world: World) -> None:
    backup = world.manager.create_backup("one")
    path = world.folder / "export.tar"
    path.write_text("precious")
    with pytest.raises(InvalidArgument, match="exists"):
        world.manager.export(backup.name, path)
    assert path.read_text() == "precious"
    with pytest.raises(BackupNotFound):
        world.manager.export("nothing", world.folder / "other.tar")
    assert not (world.folder / "other.tar").exists()


# --- kills -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kills", [4, pytest.param(60, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("verb", ["create", "cleanup", "restore"])
def test_whoever_is_killed_leaves_old_or_new(world: World, verb: str, kills: int) -> None:
    """A process that creates, cleans up or restores again and again is killed at random moments."""
    rng = random.Random(verb)
    states = []
    names = []
    for text in ("old", "new"):
        world.write(text, 40)
        (world.bulk / "large.txt").write_text(rng.randbytes(2_000_000).hex())
        names.append(world.manager.create_backup(text, permanent=True).name)
        states.append(world.state())
    for _ in range(kills):
        command = [sys.executable, str(WRITER), verb, world.url, str(world.path), str(world.bulk), *names]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(rng.uniform(0, 0.4))
            process.send_signal(signal.SIGKILL)
        papers, code, files = world.state()
        assert [files] in [[state[2]] for state in states]
        assert [papers, code] in [list(state[:2]) for state in states]
        assert world.manager.repository.check(read_data=True).ok
    for name, state in zip(names, states, strict=True):
        world.manager.restore_backup(name, confirm=True)
        assert world.state() == state
    for backup in world.manager.list_backups():
        world.manager.verify_backup(backup.name)
    left = {path.name for path in world.folder.iterdir()} - {"app.db", "bulk", "repository"}
    assert not [name for name in left if not name.startswith(".")]


def test_a_backup_says_how_far_it_is_within_a_large_file(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "large").write_bytes(random.Random(0).randbytes(20_000_000))
    (tmp_path / "data" / "small").write_bytes(b"small")
    manager = BackupManager(tmp_path / "r", directories=[tmp_path / "data"])
    for least in (4, 1):  # the second time, nothing is read
        done: list[int] = []
        manager.create_backup(progress=lambda what, count, total, done=done: done.append(count))  # type: ignore[misc]
        assert done == sorted(done)
        assert len(done) >= least
        assert done[-1] == 20_000_005
