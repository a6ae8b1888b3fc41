"""Make the page of errors from their docstrings: `python tests/error_page.py docs/reference/errors.md`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

from prefect_snapshots import errors
from prefect_snapshots.errors import IntegrityError, RetryableError, SetupError, SnapshotsError, UsageError

GROUPS = (UsageError, RetryableError, SetupError, IntegrityError)

_HEAD = """# Reference: errors

Every error of prefect-snapshots is a `SnapshotsError`. Four groups say what you can do about it, and each is a class
that you can catch. Errors that replace a built-in one (`KeyError`, `ValueError`, `OSError`, ...) inherit from it, too.
All of them survive pickling, because task runners carry errors between processes.

```python
from prefect_snapshots import SnapshotManager, errors

try:
    SnapshotManager("memory://example", name="train").get_snapshot("epoch-1")
except errors.UsageError as error:
    print(type(error).__name__, isinstance(error, KeyError))
# Output: SnapshotNotFound True
```

The command line and the logs of flow runs name the error. `prefect-snapshots explain NAME` prints what this page says
about it.

| group | what to do |
|---|---|
"""


def page() -> str:
    """Return the page in Markdown."""
    rows = [f"| [`{each.__name__}`](#{each.__name__.lower()}) | {each.explanation()[1]} |\n" for each in GROUPS]
    return "\n".join([_HEAD + "".join(rows), *(section for group in GROUPS for section in _section(group))])


def in_group(group: type[SnapshotsError]) -> list[type[SnapshotsError]]:
    """Return the classes of a group in the order of the module. One that is in two groups stands in the first."""
    found = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, group)]
    earlier = GROUPS[: GROUPS.index(group)]
    return [kind for kind in found if kind not in (*GROUPS, SnapshotsError) and not issubclass(kind, earlier)]


def _section(group: type[SnapshotsError]) -> Iterator[str]:
    what, remedy = group.explanation()
    yield f"## {group.__name__}\n\n{what} {remedy}\n"
    for kind in in_group(group):
        bases = ", ".join(f"`{base.__name__}`" for base in kind.__bases__)
        what, remedy = kind.explanation()
        yield f"### {kind.__name__}\n\n{bases}\n\n**What happened.** {what}\n\n**What to do.** {remedy}\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page())
