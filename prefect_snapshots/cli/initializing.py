"""`prefect-snapshots init`: after three questions, backups are made every night."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ..errors import InvalidArgument, MissingDependency
from .backup_sources import AS_CONFIGURED, SourceOptions, Sources, manager_of
from .deployments import NIGHTLY, POOL, PREFECT_FILE, USUAL, apply_file, checked_cron, how_to_run, plan, write
from .output import Answer, fields, printable, size_text
from .project_settings import BLOCKS, REPOSITORY_BLOCK, TABLE, configuration, write_settings
from .session import Session, SessionArgument, at_terminal

Answered = TypeVar("Answered")

_TIME = re.compile(r"(\d{1,2}):(\d{2})", re.ASCII)

_KEPT = ("repository", "name", "databases", "directories", "files")
"""What is written to pyproject.toml."""


def init(
    *,
    cron: str | None = None,
    timezone: str = "UTC",
    work_pool: str = POOL,
    no_deployments: bool = False,
    sources: Sources = AS_CONFIGURED,
    session: SessionArgument,
) -> Answer:
    """Set up backups: make the first one, write the settings, and create a block and deployments.

    It asks what to back up, where to keep it, and when. Options answer in advance. The settings are
    [tool.prefect-snapshots] in pyproject.toml, in this directory. The block, a work pool and the deployments are
    created on the Prefect server of the active profile. Nothing that exists is replaced.

    Args:
        cron: When backups are made, as a cron expression. Default: you are asked.
        timezone: The time zone of all schedules. Default: UTC.
        work_pool: The work pool of the deployments. Default: snapshots.
        no_deployments: Use no Prefect server: create neither a block nor deployments.
    """
    from ..repository.repository import SETTING

    configured = configuration()
    if os.path.lexists(PREFECT_FILE) and not no_deployments:
        raise InvalidArgument(
            f"There is a {PREFECT_FILE} already. Nothing was changed. Pass --no-deployments, and then add deployments "
            "with `prefect-snapshots deployments --file FILE --apply`."
        )
    if not any(getattr(sources, each) for each in ("database", "directory", "file", "block")) and not any(
        configured.get(key) for key in ("databases", "directories", "files")
    ):
        what = "What do you want to back up? Directories, files, and databases (files or URLs), separated by spaces"
        find = functools.partial(_sorted, sources=sources)
        sources = _ask(session, what, find, option="--directory, --file or --database")
    place = session.url or os.environ.get(SETTING) or configured.get("repository") or ""
    place = place or _ask(
        session, "Where do you keep the backups? A directory, or s3://BUCKET/PREFIX", _place, "./snapshots"
    )
    if cron is None and not no_deployments:
        cron = _ask(
            session,
            f"When are backups made? A time of day such as 02:00, or a cron expression, in the time zone {timezone}",
            _schedule,
            NIGHTLY,
        )
    planned = plan(USUAL, sources, place, cron or NIGHTLY, timezone, work_pool)  # raises before anything is done
    if not no_deployments:
        from ..integration.deployed import require_prefect

        require_prefect("Or pass --no-deployments, to make only a backup and the settings.")

    chosen = session.at(place, session.storage_options)
    manager = manager_of(chosen.open(create=True), sources)
    with session.progress("byte") as progress:
        backup = manager.create_backup("first", progress=progress)
    document: dict[str, Any] = {
        "repository": manager.repository.url,
        "backup": backup.name,
        "size": backup.size,
        "files": backup.files,
        "settings": None,
        "block": None,
        "prefect_file": None,
        "deployments": [],
    }
    if not configured:
        document["settings"] = str(_write_settings(planned[0]["parameters"]))
    if not no_deployments:
        document["block"] = _save_block(chosen, planned[0]["parameters"]["repository"], manager.name)
        planned = plan(USUAL, sources, document["block"], cron or NIGHTLY, timezone, work_pool)
        write(PREFECT_FILE, planned)
        apply_file(PREFECT_FILE, work_pool)
        document |= {"prefect_file": str(PREFECT_FILE.absolute()), "deployments": planned}
    remark = "" if no_deployments else f"To run the deployments: {how_to_run(work_pool)}"
    return Answer(document, _view_done, remark, told=True)


def _ask(
    session: Session, question: str, understand: Callable[[str], Answered], default: str = "", *, option: str = ""
) -> Answered:
    """Return the user's answer to a question, or its default. An answer that makes no sense is asked for again."""
    if default and session.yes:
        return understand(default)
    if not at_terminal():
        ways = f"Answer with {option}." if option else "Answer with options, or accept all defaults with --yes."
        raise InvalidArgument(f"{question}? There is no terminal to ask on. {ways}".replace("??", "?"))
    while True:
        print(f"{printable(question)}{f' [{default}]' if default else ''}: ", end="", file=sys.stderr, flush=True)
        answer = sys.stdin.readline()
        if not answer:  # the end of the input, as by Ctrl-D
            raise InvalidArgument("You answered nothing. Nothing was changed.")
        if answer.strip() or default:
            try:
                return understand(answer.strip() or default)
            except (InvalidArgument, MissingDependency) as error:
                print(printable(str(error)), file=sys.stderr)


def _schedule(answer: str) -> str:
    """Return a cron expression, or that of every day at a time such as 2:30."""
    if (time := _TIME.fullmatch(answer)) is None:
        return checked_cron(answer)
    hour, minute = map(int, time.groups())
    cron = checked_cron(f"{minute} {hour} * * *")
    print(f"Backups are made every day at {hour:02}:{minute:02} ({cron}).", file=sys.stderr)
    return cron


def _place(answer: str) -> str:
    """Return a URL or path of a repository, if it is one."""
    from ..repository.location import open_location

    open_location(answer)
    return answer


def _sorted(answer: str, sources: SourceOptions) -> SourceOptions:
    """Return what the user named, as databases, directories and files."""
    databases: list[str] = []
    directories: list[Path] = []
    files: list[Path] = []
    try:
        words = shlex.split(answer)
    except ValueError as error:
        raise InvalidArgument(f"The quotation marks in {answer!r} do not match: {error}.") from None
    for text in words:
        path = Path(text).expanduser()
        if path.is_dir():
            directories.append(path)
        elif "://" in text or text.startswith(BLOCKS) or (path.is_file() and _is_database(path)):
            databases.append(text if "://" in text or text.startswith(BLOCKS) else str(path))
        elif path.is_file():
            files.append(path)
        else:
            raise InvalidArgument(f"There is no directory, file or database {text!r}.")
    return dataclasses.replace(sources, database=databases, directory=directories, file=files)


def _is_database(path: Path) -> bool:
    from ..backups.databases import drivers

    return any(driver.suffixes and path.name.endswith(driver.suffixes) for driver in drivers())


def _write_settings(parameters: Mapping[str, Any]) -> Path:
    """Add a table to pyproject.toml."""
    file = Path("pyproject.toml").absolute()
    before = file.read_bytes().decode() if file.exists() else ""
    # TOML does not allow DEL in strings, and JSON does.
    texts = {key: json.dumps(parameters[key], ensure_ascii=False) for key in _KEPT if key in parameters}
    lines = [f"{key} = {text}".replace("\x7f", "\\u007f") for key, text in texts.items()]
    gap = "\n" * bool(before) * (1 if before.endswith("\n") else 2)
    write_settings(file, before + gap + "\n".join([f"[tool.{TABLE}]", *lines, ""]))
    return file


def _save_block(session: Session, url: str, name: str) -> str:
    """Save a block with the repository, and return its slug and name: `default`, or the name of the backups."""
    from prefect.exceptions import ObjectNotFound
    from prefect.types import SecretDict
    from pydantic import SecretStr

    from ..integration.blocks import SnapshotRepository
    from ..integration.private_apis import load_block
    from ..repository.passwords import configured_password

    given = session.password()
    password = configured_password() if given is None else given or None
    block = SnapshotRepository(
        url=url,
        storage_options=SecretDict({**session.storage_options}),
        password=None if password is None else SecretStr(password),
        no_password=given is False,
    )
    for each in ("default", name):
        try:
            if load_block(SnapshotRepository, each).url == url:
                return f"{REPOSITORY_BLOCK}{each}"
        except ValueError as error:
            if not isinstance(error.__cause__, ObjectNotFound):
                raise
            block.save(each, _sync=True)  # type: ignore[call-arg]
            return f"{REPOSITORY_BLOCK}{each}"
    raise InvalidArgument(
        f"The blocks {REPOSITORY_BLOCK}default and {name} are of other repositories. The backup was made. Pass another "
        "--name, or delete one of the blocks."
    )


def _view_done(document: Mapping[str, Any]) -> Iterator[str]:
    deployed = ", ".join(
        f"{each['entrypoint'].rpartition('.')[2].replace('_', '-')}/{each['name']}" for each in document["deployments"]
    )
    yield from fields(
        {
            "repository": document["repository"],
            "first backup": f"{document['backup']}, {size_text(document['size'])}",
            "settings": document["settings"] or "",
            "block": document["block"] or "",
            "deployments": deployed,
            "written to": document["prefect_file"] or "",
        }
    )
