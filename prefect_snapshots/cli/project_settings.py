"""The configuration of the command line: `[tool.prefect-snapshots]` in pyproject.toml.

```toml
[tool.prefect-snapshots]
repository = "s3://bucket/backups"
name = "shop"
databases = ["postgresql://backup@db.example.com/shop", "app.db", "prefect-snapshots-backup-database/crm"]
directories = ["uploads"]
files = ["settings.json"]
commands = { "users.sql" = "pg_dump --table=users shop" }
excludes = ["*.log", "/cache/"]
retention = { keep_last = 10, keep_weekly_within = "3m" }

[tool.prefect-snapshots.hooks]
before_backup = [["systemctl", "stop", "shop"]]
after_backup = [["systemctl", "start", "shop"]]
```

`excludes` are added to the default ones. `ignore_files`, `exclude_caches`, `exclude_if_present`, `one_file_system`,
`larger_than` and `strict` are those of `Directory`, and apply to all directories. `hooks` are those of `Hooks`, and
`limit_upload` that of `Repository`.

The file is searched for in the working directory and the directories above it. Paths in it are relative to the file.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InvalidArgument

TABLE = "prefect-snapshots"
REPOSITORY_BLOCK, DATABASE_BLOCK = BLOCKS = "prefect-snapshots-repository/", "prefect-snapshots-backup-database/"
"""The beginnings of names of blocks: of a repository, and of a database."""
_TYPES: Mapping[str, type] = {
    "repository": str,
    "name": str,
    "databases": list,
    "directories": list,
    "files": list,
    "commands": dict,
    "retention": dict,
    "hooks": dict,
    "limit_upload": int,
    "excludes": list,
    "ignore_files": list,
    "exclude_caches": bool,
    "exclude_if_present": list,
    "one_file_system": bool,
    "larger_than": int,
    "strict": bool,
}


def configuration() -> dict[str, Any]:
    """Return the configuration in pyproject.toml, with absolute paths.

    Raises:
        InvalidArgument: A key or a value in it is invalid.
    """
    for folder in (here := Path.cwd(), *here.parents):
        file = folder / "pyproject.toml"
        if not file.is_file():
            continue
        try:
            table = tomllib.loads(file.read_text()).get("tool", {}).get(TABLE)
        except (OSError, ValueError) as error:
            raise InvalidArgument(f"{file} cannot be read: {error}.") from None
        if table is not None:
            return _checked(table, file)
    return {}


def _checked(table: Any, file: Path) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise InvalidArgument(f"[tool.{TABLE}] in {file} is not a table.")
    for key, value in table.items():
        if key not in _TYPES:
            keys = ", ".join(_TYPES)
            raise InvalidArgument(f"[tool.{TABLE}] in {file} has the unknown key {key!r}. The keys are: {keys}.")
        texts = value if isinstance(value, list) else list(value.values()) if key == "commands" else []
        if not isinstance(value, _TYPES[key]) or not all(isinstance(text, str) for text in texts):
            raise InvalidArgument(f"The value of {key} in [tool.{TABLE}] in {file} is invalid: {value!r}.")

    def absolute(text: str) -> str:
        return text if "://" in text or text.startswith(DATABASE_BLOCK) else os.path.join(file.parent, text)

    found = dict(table)
    for key in {"databases", "directories", "files"} & found.keys():
        found[key] = [absolute(text) for text in found[key]]
    if "repository" in found:
        found["repository"] = absolute(found["repository"])
    return found
