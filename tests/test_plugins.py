"""A package of somebody else brings plug-ins: their URLs work everywhere, and they pass the contracts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent
PLUGIN = TESTS / "toy_plugin"


def run(*command: str, cwd: Path) -> str:
    """Run Python where the toy package is installed."""
    paths = [str(PLUGIN), str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    environment.pop("PYTEST_ADDOPTS", None)
    done = subprocess.run([sys.executable, *command], cwd=cwd, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    return done.stdout.decode()


CONTRACT = """
import pytest
from toy_plugin.database import ToyDatabase
from prefect_snapshots.testing import DatabaseContract

class TestToyDatabase(DatabaseContract):
    @pytest.fixture
    def database(self, tmp_path):
        database = ToyDatabase(str(tmp_path / "shop.toy"))
        database.write({"users": [1, 2, 3], "orders": []})
        return database

    def change(self, database):
        database.write({**database._read(), "users": [1, 2, 4]})

    def grow(self, database):
        database.write({**database._read(), "users": [1, 2, 3, 4]})
"""


def test_a_database_of_another_package_passes_the_contract(tmp_path: Path) -> None:
    (tmp_path / "test_toy.py").write_text(CONTRACT)
    said = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_toy.py", cwd=tmp_path)
    assert "12 passed" in said


def test_a_database_of_another_package_works_by_its_url_on_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "shop.toy"
    file.write_text(json.dumps({"users": [1, 2, 3]}))
    (tmp_path / "pyproject.toml").write_text(
        f'[tool.prefect-snapshots]\nrepository = "repository"\ndatabases = ["toy:///{file}"]\n'
    )
    backups = ["-c", "from prefect_snapshots.cli import main; main()", "backups"]
    made = json.loads(run(*backups, "create", "nightly", "--json", cwd=tmp_path))
    file.write_text("{}")
    run(*backups, "restore", made["name"], "--yes", cwd=tmp_path)
    assert json.loads(file.read_bytes()) == {"users": [1, 2, 3]}


HANDLER = """
import pytest
from prefect_snapshots.testing import HandlerContract

class TestRows(HandlerContract):
    name = "toy-rows"

    @pytest.fixture
    def values(self):
        return [[["a", "b"], ["c", "d"]], [["e"]]]

    @pytest.fixture
    def refused(self):
        return [5, [["a", 5]]]
"""


def test_a_handler_of_another_package_passes_the_contract(tmp_path: Path) -> None:
    (tmp_path / "test_toy_handler.py").write_text(HANDLER)
    said = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_toy_handler.py", cwd=tmp_path)
    assert "8 passed" in said


BLOCK = """
import sys
from prefect_snapshots import BackupDatabase, BackupManager
from toy_plugin.database import ToyDatabase

for url in (f"toy:///{sys.argv[1]}", sys.argv[1]):
    database = BackupDatabase(url=url, options={"any": "thing"} if "://" in url else {}).get_database()
    assert type(database) is ToyDatabase, database
    assert BackupManager("repository", databases=[url]).create_backup("x").counts == {database.name: {"users": 3}}
"""


def test_a_database_of_another_package_works_in_python_and_in_the_block(tmp_path: Path) -> None:
    (tmp_path / "shop.toy").write_text(json.dumps({"users": [1, 2, 3]}))
    run("-c", BLOCK, str(tmp_path / "shop.toy"), cwd=tmp_path)


BROKEN = """
from prefect_snapshots.backups.databases import SQLite, open_database
from prefect_snapshots.errors import MissingDependency

assert type(open_database("app.db")) is SQLite
try:
    open_database("broken://host/x")
except MissingDependency as error:
    assert "no_such_module" in str(error), error
else:
    raise AssertionError
"""


def test_a_package_that_cannot_be_imported_takes_no_other_database_along(tmp_path: Path) -> None:
    metadata = tmp_path / "broken-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    entry = "[prefect_snapshots.databases]\nbroken = no_such_module:Broken\nsqlite = no_such_module:Broken\n"
    (metadata / "entry_points.txt").write_text(entry)
    run("-c", BROKEN, cwd=tmp_path)


LOCATION_CONTRACT = """
import pytest
from prefect_snapshots.testing import LocationContract

class TestToyLocation(LocationContract):
    @pytest.fixture
    def place(self, tmp_path):
        return f"toys://{tmp_path}/place", {}
"""


def test_a_location_of_another_package_passes_the_contract(tmp_path: Path) -> None:
    (tmp_path / "test_toy.py").write_text(LOCATION_CONTRACT)
    said = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_toy.py", cwd=tmp_path)
    assert "29 passed" in said


def test_a_repository_lives_in_a_location_of_another_package(tmp_path: Path) -> None:
    code = """
import sys
from prefect_snapshots import Repository, SnapshotManager, errors
from prefect_snapshots.repository.location import open_location

repository = Repository(sys.argv[1], password="secret")
SnapshotManager(repository, name="x").save_snapshot({"a": 1}, "one")
assert SnapshotManager(Repository(sys.argv[1], password="secret"), name="x").get_snapshot("one").data == {"a": 1}
assert repository.check(read_data=True).ok
for url, why in (("broken://x", "toy-plugin, which cannot be imported"), ("wrong://x", "not a subclass")):
    try:
        open_location(url)
    except errors.MissingDependency as error:
        assert why in str(error), error
    else:
        raise AssertionError(url)
print(type(open_location("s3://bucket/x")).__name__)
"""
    said = run("-c", code, f"toys://{tmp_path}/place", cwd=tmp_path)
    assert said == "S3Location\n", "no package takes the place of ours"
