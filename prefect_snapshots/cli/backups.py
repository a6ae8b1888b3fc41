"""`prefect-snapshots backup ...`: make, find, verify, restore and export backups, and let old ones go."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import os
import shutil
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App

from ..errors import BackupNotFound, InvalidArgument, SnapshotsError
from .backup_sources import (
    AS_CONFIGURED,
    CONFIGURED_RETENTION,
    Retention,
    SourceOptions,
    Sources,
    configuration,
    manager_of,
)
from .output import Answer, Column, count_text, fields, size_text, table, time_text
from .session import Session, SessionArgument

if TYPE_CHECKING:
    from ..backups import Backup, BackupManager
    from ..repository import Repository
    from ..retention import CleanupReport

app = App(name="backup", help="Make, find, verify, restore and export backups of databases and directories.")

PINNED = "📌"
_PROBLEM = 1


# --- making -----------------------------------------------------------------------------------------------------------


@app.command
def create(
    description: str = "",
    /,
    *,
    permanent: bool = False,
    no_directories: bool = False,
    tag: list[str] | None = None,
    sources: Sources = AS_CONFIGURED,
    session: SessionArgument,
) -> Answer:
    """Back up all databases and directories, all of them or nothing. Then old backups go, as the retention says.

    What to back up is said by options, else by [tool.prefect-snapshots] in pyproject.toml. The repository is created if
    there is none.

    Arguments:
        description: Why; becomes part of the name.
        permanent: Never let it go by itself.
        no_directories: Only the databases.
        tag: A tag, for the retention to keep. Repeat it for several.
    """
    manager = manager_of(_opened(session, create=True), sources)
    with session.progress() as progress:
        backup = manager.create_backup(description, permanent, not no_directories, tuple(tag or ()), progress=progress)
    return Answer(_described(backup), _view_backup, f"Backup created: {backup.name}", told=True)


# --- looking ----------------------------------------------------------------------------------------------------------


@app.command(name="list")
def list_all(*, name: str | None = None, verbose: bool = False, session: SessionArgument) -> Answer:
    """List the backups, newest first. 📌 marks those that never go by themselves.

    Arguments:
        name: Of the manager. Default: what pyproject.toml says, else all.
        verbose: Also the parts of each, with their rows or documents per table or collection.
    """
    repository = _opened(session)
    names = _names(repository, name)
    found = {each: _manager(repository, each).list_backups() for each in names}
    document = {
        "repository": repository.url,
        "backups": [{"manager": each, **_described(backup)} for each, backups in found.items() for backup in backups],
    }
    total = sum(map(len, found.values()))
    remark = f"{count_text(total, 'backup')}." if total else "There are no backups."
    return Answer(document, _view_verbosely if verbose else _view_backups, remark)


@app.command
def show(backup: str, /, *, session: SessionArgument) -> Answer:
    """Show what is known of a backup: parts, counts, sizes, and where it was made.

    Arguments:
        backup: Its name.
    """
    _, found = _find(_opened(session), backup)
    return Answer(_described(found), _view_backup)


@app.command
def verify(backup: str, /, *, session: SessionArgument) -> Answer:
    """Read a whole backup, and verify every byte.

    Arguments:
        backup: Its name.
    """
    manager, found = _find(_opened(session), backup)
    with session.progress() as progress:
        manager.verify_backup(backup, progress)
    return Answer(_described(found), remark=f"{backup} is sound: {size_text(found.size)} verified.")


@app.command
def doctor(*, sources: Sources = AS_CONFIGURED, session: SessionArgument) -> Answer:
    """Say whether a backup could be made: tools, credentials, directories, the repository and its space.

    The exit code is 1 if it could not.
    """
    findings: list[dict[str, Any]] = []

    def look(what: str, found: Any) -> None:
        try:
            findings.append({"what": what, "ok": True, "found": list(found())})
        except (SnapshotsError, OSError) as error:
            findings.append({"what": what, "ok": False, "found": [str(error)]})

    repository = _opened(session, create=True)
    look(f"repository {repository.url}", lambda: _look_at_repository(repository))
    manager = manager_of(repository, sources)
    for database in manager.databases:
        look(f"database {database.name}", database.check)
    for directory in manager.directories:
        look(f"directory {directory.path}", lambda place=Path(directory.path): _look_at_directory(place))
    if not manager.databases and not manager.directories:
        nothing = "nothing to back up: give --database or --directory, or say it in pyproject.toml"
        findings.append({"what": "sources", "ok": False, "found": [nothing]})
    bad = sum(not finding["ok"] for finding in findings)
    remark = f"{count_text(bad, 'problem')}." if bad else "A backup can be made."
    return Answer({"findings": findings}, _view_findings, remark, status=_PROBLEM if bad else 0)


# --- restoring --------------------------------------------------------------------------------------------------------


@app.command
def restore(
    backup: str,
    /,
    *,
    no_directories: bool = False,
    no_databases: bool = False,
    to: list[str] | None = None,
    only: list[str] | None = None,
    no_safety_backup: bool = False,
    in_place: bool = False,
    sources: Sources = AS_CONFIGURED,
    session: SessionArgument,
) -> Answer:
    """Make databases and directories what they were; what the backup does not hold is removed from them. Asks first.

    Everything is verified before anything is touched. Each part is restored beside its target and swapped in, where the
    target can do that; for the others a safety backup is made first.

    Arguments:
        backup: Its name.
        no_directories: Leave directories alone.
        no_databases: Leave databases alone.
        to: PART=TARGET: another target for a part, which is named as `show` has it, or by the end of that. A database's
            URL or a path. Repeat it for several.
        only: PART, or PART::TABLE, or PART::PATH: nothing but that. Repeat it for several.
        no_safety_backup: Make none.
        in_place: A directory that cannot be swapped as a whole, such as a mount point, is restored file by file.
    """
    repository = _opened(session, create=True)
    targets = dict(map(_pair, to or ()))
    parts = _only(only)
    owner, found = _find(repository, backup)
    manager = manager_of(repository, dataclasses.replace(sources, name=owner.name))
    lines = [f"Restore backup: {found.name}", *(f"  {line}" for line in _view_brief(_described(found)))]
    session.confirm("This REPLACES what is there now. Restore it?", lines)
    with session.progress() as progress:
        report = manager.restore_backup(
            backup,
            confirm=True,
            include_directories=not no_directories,
            include_databases=not no_databases,
            to={name: _target(found, name, target) for name, target in targets.items()},
            only=parts,
            safety=not no_safety_backup,
            in_place=in_place,
            progress=progress,
        )
    safe = f" What was there before is in {report.safety_backup}." if report.safety_backup else ""
    remark = f"Restored {', '.join(report.restored)} from {backup}.{safe}"
    return Answer(dataclasses.asdict(report), remark=remark)


@app.command
def export(backup: str, path: Path, /, *, session: SessionArgument) -> Answer:
    """Write a backup into a plain tar file, which needs nothing of ours to be read.

    Arguments:
        backup: Its name.
        path: A file that does not exist. With the suffix .zst it is compressed.
    """
    manager, found = _find(_opened(session), backup)
    with session.progress() as progress:
        written = manager.export(backup, path, progress)
    size = written.stat().st_size
    document = {"backup": found.name, "path": str(written), "size": size}
    return Answer(document, remark=f"Exported {backup} to {written}: {size_text(size)}.")


@app.command
def drill(backup: str | None = None, /, *, sources: Sources = AS_CONFIGURED, session: SessionArgument) -> Answer:
    """Restore a backup where it harms nobody, and compare counts and bytes. The exit code is 1 if something differs.

    Arguments:
        backup: Its name. Default: the newest.
    """
    manager = manager_of(_opened(session), sources)
    with session.progress() as progress:
        report = manager.drill(backup or "latest", progress)
    document = {**dataclasses.asdict(report), "ok": report.ok}
    remark = f"{report.name} came back as it was." if report.ok else f"{report.name} did NOT come back as it was."
    return Answer(document, _view_drill, remark, status=0 if report.ok else _PROBLEM)


# --- letting go -------------------------------------------------------------------------------------------------------


@app.command
def delete(backup: str, /, *, force: bool = False, session: SessionArgument) -> Answer:
    """Delete a backup. Asks first. `cleanup` or `prune` frees the space.

    Arguments:
        backup: Its whole name.
        force: Also one that is permanent, or whose record is broken.
    """
    manager, found = _find(_opened(session, writing=True), backup)
    session.confirm(f"Delete {backup} ({found.description or 'no description'}, {size_text(found.size)})?")
    manager.delete_backup(backup, force)
    return Answer({"deleted": backup}, remark=f"Deleted {backup}. `prefect-snapshots prune` frees the space.")


@app.command
def permanent(backup: str, /, *, off: bool = False, session: SessionArgument) -> Answer:
    """Have a backup never go by itself.

    Arguments:
        backup: Its name.
        off: Let it go as others do.
    """
    manager, _ = _find(_opened(session, writing=True), backup)
    marked = manager.unpin(backup) if off else manager.pin(backup)
    return Answer(_described(marked), remark=f"{backup} is {'pinned' if marked.pinned else 'not pinned'} now.")


@app.command
def cleanup(
    *,
    name: str | None = None,
    dry_run: bool = False,
    no_prune: bool = False,
    retention: Retention = CONFIGURED_RETENTION,
    session: SessionArgument,
) -> Answer:
    """Let go what the retention does not keep, and free the space.

    The retention is said by options, else by pyproject.toml; by default the last 10 stay, and one a week for 3 months.

    Arguments:
        name: Of the manager. Default: what pyproject.toml says, else default.
        dry_run: Only say what would go, and why the rest stays.
        no_prune: Free no space.
    """
    repository = _opened(session, writing=not dry_run)
    manager = manager_of(repository, SourceOptions(name=name), retention)
    with session.progress() as progress:
        report = manager.cleanup(dry_run=dry_run, prune=not no_prune, progress=progress)
    return Answer(dataclasses.asdict(report), _view_cleanup, _cleaned(report))


# --- helpers ----------------------------------------------------------------------------------------------------------


def _opened(session: Session, *, writing: bool = False, create: bool = False) -> Repository:
    """The repository of the options, else that of pyproject.toml, unless the environment names one."""
    from ..repository.repository import SETTING

    if session.url is None and not os.environ.get(SETTING):
        session = dataclasses.replace(session, url=configuration().get("repository"))
    return session.open(writing=writing, create=create)


def _manager(repository: Repository, name: str) -> BackupManager:
    from ..backups import BackupManager

    return BackupManager(repository, name=name)


def _names(repository: Repository, name: str | None) -> Sequence[str]:
    from ..backups import list_names

    name = name or configuration().get("name")
    return list_names(repository) if name is None else [name]


def _find(repository: Repository, backup: str) -> tuple[BackupManager, Backup]:
    """A backup under any name, and its manager."""
    from ..backups import list_names

    managers = [_manager(repository, name) for name in list_names(repository)]
    for manager in managers:
        with contextlib.suppress(BackupNotFound):
            return manager, manager.get_backup(backup)
    known = [each.name for manager in managers for each in manager.list_backups()]
    near = difflib.get_close_matches(backup, known, 3, 0.5) or known[:3]
    raise BackupNotFound(f"no backup {backup!r} (there is: {', '.join(near) or 'none at all'})")


def _pair(text: str) -> tuple[str, str]:
    part, separator, target = text.rpartition("=")
    if not separator or not part or not target:
        raise InvalidArgument(f"--to is PART=TARGET, not {text!r}")
    return part, target


def _only(texts: Sequence[str] | None) -> dict[str, list[str]]:
    parts: dict[str, list[str]] = {}
    for text in texts or ():
        part, _, inside = text.rpartition("::") if "::" in text else (text, "", "")
        parts.setdefault(part, []).extend([inside] if inside else [])
    return parts


def _target(backup: Backup, part: str, target: str) -> Any:
    return Path(target) if backup.part(part).kind == "directory" else target


def _look_at_repository(repository: Repository) -> Iterator[str]:
    if not repository.exists():
        yield "there is none yet: the first backup creates it"
    elif repository.encrypted:
        yield "encrypted, and the password opens it"
    else:
        yield "there, and not encrypted"
    if repository.location.is_local:
        place = Path(repository.url.removeprefix("file://"))
        while not place.exists():
            place = place.parent
        yield f"{size_text(shutil.disk_usage(place).free)} free"


def _look_at_directory(place: Path) -> Iterator[str]:
    yield f"{count_text(sum(1 for _ in place.iterdir()), 'entry', 'entries')}"


def _described(backup: Backup) -> dict[str, Any]:
    return backup.to_dict()


def _view_backups(document: dict[str, Any]) -> Iterator[str]:
    columns = (
        Column(""),
        Column("name"),
        Column("created (local)"),
        Column("size", right=True),
        Column("written", right=True),
        Column("", cut=True),
    )
    rows = [
        (
            "!" if each["broken"] else PINNED if each["pinned"] else "",
            each["name"],
            _moment(each["created_at"], seconds=False),
            size_text(each["size"]),
            size_text(each["written"]),
            f"broken: {each['broken']}" if each["broken"] else "",
        )
        for each in document["backups"]
    ]
    if rows:
        yield from table(columns, rows)


def _view_verbosely(document: dict[str, Any]) -> Iterator[str]:
    for each in document["backups"]:
        yield f"{PINNED + ' ' if each['pinned'] and not each['broken'] else ''}{each['name']}"
        yield from (f"   {line}" for line in _view_brief(each))
        yield ""


def _view_brief(backup: dict[str, Any]) -> Iterator[str]:
    git = backup["git"] or {}
    state = f"{git['branch'] or 'no branch'}@{(git['commit'] or '')[:7]}{' (changed)' * git['dirty']}" if git else ""
    rows = sum(sum(part["counts"].values()) for part in backup["parts"])
    tables = sum(len(part["counts"]) for part in backup["parts"])
    facts = {
        "description": backup["description"],
        "broken": backup["broken"] or "",
        "created": f"{_moment(backup['created_at'])} (local)",
        "size": f"{size_text(backup['size'])}, {size_text(backup['written'])} of it written",
        "files": f"{backup['files']:,}",
        "rows": f"{rows:,} in {count_text(tables, 'table')}" if tables else "",
        "git": state,
        "tags": ", ".join(backup["tags"]),
        "host": backup["host"],
    }
    yield from fields(facts)
    for part in backup["parts"]:
        yield from fields({part["name"]: f"{part['kind']}, {size_text(part['size'])}"})
        yield from (f"  {line}" for line in fields({name: f"{count:,}" for name, count in part["counts"].items()}))
        yield from (f"  {line}" for line in part["notes"])


def _view_backup(backup: dict[str, Any]) -> Iterator[str]:
    yield f"{PINNED + ' ' if backup['pinned'] and not backup['broken'] else ''}{backup['name']}"
    yield from _view_brief(backup)


def _view_findings(document: dict[str, Any]) -> Iterator[str]:
    for finding in document["findings"]:
        yield f"{'ok ' if finding['ok'] else 'BAD'} {finding['what']}: {'; '.join(finding['found'])}"


def _view_drill(document: dict[str, Any]) -> Iterator[str]:
    columns = Column("part"), Column("kind"), Column("files", right=True), Column("rows", right=True), Column("found")
    rows = [
        (
            row["part"],
            row["kind"],
            f"{row['files']:,}",
            f"{sum(row['counts'].values()):,}",
            "; ".join(row["problems"]) or "as it was",
        )
        for row in document["rows"]
    ]
    yield from table(columns, rows)


def _view_cleanup(document: dict[str, Any]) -> Iterator[str]:
    rows = [(row["name"], "keep" if row["keep"] else "remove", ", ".join(row["reasons"])) for row in document["rows"]]
    if rows:
        yield from table((Column("name"), Column(""), Column("reasons", cut=True)), rows)


def _cleaned(report: CleanupReport) -> str:
    would = "would be " if report.dry_run else ""
    freed, later = size_text(report.freed), size_text(report.freed_later)
    return f"{count_text(len(report.deleted), 'backup')} {would}removed; {freed} {would}freed now, {later} later."


def _moment(text: str, *, seconds: bool = True) -> str:
    return time_text(datetime.fromisoformat(text), seconds=seconds)
