"""Copy a repository into another one, event by event.

`histories` compares the two histories of a name, `copying` copies events and contents, and `log_copies` copies the
results of checkpoints. An event keeps its token, its time and its body, so that another run finds where the last one
ended, and nothing else has to be remembered.
"""

from __future__ import annotations

from .copying import CopyReport, Selection, copy

__all__ = ["CopyReport", "Selection", "copy"]
