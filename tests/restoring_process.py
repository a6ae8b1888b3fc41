"""A process that restores a backup again and again, and is ended at every single step of it.

Python tells an *audit hook* of every file that is opened for writing, and of every name that is made, moved or deleted.
In a child process the hook counts these from the moment on in which the journal of the restore begins, and ends the
process before the one that was asked for: with SIGKILL, as the system does, or with SIGTERM, as an orchestrator does
first. Another child looks at what is there then, and resumes. So no step between two changes is left out.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import traceback
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from flat_database import Flat

from prefect_snapshots import BackupManager
from prefect_snapshots.backups.databases import SQLite
from prefect_snapshots.backups.journal import PartState
from prefect_snapshots.backups.sources import Database
from prefect_snapshots.backups.working import working_path

STEPS = ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.link", "os.symlink", "os.chmod", "os.truncate")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
OLD, NEW, HALF = "old", "new", "half"


class Place:
    """A SQLite database, a directory and a database that can only be changed in place."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.database, self.directory, self.flat = root / "app.db", root / "data", root / "flat"
        self.directory.mkdir(exist_ok=True)

    def manager(self) -> BackupManager:
        sources: list[Database] = [SQLite(str(self.database)), Flat(self.flat)]
        return BackupManager(self.root / "repository", name="steps", databases=sources, directories=[self.directory])

    def write(self, state: str) -> None:
        with closing(sqlite3.connect(self.database)) as connection, connection:
            connection.execute("CREATE TABLE IF NOT EXISTS states (state TEXT)")
            connection.execute("DELETE FROM states")
            connection.execute("INSERT INTO states VALUES (?)", [state])
        for name in ("one", "two", "sub/three"):
            path = self.directory / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(state)
        self.flat.write_text(f"{state}\n")

    def states(self) -> dict[str, str]:
        with closing(sqlite3.connect(self.database)) as connection:
            [(state,)] = connection.execute("SELECT state FROM states").fetchall()
        files = {path.read_text() for path in self.directory.rglob("*") if path.is_file()}
        assert len(files) == 1, files
        assert len(list(self.directory.rglob("*"))) == 4
        return {
            str(self.database): state,
            str(self.directory): files.pop(),
            str(self.flat): self.flat.read_text().strip(),
        }

    def leftovers(self) -> list[str]:
        known = {"app.db", "data", "flat", "repository"}
        return [path.name for path in self.root.iterdir() if path.name not in known]


def in_child(work: Callable[[], None]) -> int:
    """Run something in a child of its own. Returns how it ended."""
    if (child := os.fork()) == 0:
        try:
            work()
            os._exit(0)
        except SystemExit as ended:
            os._exit(int(str(ended.code)))
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    return os.waitpid(child, 0)[1]


def restore(place: Place, step: int, number: int) -> None:
    """Restore, and end at a step."""
    count = 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in STEPS or (event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITING)):
            return
        if count or (event == "os.mkdir" and "/restore-" in str(arguments[0])):
            count += 1
            if count == step:
                os.kill(os.getpid(), number)

    manager = place.manager()
    sys.addaudithook(watch)
    manager.restore_backup(manager.list_backups()[-1].name, confirm=True)


def look(place: Place, number: int, ended: bool) -> None:
    """See what is there, and that what is said of it is true; then resume, and make it old again."""
    found = place.states()
    manager = place.manager()
    interrupted = manager.list_interrupted_restores()
    assert len(interrupted) <= 1, interrupted
    said = {
        part.target.removeprefix("sqlite:///").removeprefix("flat://"): part
        for each in interrupted
        for part in each.parts
    }
    for target, part in said.items():
        if part.found is PartState.NEW:
            assert found[target] == NEW, (target, part, found)
        elif part.found is PartState.OLD:
            assert found[target] == OLD, (target, part, found)
        else:
            assert (part.found is PartState.MIXED) == target.endswith("flat"), part
    if set(found.values()) not in ({OLD}, {NEW}):
        assert interrupted, found
    if number == signal.SIGTERM and not ended:
        assert HALF not in found.values(), found
        assert place.leftovers() == []
    manager.resume_restore()
    states = set(place.states().values())
    assert states == {NEW} if interrupted else states in ({OLD}, {NEW}), (states, interrupted)
    assert manager.list_interrupted_restores() == []
    assert manager.repository.check(read_data=True).ok
    place.write(OLD)


def make(place: Place) -> None:
    place.manager().create_backup("new", permanent=True)


def finish(place: Place) -> None:
    manager = place.manager()
    manager.restore_backup(manager.list_backups()[-1].name, confirm=True)


def main(root: str, signal_name: str, every: str) -> None:
    number = signal.Signals[signal_name]
    place = Place(Path(root))
    place.write(NEW)
    assert in_child(partial(make, place)) == 0
    place.write(OLD)
    step, done = 1 - int(every), False
    while not done:
        step += int(every)
        status = in_child(partial(restore, place, step, number))
        ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        done = status == 0
        assert done or ended == (number if number == signal.SIGKILL else 128 + number), (step, status)
        assert in_child(partial(look, place, number, done)) == 0, f"step {step}"
    assert in_child(partial(finish, place)) == 0
    assert place.leftovers() == []
    assert list(working_path("x").parent.iterdir()) == []
    print(step)


if __name__ == "__main__":
    main(*sys.argv[1:])
