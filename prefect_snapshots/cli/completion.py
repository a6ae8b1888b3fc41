"""What the shell completes: names, ids, versions and paths of the repository that the command line names.

The installed script asks the program at each press of the tab key, so nothing here asks the user for anything, runs a
password command, or writes. Whatever goes wrong means no completion: the command itself then says what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeAlias

from cyclopts import Parameter

from .naming import LATEST
from .session import Session, parse_options

if TYPE_CHECKING:
    from datetime import datetime

    from cyclopts.completion import CompletionContext

    from ..artifacts import ArtifactRegistry
    from ..repository import Repository

Candidates: TypeAlias = Iterable[str | tuple[str, str]]
"""Words, or words with what the shell shows beside them."""


def completed(look: Callable[[Repository, CompletionContext], Candidates]) -> Parameter:
    """Return the annotation of a parameter whose values the shell completes.

    Args:
        look: Returns the candidates: all values, or those that begin with `context.incomplete`.
    """

    def complete(context: CompletionContext) -> Candidates:
        from ..repository.passwords import PASSWORD_COMMAND_SETTING, password_setting

        if context["password_command"].provided or password_setting() == PASSWORD_COMMAND_SETTING:
            return []  # such a command may ask for something
        session = Session(
            _typed(context, "repository"),
            parse_options(_all_typed(context, "storage_option")),
            password_file=_typed(context, "password_file"),
            no_password=context["no_password"].provided,
        )
        found = look(session.open(ask=False), context)
        # What looks like an option would be one: whoever named it would choose what the command does.
        return [each for each in found if not (each if isinstance(each, str) else each[0]).startswith("-")]

    return Parameter(completer=complete)


def snapshot_names(repository: Repository, context: CompletionContext) -> Candidates:
    from ..snapshots import list_names

    return list_names(repository)


def snapshot_ids(repository: Repository, context: CompletionContext) -> Iterator[str | tuple[str, str]]:
    """The ids under the name that is typed already; else all names, and all ids."""
    from ..snapshots import list_names
    from ..snapshots.backends import Durable

    names = list_names(repository)
    words = _all_typed(context, context.argument.field_info.name)
    name = _typed(context, "name") or next((word for word in words[:1] if word in names), None)
    if name is None and not words:
        yield from ((each, "name") for each in names)
    yield LATEST
    for each in names if name is None else [name]:
        records = Durable(repository, each).view.by_id.values()
        for record in sorted(records, key=lambda record: record.order, reverse=True):
            yield record.id, _when(record.timestamp)


def collections(repository: Repository, context: CompletionContext) -> Candidates:
    return _registry(repository, context).list_collection_names()


def artifact_names(repository: Repository, context: CompletionContext) -> Candidates:
    return _registry(repository, context).list_names()


def artifact_versions(repository: Repository, context: CompletionContext) -> Iterator[str | tuple[str, str]]:
    registry, name = _registry(repository, context), _typed(context, "name") or ""
    yield LATEST
    yield from registry.get_aliases(name).items()
    for info in registry.list_versions(name):
        yield info.version, _when(info.created_at)


def stages(repository: Repository, context: CompletionContext) -> Candidates:
    return list(_registry(repository, context).get_aliases(_typed(context, "name") or "").items())


def release_tags(repository: Repository, context: CompletionContext) -> Candidates:
    return [(each.tag, _when(each.created_at)) for each in _registry(repository, context).list_releases()]


def backup_names(repository: Repository, context: CompletionContext) -> Candidates:
    from ..backups import list_names

    return list_names(repository)


def backups(repository: Repository, context: CompletionContext) -> Iterator[str | tuple[str, str]]:
    """The backups under the name that is typed already, else under all names, newest first."""
    from ..backups import BackupManager, list_names

    name = _typed(context, "name")
    found = [
        backup
        for each in (list_names(repository) if name is None else [name])
        for backup in BackupManager(repository, name=each).list_backups()
    ]
    yield LATEST
    for backup in sorted(found, key=lambda each: each.created_at, reverse=True):
        yield backup.name, backup.description or _when(backup.created_at)


def checkpoint_names(repository: Repository, context: CompletionContext) -> Candidates:
    from ..checkpoints import CheckpointManager

    return list(dict.fromkeys(info.name for info in CheckpointManager(repository).list_checkpoints()))


def fingerprints(repository: Repository, context: CompletionContext) -> Candidates:
    from ..checkpoints import CheckpointManager

    infos = CheckpointManager(repository).list_checkpoints(_typed(context, "name"))
    return [(info.fingerprint, f"{info.function}, {_when(info.started_at)}") for info in infos]


def paths(repository: Repository, context: CompletionContext) -> Candidates:
    """The entries of the directory that is typed already."""
    from ..filesystem import SnapshotsFileSystem

    directory = context.incomplete.rpartition("/")[0]
    children = SnapshotsFileSystem(repository).files.children(directory)
    return [each.path + ("/" if each.type == "directory" else "") for each in children]


def _registry(repository: Repository, context: CompletionContext) -> ArtifactRegistry:
    from ..artifacts import ArtifactRegistry

    return ArtifactRegistry(repository, _typed(context, "collection") or "default")


def _typed(context: CompletionContext, parameter: str) -> str | None:
    """The value of another parameter that the command has, if it is typed already."""
    words = _all_typed(context, parameter)
    return words[0] if words else None


def _all_typed(context: CompletionContext, parameter: str) -> tuple[str, ...]:
    typed = context.get(parameter)
    return typed.raw_tokens if typed is not None else ()


def _when(time: datetime) -> str:
    return f"{time.astimezone():%Y-%m-%d %H:%M}"
