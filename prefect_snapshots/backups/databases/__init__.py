"""The databases that can be backed up. Each is one module, and is found by the scheme of a URL or the suffix of a file.

To add a database, write one module with a class that implements `DatabaseDriver`, and register the class under the
entry point group `prefect_snapshots.databases`. Then its URLs work everywhere: in Python, on the command line, in
pyproject.toml, in flows and in the block `BackupDatabase`. Another package can add databases in the same way. Test the
class with `prefect_snapshots.testing.DatabaseContract`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from urllib.parse import urlencode

from ...errors import InvalidArgument, MissingDependency
from ...messages import scheme_hint
from ...repository.location import refuse_missing_slash
from ..sources import Database, DatabaseDriver, DatabaseServer, Password
from .arangodb import ArangoDB
from .duckdb import DuckDB
from .etcd import Etcd
from .mariadb import MariaDB
from .mariadb_servers import MariaDBServer, MariaDBUsers
from .mongodb import MongoDB
from .postgresql import PostgreSQL
from .postgresql_physical import PostgreSQLCluster
from .postgresql_servers import PostgreSQLRoles, PostgreSQLServer
from .redis import Redis
from .sqlite import SQLite
from .whole_servers import WholeServer

__all__ = [
    "ArangoDB",
    "DuckDB",
    "Etcd",
    "MariaDB",
    "MariaDBServer",
    "MariaDBUsers",
    "MongoDB",
    "PostgreSQL",
    "PostgreSQLCluster",
    "PostgreSQLRoles",
    "PostgreSQLServer",
    "Redis",
    "SQLite",
    "drivers",
    "open_database",
    "open_databases",
    "open_target",
]

GROUP = "prefect_snapshots.databases"
"""The entry point group under which packages register their databases."""
_SERVERS: tuple[type[WholeServer], ...] = (PostgreSQLServer, MariaDBServer)


def open_database(url: str, password: Password = None, options: Mapping[str, str] | None = None) -> Database:
    """Return the database with a URL, without connecting to it.

    Args:
        url: A URL as in SQLAlchemy, such as `postgresql://user@host/name`. The driver in `postgresql+asyncpg://` is
            ignored. The path of a file with a known suffix works, too: `app.db`.
        password: The password, or a function that returns it. Default: the password in the URL, or else what the
            database's tools find in their environment and files.
        options: Options to append to the URL after `?`, such as `{"sslmode": "require"}`.

    Returns:
        The database, for a `BackupManager`.

    Raises:
        InvalidArgument: The URL belongs to no known kind of database, or is incomplete. The message never repeats the
            URL, which may contain a password.
        MissingDependency: The package that registered this kind of database cannot be imported.

    Example:
        >>> from prefect_snapshots.backups.databases import open_database
        >>> open_database("postgresql://backup@db.example.com/shop")
        PostgreSQL('postgresql://backup@db.example.com/shop')
        >>> open_database("postgresql+physical://replicator@db.example.com")
        PostgreSQLCluster('postgresql+physical://replicator@db.example.com')
        >>> open_database("sqlite:////var/lib/app.db")
        SQLite(path='/var/lib/app.db')
    """
    scheme, separator, _ = url.partition("://")
    if not separator:
        refuse_missing_slash(url, {name for driver in drivers() for name in driver.schemes})
    if scheme in PostgreSQLCluster.schemes:
        return PostgreSQLCluster.from_url(_with_options(url, options), password)
    scheme = scheme.partition("+")[0]
    for driver in drivers():
        if scheme in driver.schemes if separator else url.endswith(driver.suffixes):
            return driver.from_url(_with_options(url, options), password)
    if separator and (broken := _found()[1].get(scheme)):
        raise MissingDependency(f"The package that registers databases of {scheme}:// cannot be imported: {broken}")
    what = f"a URL that begins with {scheme[:20]!r}" if separator else "this path"
    schemes = [name for driver in drivers() for name in driver.schemes]
    near = scheme_hint(scheme, schemes) if separator else ""
    suffixes = [suffix for driver in drivers() for suffix in driver.suffixes]
    raise InvalidArgument(
        f"No database is known by {what}.{near} Write one of {', '.join(f'{name}://' for name in schemes)}, or the "
        f"path of a file that ends in {', '.join(suffixes)}."
    )


def open_databases(
    url: str, password: Password = None, options: Mapping[str, str] | None = None
) -> Database | DatabaseServer:
    """Return the database with a URL, or with `*` in place of its name all databases of a server that match.

    Args:
        url: As for `open_database`, or a URL such as `postgresql://user@host/*` or `mariadb://user@host/shop_*`.
            Write a `*` that is a part of a name as `%2A`.
        password, options: As for `open_database`.

    Raises:
        InvalidArgument: As for `open_database`.

    Example:
        >>> from prefect_snapshots.backups.databases import open_databases
        >>> open_databases("postgresql://backup@db.example.com/*")
        PostgreSQLServer('postgresql://backup@db.example.com/*')
    """
    kind = _server_kind(url)
    return open_database(url, password, options) if kind is None else kind(_with_options(url, options), password)


def is_pattern(url: str) -> bool:
    """Return whether a URL means all databases of a server that match."""
    return _server_kind(url) is not None


def _server_kind(url: str) -> type[WholeServer] | None:
    scheme, _, rest = url.partition("://")
    if "*" not in rest.partition("?")[0].rpartition("/")[2]:
        return None
    return next((kind for kind in _SERVERS if scheme.partition("+")[0] in kind.schemes), None)


def open_target(kind: str, url: str) -> Database:
    """Return the target of a part of a backup.

    Args:
        kind: The kind of the part.
        url: The URL of a database; for the users or roles of a server, the URL of the server.

    Raises:
        InvalidArgument: As for `open_database`.
    """
    accounts = next((server.accounts for server in _SERVERS if server.accounts.kind == kind), None)
    return accounts.from_url(url) if accounts else open_database(url)


def drivers() -> tuple[type[DatabaseDriver], ...]:
    """Return the classes of all installed kinds of databases: those of this package, then those of other packages."""
    return _found()[0]


@functools.cache
def _found() -> tuple[tuple[type[DatabaseDriver], ...], dict[str, str]]:
    """Return the classes of all entry points, and the errors of those that cannot be imported."""
    found: list[type[DatabaseDriver]] = []
    broken: dict[str, str] = {}
    for entry in sorted(entry_points(group=GROUP), key=_rank):
        try:
            driver = entry.load()
        except Exception as error:  # a package that cannot be imported must not disable the other databases
            broken[entry.name] = f"{type(error).__name__}: {error}"
        else:
            if driver not in found:  # a package may be on the path twice
                found.append(driver)
    return tuple(found), broken


def _rank(entry: EntryPoint) -> tuple[bool, str]:
    """Sort key: our own come first, so that no other package can take over one of their schemes."""
    return not entry.value.startswith(f"{__name__}."), entry.name


def _with_options(url: str, options: Mapping[str, str] | None) -> str:
    if not options:
        return url
    return f"{url}{'&' if '?' in url else '?'}{urlencode(options)}"
