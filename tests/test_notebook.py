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
