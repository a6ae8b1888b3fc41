"""Options for what to back up and keep, with defaults from `[tool.prefect-snapshots]` in pyproject.toml."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ..errors import InvalidArgument
from .project_settings import DATABASE_BLOCK, configuration
from .retention import RetentionOptions, policy_of

if TYPE_CHECKING:
    from ..backups import BackupManager, Hooks
    from ..repository import Repository

_OF_DIRECTORIES = (
    *("ignore_files", "exclude_caches", "exclude_if_present", "one_file_system", "larger_than", "follow_links"),
    "strict",
)


@dataclass(frozen=True)
class SourceOptions:
    """What to back up.

    Args:
        name: The name of this set of backups. Sets with different names can share a repository. Default: default.
        database: The URL of a database, or the path of an SQLite or DuckDB file. postgresql://host/* and
            mariadb://host/* are every database of a server, and its roles or users. Repeat it for several. Put the
            password into the environment or the database's password file: other users can read a command line.
        directory: A directory. Repeat it for several.
        file: A single file. Repeat it for several.
        command: NAME=COMMAND: back up the output of a command under a name such as users.sql. If the command fails, so
            does the backup. It is not run by a shell. Repeat it for several.
        stdin: Back up standard input under this name.
        block: A block of Prefect with a database, such as
            prefect-snapshots-backup-database/shop. Repeat it for several.
    """

    name: str | None = None
    database: list[str] = field(default_factory=list)
    directory: list[Path] = field(default_factory=list)
    file: list[Path] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    stdin: str | None = None
    block: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class DirectoryOptions:
    """What to exclude from all directories.

    Args:
        exclude: A pattern of what to exclude, as in .gitignore. Repeat it for several.
        ignore_file: The name of files in the tree that contain such patterns. Repeat it for several.
        exclude_caches: Exclude the contents of directories with a CACHEDIR.TAG.
        exclude_if_present: Exclude the contents of directories with a file of this name. Repeat it for several.
        one_file_system: Exclude file systems that are mounted in a directory.
        larger_than: Exclude files of more bytes than this.
        follow_links: Back up what links lead to, instead of the links.
        skip_unreadable: Leave out files that cannot be read, and exit with code 3. Otherwise the backup fails.
    """

    exclude: list[str] = field(default_factory=list)
    ignore_file: list[str] = field(default_factory=list)
    exclude_caches: bool = False
    exclude_if_present: list[str] = field(default_factory=list)
    one_file_system: bool = False
    larger_than: int | None = None
    follow_links: bool = False
    skip_unreadable: bool = False

    def over(self, configured: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of a `Directory`: these, with defaults from pyproject.toml."""
        from ..backups import Directory

        found = {key: configured[key] for key in _OF_DIRECTORIES if key in configured}
        given = {
            "ignore_files": tuple(self.ignore_file),
            "exclude_caches": self.exclude_caches,
            "exclude_if_present": tuple(self.exclude_if_present),
            "one_file_system": self.one_file_system,
            "larger_than": self.larger_than,
            "follow_links": self.follow_links,
        }
        found |= {key: value for key, value in given.items() if value}
        excludes = (*configured.get("excludes", ()), *self.exclude)
        return {
            **found,
            **({"strict": False} if self.skip_unreadable else {}),
            **({"excludes": (*Directory.excludes, *excludes)} if excludes else {}),
        }


@dataclass(frozen=True)
class HookOptions:
    """What to run before and after. If you pass any of these, the hooks in pyproject.toml are not run.

    Args:
        before: A command to run first. If it fails, nothing is done. It is not run by a shell. Repeat it for several.
        after: A command to run at the end, whether it worked or not. If it fails, the exit code is 3. Repeat it for
            several.
        hook_timeout: Seconds that each of these commands may take. Default: 600.
    """

    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    hook_timeout: float | None = None

    def over(self, configured: Mapping[str, Any]) -> Hooks:
        """Return the hooks: these, or else those in pyproject.toml.

        Raises:
            InvalidArgument: They are invalid.
        """
        from ..backups import Hooks
        from ..backups.single_files import split_command

        limit: dict[str, Any] = {} if self.hook_timeout is None else {"timeout": self.hook_timeout}
        if self.before or self.after:
            before, after = (
                [split_command(text, f"The command {text!r}") for text in each] for each in (self.before, self.after)
            )
            return Hooks(before_backup=before, before_restore=before, after_backup=after, after_restore=after, **limit)
        try:
            return replace(Hooks(**configured), **limit)
        except InvalidArgument as error:
            raise InvalidArgument(f"The hooks in pyproject.toml are not valid: {error}") from None


AS_CONFIGURED = SourceOptions()
NOTHING_LEFT_OUT = DirectoryOptions()
HOOKS_AS_CONFIGURED = HookOptions()

Sources = Annotated[SourceOptions, Parameter(name="*")]
LeftOut = Annotated[DirectoryOptions, Parameter(name="*")]
HookArguments = Annotated[HookOptions, Parameter(name="*")]


def manager_of(
    repository: Repository,
    sources: SourceOptions,
    retention: RetentionOptions | None = None,
    left_out: DirectoryOptions = NOTHING_LEFT_OUT,
    hooks: HookOptions = HOOKS_AS_CONFIGURED,
) -> BackupManager:
    """Return the manager for the options, with defaults from pyproject.toml."""
    from ..backups import BackupManager, Command, Directory, File, StandardInput

    configured = configuration()
    databases: Iterable[Any] = [*map(_database, sources.database), *map(_database_of_block, sources.block)]
    directories: list[Any] = list(sources.directory)
    commands = dict(_command(text) for text in sources.command)
    files: list[Any] = list(sources.file)
    if not (databases or directories or files or commands or sources.stdin):
        databases, directories = map(_database, configured.get("databases", [])), configured.get("directories", [])
        files, commands = configured.get("files", []), configured.get("commands", {})
    return BackupManager(
        repository,
        name=sources.name or configured.get("name", "default"),
        databases=[*databases],
        directories=[Directory(path, **left_out.over(configured)) for path in directories],
        files=[
            *map(File, files),
            *(Command(command, name=name) for name, command in commands.items()),
            *([StandardInput(sources.stdin)] if sources.stdin else []),
        ],
        retention=policy_of(retention, configured.get("retention", {})),
        hooks=hooks.over(configured.get("hooks", {})),
    )


def _command(text: str) -> tuple[str, str]:
    name, separator, command = text.partition("=")
    if not separator or not name or not command:
        raise InvalidArgument(f"--command must be NAME=COMMAND, such as users.sql='pg_dump shop', not {text!r}.")
    return name, command


def _database(text: str) -> Any:
    return _database_of_block(text) if text.startswith(DATABASE_BLOCK) else text


def _database_of_block(slug: str) -> Any:
    from ..integration.database_blocks import load_database

    return load_database(slug)
