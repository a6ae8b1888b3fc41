"""Any point in time: base backups and WAL of a PostgreSQL server, beside pgBackRest.

A base backup of a server is made for the first time. Then each of ten days changes 1 % of the rows, 100 neighbors at a
time, and another one is made. Segments of the WAL are archived one by one, as archive_command does: by a program that
starts each time, and by the script of a running process. At the end, the last base backup is restored.

Times are of processors, of all processes that the contender starts; of ours in a running process, of the script and of
the process. What the server itself does is not counted, because it does the same for all of them.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import quote

from _measure import MB, OURS, POWER_LOSS, ROOT, Report, arguments, scratch, size_of

sys.path.insert(0, str(ROOT / "tests"))

import database_servers

from prefect_snapshots import Repository
from prefect_snapshots.wal import WalArchive, WalArchiver

PACKAGES = ("blake3", "zstandard")
THEIRS = "pgBackRest"
COMMAND = [sys.executable, "-c", "from prefect_snapshots.cli import main; main()"]


def processors(work: Callable[[], object]) -> float:
    """Seconds of processors that this process and those that it starts take."""

    def used() -> float:
        kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        return sum(each.ru_utime + each.ru_stime for each in map(resource.getrusage, kinds))

    before = used()
    work()
    return used() - before


class PgBackRest:
    """pgBackRest with a repository of its own, which links equal files of an earlier backup by reference."""

    def __init__(self, folder: Path, server: database_servers.Server) -> None:
        self.place = folder / "pgbackrest"
        for name in ("repository", "spool", "log", "lock"):
            (self.place / name).mkdir(parents=True)
        settings = {
            "repo1-path": self.place / "repository",
            "repo1-retention-full": 99,
            "spool-path": self.place / "spool",
            "log-path": self.place / "log",
            "lock-path": self.place / "lock",
            "log-level-console": "warn",
            "log-level-file": "off",
            "compress-type": "zst",
            "start-fast": "y",
            "archive-check": "n",
            "pg1-path": server.folder / "data",
            "pg1-port": server.port,
            "pg1-socket-path": server.folder,
            "pg1-user": "postgres",
        }
        self.file = self.place / "pgbackrest.conf"
        lines = [f"{name}={value}" for name, value in settings.items()]
        self.file.write_text("\n".join(["[global]", *lines[:-4], "[shop]", *lines[-4:], ""]))
        self.run("stanza-create")

    def run(self, *words: str) -> None:
        environment = {**os.environ, "PGPASSWORD": database_servers.PASSWORD}
        command = ["pgbackrest", f"--config={self.file}", "--stanza=shop", *words]
        subprocess.run(command, env=environment, check=True, stdout=sys.stderr)


def ran(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def ours(repository: Path, *words: str) -> None:
    ran(*COMMAND, "-r", str(repository), "-q", *words)


def full_or_not(theirs: PgBackRest, kind: str) -> None:
    theirs.run("backup", f"--type={kind}")


def measure(folder: Path, report: Report) -> None:
    options = report.options
    with database_servers.postgresql("archive_mode=on", "archive_command=true", "wal_keep_size=2GB") as server:
        client = database_servers.psql(server)
        rows = options.size_mb * MB // 130
        client("CREATE TABLE accounts (id int, balance int, filler text) WITH (fillfactor = 90);")
        client(
            f"INSERT INTO accounts SELECT i, 0, md5(i::text) || md5((7 * i)::text) FROM generate_series(1, {rows}) i;"
        )
        client("ALTER TABLE accounts ADD PRIMARY KEY (id); VACUUM FREEZE accounts; CHECKPOINT;")
        repository = folder / "repository"
        theirs = PgBackRest(folder, server) if shutil.which("pgbackrest") else None
        url = f"postgresql+physical://postgres:{quote(database_servers.PASSWORD, safe='')}@127.0.0.1:{server.port}"
        bases: dict[str, Callable[[str], None]] = {
            OURS: lambda _: ours(repository, "backups", "create", "--database", url)
        }
        places = {OURS: repository}
        if theirs is not None:
            bases[THEIRS] = partial(full_or_not, theirs)
            places[THEIRS] = theirs.place / "repository"
        stored = {}
        for name, make in bases.items():
            took = processors(partial(make, "full"))
            stored[name] = size_of(places[name])
            report.add("the first base backup", name, [took], "s", POWER_LOSS)
            report.add("the first base backup: stored", name, [stored[name] / MB], "MB", POWER_LOSS)
        times: dict[str, list[float]] = {name: [] for name in bases}
        sizes: dict[str, list[float]] = {name: [] for name in bases}
        for day in range(options.days):
            client(f"UPDATE accounts SET balance = balance + 1 WHERE id / 100 % 100 = {day}; CHECKPOINT;")
            for name, make in bases.items():
                times[name].append(processors(lambda make=make: make("incr")))  # type: ignore[misc]
                now = size_of(places[name])
                sizes[name].append((now - stored[name]) / MB)
                stored[name] = now
        for name in bases:
            report.add("a base backup after 1 % changed", name, times[name], "s", POWER_LOSS)
            report.add("a base backup after 1 % changed: stored", name, sizes[name], "MB", POWER_LOSS)
        push(folder, server, theirs, report)
        restore(folder, theirs, repository, report)


def push(folder: Path, server: database_servers.Server, theirs: PgBackRest | None, report: Report) -> None:
    data = server.folder / "data"
    segments = sorted(path for path in (data / "pg_wal").iterdir() if len(path.name) == 24)[: report.options.segments]
    size = sum(path.stat().st_size for path in segments) / MB
    (system,) = database_servers.psql(server)("SELECT system_identifier FROM pg_control_system();")

    def each(call: Callable[[str], None]) -> list[float]:
        return [1000 * processors(partial(call, str(path))) for path in segments]

    stores = {OURS: (folder / "wal", each(lambda path: ours(folder / "wal", "wal", "push", path)))}
    if theirs is not None:
        stores[THEIRS] = theirs.place / "repository" / "archive", each(partial(theirs.run, "archive-push"))
    for name, (place, times) in stores.items():
        report.add("archive a segment", f"{name}, a program each time", times, "ms", POWER_LOSS)
        report.add(f"archive {size:.0f} MB of segments: stored", name, [size_of(place) / MB], "MB", POWER_LOSS)
    waiting = data / "pg_wal" / "archive_status"
    for path in segments:
        (waiting / f"{path.name}.ready").touch()
    archiver = WalArchiver(Repository(folder / "running"), data, folder / "acknowledged")
    took = processors(archiver.archive_ready)
    report.add("archive a segment", f"{OURS}, the running process", [1000 * took / len(segments)], "ms", POWER_LOSS)
    script = str(folder / "acknowledged" / "push")
    calls = each(lambda path: ran(script, path))
    cost = report.add("archive a segment", f"{OURS}, the script of the server", calls, "ms", POWER_LOSS)
    report.at_most("archive_command with a running process", cost, 10, "ms")
    assert len(WalArchive(Repository(folder / "running"), system).list_files()) >= len(segments)


def restore(folder: Path, theirs: PgBackRest | None, repository: Path, report: Report) -> None:
    drill = processors(lambda: ours(repository, "wal", "recover", "--drill"))
    report.add("recover the last base backup, start a server and look", OURS, [drill], "s", POWER_LOSS)
    if theirs is None:
        return
    target = folder / "restored"
    target.mkdir()
    took = processors(partial(theirs.run, f"--pg1-path={target}", "restore", "--type=immediate"))
    report.add("restore the files of the last base backup, no server", THEIRS, [took], "s", POWER_LOSS)


def main() -> int:
    parser = arguments(__doc__, repeat=1)
    parser.add_argument("--size-mb", type=int, default=300, help="size of the database")
    parser.add_argument("--days", type=int, default=10, help="base backups after the first one")
    parser.add_argument("--segments", type=int, default=10, help="segments of the WAL to archive")
    options = parser.parse_args()
    with scratch(options.directory) as folder:
        report = Report("any point in time", options, PACKAGES, folder)
        measure(folder, report)
        return report.finish()


if __name__ == "__main__":
    sys.exit(main())
