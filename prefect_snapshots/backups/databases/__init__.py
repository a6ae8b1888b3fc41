"""Databases as sources of backups: one small class each, all with the interface `Database` of sources.py.

To add another one, write a class with `kind`, `swaps`, `name`, `check`, `dump`, `counts`, `restore` and `scratch`;
nothing has to be registered to pass it to a `BackupManager`.
"""

from __future__ import annotations

from collections.abc import Callable

from ...errors import InvalidArgument
from ..sources import Database
from .arangodb import ArangoDB
from .base import Address
from .duckdb import DuckDB
from .etcd import Etcd
from .mariadb import MariaDB
from .mongodb import MongoDB
from .postgresql import PostgreSQL
from .redis import Redis
from .sqlite import SQLite

__all__ = ["ArangoDB", "DuckDB", "Etcd", "MariaDB", "MongoDB", "PostgreSQL", "Redis", "SQLite", "open_database"]

_SERVERS: dict[str, Callable[[str], Database]] = {
    "postgresql": PostgreSQL,
    "postgres": PostgreSQL,
    "mysql": MariaDB,
    "mariadb": MariaDB,
    "redis": Redis,
    "rediss": Redis,
    "etcd": Etcd,
    "mongodb": MongoDB,
    "arangodb": ArangoDB,
}
_FILES: dict[str, Callable[[str], Database]] = {"sqlite": SQLite, "duckdb": DuckDB}
_SUFFIXES: dict[str, Callable[[str], Database]] = {
    ".db": SQLite,
    ".sqlite": SQLite,
    ".sqlite3": SQLite,
    ".duckdb": DuckDB,
}


def open_database(url: str) -> Database:
    """The database that a URL names; nothing is connected to.

    Args:
        url: as SQLAlchemy writes them, whose drivers (`postgresql+asyncpg://`) are ignored: `postgresql://`, `mysql://`,
            `mariadb://`, `redis://`, `etcd://`, `mongodb://`, `arangodb://`, `arangodb+unix://`; for files
            `sqlite:///relative/path`, `sqlite:////absolute/path` and `duckdb:///...`, or a path that ends in `.db`,
            `.sqlite`, `.sqlite3` or `.duckdb`.

    Raises:
        InvalidArgument: it is none of these.

    Example:
        >>> open_database("postgresql://backup@db.example.com/shop")
        PostgreSQL('postgresql://backup@db.example.com/shop')
        >>> open_database("sqlite:////var/lib/app.db")
        SQLite(path='/var/lib/app.db')
    """
    scheme, separator, _ = url.partition("://")
    if not separator:
        for suffix, file in _SUFFIXES.items():
            if url.endswith(suffix):
                return file(url)
    scheme = scheme.partition("+")[0]
    if scheme in _SERVERS:
        return _SERVERS[scheme](url)
    if scheme in _FILES:
        return _FILES[scheme](Address.of(url).database)
    raise InvalidArgument(
        f"no database is known by a URL that begins with {scheme[:20]!r}: write one of "
        f"{', '.join(f'{known}://' for known in [*_SERVERS, *_FILES])}, or the path of a file that ends in "
        f"{', '.join(_SUFFIXES)}"
    )
