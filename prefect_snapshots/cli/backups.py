"""`prefect-snapshots backups ...`: make, browse, verify, restore, drill, export and delete backups."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App

from ..errors import BackupNotFound, ConfirmationRequired, InvalidArgument, Pinned, SnapshotsError, UsageError
from ..messages import hint
from .backup_sources import (
    AS_CONFIGURED,
    HOOKS_AS_CONFIGURED,
    NOTHING_LEFT_OUT,
    HookArguments,
    LeftOut,
    SourceOptions,
    Sources,
    manager_of,
)
from .completion import backup_names, backups, completed
from .naming import LATEST, NAME, choose
from .output import (
    PIN,
    RED,
    Answer,
    columns,
    count_text,
    deleted,
    fields,
    printable,
    size_text,
    styled,
    table,
    time_text,
)
from .project_settings import configuration
from .retention import NO_RETENTION, Retention, cleaned
from .session import SessionArgument

if TYPE_CHECKING:
    from ..backups import Backup, BackupManager, FailedBackup, RestoreReport
    from ..reports.diagnosis import Finding
    from ..repository import Repository, StagedPart

app = App(name="backups", help="Make, browse, verify, restore and export backups of databases and directories.")

Name = Annotated[str, completed(backup_names)]
Under = Annotated[str | None, NAME, completed(backup_names)]
BackupName = Annotated[str, completed(backups)]

PROVEN = "✓"
_PROBLEM = 1
"""The exit code of a command that found a problem."""
_NOT_TRIED = 2
"""The exit code of a drill that could not try a part: what is missing is an argument."""
_INCOMPLETE = 3
"""The exit code of a backup that was made, but left something out. It is the same as restic's.

Also that of a backup or restore that succeeded, and whose hooks failed afterwards.
"""


# --- making -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _reporting(manager: BackupManager) -> Iterator[None]:
    """Report to the Prefect server that the environment names, if any, that the backup in the block fails."""
    try:
        yield
    except UsageError:
        raise
    except SnapshotsError as error:
        if os.environ.get("PREFECT_API_URL"):
            from ..integration.backups import report_failed

            report_failed(manager, error, outside=True)
        raise


@app.command
def create(
    description: str = "",
    /,
    *,
    permanent: bool = False,
    prove: bool = False,
    no_directories: bool = False,
    tag: list[str] | None = None,
    part: list[str] | None = None,
    dry_run: bool = False,
    sources: Sources = AS_CONFIGURED,
    left_out: LeftOut = NOTHING_LEFT_OUT,
    hooks: HookArguments = HOOKS_AS_CONFIGURED,
    session: SessionArgument,
) -> Answer:
    """Back up databases and directories, then apply the retention policy. If one of them fails, nothing is saved.

    Options say what to back up, or else [tool.prefect-snapshots] in pyproject.toml. The repository is created if it
    does not exist. The exit code is 3 if something was left out, because it could not be read or because no restore
    could create it again, or if a command of --after failed.

    Args:
        description: Why you make the backup. It becomes part of the name.
        permanent: Pin the backup, so that retention never deletes it.
        prove: Also restore it into a temporary place, and compare. The exit code is 1 if something differs.
        no_directories: Back up only the databases.
        tag: A tag, which a retention policy can select. Repeat it for several.
        part: PLACE=PART: also make what `stage` has stored there, and printed, a part of this backup. Repeat it for
            several.
        dry_run: Store nothing. Only show the backup that would be made.
    """
    parts = [_staged(text) for text in part or ()]
    manager = manager_of(session.open(create=not dry_run), sources, left_out=left_out, hooks=hooks)
    last = next((each.size for each in manager.list_backups() if each.regular), 0)
    with session.progress("byte", last) as progress, _reporting(manager):
        backup = manager.create_backup(
            description,
            permanent,
            not no_directories,
            tuple(tag or ()),
            progress=progress,
            prove=prove,
            dry_run=dry_run,
            parts=parts,
        )
    remark = f"{'Backup would be created' if dry_run else 'Backup created'}: {backup.name}"
    if backup.incomplete:
        remark += ". Something was left out: see the notes."
    remark = " ".join([remark, *backup.failed_hooks])
    status = _INCOMPLETE if backup.incomplete or backup.failed_hooks else 0
    return Answer(backup.to_dict(), _view_backup, remark, told=not dry_run, status=status)


@app.command
def stage(
    place: str,
    /,
    *,
    only: list[str] | None = None,
    sources: Sources = AS_CONFIGURED,
    left_out: LeftOut = NOTHING_LEFT_OUT,
    session: SessionArgument,
) -> Answer:
    """Store databases and directories for a backup that `create --part` makes elsewhere. No backup appears yet.

    Run it on each machine that has some of the sources. It prints the PART to pass to `create`, with --quiet nothing
    else. A part that no backup contains is freed by `prune`. Hooks are not run.

    Args:
        place: The name of this machine, with which the names of the parts begin, as in db1::postgresql://...
        only: The name of a source: store only this one. Repeat it for several.
    """
    manager = manager_of(session.open(create=True), sources, left_out=left_out)
    with session.progress("byte") as progress:
        staged = manager.stage_backup(place, only or (), progress)
    text, size, written = staged.to_text(), staged.content.size, staged.content.written
    remark = f"Stored {size_text(size)} for a backup, {size_text(written)} written. It is in no backup yet."
    document = {"place": place, "part": text, "size": size, "written": written}
    return Answer(document, lambda shown: [shown["part"]], remark)


def _staged(text: str) -> tuple[str, StagedPart]:
    from ..repository import StagedPart

    place, separator, part = text.partition("=")
    if not separator or not place or not part:
        raise InvalidArgument(
            "--part must be PLACE=PART, where PART is what `prefect-snapshots backups stage PLACE` has printed."
        )
    return place, StagedPart.from_text(part)


# --- looking ----------------------------------------------------------------------------------------------------------


@app.command(name="list")
def list_all(name: Name | None = None, *, verbose: bool = False, session: SessionArgument) -> Answer:
    """List backups, newest first. 📌 marks pinned ones, and ✓ proven ones.

    Args:
        name: List only the backups of this name. Default: the name in pyproject.toml, or else all.
        verbose: Also show their parts, with the rows or documents per table or collection.
    """
    from ..repository.tracking import leaving_out_damage

    repository = session.open()
    names = _names(repository, name)
    found: dict[str, Sequence[Backup]] = {}
    failed: dict[str, Sequence[FailedBackup]] = {}
    for each in names:
        with leaving_out_damage(f"The history of the backups of {each}", when=len(names) > 1):
            manager = _manager(repository, each)
            found[each], failed[each] = manager.list_backups(), manager.list_failed_backups()
    if name is not None and not found[name] and not failed[name]:
        raise BackupNotFound(_none_under(repository, names))
    document = {
        "repository": repository.url,
        "backups": [{"manager": each, **backup.to_dict()} for each, backups in found.items() for backup in backups],
        "failed": [
            {"manager": each, **dataclasses.asdict(failure)}
            for each, failures in failed.items()
            for failure in failures
        ],
    }
    total = sum(map(len, found.values()))
    remark = f"{count_text(total, 'backup')}." if total else _none_under(repository, names)
    for each, failures in failed.items():
        last = next((backup.created_at for backup in found[each] if backup.regular), None)
        if failures and (last is None or failures[0].failed_at > last):
            when = time_text(failures[0].failed_at)
            remark += f" The last backup of {each} failed, {when}: {printable(failures[0].error)}"
    return Answer(document, _view_verbosely if verbose else _view_backups, remark)


@app.command
def show(backup: BackupName, /, *, name: Under = None, session: SessionArgument) -> Answer:
    """Show the parts, counts and sizes of a backup, and where it was made.

    Args:
        backup: The name of the backup, the beginning of it, or latest.
    """
    _, found = _find(session.open(), backup, name)
    return Answer(found.to_dict(), _view_backup)


@app.command
def diff(old: BackupName, new: BackupName = "latest", /, *, name: Under = None, session: SessionArgument) -> Answer:
    """Show what differs between two backups: files, and rows or documents per table or collection.

    Args:
        old: The name of a backup.
        new: Another backup of the same name. Default: the latest.
    """
    manager, found = _find(session.open(), old, name)
    difference = manager.diff(found.name, new)
    remark = "They are identical." if difference.identical else ""
    return Answer({**dataclasses.asdict(difference), "identical": difference.identical}, _view_diff, remark)


@app.command
def verify(backup: BackupName, /, *, name: Under = None, session: SessionArgument) -> Answer:
    """Read a whole backup and verify every byte.

    Args:
        backup: The name of the backup, the beginning of it, or latest.
    """
    manager, found = _find(session.open(), backup, name)
    with session.progress("byte") as progress:
        manager.verify_backup(found.name, progress)
    return Answer(found.to_dict(), remark=f"{found.name} is undamaged: {size_text(found.size)} verified.")


@app.command
def doctor(*, sources: Sources = AS_CONFIGURED, session: SessionArgument) -> Answer:
    """Check whether a backup can be made: programs, credentials, directories, the repository and its disk space.

    The exit code is 1 if it cannot.
    """
    from ..reports.diagnosis import Finding, diagnose_sources, finding, look_at_repository

    repository = session.open(create=True)
    found = [
        finding(f"repository {repository.url}", lambda: look_at_repository(repository)),
        *diagnose_sources(manager_of(repository, sources)),
    ]
    if len(found) == 1:
        nothing = "there is nothing to back up: pass --database, --directory or --file, or configure pyproject.toml"
        found.append(Finding("sources", False, (nothing,)))
    return diagnosis(found, "A backup can be made.")


def diagnosis(findings: Sequence[Finding], verdict: str) -> Answer:
    """Return the answer of a command that tests things.

    Args:
        findings: What was found.
        verdict: What to say if everything is in order.
    """
    bad = sum(not each.ok for each in findings)
    remark = f"{count_text(bad, 'problem')}." if bad else verdict
    document = {"findings": [dataclasses.asdict(each) for each in findings]}
    return Answer(document, _view_findings, remark, status=_PROBLEM if bad else 0)


# --- restoring --------------------------------------------------------------------------------------------------------


@app.command
def restore(
    backup: BackupName | None = None,
    /,
    *,
    no_directories: bool = False,
    no_databases: bool = False,
    to: list[str] | None = None,
    only: list[str] | None = None,
    place: str = "",
    keep_extra: bool = False,
    only_changed: bool = False,
    no_safety_backup: bool = False,
    in_place: bool = False,
    allow_privileges: bool = False,
    dry_run: bool = False,
    sources: Sources = AS_CONFIGURED,
    hooks: HookArguments = HOOKS_AS_CONFIGURED,
    session: SessionArgument,
) -> Answer:
    """Restore databases and directories to the state in a backup. Anything not in the backup is deleted. Asks first.

    Everything is verified and built beside its target before the first target changes. Databases that can only be
    changed in place are backed up first.

    Args:
        backup: The name of the backup, the beginning of it, or latest. Default: the latest, if all backups have one
            name or you pass --name.
        no_directories: Do not restore directories.
        no_databases: Do not restore databases.
        to: PART=TARGET: another target for a part. PART is a name as in `show`, or the end of that. TARGET is the URL
            of a database, or a path. Repeat it for several.
        only: PART, PART::TABLE or PART::PATH: restore only this part, table or path. Repeat it for several.
        place: Restore only the parts that `stage` has stored under this name, to the sources of this machine.
        keep_extra: Keep files that are not in the backup.
        only_changed: Compare the files of directories first, and do not read and write those that are identical
            already. Default: what pyproject.toml says.
        no_safety_backup: Do not back up databases that are changed in place first.
        in_place: Restore a directory that cannot be switched as a whole, such as a mount point, file by file.
        allow_privileges: Create roles and users of a server even if they have privileges, such as SUPERUSER.
        dry_run: Change nothing. Only show what would change.
    """
    repository = session.open(create=not dry_run)
    targets = dict(map(_pair, to or ()))
    names = _names(repository, sources.name)
    if backup is None and len(names) > 1:
        raise InvalidArgument(
            f"There are backups under several names: {', '.join(names)}. Pass one of them with --name, or a BACKUP."
        )
    owner, found = _find(repository, backup or LATEST, sources.name)
    manager = manager_of(repository, dataclasses.replace(sources, name=owner.name), hooks=hooks)
    restored = functools.partial(
        manager.restore_backup,
        found.name,
        include_directories=not no_directories,
        include_databases=not no_databases,
        to={name: _target(found, name, target) for name, target in targets.items()},
        only=_only(only),
        safety=not no_safety_backup,
        in_place=in_place,
        keep_extra=keep_extra,
        only_changed=only_changed or configuration().get("only_changed", False),
        allow_privileges=allow_privileges,
        place=place,
    )
    if not dry_run:
        with contextlib.suppress(ConfirmationRequired):
            restored()  # what cannot be done is refused before anybody is asked
        lines = [f"Restore backup: {found.name}", *(f"  {line}" for line in _view_brief(found.to_dict()))]
        session.confirm("This REPLACES the current data. Restore it?", lines)
    with session.progress() as progress:
        report = restored(confirm=not dry_run, progress=progress, dry_run=dry_run)
    return _restored_answer([report])


@app.command
def resume_restore(
    *,
    undo: bool = False,
    dismiss: bool = False,
    to: list[str] | None = None,
    allow_privileges: bool = False,
    dry_run: bool = False,
    sources: Sources = AS_CONFIGURED,
    hooks: HookArguments = HOOKS_AS_CONFIGURED,
    session: SessionArgument,
) -> Answer:
    """Finish or undo restores that were killed or failed. Asks first.

    Args:
        undo: Undo them instead: restore their safety backups.
        dismiss: Leave all targets as they are, and only close the records of these restores.
        to: PART=TARGET: the target of a part. Required if it is not one of the sources.
        allow_privileges: Create roles and users of a server even if they have privileges, such as SUPERUSER.
        dry_run: Change nothing. Only show which restores were interrupted, and the state of each part.
    """
    repository = session.open(writing=not dry_run)
    names = _names(repository, sources.name)
    managers = [manager_of(repository, dataclasses.replace(sources, name=each), hooks=hooks) for each in names]
    found = [(manager, record) for manager in managers for record in manager.list_interrupted_restores()]
    document = {
        "interrupted": [
            {
                "backup": record.backup,
                "host": record.host,
                "started_at": record.started_at,
                "safety_backup": record.safety_backup,
                "parts": [{"name": p.name, "target": p.target, "state": p.found.value} for p in record.parts],
            }
            for _, record in found
        ]
    }
    if dry_run or not found:
        remark = f"{count_text(len(found), 'interrupted restore')}." if found else "No restore was interrupted."
        return Answer(document, _view_interrupted, remark)
    verb = "Undo them" if undo else "Dismiss them" if dismiss else "Finish them"
    session.confirm(f"{verb}?", list(_view_interrupted(document)))
    targets: dict[str, Any] = dict(map(_pair, to or ()))
    reports = []
    with session.progress() as progress:
        # With all names first: a target that is missing in the last one must not be met after the others are restored.
        for only_look in (True, False):
            for manager in dict.fromkeys(manager for manager, _ in found):
                reports += manager.resume_restore(
                    undo, dismiss, targets, progress, allow_privileges=allow_privileges, dry_run=only_look
                )
    if dismiss:
        return Answer(document, remark=f"Dismissed {count_text(len(found), 'interrupted restore')}.")
    return _restored_answer(reports)


@app.command
def export(backup: BackupName, path: Path, /, *, name: Under = None, session: SessionArgument) -> Answer:
    """Write a backup to a plain tar file, which other programs can read.

    Args:
        backup: The name of the backup, the beginning of it, or latest.
        path: A file that does not exist yet. With the suffix .zst it is compressed.
    """
    manager, found = _find(session.open(), backup, name)
    with session.progress("byte") as progress:
        written = manager.export(found.name, path, progress)
    size = written.stat().st_size
    document = {"backup": found.name, "path": str(written), "size": size}
    return Answer(document, remark=f"Exported {found.name} to {written}: {size_text(size)}.")


@app.command
def drill(
    backup: BackupName = "latest",
    /,
    *,
    place: str = "",
    sources: Sources = AS_CONFIGURED,
    session: SessionArgument,
) -> Answer:
    """Prove a backup: restore it into a temporary place, and compare. The exit code is 1 if something differs.

    If everything is identical, the backup is marked as proven. The exit code is 2 if a part could not be tried, because
    it needs the server of its database: name it as for `create`.

    Args:
        backup: The name of the backup. Default: the latest.
        place: Only try the parts that `stage` has stored under this name. A backup that has others is not marked.
    """
    repository = session.open(writing=True)
    owner, found = _find(repository, backup, sources.name)
    manager = manager_of(repository, dataclasses.replace(sources, name=owner.name))
    with session.progress() as progress:
        report = manager.drill(found.name, progress, place=place)
    document = {**dataclasses.asdict(report), "ok": report.ok}
    if report.ok:
        return Answer(document, _view_drill, f"{report.name} was restored and is identical.")
    if all(row.ok or not row.tried for row in report.rows):
        remark = f"{report.name} was not proven, because a part of it could not be tried."
        return Answer(document, _view_drill, remark, status=_NOT_TRIED)
    return Answer(document, _view_drill, f"{report.name} was restored and is NOT identical.", status=_PROBLEM)


# --- changing and deleting --------------------------------------------------------------------------------------------


@app.command
def delete(
    backup: BackupName, /, *, force: bool = False, dry_run: bool = False, name: Under = None, session: SessionArgument
) -> Answer:
    """Delete a backup. Asks first.

    `prefect-snapshots prune` reclaims the space.

    Args:
        backup: The full name of the backup.
        force: Delete it even if it is pinned or its record cannot be read.
        dry_run: Only show what would be deleted.
    """
    manager, found = _find(session.open(writing=not dry_run), backup, name, whole=True)
    if found.pinned and not force:
        raise Pinned(
            f"{backup} is pinned. Nothing was deleted. Run `prefect-snapshots backups unpin` first, or pass --force."
        )
    what = f"{backup} ({found.description or 'no description'}, {size_text(found.size)})"
    if not dry_run:
        session.confirm(f"Delete {what}?")
        manager.delete_backup(backup, force)
    return deleted(what, {"deleted": backup}, dry_run)


@app.command
def pin(backup: BackupName, /, *, name: Under = None, session: SessionArgument) -> Answer:
    """Exempt a backup from retention.

    Args:
        backup: The name of the backup, the beginning of it, or latest.
    """
    manager, found = _find(session.open(writing=True), backup, name)
    return Answer(manager.pin(found.name).to_dict(), remark=f"Pinned {found.name}.")


@app.command
def unpin(backup: BackupName, /, *, name: Under = None, session: SessionArgument) -> Answer:
    """Allow retention to delete a backup again.

    Args:
        backup: The name of the backup, the beginning of it, or latest.
    """
    manager, found = _find(session.open(writing=True), backup, name)
    return Answer(manager.unpin(found.name).to_dict(), remark=f"Unpinned {found.name}.")


@app.command
def edit(
    backup: BackupName,
    /,
    *,
    description: str | None = None,
    tag: list[str] | None = None,
    no_tags: bool = False,
    name: Under = None,
    session: SessionArgument,
) -> Answer:
    """Change the description or the tags of a backup. Its name and data do not change.

    Args:
        backup: The name of the backup, the beginning of it, or latest.
        description: The new description.
        tag: A new tag. The given tags replace all others. Repeat it for several.
        no_tags: Remove all tags.
    """
    manager, found = _find(session.open(writing=True), backup, name)
    changed = manager.edit_backup(found.name, description, [] if no_tags else tag)
    return Answer(changed.to_dict(), _view_backup, f"Changed {found.name}.", told=True)


@app.command
def cleanup(
    name: Name | None = None,
    *,
    dry_run: bool = False,
    no_prune: bool = False,
    retention: Retention = NO_RETENTION,
    session: SessionArgument,
) -> Answer:
    """Delete backups that the retention policy does not keep, and reclaim their space.

    Options set the policy, or else pyproject.toml. The default policy keeps the last 10 backups, and one a week for 3
    months.

    Args:
        name: Clean up the backups of this name. Default: the name in pyproject.toml, or else default.
        dry_run: Only show what would be deleted, and why the rest is kept.
        no_prune: Do not reclaim the space.
    """
    repository = session.open(writing=not dry_run)
    manager = manager_of(repository, SourceOptions(name=name), retention)
    with session.progress() as progress:
        report = manager.cleanup(dry_run=dry_run, prune=not no_prune, progress=progress)
    return cleaned(report, "backup")


# --- helpers ----------------------------------------------------------------------------------------------------------


def _manager(repository: Repository, name: str) -> BackupManager:
    from ..backups import BackupManager

    return BackupManager(repository, name=name)


def _names(repository: Repository, name: str | None) -> Sequence[str]:
    from ..backups import list_names

    name = name or configuration().get("name")
    return list_names(repository) if name is None else [name]


def _find(
    repository: Repository, backup: str, name: str | None = None, *, whole: bool = False
) -> tuple[BackupManager, Backup]:
    """Return a backup and its manager.

    Args:
        repository: The repository.
        backup: Its name, the beginning of it, or `LATEST`.
        name: Look only under this name of a manager. Default: under all; for the latest, the name in pyproject.toml.
        whole: Whether `backup` has to be a whole name.

    Raises:
        BackupNotFound: There is no such backup. The message names similar ones.
    """
    from ..backups import list_names
    from ..repository.tracking import leaving_out_damage

    latest = backup == LATEST and not whole
    names = _names(repository, name) if name is not None or latest else list_names(repository)
    listed = []
    for each in names:
        with leaving_out_damage(f"The history of the backups of {each}", when=len(names) > 1):
            manager = _manager(repository, each)
            listed += [(manager, one) for one in manager.list_backups() if one.regular or not latest]
    if not listed:
        raise BackupNotFound(_none_under(repository, names))
    listed.sort(key=lambda pair: pair[1].created_at, reverse=True)
    chosen = choose(backup, [each.name for _, each in listed], "backup", BackupNotFound, whole=whole)
    return next(pair for pair in listed if pair[1].name == chosen)


def _none_under(repository: Repository, names: Sequence[str]) -> str:
    from ..backups import list_names

    if len(names) != 1:
        return "There are no backups."
    others = [each for each in list_names(repository) if each not in names]
    return f"There are no backups under the name {names[0]!r}" + (f". {hint(names[0], others)}" if others else ".")


def _pair(text: str) -> tuple[str, str]:
    part, separator, target = text.rpartition("=")
    if not separator or not part or not target:
        raise InvalidArgument(f"--to must be PART=TARGET, not {text!r}.")
    return part, target


def _only(texts: Sequence[str] | None) -> dict[str, list[str]]:
    parts: dict[str, list[str]] = {}
    for text in texts or ():
        part, _, inside = text.rpartition("::") if "::" in text else (text, "", "")
        parts.setdefault(part, []).extend([inside] if inside else [])
    return parts


def _target(backup: Backup, part: str, target: str) -> Any:
    return Path(target) if backup.part(part).kind in ("directory", "file") else target


def _restored_answer(reports: Sequence[RestoreReport]) -> Answer:
    """What was restored, or would be."""
    documents = [dataclasses.asdict(report) for report in reports]
    lines = []
    for report in reports:
        if report.dry_run:
            same = all(change.identical for change in report.changes)
            lines.append("Nothing would change." if same else f"This is what restoring {report.name} would change.")
            continue
        safe = f" The previous contents are in backup {report.safety_backup}." if report.safety_backup else ""
        kept = f" Identical, and not written: {count_text(report.unchanged, 'file')}." if report.unchanged else ""
        lines.append(f"Restored {', '.join(report.restored) or 'nothing'} from {report.name}.{kept}{safe}")
        lines += [*report.warnings, *report.failed_hooks]
    document = documents[0] if len(documents) == 1 else {"restores": documents}
    view = _view_changes if reports and reports[0].dry_run else None
    status = _INCOMPLETE if any(report.failed_hooks for report in reports) else 0
    return Answer(document, view, " ".join(lines), status=status)


def _view_backups(document: dict[str, Any]) -> Iterator[str]:
    rows = [
        (
            "!" if each["broken"] else PIN * each["pinned"] + PROVEN * bool(each["proven_at"]),
            each["name"],
            _moment(each["created_at"], seconds=False),
            f"{_rows(each):,}" if any(part["counts"] for part in each["parts"]) else "",
            size_text(each["size"]),
            size_text(each["written"]),
            each["description"],
            f"broken: {each['broken']}" if each["broken"] else ", ".join(_remarks(each)),
        )
        for each in document["backups"]
    ]
    yield from table(columns("", "name", "created (local)", ">rows", ">size", ">written", "↓description", "↓"), rows)


def _rows(backup: dict[str, Any]) -> int:
    return sum(sum(part["counts"].values()) for part in backup["parts"])


def _remarks(backup: dict[str, Any]) -> Iterator[str]:
    if backup["safety"]:
        yield "safety backup"
    if backup["incomplete"]:
        yield "incomplete"
    if backup["proven_at"]:
        yield f"proven {_moment(backup['proven_at'], seconds=False)} by {backup['proven_by']}"


def _view_verbosely(document: dict[str, Any]) -> Iterator[str]:
    for each in document["backups"]:
        yield f"{PIN + ' ' if each['pinned'] and not each['broken'] else ''}{each['name']}"
        yield from (f"   {line}" for line in _view_brief(each))
        yield ""


def _view_brief(backup: dict[str, Any]) -> Iterator[str]:
    git = backup["git"] or {}
    state = f"{git['branch'] or 'no branch'}@{(git['commit'] or '')[:7]}{' (changed)' * git['dirty']}" if git else ""
    tables = sum(len(part["counts"]) for part in backup["parts"])
    facts = {
        "description": backup["description"],
        "broken": backup["broken"] or "",
        "created": f"{_moment(backup['created_at'])} (local)",
        "size": f"{size_text(backup['size'])}, {size_text(backup['written'])} of it written",
        "files": f"{backup['files']:,}",
        "rows": f"{_rows(backup):,} in {count_text(tables, 'table')}" if tables else "",
        "git": state,
        "tags": ", ".join(backup["tags"]),
        "host": backup["host"],
        "proven": f"{_moment(backup['proven_at'])} (local), by {backup['proven_by']}" if backup["proven_at"] else "",
        "incomplete": "something was left out: see the notes" if backup["incomplete"] else "",
    }
    yield from fields(facts)
    for part in backup["parts"]:
        yield from fields({part["name"]: f"{part['kind']}, {size_text(part['size'])}"})
        yield from (f"  {line}" for line in fields({name: f"{count:,}" for name, count in part["counts"].items()}))
        yield from (f"  {line}" for line in part["notes"])


def _view_backup(backup: dict[str, Any]) -> Iterator[str]:
    yield f"{PIN + ' ' if backup['pinned'] and not backup['broken'] else ''}{backup['name']}"
    yield from _view_brief(backup)


def _view_diff(document: dict[str, Any]) -> Iterator[str]:
    rows = [
        ("+" if part in document["parts_added"] else "-", part, "", "")
        for part in [*document["parts_added"], *document["parts_deleted"]]
    ]
    signs = {"added": "+", "deleted": "-", "changed": "M"}
    for file in document["files"]:
        sizes = f"{size_text(file['old_size'])} -> {size_text(file['new_size'])}" if file["change"] == "changed" else ""
        rows.append((signs[file["change"]], file["part"], file["path"], sizes))
    for count in document["counts"]:
        old, new = ("none" if number is None else f"{number:,}" for number in (count["old"], count["new"]))
        rows.append(("M", count["part"], count["table"], f"{old} -> {new}"))
    told = {row[1] for row in rows}
    rows += [("M", part, "", "same counts, other data") for part in document["databases_changed"] if part not in told]
    yield from table(columns("", "part", "what", ""), rows)


def _view_changes(document: dict[str, Any]) -> Iterator[str]:
    for change in document["changes"]:
        yield from _view_diff(change)


_STATES = {
    "new": "restored",
    "old": "unchanged",
    "mixed": "only partly restored",
    "switching": "either restored or unchanged",
}


def _view_interrupted(document: dict[str, Any]) -> Iterator[str]:
    for each in document["interrupted"]:
        yield f"Restore of {each['backup']} on {each['host']}, {time_text(each['started_at'])}:"
        for part in each["parts"]:
            yield f"  {part['target']}: {_STATES[part['state']]}"


def _view_findings(document: dict[str, Any]) -> Iterator[str]:
    for finding in document["findings"]:
        yield f"{'ok ' if finding['ok'] else styled('BAD', RED)} {finding['what']}: {'; '.join(finding['found'])}"


def _view_drill(document: dict[str, Any]) -> Iterator[str]:
    rows = [
        (
            row["part"],
            row["kind"],
            f"{row['files']:,}",
            f"{sum(row['counts'].values()):,}",
            "; ".join(row["problems"]) or "identical",
        )
        for row in document["rows"]
    ]
    yield from table(columns("part", "kind", ">files", ">rows", "found"), rows)


def _moment(text: str, *, seconds: bool = True) -> str:
    return time_text(datetime.fromisoformat(text), seconds=seconds)
