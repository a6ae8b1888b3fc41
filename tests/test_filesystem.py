"""A repository as a file system: every file of it reads back, a part costs a part, and nothing can be written."""

from __future__ import annotations

import os
import pickle
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from ctypes.util import find_library
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import util
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import jax
import jax.numpy as jnp
import numpy as np
import pandas
import polars
import pyarrow.dataset
import pytest
import torch
import xarray
from dask.distributed import Client, LocalCluster
from database_servers import until
from servers import Storage
from upath import UPath

from prefect_snapshots import ArtifactRegistry, BackupManager, Directory, Repository, SnapshotManager, use_repository
from prefect_snapshots.backups.manifest import BackupPart, encode_manifest
from prefect_snapshots.backups.records import Backup, body_of
from prefect_snapshots.errors import (
    ArtifactExpired,
    DamagedVersion,
    IntegrityError,
    InvalidArgument,
    PathNotFound,
    ReadOnlyRepository,
    WrongPassword,
)
from prefect_snapshots.filesystem import SnapshotsFileSystem
from prefect_snapshots.filesystem.segments import component, decoded
from prefect_snapshots.repository.commits import Draft
from prefect_snapshots.repository.contents import Stored, inline
from prefect_snapshots.repository.packs import pack_path
from prefect_snapshots.snapshots.backends import Durable
from prefect_snapshots.trees.entries import Entry
from prefect_snapshots.values import encode

TABLE = pandas.DataFrame({name: np.random.default_rng(at).random(100_000) for at, name in enumerate("abcdefgh")})


@dataclass(frozen=True)
class Everything:
    """A repository with something of each kind, and the folder that its files come from."""

    url: str
    folder: Path
    files: SnapshotsFileSystem

    @property
    def options(self) -> dict[str, Any]:
        return {"repository": self.url}


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Everything:
    top = tmp_path_factory.mktemp("everything")
    url, folder = str(top / "repository"), top / "features"
    (folder / "deep").mkdir(parents=True)
    TABLE.to_parquet(folder / "part-0.parquet")
    (folder / "deep" / "[odd] 100%*.csv").write_text("a,b\n1,2\n3,4\n")
    (folder / "deep" / "link").symlink_to("../part-0.parquet")
    (folder / "deep" / "up").symlink_to("..")
    registry = ArtifactRegistry(url)
    registry.log_artifact("features", "an older one", "text")
    registry.log_files("features", folder)
    registry.promote_artifact("features", 1, to="production")
    ArtifactRegistry(url, "a:b").log_artifact("vision/x@y", [1, 2])
    registry.create_release("2026/1", {"features": 1})
    manager = SnapshotManager[Any](url, name="train")
    manager.save_snapshot(VALUE, "step-1")
    with (folder / "sparse").open("wb") as sparse:
        sparse.truncate(3_000_000)
        sparse.seek(2_000_000)
        sparse.write(b"in the middle")
    os.link(folder / "part-0.parquet", folder / "second-name")
    BackupManager(url, name="shop", directories=[Directory(folder, name="uploads")]).create_backup("first")
    return Everything(url, folder, SnapshotsFileSystem(url))


TENSOR = torch.arange(6).reshape(2, 3)
VALUE: dict[str, Any] = {
    "w": np.arange(5_000_000.0).reshape(1000, 5000),
    "f": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "n": {"loss": 0.5, "text": "größe", "long": "x" * 20_000, "none": None},
    "b": b"bytes",
    "..": 1,
    "c.npy": {"d": 2},
    "c": 3,
    "j": jnp.arange(5, dtype=jnp.float32),
    "t": TENSOR,
    "row": TENSOR[1],
    # No NumPy without other packages has them, or they are no arrays.
    "none": None,
    "transposed": TENSOR.T,
    "half": jnp.ones(3, jnp.bfloat16),
    "key": jax.random.key(0),
}


def test_the_list_has_every_file_by_a_path_that_reads_it(everything: Everything) -> None:
    files, folder = everything.files, everything.folder
    [backup] = files.ls("backups", detail=False)
    assert backup.startswith("backups/shop@2")
    assert backup.endswith("_first")
    stored = ["deep/[odd] 100%*.csv", "deep/link", "deep/up", "part-0.parquet"]
    leaves = [
        "%2E%2E.npy",
        "b.bin",
        "c%.npy",
        "c.npy/d.npy",
        "f.npy",
        "j.npy",
        "n/long.txt",
        "n/loss.npy",
        "n/text.txt",
        "row.npy",
        "t.npy",
    ]
    assert files.find("") == sorted(
        [
            "artifacts/features@v0/features.txt",
            *(f"artifacts/features@v1/{path}" for path in stored),
            "artifacts/a%3Ab:vision/x%40y@v0/x@y.json",
            *(f"releases/default@2026%2F1/features/{path}" for path in stored),
            *(f"backups/{backup[8:]}/uploads/{path}" for path in [*stored, "second-name", "sparse"]),
            *(f"snapshots/train@step-1/{path}" for path in [*leaves, "w.npy"]),
        ]
    )
    for path in files.find(backup):
        info = files.info(path)
        if info["type"] == "file":
            data = folder.joinpath(path.removeprefix(f"{backup}/uploads/")).read_bytes()
            assert (files.cat_file(path), info["size"]) == (data, len(data))
    assert files.info(f"{backup}/uploads/deep/up") | {"mtime": 0, "created": 0} == {
        "name": f"{backup}/uploads/deep/up",
        "type": "link",
        "mode": 0o777,
        "size": 0,
        "mtime": 0,
        "created": 0,
        "version": backup.partition("@")[2],
        "islink": True,
        "destination": "..",
    }
    assert files.cat_file(f"{backup}/uploads/sparse", 1_999_998, 2_000_003) == b"\0\0in "
    assert abs(files.modified(f"{backup}/uploads/sparse").timestamp() - (folder / "sparse").stat().st_mtime) < 1e-3


def test_leaves_of_a_snapshot_are_what_numpy_writes(everything: Everything) -> None:
    def read(path: str) -> Any:
        with everything.files.open(f"snapshots/train@latest/{path}") as file:
            return np.load(file)

    assert np.array_equal(read("w.npy"), VALUE["w"])
    assert read("f.npy").flags.f_contiguous
    assert [read(path).item() for path in ("n/loss.npy", "%2E%2E.npy", "c%.npy", "c.npy/d.npy")] == [0.5, 1, 3, 2]
    assert np.array_equal(read("j.npy"), np.arange(5, dtype=np.float32))
    assert np.array_equal(read("t.npy"), np.arange(6).reshape(2, 3))
    assert np.array_equal(read("row.npy"), [3, 4, 5])
    assert everything.files.read_text("snapshots/train@step-1/n/text.txt", encoding="utf-8") == "größe"
    assert everything.files.cat("snapshots/train@step-1/b.bin") == b"bytes"


def test_versions_are_found_by_number_alias_time_and_as_the_latest(everything: Everything) -> None:
    files = everything.files
    later = (datetime.now(UTC) + timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M")
    assert {files.resolve(f"artifacts/features@{each}") for each in ("1", "latest", "production", later)} == {
        "artifacts/features@v1"
    }
    [backup] = files.ls("backups", detail=False)
    for each in (later, "latest", "shop_" + backup.partition("@")[2]):
        assert files.resolve(f"snapshots://backups/shop@{each}/uploads") == f"{backup}/uploads"
    assert files.resolve(f"releases/default@{later}") == "releases/default@2026%2F1"
    assert files.resolve(f"snapshots/train@{later}/n") == "snapshots/train@step-1/n"
    assert files.info("artifacts/features@v1")["aliases"] == ["production"]
    assert files.created("artifacts/features@v1") > files.created("artifacts/features@v0")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nope", "There is no 'nope' in a repository"),
        ("artifacts/featurs@1/x", "Did you mean 'features'"),
        ("artifacts/features", "Add one, as in artifacts/features@latest"),
        ("artifacts/features@9", "Existing versions: v0 to v1"),
        ("artifacts/features@v1/part-1.parquet", r"There is no 'part-1.parquet' in .*Did you mean 'part-0.parquet'"),
        ("artifacts/features@v1/dep/x", "Did you mean 'deep'"),
        ("artifacts/features@v1/../features@v0", "There is no '../features@v0'"),
        ("backups/shop@2020-01-01/uploads", "'shop' has no backup for '2020-01-01'"),
        ("backups/shop@x", "No backup is named 'x'"),
        ("backups/shp@latest", "Did you mean 'shop'"),
        ("snapshots/train@step-2", "Did you mean 'step-1'"),
        ("snapshots/trian@latest", "Did you mean 'train'"),
        ("releases/default@2027", "has no release '2027'"),
    ],
)
def test_what_is_missing_is_named_with_what_is_near(everything: Everything, path: str, message: str) -> None:
    for look in (everything.files.info, everything.files.ls, everything.files.open):
        with pytest.raises(PathNotFound, match=message):
            look(path)
    assert not everything.files.exists(path)


def test_nothing_can_be_written(everything: Everything, tmp_path: Path) -> None:
    files, path = everything.files, "artifacts/features@v1/part-0.parquet"
    (tmp_path / "file").write_bytes(b"x")
    attempts: list[Callable[[], Any]] = [
        lambda: files.open(path, "wb"),
        lambda: files.open(path, "ab"),
        lambda: files.pipe(path, b"x"),
        lambda: files.put(str(tmp_path / "file"), path),
        lambda: files.rm(path),
        lambda: files.rm("artifacts", recursive=True),
        lambda: files.mv(path, "artifacts/x"),
        lambda: files.cp(path, "artifacts/x@v1/y"),
        lambda: files.mkdir("artifacts/x"),
        lambda: files.makedirs("artifacts/x", exist_ok=True),
        lambda: files.touch(path),
        lambda: files.write_text(path, "x"),
    ]
    for attempt in attempts:
        with pytest.raises(ReadOnlyRepository, match="nothing was changed"):
            attempt()


@pytest.fixture
def read_bytes(everything: Everything, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of bytes of each read of a new file system, which `everything` does not remember."""
    sizes: list[int] = []
    location = everything.files.files.repository.location
    everything.files.files._chunks.forget()
    read_range, read_into = location.read_range, location.read_into

    def ranged(path: str, offset: int, length: int) -> Any:
        sizes.append(length)
        return read_range(path, offset, length)

    def into(path: str, offset: int, target: memoryview) -> int:
        sizes.append(len(target))
        return read_into(path, offset, target)

    monkeypatch.setattr(location, "read_range", ranged)
    monkeypatch.setattr(location, "read_into", into)
    return sizes


def test_a_part_of_a_file_costs_the_chunks_of_this_part(everything: Everything, read_bytes: list[int]) -> None:
    files, path = everything.files, "artifacts/features@v1/part-0.parquet"
    size = files.info(path)["size"]
    read_bytes.clear()
    data = (everything.folder / "part-0.parquet").read_bytes()
    with files.open(path) as file:
        file.seek(size // 2)
        assert file.read(100) == data[size // 2 :][:100]
        assert 0 < sum(read_bytes) <= 2 * 256 * 1024, "the largest chunks have 256 KB"
        read_bytes.clear()
        file.seek(size // 2)
        assert file.read(100) == data[size // 2 :][:100]
        assert read_bytes == [], "it was remembered"
    read_bytes.clear()
    table = pandas.read_parquet(files.open(path), columns=["c"])
    assert table.equals(TABLE[["c"]])
    assert sum(read_bytes) < size / 3, "one column of eight, and the footer"


def test_reading_in_order_reads_ahead_and_nothing_twice(everything: Everything, read_bytes: list[int]) -> None:
    files = everything.files
    for path, data in (
        ("artifacts/features@v1/part-0.parquet", (everything.folder / "part-0.parquet").read_bytes()),
        ("snapshots/train@latest/w.npy", VALUE["w"].tobytes()),
    ):
        size = files.info(path)["size"]
        read_bytes.clear()
        with files.open(path) as file:
            assert b"".join(iter(partial(file.read, 10_000), b""))[-len(data) :] == data
        assert sum(read_bytes) <= size * 1.01
        assert len(read_bytes) < 20
    with files.open("artifacts/features@v1/deep/[odd] 100%*.csv") as file:
        assert list(file) == [b"a,b\n", b"1,2\n", b"3,4\n"]


# --- other programs --------------------------------------------------------------------------------------------------


def test_tables_are_read_by_pandas_polars_pyarrow_and_duckdb(everything: Everything) -> None:
    url = "snapshots://artifacts/features@production/part-0.parquet"
    assert pandas.read_parquet(url, columns=["a"], storage_options=everything.options).equals(TABLE[["a"]])
    csv = "snapshots://artifacts/features@latest/deep/[odd] 100%*.csv"
    assert pandas.read_csv(csv, storage_options=everything.options).to_dict("list") == {"a": [1, 3], "b": [2, 4]}
    for cache in ("simplecache", "filecache", "blockcache"):
        with fsspec.open(f"{cache}::{csv.replace('@latest', '@v1')}", snapshots=everything.options) as file:
            assert file.read() == b"a,b\n1,2\n3,4\n"
    with fsspec.open(url, **everything.options) as file:
        assert polars.read_parquet(file, columns=["b"])["b"].to_list() == TABLE["b"].to_list()
    dataset = pyarrow.dataset.dataset("artifacts/features@latest/part-0.parquet", filesystem=everything.files)
    assert dataset.to_table(columns=["c"], filter=pyarrow.dataset.field("c") < 0.5)["c"].to_pylist() == [
        value for value in TABLE["c"] if value < 0.5
    ]
    connection = duckdb.connect()
    connection.register_filesystem(everything.files)
    assert connection.sql(f"select sum(d), count(*) from '{url}'").fetchall() == [
        (pytest.approx(TABLE["d"].sum()), len(TABLE))
    ]


@pytest.mark.filterwarnings("ignore:.*snapshots.*:UserWarning:upath")  # it says that it has no tests for this protocol
def test_arrays_are_read_by_xarray_and_paths_by_universal_pathlib(tmp_path: Path) -> None:
    values = np.arange(6.0).reshape(2, 3)
    xarray.Dataset({"t": (("x", "y"), values)}).to_zarr(tmp_path / "climate", consolidated=False, zarr_format=3)
    url = str(tmp_path / "repository")
    ArtifactRegistry(url).log_files("climate", tmp_path / "climate")
    stored = xarray.open_zarr(
        "snapshots://artifacts/climate@latest", storage_options={"repository": url}, consolidated=False
    )
    assert np.array_equal(stored["t"].values, values)
    path = UPath("snapshots://artifacts/climate@latest", repository=url)
    assert {each.name for each in path.iterdir()} == {"t", "zarr.json"}
    assert (path / "zarr.json").read_text() == (tmp_path / "climate" / "zarr.json").read_text()
    assert not (path / "nothing").exists()


def test_an_encrypted_repository_on_s3_is_read_with_the_options_of_pandas(s3_storage: Storage, tmp_path: Path) -> None:
    repository = Repository(s3_storage.url, storage_options=s3_storage.storage_options, password="correct horse")
    TABLE.to_parquet(tmp_path / "table.parquet")
    ArtifactRegistry(repository).log_files("table", tmp_path / "table.parquet")
    options = {"repository": s3_storage.url, "storage_options": s3_storage.storage_options, "password": "correct horse"}
    url = "snapshots://artifacts/table@latest/table.parquet"
    assert pandas.read_parquet(url, columns=["h"], storage_options=options).equals(TABLE[["h"]])
    files = fsspec.filesystem("snapshots", **options)
    requests = files.files.repository.location.requests
    before = requests["GET"]
    with files.open(url) as file:
        assert file.read(100_000) == (tmp_path / "table.parquet").read_bytes()[:100_000]
        assert file.read(100_000) == (tmp_path / "table.parquet").read_bytes()[100_000:200_000]
        assert len(file.read()) == file.size - 200_000
    assert requests["GET"] - before < 10, "adjacent chunks are read in one request"
    with pytest.raises(WrongPassword):
        fsspec.filesystem("snapshots", **{**options, "password": "wrong"}).exists("artifacts")


def test_a_dask_worker_reads_it_without_a_secret_in_the_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = str(tmp_path / "secret")
    ArtifactRegistry(Repository(url, password="correct horse")).log_artifact("notes", "hello", "text")
    monkeypatch.setenv("PREFECT_INTEGRATIONS_SNAPSHOTS_PASSWORD", "correct horse")
    for files in (SnapshotsFileSystem(url), SnapshotsFileSystem(Repository(url, password="correct horse"))):
        file = files.open("artifacts/notes@latest/notes.txt")
        assert b"correct horse" not in pickle.dumps((files, file))
        elsewhere = pickle.loads(pickle.dumps(file))
        assert (elsewhere.path, elsewhere.read()) == ("artifacts/notes@v0/notes.txt", b"hello")
    with (
        LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,  # type: ignore[no-untyped-call]
    ):
        assert client.submit(files.cat, "artifacts/notes@latest/notes.txt").result() == b"hello"


def test_the_repository_is_the_configured_one_unless_it_is_given(
    everything: Everything, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = fsspec.filesystem("snapshots")
    monkeypatch.setenv("PREFECT_INTEGRATIONS_SNAPSHOTS_REPOSITORY", everything.url)
    assert files.exists("artifacts/features@v1")
    monkeypatch.setenv("PREFECT_INTEGRATIONS_SNAPSHOTS_REPOSITORY", str(tmp_path / "none"))
    assert not files.exists("artifacts")
    with use_repository(everything.url):
        assert files.exists("artifacts/features@v1")
    with pytest.raises(InvalidArgument, match=r"no option 'repositry'\. Did you mean"):
        fsspec.filesystem("snapshots", repositry=everything.url)


@pytest.mark.parametrize(
    "path", ["artifacts/%ff@v0", "artifacts/features@%ff", "snapshots/%c3@latest/x", "releases/default@%80"]
)
def test_a_path_that_is_no_string_leads_nowhere(everything: Everything, path: str) -> None:
    files = SnapshotsFileSystem(everything.url)
    assert not files.exists(path)
    with pytest.raises(PathNotFound):
        files.open(path)


def test_forged_names_lead_nowhere_else(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "repository")

    def commit(kind: str, name: str, what: str, body: dict[str, Any], content: Stored) -> None:
        stream = repository.stream(kind, name, lambda event: None)
        assert repository.commit(stream, lambda: Draft(what, body), content=content) is not None

    value = encode({"w": 1})
    stored = inline(value.manifest, value.buffers)
    assert stored is not None
    for forged in ("../../up", "..", "/etc/x", "a\0b"):
        commit("snapshots", "train", "put", {"id": forged, "metadata": {}, "tags": []}, stored)
    parts = [BackupPart(name, "directory", [Entry(b"f", 0o100644, 1)]) for name in ("..", "../../up", "", "/etc")]
    backup = Backup("shop_../../up", "", datetime.now(UTC))
    stored = inline(encode_manifest(parts), [b"1234"])
    assert stored is not None
    commit("backups", "shop", "backup", body_of(backup), stored)
    ArtifactRegistry(repository).log_artifact("model", 1)
    body = {"id": "v0", "tag": "../..", "artifacts": {"..": "v0", "model": "v0", "nothing": "v0"}, "metadata": {}}
    commit("releases", "default", "version", body, stored)
    files = SnapshotsFileSystem(str(tmp_path / "repository"))
    found = files.find("")
    assert len(found) == 4 + 4 + 2
    for path in found:
        assert not {"", ".", ".."} & set(path.split("/"))
        assert "\0" not in path
        assert files.cat(path)
    top = tmp_path / "a" / "b" / "c"
    for kind in ("snapshots", "backups"):
        files.get(kind, str(top), recursive=True)
    assert {path for path in tmp_path.rglob("*") if path.is_file() and top not in path.parents} == {
        path for path in (tmp_path / "repository").rglob("*") if path.is_file()
    }


# --- while others write, and what was damaged ------------------------------------------------------------------------


def test_the_files_of_one_listing_belong_to_one_version(tmp_path: Path) -> None:
    url, folder = str(tmp_path / "repository"), tmp_path / "data"
    folder.mkdir()
    registry = ArtifactRegistry(url)

    def log(text: str) -> None:
        for name in ("one", "two"):
            (folder / name).write_text(text)
        registry.log_files("data", folder)

    log("old")
    files = SnapshotsFileSystem(url)
    assert files.cat("artifacts/data@latest/one") == b"old"
    log("new")
    assert files.cat("artifacts/data@latest/one") == b"new", "nothing was listed"
    listed = files.find("artifacts/data@latest")
    log("newest")
    assert [files.cat(path) for path in listed] == [b"new", b"new"]
    files.invalidate_cache()
    assert [files.cat(path) for path in listed] == [b"newest", b"newest"]
    log("last")
    assert files.cat(files.ls("artifacts/data@latest", detail=False)[1]) == b"last"


def test_a_file_reads_on_while_its_repository_is_pruned_and_says_so_when_its_version_is_gone(tmp_path: Path) -> None:
    url, path = str(tmp_path / "repository"), "artifacts/data@v0/data"
    noise = random.Random(0)
    (tmp_path / "data").write_bytes(data := noise.randbytes(1_000_000))
    registry = ArtifactRegistry(url)
    registry.log_files("data", tmp_path / "data")
    (tmp_path / "data").write_bytes(data[:600_000] + noise.randbytes(400_000))
    registry.log_files("data", tmp_path / "data")
    with SnapshotsFileSystem(url).open(path) as file:
        assert file.read(10) == data[:10]
        registry.log_artifact("other", "x")
        registry.delete_version("data", 1)
        Repository(url).prune(grace=0)
        Repository(url).prune(grace=0)
        assert file.read() == data[10:]
    with SnapshotsFileSystem(url, skip_instance_cache=True).open(path) as file:
        registry.delete_version("data", 0, force=True)
        Repository(url).prune(grace=0)
        Repository(url).prune(grace=0)
        with pytest.raises(PathNotFound, match="artifacts/data@v0/data was deleted while it was read"):
            file.read()


def test_damage_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    url = str(tmp_path / "repository")
    (tmp_path / "data").write_bytes(random.Random(1).randbytes(100_000))
    ArtifactRegistry(url).log_files("data", tmp_path / "data")
    SnapshotManager[Any](url, name="train").save_snapshot({"w": np.random.default_rng(0).random(10_000)}, "step-1")
    for pack in (tmp_path / "repository" / "packs").rglob("*"):
        if pack.is_file():
            pack.chmod(0o600)
            content = bytearray(pack.read_bytes())
            content[len(content) // 2] ^= 1
            pack.write_bytes(content)
    files = SnapshotsFileSystem(url)
    with pytest.raises(DamagedVersion, match="default/data:v0, file 'data'"):
        files.cat("artifacts/data@latest/data")
    with pytest.raises(DamagedVersion, match="snapshot 'step-1' of 'train', leaf w"):
        files.cat("snapshots/train@latest/w.npy")


def test_a_list_goes_on_after_what_is_damaged_and_names_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A name whose events are damaged, and a version whose list of leaves is."""
    place = tmp_path / "repository"
    for name in ("a", "b", "c"):
        manager = SnapshotManager[Any](place, name=name)
        manager.save_snapshot({f"{name} {number}": number for number in range(3_000)}, "one")
        manager.save_snapshot({"w": f"{name} is small"}, "two")
    catalog = Repository(place).parts().catalog
    folders = {name: place / "catalog" / folder for folder, (_, name) in catalog.streams().items()}
    (folders["a"] / "000000000001").write_bytes(b"damaged")
    opened = Repository(place)
    backend = Durable(opened, "b")
    content = backend.content(backend.refresh().get("one"))[1]
    entry = opened.parts().index.find(content.table[-1]["chunk"].tobytes())
    assert entry is not None
    pack = place / pack_path(entry.pack)
    data = bytearray(pack.read_bytes())
    data[entry.offset + 5] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(data)
    files = SnapshotsFileSystem(str(place))
    found = files.find("")
    assert {path.rpartition("/")[0] for path in found} == {"snapshots/b@two", "snapshots/c@one", "snapshots/c@two"}
    assert "snapshots/a is left out of the list, because it is damaged" in caplog.text
    assert "snapshots/b@one is left out of the list, because it is damaged" in caplog.text
    errors: list[Exception] = []
    assert set(files.glob("snapshots/*/w.txt")) == {"snapshots/b@two/w.txt", "snapshots/c@two/w.txt"}
    assert sum(len(each) for *_, each in files.walk("", on_error=errors.append)) == len(found)
    assert len(errors) == 1
    for path in ("snapshots/b@one", "snapshots/a@one"):
        with pytest.raises(IntegrityError):
            files.find(path)
    program = [sys.executable, "-c", "from prefect_snapshots.cli import main; main()"]
    command = [*program, "ls", "--recursive", "--repository", str(place)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "snapshots/c@two/w.txt" in done.stdout
    assert "snapshots/a is left out" in done.stderr


def test_an_expired_version_is_listed_and_not_read(tmp_path: Path) -> None:
    registry = ArtifactRegistry(tmp_path / "repository")
    registry.log_artifact("old", "x", "text", expiry="2020-01-01")
    files = SnapshotsFileSystem(str(tmp_path / "repository"))
    [path] = files.find("")
    with pytest.raises(ArtifactExpired, match="default/old:v0 expired at 2020"):
        files.cat(path)
    assert files.ls("artifacts/old@v0", detail=False) == [path]


@pytest.mark.parametrize("text", ["..", ".", "", "a/../b", "\0\n", "a::b", "@%", "*?[]\\", "\udcff", "größe 1"])
def test_no_name_leads_out_of_its_place(text: str) -> None:
    name = component(text)
    assert name not in ("", ".", "..")
    assert not any(char in name for char in "/\\@*?[]\0\n")
    assert "::" not in name
    assert decoded(name) == (text or "%")


def test_it_is_mounted_where_fuse_is_installed_and_says_what_is_missing_elsewhere(
    everything: Everything, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", "from prefect_snapshots.cli import main; main()", "-r", everything.url, "mount"]
    place = tmp_path / "mounted"
    place.mkdir()
    with subprocess.Popen([*command, place], stderr=subprocess.PIPE, text=True) as process:
        until(lambda: os.path.ismount(place) or process.poll() is not None, lambda: time.sleep(0.05))
        if process.poll() is not None:
            assert process.stderr is not None
            assert re.search("Nothing was mounted.*(toolmissing|missingdependency)", process.stderr.read())
            assert not os.access("/dev/fuse", os.W_OK) or not util.find_spec("fuse") or not find_library("fuse")
            return
        try:
            files = fsspec.filesystem("snapshots", repository=everything.url)
            for path in files.find(""):
                if (place / path).is_symlink():  # the kernel follows it, also to a directory
                    assert os.readlink(place / path) == files.info(path)["destination"]
                    continue
                assert (place / path).read_bytes() == files.cat_file(path)
                assert not (place / path).stat().st_mode & 0o7222
            with pytest.raises(OSError, match="Read-only"):
                (place / "new").write_text("x")
        finally:
            process.terminate()
    assert process.returncode == 0
    assert not os.path.ismount(place)
