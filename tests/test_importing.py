"""Files that the packages which this one follows have written are imported as they are, again and again.

The files in `data/originals` were written by snapshot-manager and snapperable themselves. lazyscribe and scaffold write
theirs here. Those of Metis's backup tool are made in its layout.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import shutil
import subprocess
import tarfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lazyscribe
import numpy as np
import pytest
from scaffold.data.artifact_manager.filesystem import FileSystemArtifactManager

from prefect_snapshots import ArtifactRegistry, BackupManager, Repository, Snapper, SnapshotManager
from prefect_snapshots.errors import ArtifactExpired, InvalidArgument, PickleRefused
from prefect_snapshots.importing import (
    import_lazyscribe,
    import_metis,
    import_scaffold,
    import_snapperable,
    import_snapshot_manager,
    metis_folders,
)

ORIGINALS = Path(__file__).parent / "data" / "originals"


class Explosive:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("code of a file was run",)


# --- snapshot-manager -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["snapshot-manager.pkl", "snapshot-manager-plain.pkl"])
def test_snapshots_keep_ids_times_metadata_tags_and_order(tmp_path: Path, file: str) -> None:
    report = import_snapshot_manager(ORIGINALS / file, tmp_path, name="old", allow_pickle=True)
    assert report.imported[:2] == ["first", "second"]
    assert len(report.imported) == 3
    assert not report.left_out
    manager: SnapshotManager[Any] = SnapshotManager(tmp_path, name="old")
    assert list(manager) == report.imported
    second = manager.get_snapshot("second")
    assert second.metadata == {"loss": 0.25}
    assert list(second.tags) == ["baseline", "best"]
    assert second.timestamp == datetime.fromtimestamp(1_700_000_001.25, UTC)
    assert np.array_equal(second.data["w"], np.ones((2, 3)))
    assert manager.get_snapshot(report.imported[2]).data == [1, (2, {"a": None})]

    again = import_snapshot_manager(ORIGINALS / file, tmp_path, name="old", allow_pickle=True)
    assert (again.imported, again.present) == ([], report.imported)
    assert len(manager) == 3


def test_a_snapshot_that_cannot_be_stored_is_named_and_the_others_are_imported(tmp_path: Path) -> None:
    rows: list[Any] = [
        {"id": name, "data": 1, "metadata": {}, "tags": [], "timestamp": 1.0} for name in ("good", "../bad", "last")
    ]
    (tmp_path / "file.pkl").write_bytes(
        pickle.dumps({"snapshots": rows, "insertion_order": ["last", "../bad", "good"]})
    )
    report = import_snapshot_manager(tmp_path / "file.pkl", tmp_path / "repository", allow_pickle=True)
    assert report.imported == ["last", "good"]
    assert len(report.left_out) == 1
    assert report.left_out[0].startswith("Snapshot '../bad' was not imported: ")


# --- snapperable ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["snapperable.db", "snapperable.pkl"])
def test_results_count_as_done(tmp_path: Path, file: str) -> None:
    calls: list[Any] = []

    def double(item: Any) -> Any:
        calls.append(item)
        return "computed"

    report = import_snapperable(ORIGINALS / file, double, tmp_path, name="job", function_version=1, allow_pickle=True)
    assert report.imported == ["3 results"]
    assert not calls
    snapper = Snapper([2, 13, "abc", 1], double, repository=tmp_path, name="job", function_version=1)
    snapper.start()
    assert calls == [13]  # it failed there
    assert snapper.load() == [4, "computed", {"text": "abc", "length": 3}, 2]

    again = import_snapperable(ORIGINALS / file, double, tmp_path, name="job", function_version=1, allow_pickle=True)
    assert (again.imported, again.present) == ([], ["3 results"])


# --- pickles, and what is none of these files -------------------------------------------------------------------------


def test_pickles_are_read_with_permission_only(tmp_path: Path) -> None:
    (tmp_path / "file.pkl").write_bytes(pickle.dumps({"snapshots": [Explosive()]}))
    with pytest.raises(PickleRefused, match=r"file.pkl was stored with pickle"):
        import_snapshot_manager(tmp_path / "file.pkl", tmp_path / "repository")
    with pytest.raises(PickleRefused, match=r"The results in .*file.pkl were stored with pickle"):
        import_snapperable(tmp_path / "file.pkl", len, tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


def test_other_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("something else")
    with pytest.raises(InvalidArgument, match=r"no file of snapshot-manager at .*missing. Nothing was imported"):
        import_snapshot_manager(tmp_path / "missing", tmp_path / "repository")
    with pytest.raises(InvalidArgument, match="cannot be read as a file of snapshot-manager"):
        import_snapshot_manager(tmp_path / "other", tmp_path / "repository", allow_pickle=True)
    with pytest.raises(InvalidArgument, match="cannot be read as a file of snapperable"):
        import_snapperable(tmp_path / "other", len, tmp_path / "repository", allow_pickle=True)
    with pytest.raises(InvalidArgument, match=r"is no repository.json or project.json of lazyscribe"):
        import_lazyscribe(tmp_path / "other", tmp_path / "repository")


# --- lazyscribe -------------------------------------------------------------------------------------------------------


@pytest.fixture
def old_lazyscribe(tmp_path: Path) -> Path:
    old = lazyscribe.Repository(str(tmp_path / "old/repository.json"), mode="w")
    old.log_artifact(name="features", value=[0, 1], handler="json", indent=4)
    old.log_artifact(name="model", value={"a": {1, 2}}, handler="pickle", fname="sub/m.pkl")
    old.set_artifact_expiry("features", 0, "exact", "2020-01-01T00:00:00")
    time.sleep(1.01)  # in lazyscribe, two versions of the same second share a file
    old.log_artifact(name="features", value=[0, 1, 2], handler="json")
    old.save()
    project = lazyscribe.Project(str(tmp_path / "old/project.json"), mode="w", author="ada")
    with project.log("My experiment") as experiment:
        experiment.log_metric("auc", 0.5)
        experiment.log_artifact(name="coefficients", value=[1.5], handler="json")
    project.save()
    return tmp_path / "old"


def test_artifacts_of_lazyscribe_keep_versions_times_and_expiry(old_lazyscribe: Path, tmp_path: Path) -> None:
    report = import_lazyscribe(old_lazyscribe / "repository.json", tmp_path / "new")
    assert report.imported == ["default/features:v0", "default/features:v1"]
    [left_out] = report.left_out
    assert left_out.startswith("default/model:v0 was not imported: ")
    assert "allow_pickle is False" in left_out

    report = import_lazyscribe(old_lazyscribe / "repository.json", tmp_path / "new", allow_pickle=True)
    assert report.imported == ["default/model:v0"]
    assert report.present == ["default/features:v0", "default/features:v1"]
    registry = ArtifactRegistry(tmp_path / "new")
    assert registry.load_artifact("features") == [0, 1, 2]
    assert registry.load_artifact("model") == {"a": {1, 2}}
    with pytest.raises(ArtifactExpired):
        registry.load_artifact("features", 0)
    rows = {(row["name"], row["version"]): row for row in json.loads((old_lazyscribe / "repository.json").read_text())}
    for number in (0, 1):
        logged = datetime.fromisoformat(rows["features", number]["created_at"]).replace(tzinfo=UTC)
        assert registry.get_artifact("features", number).created_at == logged
        assert registry.get_artifact("features", logged, "asof").version == f"v{number}"


def test_experiments_of_lazyscribe_become_collections(old_lazyscribe: Path, tmp_path: Path) -> None:
    report = import_lazyscribe(old_lazyscribe / "project.json", tmp_path / "new")
    assert report.imported == ["my-experiment/coefficients:v0"]
    info = ArtifactRegistry(tmp_path / "new", collection="my-experiment").get_artifact("coefficients")
    assert info.metadata["metrics"] == {"auc": 0.5}
    assert info.metadata["author"] == "ada"


def test_a_file_of_an_unknown_handler_is_logged_as_a_file(old_lazyscribe: Path, tmp_path: Path) -> None:
    file = old_lazyscribe / "repository.json"
    file.write_text(file.read_text().replace('"json"', '"unheard-of"'))
    import_lazyscribe(file, tmp_path / "new")
    [(name, _)] = ArtifactRegistry(tmp_path / "new").list_files("features", 1)
    assert name.startswith("features-")


@pytest.mark.parametrize("path", ["../../secret", "/etc/passwd", "link"])
def test_paths_lead_to_nothing_outside(old_lazyscribe: Path, tmp_path: Path, path: str) -> None:
    (tmp_path / "secret").write_text("[1]")
    (old_lazyscribe / "x").mkdir()
    (old_lazyscribe / "x/link").symlink_to(tmp_path / "secret")
    row = {"name": "x", "fname": path, "handler": "json", "version": 0, "created_at": "2026-01-01T00:00:00"}
    (old_lazyscribe / "repository.json").write_text(json.dumps([row]))
    report = import_lazyscribe(old_lazyscribe / "repository.json", tmp_path / "new")
    assert not report.imported
    assert "is missing" in report.left_out[0] or f"is not in {old_lazyscribe}" in report.left_out[0]


# --- scaffold ---------------------------------------------------------------------------------------------------------


def test_artifacts_of_scaffold_keep_collections_and_versions(tmp_path: Path) -> None:
    old = FileSystemArtifactManager(url=str(tmp_path / "old"), collection="models")
    file = tmp_path / "weights.txt"
    for text in ("one", "two", "three"):
        file.write_text(text)
        old.log_files("classifier", str(file))
    old.write_metafile("classifier", "about it", "notes.md")
    old.remove_version("classifier", "v1")
    report = import_scaffold(tmp_path / "old", tmp_path / "new")
    assert report.imported == ["models/classifier:v0", "models/classifier:v2"]
    assert report.left_out == ["models/classifier:v2 is v1 here, because that number was the next one."]
    registry = ArtifactRegistry(tmp_path / "new", collection="models")
    with registry.download_artifact("classifier") as folder:
        assert (folder / "weights.txt").read_text() == "three"
    info = registry.get_artifact("classifier")
    newest = (tmp_path / "old/models/classifier/v2/weights.txt").stat().st_mtime
    assert abs(info.created_at.timestamp() - newest) < 0.001
    assert import_scaffold(tmp_path / "old", tmp_path / "new").present == report.imported
    assert len(registry.list_versions("classifier")) == 2


# --- Metis ------------------------------------------------------------------------------------------------------------


def metis_snapshot(root: Path, name: str, text: str, **metadata: Any) -> Path:
    folder = root / name
    (folder / "database").mkdir(parents=True)
    (folder / "database/papers.data.json").write_text(text)
    (folder / "bulk_store/experiments").mkdir(parents=True)
    (folder / "bulk_store/experiments/test.txt").write_text("test data")
    collections = {"collections": {"papers": 3}, "git_commit": "abc123", "git_branch": "main", "snapshot_name": name}
    (folder / "metadata.json").write_text(json.dumps({**collections, **metadata}))
    return folder


def packed(folder: Path) -> None:
    """Pack a snapshot as Metis does after a week: only `metadata.json` stays beside the archive."""
    with tarfile.open(f"{folder}.tar.gz", "w:gz") as archive:
        archive.add(folder, folder.name)
    shutil.rmtree(folder / "database")
    shutil.rmtree(folder / "bulk_store")


def test_snapshots_of_metis_become_backups(tmp_path: Path) -> None:
    old = tmp_path / "old"
    name = "metis_20251007_143022_production_baseline"
    details = {"timestamp": "2025-10-07T14:30:22", "description": "Production baseline", "permanent": True}
    packed(metis_snapshot(old, name, "first", **details))
    metis_snapshot(old, "metis_20251008_090000_later", "second", timestamp="2025-10-08T09:00:00", description="later")
    (old / "unrelated").mkdir()

    report = import_metis(old, tmp_path / "new")
    assert report.imported == [name, "metis_20251008_090000_later"]
    assert not report.left_out
    manager = BackupManager(tmp_path / "new", name="metis")
    assert [backup.name for backup in manager.list_backups()] == report.imported[::-1]
    first = manager.get_backup(name)
    assert first.created_at == datetime(2025, 10, 7, 14, 30, 22).astimezone()
    assert (first.description, first.pinned) == ("Production baseline", True)
    assert first.git is not None
    assert (first.git.commit, first.git.branch) == ("abc123", "main")
    target = tmp_path / "restored"
    target.mkdir()
    manager.restore_backup(name, confirm=True, to={"database": target / "database", "bulk_store": target / "bulk"})
    assert (target / "database/papers.data.json").read_text() == "first"
    assert (target / "bulk/experiments/test.txt").read_text() == "test data"
    assert import_metis(old, tmp_path / "new").present == report.imported


@pytest.mark.parametrize("how", ["above", "absolute", "link", "hard link", "pipe", "twice"])
def test_an_archive_that_leads_out_is_not_unpacked(tmp_path: Path, how: str) -> None:
    details = {"timestamp": "2025-10-07T14:30:22", "description": "evil"}
    folder = metis_snapshot(tmp_path / "old", "metis_20251007_143022_evil", "x", **details)
    packed(folder)
    (tmp_path / "out.txt").write_text("out")
    kinds = {"link": tarfile.SYMTYPE, "hard link": tarfile.LNKTYPE, "pipe": tarfile.FIFOTYPE}
    names = {"above": "../../../../out-of-it.txt", "absolute": f"{tmp_path}/out-of-it.txt"}
    with tarfile.open(f"{folder}.tar.gz", "w:gz") as archive:
        member = archive.gettarinfo(tmp_path / "out.txt", names.get(how, "database/out.txt"))
        member.type, member.linkname = kinds.get(how, tarfile.REGTYPE), str(tmp_path)
        for name in (names.get(how, "database/out.txt"), "database/out.txt/out-of-it.txt", "database/out.txt"):
            member.name = name
            archive.addfile(member, (tmp_path / "out.txt").open("rb") if member.isfile() else None)
    report = import_metis(tmp_path / "old", tmp_path / "new")
    assert not report.imported
    assert report.left_out[0].startswith("metis_20251007_143022_evil was not imported: ")
    assert not list(tmp_path.rglob("out-of-it.txt"))


# --- malformed files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"fname": "x\0"},
        {"fname": "\ud800"},
        {"name": ["x"]},
        {"created_at": 1e300},
        {"expiry": "0001-01-01T00:00+14:00"},
    ],
    ids=str,
)
def test_a_malformed_version_does_not_keep_others_from_the_import(tmp_path: Path, change: dict[str, Any]) -> None:
    row = {"name": "x", "fname": "x.json", "handler": "json", "version": 0, "created_at": "2026-01-31T12:00:00"}
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "x.json").write_text("[1]")
    (tmp_path / "repository.json").write_text(json.dumps([row, {**row, "version": 1, **change}]))
    try:
        report = import_lazyscribe(tmp_path / "repository.json", "memory://malformed-version")
    except InvalidArgument as error:
        assert "Nothing was imported" in str(error)  # noqa: PT017  it may be found before anything is imported
    else:
        assert "default/x:v0" in [*report.imported, *report.present]


@pytest.mark.parametrize("content", ["{not", "[" * 100_000], ids=["syntax", "depth"])
def test_a_malformed_value_does_not_keep_others_from_the_import(tmp_path: Path, content: str) -> None:
    row = {"name": "x", "fname": "x.json", "handler": "json", "version": 0}
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "x.json").write_text(content)
    (tmp_path / "x" / "y.json").write_text("[1]")
    (tmp_path / "repository.json").write_text(json.dumps([row, {**row, "version": 1, "fname": "y.json"}]))
    report = import_lazyscribe(tmp_path / "repository.json", tmp_path / "repository")
    assert report.imported == ["default/x:v1"]
    assert "default/x:v0 was not imported" in report.left_out[0]


@pytest.mark.parametrize("bomb", ["a file", "many files", "a header", "behind the end", "a sparse file"])
def test_an_archive_of_metis_that_is_a_bomb_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bomb: str
) -> None:
    monkeypatch.setattr(metis_folders, "_SMALL", 8 << 20)
    monkeypatch.setattr(metis_folders, "_MOST_MEMBERS", 100)
    for name in ("bomb", "sound"):
        (tmp_path / name).mkdir()
        metadata = {"snapshot_name": name, "timestamp": "2025-10-07T14:30:22"}
        (tmp_path / name / "metadata.json").write_text(json.dumps(metadata))
        with tarfile.open(tmp_path / f"{name}.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as archive:
            member = tarfile.TarInfo("database/rows")
            member.size = 16 << 20 if (name, bomb) == ("bomb", "a file") else 100
            if (name, bomb) == ("bomb", "a header"):
                member.pax_headers = {"comment": "x" * (4 << 20)}
            for number in range(200 if (name, bomb) == ("bomb", "many files") else 1):
                member.name = f"database/rows{number}"
                archive.addfile(member, io.BytesIO(bytes(member.size)))
    if bomb == "behind the end":
        with gzip.open(tmp_path / "bomb.tar.gz", "ab") as more:
            more.write(bytes(16 << 20))
    if bomb == "a sparse file":
        with (tmp_path / "holes").open("wb") as holes:
            holes.truncate(64 << 20)
        (tmp_path / "bomb.tar.gz").unlink()
        packing = [
            "tar",
            "-C",
            str(tmp_path),
            "--sparse",
            "--transform",
            "s,^,database/,",
            "-czf",
            str(tmp_path / "bomb.tar.gz"),
        ]
        subprocess.run([*packing, "holes"], check=True)
    report = import_metis(tmp_path, Repository(tmp_path / "repository"))
    assert report.imported == ["sound"]
    assert [text for text in report.left_out if text.startswith("bomb was not imported: its archive ")]


def test_a_handler_that_fails_in_its_own_way_does_not_keep_others_from_the_import(tmp_path: Path) -> None:
    row = {"name": "x", "fname": "x", "handler": "numpy", "version": 0}
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "x").write_bytes(b"PK\x03\x04" + bytes(100))  # no ValueError, but BadZipFile
    (tmp_path / "x" / "y").write_text("[1]")
    (tmp_path / "repository.json").write_text(json.dumps([row, {**row, "version": 1, "fname": "y", "handler": "json"}]))
    report = import_lazyscribe(tmp_path / "repository.json", tmp_path / "repository")
    assert report.imported == ["default/x:v1"]
    assert "the handler 'numpy' cannot read" in report.left_out[0]


@pytest.mark.parametrize("which", [import_lazyscribe, import_metis, import_scaffold, import_snapshot_manager])
def test_a_pipe_is_not_waited_for(tmp_path: Path, which: Any) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidArgument, match="Nothing was imported"):
        which(tmp_path / "pipe", tmp_path / "repository")


def test_names_in_a_report_forge_no_line(tmp_path: Path) -> None:
    rows = [{"name": "x\x1b[2J\nyes: imported", "fname": "f", "handler": "json", "version": 0}]
    (tmp_path / "repository.json").write_text(json.dumps(rows))
    (line,) = import_lazyscribe(tmp_path / "repository.json", tmp_path / "repository").left_out
    assert line.isprintable()


@pytest.mark.parametrize("cut", [0.5, None], ids=["cut", "flipped"])
def test_a_damaged_archive_of_metis_is_left_out(tmp_path: Path, cut: float | None) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "database").mkdir(parents=True)
        (tmp_path / name / "database" / "rows").write_bytes(np.random.default_rng(1).bytes(50_000))
        metadata = {"snapshot_name": name, "timestamp": "2025-10-07T14:30:22"}
        (tmp_path / name / "metadata.json").write_text(json.dumps(metadata))
    archive = tmp_path / "a.tar.gz"
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(tmp_path / "a" / "database", "database")
    shutil.rmtree(tmp_path / "a" / "database")
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 1  # random bytes are stored, so that only the checksum at the end notices this
    archive.write_bytes(data if cut is None else data[: int(len(data) * cut)])
    report = import_metis(tmp_path, "memory://damaged-metis")
    assert "b" in [*report.imported, *report.present]
    assert [text for text in report.left_out if text.startswith("a was not imported: ")]


def test_metadata_of_metis_that_is_nested_too_deeply_or_has_no_time_of_a_calendar_is_left_out(tmp_path: Path) -> None:
    for name, text in {
        "deep": "[" * 100_000,
        "late": '{"timestamp": 1e300}',
        "early": '{"timestamp": "0001-01-01T00:00:00+14:00"}',
    }.items():
        (tmp_path / name / "database").mkdir(parents=True)
        (tmp_path / name / "metadata.json").write_text(text)
    report = import_metis(tmp_path, "memory://no-time-metis")
    assert not report.imported
    assert sorted(text.partition(" ")[0] for text in report.left_out) == ["deep", "early", "late"]


def test_a_file_of_snapshot_manager_is_not_even_unpacked_without_permission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zlib.decompress", lambda data: pytest.fail("a file was unpacked"))
    (tmp_path / "old.pkl").write_bytes(b"")
    with pytest.raises(PickleRefused):
        import_snapshot_manager(tmp_path / "old.pkl", "memory://refused")
