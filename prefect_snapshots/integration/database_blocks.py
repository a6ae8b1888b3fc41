"""The Prefect block for a database that you back up: its URL, and its password as a secret."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Self

from prefect.blocks.core import Block
from pydantic import Field, HttpUrl, SecretStr

from ..backups.databases import open_databases
from ..backups.sources import Database, DatabaseServer
from ..errors import InvalidArgument
from ..reports.diagnosis import look_at_database

_SLUG = re.compile(r"prefect-snapshots-backup-database/[^/]+")

if TYPE_CHECKING:
    from prefect_sqlalchemy import SqlAlchemyConnector


class BackupDatabase(Block):
    """
    A database that prefect-snapshots backs up: PostgreSQL, MariaDB, SQLite, DuckDB, MongoDB, Redis, etcd or ArangoDB.

    Test it with the flow "doctor". This block is part of the package prefect-snapshots: pip install prefect-snapshots.

    Example:
        Back it up:
        ```python
        from prefect_snapshots import BackupDatabase
        from prefect_snapshots import BackupManager

        database = BackupDatabase.load("BLOCK_NAME").get_database()
        BackupManager("s3://bucket/backups", databases=[database]).create_backup("nightly")
        ```
    """

    _block_type_name = "Snapshots: Backup Database"
    _block_type_slug = "prefect-snapshots-backup-database"
    _logo_url = HttpUrl(
        "https://raw.githubusercontent.com/PrefectHQ/prefect/420d0d6a78bb6df1fc18bcf188fdad43c1d22ea9/assets/block-logos/database.png"
    )
    _documentation_url = HttpUrl("https://docs.prefect.io/v3/concepts/blocks")

    url: str = Field(
        title="URL",
        description="The URL of the database. Enter the password in the field below.",
        examples=["postgresql://backup@host/shop", "sqlite:////var/lib/app.db"],
    )
    password: SecretStr | None = Field(
        default=None,
        description="The password. Default: the one that the tools of the database find in their own files.",
    )
    options: dict[str, str] = Field(
        default_factory=dict,
        description="Options as after the ? of a URL, such as sslmode or ssl_ca. Not for secrets: they are visible.",
    )

    def get_database(self) -> Database | DatabaseServer:
        """Return the database for a `BackupManager`, without connecting to it."""
        return open_databases(self.url, self.password.get_secret_value() if self.password else None, self.options)

    def check(self) -> list[str]:
        """Test whether the database can be backed up and restored from here.

        Returns:
            What was found.

        Raises:
            SnapshotsError: It cannot.
        """
        database = self.get_database()
        each = database.databases() if isinstance(database, DatabaseServer) else [database]
        return [line for one in each for line in look_at_database(one)]

    @classmethod
    def from_block(cls, connector: SqlAlchemyConnector) -> Self:
        """Return the database that a block of prefect-sqlalchemy connects to, whatever its driver.

        Args:
            connector: A block of prefect-sqlalchemy. Its connection is not opened.
        """
        from sqlalchemy import make_url

        info = connector.connection_info
        url = make_url(info) if isinstance(info, str) else info.create_url()
        password = SecretStr(url.password) if url.password else None
        scheme = url.drivername.partition("+")[0]
        return cls(url=url._replace(drivername=scheme, password=None).render_as_string(), password=password)


def named_database(text: str) -> Database | DatabaseServer:
    """Return a database by its URL, the path of its file, or its block, as parameters of flows name it.

    Args:
        text: Such as `postgresql://backup@host/shop`, `app.db` or `prefect-snapshots-backup-database/shop`.

    Raises:
        InvalidArgument: As for `open_databases` and `load_database`.
    """
    return load_database(text) if _SLUG.fullmatch(text) else open_databases(text)


def load_database(slug: str) -> Database | DatabaseServer:
    """Return the database of a saved block.

    Args:
        slug: The type and the name of the block, such as `prefect-snapshots-backup-database/shop`.

    Raises:
        InvalidArgument: There is no such block, or it is not a database.
    """
    try:
        block = Block.load(slug, _sync=True)  # type: ignore[call-arg]
    except ValueError as error:
        raise InvalidArgument(f"There is no block {slug!r}: {error}. Save it first, or check the name.") from error
    if not isinstance(block, BackupDatabase):
        raise InvalidArgument(f"The block {slug!r} is a {type(block).__name__}. Pass a BackupDatabase block.")
    return block.get_database()
