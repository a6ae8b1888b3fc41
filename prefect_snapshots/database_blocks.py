"""Prefect blocks for the databases of backups: one for each, with its URL and its password.

They decide nothing: `get_database` gives the database of `backups.databases`, which does the work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from prefect.blocks.core import Block
from pydantic import Field, HttpUrl, SecretStr

from .backups.databases import ArangoDB, DuckDB, Etcd, MariaDB, MongoDB, PostgreSQL, Redis, SQLite
from .backups.databases.base import ServerDatabase
from .backups.sources import Database
from .errors import InvalidArgument

if TYPE_CHECKING:
    from prefect_sqlalchemy import SqlAlchemyConnector

_LOGO = HttpUrl(
    "https://raw.githubusercontent.com/PrefectHQ/prefect/420d0d6a78bb6df1fc18bcf188fdad43c1d22ea9/assets/block-logos/database.png"
)
_DOCUMENTATION = HttpUrl("https://docs.prefect.io/v3/concepts/blocks")

Url = Annotated[str, Field(title="URL", description="Where the database is. Leave the password to the field below.")]
Password = Annotated[
    SecretStr | None,
    Field(description="The password. Default: the one that the database's own tools would find, in their own files."),
]
File = Annotated[str, Field(description="The path of the file.")]


class DatabaseBlock(Block):
    """What the blocks of databases have in common."""

    def get_database(self) -> Database:
        """The database, for a `BackupManager`. Nothing is connected to."""
        raise NotImplementedError


class _Server(DatabaseBlock):
    url: Url
    password: Password = None

    _database: ClassVar[type[ServerDatabase]]

    def get_database(self) -> Database:
        """The database, for a `BackupManager`. Nothing is connected to."""
        password = self.password.get_secret_value() if self.password else None
        return self._database(self.url, password)  # type: ignore[return-value]  # each of these is one


class _File(DatabaseBlock):
    path: File

    _database: ClassVar[type[SQLite | DuckDB]]

    def get_database(self) -> Database:
        """The database, for a `BackupManager`. Nothing is opened."""
        return self._database(self.path)


def load_database(slug: str) -> Database:
    """The database of a saved block.

    Arguments:
        slug: its type and its name, such as `postgresql-database/shop`.

    Raises:
        InvalidArgument: there is no such block, or it is none of a database.
    """
    try:
        block = Block.load(slug, _sync=True)  # type: ignore[call-arg]
    except ValueError as error:
        raise InvalidArgument(f"there is no block {slug!r}: {error}") from error
    if not isinstance(block, DatabaseBlock):
        raise InvalidArgument(f"the block {slug!r} is a {type(block).__name__}, and no database")
    return block.get_database()


class PostgreSQLDatabase(_Server):
    """
    A database of a PostgreSQL server, such as `postgresql://backup@host/shop`.

    Example:
        Back it up:
        ```python
        from prefect_snapshots import PostgreSQLDatabase
        from prefect_snapshots import BackupManager

        database = PostgreSQLDatabase.load("BLOCK_NAME").get_database()
        BackupManager("s3://bucket/backups", databases=[database]).create_backup("nightly")
        ```
    """

    _block_type_name = "PostgreSQL Database"
    _block_type_slug = "postgresql-database"
    _logo_url = _LOGO
    _documentation_url = _DOCUMENTATION
    _database = PostgreSQL

    @classmethod
    def from_block(cls, connector: SqlAlchemyConnector) -> Self:
        """The database that a block of prefect-sqlalchemy connects to, whatever its driver."""
        from sqlalchemy import make_url

        info = connector.connection_info
        url = make_url(info) if isinstance(info, str) else info.create_url()
        password = SecretStr(url.password) if url.password else None
        return cls(url=url._replace(drivername="postgresql", password=None).render_as_string(), password=password)


class MariaDBDatabase(_Server):
    """
    A database of a MariaDB or MySQL server, such as `mariadb://backup@host/shop`.

    Example:
        Back it up:
        ```python
        from prefect_snapshots import MariaDBDatabase
        from prefect_snapshots import BackupManager

        database = MariaDBDatabase.load("BLOCK_NAME").get_database()
        BackupManager("s3://bucket/backups", databases=[database]).create_backup("nightly")
        ```
    """

    _block_type_name = "MariaDB Database"
    _block_type_slug = "mariadb-database"
    _logo_url = _LOGO
    _documentation_url = _DOCUMENTATION
    _database = MariaDB


class SQLiteDatabase(_File):
    """
    A file of SQLite.

    Example:
        Back it up:
        ```python
        from prefect_snapshots import SQLiteDatabase
        from prefect_snapshots import BackupManager

        database = SQLiteDatabase.load("BLOCK_NAME").get_database()
        BackupManager("s3://bucket/backups", databases=[database]).create_backup("nightly")
        ```
    """

    _block_type_name = "SQLite Database"
    _block_type_slug = "sqlite-database"
    _logo_url = _LOGO
    _documentation_url = _DOCUMENTATION
    _database = SQLite


class DuckDBDatabase(_File):
    """
    A file of DuckDB.

    Example:
        Back it up:
        ```python
        from prefect_snapshots import DuckDBDatabase
        from prefect_snapshots import BackupManager

        database = DuckDBDatabase.load("BLOCK_NAME").get_database()
        BackupManager("s3://bucket/backups", databases=[database]).create_backup("nightly")
        ```
    """

    _block_type_name = "DuckDB Database"
    _block_type_slug = "duckdb-database"
    _logo_url = _LOGO
    _documentation_url = _DOCUMENTATION
    _database = DuckDB


class RedisDatabase(_Server):
    """
    A Redis server, such as `redis://host`.

    Example:
        Back it up:
        ```python
        from prefect_snapshots import RedisDatabase
        from prefect_snapshots import BackupManager

        database = RedisDatabase.load("BLOCK_NAME").get_database()
        BackupManager("s3://bucket/backups", databases=[database]).create_backup("nightly")
        ```
    """

    _block_type_name = "Redis Database"
    _block_type_slug = "redis-database"
    _logo_url = _LOGO
    _documentation_url = _DOCUMENTATION
    _database = Redis


class EtcdDatabase(_Server):
    """
    An etcd server, such as `etcd://host`.

    Example:
        Back it up:
        ```python
        from prefect_snapshots import EtcdDatabase
        from prefect_snapshots import BackupManager

        database = EtcdDatabase.load("BLOCK_NAME").get_database()
        BackupManager("s3://bucket/backups", databases=[database]).create_backup("nightly")
        ```
    """

    _block_type_name = "etcd Database"
    _block_type_slug = "etcd-database"
    _logo_url = _LOGO
    _documentation_url = _DOCUMENTATION
    _database = Etcd


class MongoDBDatabase(_Server):
    """
    A database of a MongoDB server, such as `mongodb://backup@host/shop`.

    Example:
        Back it up:
        ```python
        from prefect_snapshots import MongoDBDatabase
        from prefect_snapshots import BackupManager

        database = MongoDBDatabase.load("BLOCK_NAME").get_database()
        BackupManager("s3://bucket/backups", databases=[database]).create_backup("nightly")
        ```
    """

    _block_type_name = "MongoDB Database"
    _block_type_slug = "mongodb-database"
    _logo_url = _LOGO
    _documentation_url = _DOCUMENTATION
    _database = MongoDB


class ArangoDBDatabase(_Server):
    """
    A database of an ArangoDB server, such as `arangodb://backup@host/shop`, or on a socket.

    Example:
        Back it up:
        ```python
        from prefect_snapshots import ArangoDBDatabase
        from prefect_snapshots import BackupManager

        database = ArangoDBDatabase.load("BLOCK_NAME").get_database()
        BackupManager("s3://bucket/backups", databases=[database]).create_backup("nightly")
        ```
    """

    _block_type_name = "ArangoDB Database"
    _block_type_slug = "arangodb-database"
    _logo_url = _LOGO
    _documentation_url = _DOCUMENTATION
    _database = ArangoDB
