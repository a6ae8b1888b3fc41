"""One process of the test of the zoo: `python zoo_keeper.py write|pass|read FOLDER` prints a report as JSON.

`write` makes every value and stores it in every way. `pass` reads what `write` stored, compares it with values that it
makes itself, and stores what it read. `read` does the same with what `pass` stored, and stores nothing.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zoo

from prefect_snapshots import ArtifactRegistry, Repository, Snapper, SnapshotManager
from prefect_snapshots.artifacts.handlers import list_handlers
from prefect_snapshots.checkpoints.fingerprint import fingerprint
from prefect_snapshots.checkpoints.keys import stable_hash
from prefect_snapshots.errors import (
    SnapshotsError,
    UnfingerprintableFunction,
    UnhashableItem,
    UnserialisableLeaf,
    UnserialisableResult,
    UnserialisableValue,
)

Report = dict[str, str]

made: dict[str, Any] = {}


def result_of(name: str) -> Any:
    """The function of the checkpoints. Its code does not say what it returns."""
    return made[name]


def key_of(value: Any) -> str:
    try:
        return stable_hash(value).hex()
    except UnhashableItem:
        return "refused"
    except Exception as error:
        return repr(error)


def fingerprint_of(value: Any) -> str:
    def process(x: Any) -> Any:
        return x, value

    try:
        return fingerprint(process)
    except UnfingerprintableFunction:
        return "refused"
    except Exception as error:
        return repr(error)


class Keeper:
    """Stores values in a folder, and reads them."""

    def __init__(self, folder: Path) -> None:
        repository = Repository(folder, allow_pickle=True)
        self.snapshots = SnapshotManager(repository, name="zoo")
        self.artifacts = ArtifactRegistry(repository)
        self.repository = repository
        self.ways: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
            "snapshot": (
                lambda name, value: self.snapshots.save_snapshot(value, name),
                lambda name, **like: self.snapshots.get_snapshot(name, **like).data,
            ),
            **{
                handler: (
                    lambda name, value, handler=handler: self.artifacts.log_artifact(
                        f"{name} {handler}", value, handler
                    ),
                    lambda name, handler=handler, **like: self.artifacts.load_artifact(f"{name} {handler}", **like),
                )
                for handler in list_handlers()
            },
        }

    def write(self) -> tuple[Report, dict[str, list[str]]]:
        """Return what went wrong, and which ways took each value."""
        wrong: Report = {}
        taken: dict[str, list[str]] = {}
        for name, value in made.items():
            taken[name] = []
            for way, (save, _) in self.ways.items():
                try:
                    save(name.replace(": ", "/"), value)
                    taken[name].append(way)
                except UnserialisableValue:
                    pass
                except Exception as error:  # must not happen
                    wrong[f"{name} by {way}"] = repr(error)
        results = self._results(list(made))
        try:
            results.start()
        except SnapshotsError as error:
            wrong["results"] = repr(error)
        wrong |= {f"{one.item} by result": repr(one.exception) for one in results.failed_items}
        return wrong, taken

    def write_refused(self) -> Report:
        """Return which values, of those that nobody could read again, were stored or refused without their path."""
        wrong = {}
        for name, make in zoo.REFUSED.items():
            made[name] = {"a": [make()]}
            for way in ("snapshot", "pickle", "joblib", "pytree"):
                try:
                    self.ways[way][0](f"refused/{name}", made[name])
                    wrong[f"{name} by {way}"] = "was stored"
                except (UnserialisableValue, UnserialisableLeaf) as error:
                    if "a/0" not in str(error):
                        wrong[f"{name} by {way}"] = repr(error)
                except Exception as error:  # must not happen
                    wrong[f"{name} by {way}"] = repr(error)
            try:
                Snapper([name], result_of, repository=self.repository, function_version=2).start()
                wrong[f"{name} by result"] = "was stored"
            except UnserialisableResult as error:
                if "a/0" not in str(error):
                    wrong[f"{name} by result"] = repr(error)
            except Exception as error:  # must not happen
                wrong[f"{name} by result"] = repr(error)
        return wrong

    def read(self, taken: dict[str, list[str]]) -> tuple[Report, dict[str, Any], dict[str, Report]]:
        """Return what differs from the values of this process, and the values as a snapshot has them."""
        wrong, kept, keys = {}, {}, {}
        for name, ways in taken.items():
            for way in ways:
                like = {"like": made[name]} if name in zoo.NEED_LIKE and way in ("snapshot", "pytree") else {}
                try:
                    back = self.ways[way][1](name.replace(": ", "/"), **like)
                    if way == "snapshot":
                        kept[name] = back
                        keys[name] = {"keys": key_of(back), "fingerprints": fingerprint_of(back)}
                except Exception as error:
                    wrong[f"{name} by {way}"] = repr(error)
                    continue
                self._compare(f"{name} by {way}", made[name], back, wrong)
            try:
                [back] = self._results([name]).load()
            except Exception as error:
                wrong[f"{name} by result"] = repr(error)
            else:
                self._compare(f"{name} by result", made[name], back, wrong)
        return wrong, kept, keys

    def _results(self, names: list[str]) -> Snapper[str, Any]:
        return Snapper(
            names,
            result_of,
            repository=self.repository,
            function_version=1,
            batch_size=100,
            max_retries=0,
            skip_item_errors=True,
        )

    @staticmethod
    def _compare(what: str, value: Any, back: Any, wrong: Report) -> None:
        if not zoo.same(value, back):
            wrong[what] = f"{value!r} became {back!r}"[:300]


def main(stage: str, folder: Path) -> None:
    warnings.simplefilter("ignore")
    made.update({name: make() for name, make in zoo.ZOO.items()})
    report: dict[str, Any] = {
        "keys": {name: key_of(value) for name, value in made.items()},
        "fingerprints": {name: fingerprint_of(value) for name, value in made.items()},
    }
    if stage != "write":
        before = json.loads((folder / "report").read_text())
        source = Keeper(folder / ("first" if stage == "pass" else "second"))
        report["wrong"], kept, keys = source.read(before["taken"])
        for name, of_loaded in keys.items():
            for what, loaded in of_loaded.items():
                if not before[what][name] == report[what][name] == loaded:
                    report["wrong"][f"{what} of {name}"] = f"{before[what][name]} {report[what][name]} {loaded}"
        made.update(kept)
    if stage != "read":
        keeper = Keeper(folder / ("first" if stage == "write" else "second"))
        wrong, report["taken"] = keeper.write()
        report["wrong"] = report.get("wrong", {}) | wrong
        if stage == "write":
            report["wrong"] |= keeper.write_refused()
    (folder / "report").write_text(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
