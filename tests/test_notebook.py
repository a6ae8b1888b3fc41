"""Managers work in a notebook, under its running event loop, and print what the notebook in the documentation shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "docs" / "notebooks" / "quickstart.ipynb"


def outputs_of(notebook: Any) -> list[str]:
    """What each code cell shows, as text."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return ["".join(shown.get("text") or shown["data"]["text/plain"] for shown in cell.outputs) for cell in cells]


def test_the_quickstart_shows_what_it_says(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    said = outputs_of(notebook)
    client = NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    assert outputs_of(notebook) == said
    assert said[0] == "an event loop is running: True\n"
    assert (tmp_path / "snapshots" / "repository.json").exists()


CELLS = """
import pathlib, sys
from prefect_snapshots import ArtifactRegistry, BackupManager, SnapshotManager, Snapper
from prefect_snapshots.checkpoints import CheckpointManager
assert "prefect" not in sys.modules, "tables need no Prefect"
pathlib.Path("data").mkdir()
pathlib.Path("data/a").touch(mode=0o640)
snapshots = SnapshotManager("repository", name="train", rank_by="loss", mode="min")
for step in range(3):
    _ = snapshots.save_snapshot({"w": step, "b": "<script>"}, f"step-{step}", {"loss": 1 / (1 + step), "note": "<b>"})
backups = BackupManager("repository", name="shop", directories=["data"])
backup = backups.create_backup("<i>now</i>")
Snapper(range(3), abs, repository="repository", name="numbers", function_version=1).start()
registry = ArtifactRegistry("repository")
_ = registry.log_artifact("model", {"a": 1})

snapshots
---
snapshots.diff("step-0")
---
snapshots.get_snapshot("step-1")
---
backups
---
backup
---
registry
---
registry.get_artifact("model")
---
CheckpointManager("repository")
---
backups.cleanup(dry_run=True)
---
snapshots.repository.check()
---
BackupManager("nowhere", name="none")
---
snapshots.list_snapshots()
---
snapshots.list_snapshots()[0]
---
_ = registry.log_artifact("model", {"a": 2})
registry.diff("model", "v0", "v1")
---
CheckpointManager("repository").get_checkpoint("numbers")
---
backups.list_files("latest")
---
snapshots.repository
---
snapshots.repository.stats()
---
[1, "a list of others"]
"""


def test_results_are_tables(tmp_path: Path) -> None:
    notebook: Any = nbformat.v4.new_notebook()  # type: ignore[no-untyped-call]
    notebook.cells = [nbformat.v4.new_code_cell(cell) for cell in CELLS.split("---\n")]  # type: ignore[no-untyped-call]
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources).execute()
    assert list(notebook.cells.pop().outputs[-1]["data"]) == ["text/plain"]
    shown = [cell.outputs[-1]["data"]["text/html"] for cell in notebook.cells]
    wanted = [
        ("Snapshots of train", "★ best", "<svg", "step-2"),
        ("Differences: 1", "<code>w</code>", ">0<", ">2<"),
        ("Snapshot step-1", "loss=0.5"),
        ("Backups of shop", "newest first"),
        ("description", "&lt;i&gt;now&lt;/i&gt;"),
        ("Artifacts in file://", "<code>model</code>", "<code>v0</code>"),
        ("default/model v0", "handler"),
        ("Checkpoints in file://", "<code>numbers</code>", ">3<"),
        ("Cleanup", "last"),
        ("Check: no problems", "versions"),
        ("Backups of none", "There are no backups"),
        ("SnapshotInfo: 3", "step-2", "loss=1"),
        ("Snapshot step-2", "loss=0.33"),
        ("FileDifference: 1", "changed"),
        ("Checkpoints of numbers", "abs"),
        ("FileInfo: 1", ">640<"),
        ("Repository file://", "total stored", "numbers", "default/model"),
        ("Statistics", "saved by deduplication", "packs", "Requests of this process"),
    ]
    for html, texts in zip(shown, wanted, strict=True):
        assert [text for text in texts if text not in html] == [], html
        assert "<script" not in html
        assert "<i>" not in html
