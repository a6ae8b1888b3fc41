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
`larger_than`, `follow_links` and `strict` are those of `Directory`, and apply to all directories. `hooks` are those of
`Hooks`, and `limit_upload` that of `Repository`. `only_changed` applies to every `backups restore`.

The file is searched for in the working directory and the directories above it. Paths in it are relative to the file.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UNDECODABLE, InvalidArgument
from ..private_files import why_forgeable

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
    "follow_links": bool,
    "strict": bool,
    "only_changed": bool,
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
            table = tomllib.loads(file.read_bytes().decode()).get("tool", {}).get(TABLE)
            why = why_forgeable(file, here)
        except (*UNDECODABLE, OSError, AttributeError) as error:
            raise InvalidArgument(f"{file} cannot be read: {error}.") from None
        if table is None:
            continue
        # Anybody can put a file into /tmp, and this one can name programs to run.
        if why is not None:
            raise InvalidArgument(
                f"{file} {why}, and its [tool.{TABLE}] could run programs as you. Nothing was done. If you trust it, "
                f"correct its owner or permissions, or work in {folder} if its owner is that of the file. Otherwise "
                f"write a pyproject.toml of your own, with an empty [tool.{TABLE}], in {here}."
            )
        return _checked(table, file)
    return {}


def write_settings(file: Path, text: str) -> None:
    """Write a file of the user as a whole: whatever happens, the old or the new one is there. Links are followed.

    Raises:
        InvalidArgument: Something else than a file is there, or a link to nothing.
        OSError: It cannot be written.
    """
    place = Path(os.path.realpath(file))
    before = place.stat() if place.exists() else None
    if before is None and file.is_symlink():
        raise InvalidArgument(f"{file} is a link to {place}, where nothing is. Nothing was written. Delete the link.")
    if before is not None and not stat.S_ISREG(before.st_mode):
        raise InvalidArgument(f"{file} is not a regular file. Nothing was written. Name another file.")
    if not place.parent.is_dir():
        raise InvalidArgument(f"There is no directory {place.parent}. Nothing was written. Create it.")
    data = text.encode()
    new = place.with_name(f".{place.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), "wb") as writing:
            writing.write(data)
            writing.flush()
            os.fsync(writing.fileno())
            if before is not None:
                os.fchmod(writing.fileno(), stat.S_IMODE(before.st_mode))
                with contextlib.suppress(PermissionError):
                    os.fchown(writing.fileno(), before.st_uid, before.st_gid)
        os.replace(new, place)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


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
