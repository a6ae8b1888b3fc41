"""Copy a repository into another one, event by event.

An event keeps its token, its time and its body, so that another run finds where the last one ended, and nothing else
has to be remembered. `histories` compares the two histories of a name, `copying` copies events and contents,
`log_copies` the results of checkpoints, and `value_copies` values that have an object each. `comparing` finds what one
of the two has lost, and `second_place` brings it back.
"""

from __future__ import annotations

from .comparing import compare
from .copying import CopyReport, Selection, copy
from .second_place import SecondPlace

__all__ = ["CopyReport", "SecondPlace", "Selection", "compare", "copy"]
