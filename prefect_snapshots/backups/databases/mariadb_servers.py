"""Whole servers of MariaDB: every database whose name matches a pattern, and the users, roles and rights.

Users are a part of their own, which comes first. They are read from the tables of the server. A restore runs no SQL of
a repository: names and values are checked, and become SQL here. Passwords are not kept. A restore creates the users and
roles that are missing, and changes no others.

The new ones have to be there before the databases, because views, triggers and routines belong to them. Their rights on
tables and routines can only be granted when the databases are there. So this part is staged before all others and
switched after them. Until then a table on the server lists the new ones: a restore that is killed leaves this list, and
the next one drops what is in it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import msgspec

from ...errors import BackupFailed, InvalidArgument, PrivilegesRefused
from ...messages import logger
from ..sources import Database, DumpNote, DumpReader, Switch
from .base import Address, drill_lock, restoring
from .mariadb import FAILED, SESSION, MariaDB, _literal, _quoted, is_left_by_restore
from .whole_servers import AccountsTrial, OpenedByURL, ServerAccounts, WholeServer, without_options

_SYSTEM = ("information_schema", "mysql", "performance_schema", "sys")
"""Databases of the server itself. A dump of `mysql` would not fit any other version of the server."""
_OWN = ("mariadb.sys", "PUBLIC")
"""Accounts that every server has."""
_NEW = "prefect_snapshots_new_users"
"""The database with the list of the accounts that a restore is creating."""
_PATIENCE = 10
"""Seconds to wait for another restore of users: the session of one that was killed ends in a moment."""
_PASSWORDS = "mysql_native_password"
_HARMLESS = frozenset({"USAGE", "SHOW DATABASES"})
"""Rights on the whole server with which nobody can change or read anything."""
_ABSENT = frozenset({"1054", "1146", "1305"})
"""What a server says when a right is granted on a column, a table or a routine that is not there."""
_WITH_USERS = "users"
_SPECIAL, _ESCAPED = re.compile(r"([\\_%])"), r"\\\1"
"""What means something in the name of a database in a right on it, and how it is written to mean itself."""

_Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=r"^[^\x00]+\Z")]
_Host: TypeAlias = Annotated[str, msgspec.Meta(max_length=255, pattern=r"^[^\x00]*\Z")]
_Text: TypeAlias = Annotated[str, msgspec.Meta(max_length=4096, pattern=r"^[^\x00]*\Z")]
_Word: TypeAlias = Annotated[str, msgspec.Meta(max_length=64, pattern=r"^[A-Z][A-Z_]*(?: [A-Z_]+)*\Z")]
_Number: TypeAlias = Annotated[int, msgspec.Meta(ge=-1, lt=2**32)]


class _Account(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A user, or a role: that has no host and no attributes."""

    name: Annotated[str, msgspec.Meta(max_length=128, pattern=r"^[^\x00]*\Z")]
    host: _Host
    role: bool
    plugins: list[_Text] = []
    """How the user proves who it is. A restore only shows this: whoever can write to the repository could choose it."""
    locked: bool = False
    lifetime: _Number = -1
    """Days after which a password expires. -1: the server's default."""
    tls: Literal[0, 1, 2, 3] = 0
    cipher: _Text = ""
    issuer: _Text = ""
    subject: _Text = ""
    queries: _Number = 0
    updates: _Number = 0
    connections: _Number = 0
    at_once: _Number = 0
    seconds: Annotated[float, msgspec.Meta(ge=0, lt=2**31)] = 0
    default_role: _Text = ""

    @property
    def key(self) -> tuple[str, str]:
        return self.name, self.host

    def created(self) -> str:
        """Return the statement that creates it. Nobody can log in as this user until somebody sets a password."""
        if self.role:
            return f"CREATE ROLE {self.quoted()}"
        limits = (
            f"MAX_QUERIES_PER_HOUR {self.queries} MAX_UPDATES_PER_HOUR {self.updates} MAX_CONNECTIONS_PER_HOUR "
            f"{self.connections} MAX_USER_CONNECTIONS {self.at_once} MAX_STATEMENT_TIME {self.seconds:f}"
        )
        expires = {-1: "DEFAULT", 0: "NEVER"}.get(self.lifetime, f"INTERVAL {self.lifetime} DAY")
        return (
            f"CREATE USER {self.quoted()} IDENTIFIED VIA {_PASSWORDS} USING 'invalid' REQUIRE {self._required()} "
            f"WITH {limits} PASSWORD EXPIRE {expires} ACCOUNT {'LOCK' if self.locked else 'UNLOCK'}"
        )

    def _required(self) -> str:
        named = {"ISSUER": self.issuer, "SUBJECT": self.subject, "CIPHER": self.cipher}
        told = " AND ".join(f"{what} {_string(value)}" for what, value in named.items() if value)
        return ("NONE", "SSL", "X509", told or "X509")[self.tls]

    def quoted(self) -> str:
        return _account(self.name, self.host, self.role)


class _RoleOfAccount(msgspec.Struct, forbid_unknown_fields=True):
    role: _Name
    name: _Text
    host: _Host
    admin: bool


class _Right(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Rights of an account on one thing."""

    name: _Text
    host: _Host
    on: Literal["server", "database", "table", "PROCEDURE", "FUNCTION", "PACKAGE", "PACKAGE BODY"]
    database: _Text = ""
    """A pattern, in which `%`, `_` and `\\` mean something, if this is a right on a database."""
    object: _Text = ""
    rights: list[_Word]
    columns: dict[_Word, list[_Name]] = {}
    grantable: bool

    @property
    def place(self) -> str:
        """What it is a right on, as SQL."""
        if self.on == "server":
            return "*.*"
        object = "*" if self.on == "database" else _quoted(self.object)
        kind = "" if self.on in ("database", "table") else f"{self.on} "
        return f"{kind}{_quoted(self.database)}.{object}"

    @property
    def later(self) -> bool:
        """Whether it can only be granted when the databases are there."""
        return self.on not in ("server", "database")

    @property
    def told(self) -> str:
        whole = [*self.rights, *(["GRANT OPTION"] if self.grantable else [])]
        return f"{', '.join(whole)} ON {self.place}"

    def is_privileged(self) -> bool:
        """Return whether somebody with these rights could do harm to the whole server, or give rights on it."""
        if self.on == "server":
            return self.grantable or not _HARMLESS.issuperset(self.rights)
        pattern = _pattern(self.database) if self.on == "database" else re.escape(self.database)
        return re.fullmatch(pattern, "mysql", re.IGNORECASE | re.DOTALL) is not None

    def granted(self, to: str) -> str:
        columns = [f"{right} ({', '.join(map(_quoted, names))})" for right, names in self.columns.items()]
        option = " WITH GRANT OPTION" if self.grantable else ""
        return f"GRANT {', '.join([*self.rights, *columns]) or 'USAGE'} ON {self.place} TO {to}{option}"


class _Users(msgspec.Struct, forbid_unknown_fields=True):
    """The users and roles of a server. They come out of a backup: every value has a type, and no SQL of its own."""

    accounts: list[_Account]
    memberships: list[_RoleOfAccount]
    rights: list[_Right]

    @property
    def counts(self) -> dict[str, int]:
        roles = sum(account.role for account in self.accounts)
        return {
            "users": len(self.accounts) - roles,
            "roles": roles,
            "memberships": len(self.memberships),
            "rights": len(self.rights),
        }

    def without(self, there: Iterable[tuple[str, str]]) -> _Users:
        """Return only the accounts that are not there, with their memberships and rights."""
        known = set(there)
        new = {account.key for account in self.accounts} - known
        return _Users(
            [account for account in self.accounts if account.key in new],
            [each for each in self.memberships if (each.name, each.host) in new],
            [each for each in self.rights if (each.name, each.host) in new],
        )

    def privileges(self, there: Iterable[tuple[str, str]]) -> list[str]:
        """Return what no restore may give unless it is allowed to: the accounts, each with what it would get.

        Args:
            there: The accounts of the server. The server picks the one with the most specific host, and among these
                one without a name: so a new account can lock out an existing user.
        """
        found: dict[str, list[str]] = {}
        names = {name for name, host in there if host}
        for account in self.accounts:
            if not account.role and (not account.name or account.name in names):
                shadowed = f"the existing user {account.name!r}" if account.name else "existing users"
                found.setdefault(_shown(*account.key), []).append(f"the place of {shadowed}, from this host")
        new = {account.name for account in self.accounts if account.role}
        for right in self.rights:
            if right.is_privileged():
                found.setdefault(_shown(right.name, right.host), []).append(right.told)
        for each in self.memberships:
            if each.role not in new:
                found.setdefault(_shown(each.name, each.host), []).append(f"the existing role {each.role!r}")
        return [f"{account} ({', '.join(what)})" for account, what in sorted(found.items())]

    def statements(self) -> Iterator[str]:
        """Yield what creates the accounts, with the rights that need no table and no routine."""
        quoted = {account.key: account.quoted() for account in self.accounts}
        yield from (account.created() for account in self.accounts)
        for (*key, whole), rights in self._meanwhile().items():
            yield f"GRANT {', '.join(rights)} ON {whole} TO {quoted[key[0], key[1]]}"
        for each in self.memberships:
            option = " WITH ADMIN OPTION" if each.admin else ""
            yield f"GRANT {_quoted(each.role)} TO {quoted[each.name, each.host]}{option}"
        yield from (right.granted(quoted[right.name, right.host]) for right in self.rights if not right.later)
        for account in self.accounts:
            if account.default_role:
                yield f"SET DEFAULT ROLE {_quoted(account.default_role)} FOR {account.quoted()}"

    def later(self) -> dict[str, _Right]:
        """Return the rights on tables and routines, by what grants them."""
        quoted = {account.key: account.quoted() for account in self.accounts}
        return {right.granted(quoted[right.name, right.host]): right for right in self.rights if right.later}

    def last(self) -> Iterator[str]:
        """Yield what takes back the rights that were granted in the meantime."""
        quoted = {account.key: account.quoted() for account in self.accounts}
        for (*key, whole), rights in self._meanwhile().items():
            yield f"REVOKE {', '.join(rights)} ON {whole} FROM {quoted[key[0], key[1]]}"

    def _meanwhile(self) -> dict[tuple[str, str, str], list[str]]:
        """Return rights on a whole database for whoever will have some on its tables or routines.

        The views of these accounts are created before they have those, and other views could not use them.
        """
        kept = {(right.name, right.host, right.place): right.rights for right in self.rights if not right.later}
        found = {}
        for right in self.rights:
            if right.later:
                whole = (right.name, right.host, f"{_quoted(re.sub(_SPECIAL, _ESCAPED, right.database))}.*")
                found[whole] = [what for what in ("SELECT", "EXECUTE") if what not in kept.get(whole, ())]
        return {key: rights for key, rights in found.items() if rights}


@dataclass(frozen=True, repr=False)
class MariaDBUsers(ServerAccounts[_Users]):
    """The users and roles of a MariaDB server, with their attributes, roles and rights, and without passwords.

    A restore creates the users and roles that are missing, and changes no others. Nobody can log in as a new user until
    its password is set.

    Args:
        url: The URL of the server.
        password: As for `MariaDB`.
        allow_privileges: Whether a restore may create users and roles with privileges: rights on the whole server or
            on the database `mysql`, and memberships in roles that exist.

    Example:
        >>> from prefect_snapshots.backups.databases import MariaDBUsers
        >>> MariaDBUsers("mariadb://db.example.com/").name
        'mariadb://db.example.com:3306/'
    """

    schemes: ClassVar[tuple[str, ...]] = MariaDB.schemes
    kind: ClassVar[str] = "mariadb-users"
    switches_last: ClassVar[bool] = True
    default_port: ClassVar[int] = MariaDB.default_port
    options: ClassVar[tuple[str, ...]] = (*MariaDB.options, _WITH_USERS)
    word: ClassVar[str] = "users"
    stored_as: ClassVar[type[_Users]] = _Users

    def check_url(self, address: Address) -> None:
        without = without_options(self.renamed("_"), (_WITH_USERS,))
        MariaDB(without)  # it checks the other options
        if address.options.get(_WITH_USERS, "true") not in ("true", "false"):
            raise InvalidArgument("In the URL of a MariaDB server, users= is true or false.")

    @property
    def _server(self) -> MariaDB:
        return MariaDB(without_options(self.renamed("_"), (_WITH_USERS,)), self.password)

    def check(self) -> list[str]:
        """See `Database`."""
        ((version,),) = self._asked("SELECT JSON_ARRAY(version())")
        return [f"MariaDB {version}"]

    @contextlib.contextmanager
    def stage(self, dump: DumpReader, only: Sequence[str] = ()) -> Iterator[Switch]:
        """See `StagedRestores`. The databases that are staged next need the users, so they are created here.

        Leaving the block without a switch drops the new ones.
        """
        self._refuse_some(only)
        with contextlib.ExitStack() as stack:
            with restoring(self.name, "and is unchanged"):
                stack.enter_context(self._alone())
                self._drop_listed()
                there = self._there()
                new = self._stored(dump).without(there)
                if not self.allow_privileges and (refused := new.privileges(there)):
                    raise PrivilegesRefused(self.name, refused)
                finish = stack.enter_context(self._created(new))

            def switch() -> Sequence[str]:
                with restoring(self.name, "and is unchanged"):
                    return [*finish(), *_without_passwords(new)]

            yield switch

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Database]:
        """See `Database`."""
        yield _UsersTrial(self.url, self.password)

    @contextlib.contextmanager
    def _created(self, new: _Users) -> Iterator[Switch]:
        """Create the accounts, and drop them again unless the function that this yields has been called."""
        finished = False

        def finish() -> Sequence[str]:
            nonlocal finished
            warnings = self._grant(new.later())
            self._asked("; ".join(new.last()))
            # Up to here they can be taken back, and from here on they stay.
            self._asked(f"DROP DATABASE IF EXISTS {_quoted(_NEW)}")
            finished = True
            return warnings

        try:
            if new.accounts:
                listed = _literal(json.dumps([[*account.key, account.role] for account in new.accounts]))
                table = f"CREATE TABLE {_quoted(_NEW)}.accounts AS SELECT {listed} AS accounts"
                # First of all a list of them, which outlives this process.
                self._asked(f"CREATE DATABASE {_quoted(_NEW)}; {table}")
                self._asked("; ".join(new.statements()))
            yield finish
        finally:
            if not finished:
                try:
                    self._drop_listed()
                except BackupFailed as error:
                    logger.warning("The new users could not be dropped. The next restore drops them: %s", error)

    def _drop_listed(self) -> None:
        """Drop the accounts that this restore, or one that was killed, has listed and not finished."""
        there = _literal(_NEW)
        tables = self._asked(
            f"SELECT JSON_ARRAY(table_name) FROM information_schema.tables WHERE table_schema = {there}"
        )
        if ["accounts"] in tables:
            ((found,),) = self._asked(f"SELECT JSON_ARRAY(accounts) FROM {_quoted(_NEW)}.accounts")
            dropped = [
                f"DROP {'ROLE' if role else 'USER'} IF EXISTS {_account(name, host, role)}"
                for name, host, role in json.loads(found)
            ]
            self._asked("; ".join(dropped))
        self._asked(f"DROP DATABASE IF EXISTS {_quoted(_NEW)}")

    def _grant(self, grants: dict[str, _Right]) -> list[str]:
        """Grant rights on tables and routines. Returns what is not there to have rights on."""
        starts = itertools.accumulate((grant.count("\n") + 1 for grant in grants), initial=2)
        by_line = dict(zip(starts, grants.values(), strict=False))
        with self._server._client("mariadb mysql") as tool, tempfile.TemporaryFile() as said:
            # Only this mode knows packages. It creates no user, either.
            script = [f"{grant};\n".encode() for grant in ("SET sql_mode = 'ORACLE'", *grants)]
            tool.run(*SESSION, "--force", stdin=script, stderr=said)
            said.seek(0)
            failed = FAILED.findall(tool.masked(said.read().decode(errors="replace")))
        if others := [why for code, _, why in failed if code not in _ABSENT]:
            raise BackupFailed(f"A right could not be granted: {others[0]}")
        absent = [by_line[int(line)] for _, line, _ in failed]
        return [
            f"{_shown(right.name, right.host)} did not get {right.told}: there is no such table, column or routine."
            for right in absent
        ]

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let no other restore of users run: it would drop ours."""
        with self._server._transaction("") as ask:
            if ask(f"SELECT JSON_ARRAY(GET_LOCK({_literal(_NEW)}, {_PATIENCE}))") != [[1]]:
                raise BackupFailed("Another restore of the users of this server is running. Wait until it has ended.")
            yield

    def _there(self) -> list[tuple[str, str]]:
        return [(name, host) for name, host in self._asked("SELECT JSON_ARRAY(user, host) FROM mysql.global_priv")]

    def _asked(self, query: str) -> list[Any]:
        """The rows of a query. Strings in it are read in one mode, and GRANT never creates a user."""
        return self._server._ask(f"SET sql_mode = 'NO_AUTO_CREATE_USER'; {query}", database="") if query else []

    def _notes(self) -> list[DumpNote]:
        query = "SELECT DISTINCT JSON_ARRAY(user, host) FROM mysql.proxies_priv WHERE proxied_user <> '' ORDER BY 1"
        with contextlib.suppress(BackupFailed):  # a user of the backup with few rights
            return [
                DumpNote(f"PROXY rights of {_shown(*account)} are left out. Grant them again after a restore.", True)
                for account in self._asked(query)
            ]
        return []

    def _read(self) -> _Users:
        try:
            return self._read_all()
        except BackupFailed as error:
            raise BackupFailed(
                f"The users of the server could not be read: {str(error).rstrip('.')}. Grant SELECT ON mysql.* to the "
                f"user of the backup, or add ?{_WITH_USERS}=false to the URL to back up the databases without users. "
                "Users can be backed up from MariaDB 10.4 on, and not from MySQL."
            ) from error

    def _read_all(self) -> _Users:
        found = self._asked(
            "SELECT JSON_ARRAY(user, host, JSON_COMPACT(JSON_REMOVE(priv, '$.authentication_string', '$.auth_or')), "
            "JSON_COMPACT(coalesce(JSON_EXTRACT(priv, '$.auth_or[*].plugin'), '[]'))) FROM mysql.global_priv "
            "ORDER BY user, host"
        )
        seen = self._seen()
        kept = [
            row
            for row in found
            if row[0] not in _OWN and drill_lock(row[0]) is None and (row[2].get("is_role") or tuple(row[:2]) in seen)
        ]
        accounts = [_read_account(*row) for row in kept]
        keys = {account.key for account in accounts}
        memberships = [
            {"role": role, "name": name, "host": host, "admin": admin == "Y"}
            for role, name, host, admin in self._asked(
                "SELECT JSON_ARRAY(role, user, host, admin_option) FROM mysql.roles_mapping ORDER BY role, user, host"
            )
            if (name, host) in keys
        ]
        rights = [*self._rights(accounts), *self._rights_of_roles([row for row in kept if row[2].get("is_role")])]
        rights += self._routine_rights(keys)
        return msgspec.convert(
            {"accounts": msgspec.to_builtins(accounts), "memberships": memberships, "rights": rights}, _Users
        )

    def _seen(self) -> set[tuple[str, str]]:
        """Return the users whose rights we see: all but those that the server ignores, such as hosts without a name."""
        ((mine,),) = self._asked("SELECT JSON_ARRAY(current_user())")
        asked = self._asked("SELECT DISTINCT JSON_ARRAY(grantee) FROM information_schema.user_privileges")
        grantees = {grantee for (grantee,) in asked}
        seen = {key for key in self._there() if _grantee(*key) in grantees}
        if {f"{name}@{host}" for name, host in seen} == {mine}:
            raise BackupFailed(f"{mine} sees no rights but its own.")
        return seen

    def _rights(self, accounts: Sequence[_Account]) -> list[dict[str, Any]]:
        by_grantee = {_grantee(*account.key): account.key for account in accounts}
        found: dict[tuple[str, ...], dict[str, Any]] = {}
        queries = [
            "'server', '', '', '', privilege_type, is_grantable) FROM information_schema.user_privileges",
            "'database', table_schema, '', '', privilege_type, is_grantable) FROM information_schema.schema_privileges",
            "'table', table_schema, table_name, '', privilege_type, is_grantable) "
            "FROM information_schema.table_privileges",
            "'table', table_schema, table_name, column_name, privilege_type, is_grantable) "
            "FROM information_schema.column_privileges",
        ]
        asked = self._asked("; ".join(f"SELECT JSON_ARRAY(grantee, {query} ORDER BY 1" for query in queries))
        for grantee, on, database, object, column, right, grantable in asked:
            if (key := by_grantee.get(grantee)) is None:
                continue
            each = found.setdefault(
                (*key, on, database, object),
                {"name": key[0], "host": key[1], "on": on, "database": database, "object": object}
                | {"rights": [], "columns": {}, "grantable": grantable == "YES"},
            )
            if column:
                each["columns"].setdefault(right, []).append(column)
            elif right != "USAGE":
                each["rights"].append(right)
        return [each for each in found.values() if each["rights"] or each["columns"] or each["grantable"]]

    def _rights_of_roles(self, roles: Sequence[Sequence[Any]]) -> Iterator[dict[str, Any]]:
        """Rights of roles on the whole server, which only SHOW GRANTS tells."""
        for name, host, attributes, _ in roles:
            if not attributes.get("access"):
                continue
            with self._server._client("mariadb mysql") as tool:
                query = f"SET sql_mode = ''; SHOW GRANTS FOR {_quoted(name)}"
                said = tool.run(*SESSION, stdin=[query.encode()]).decode()
            line = rf"(?m)^GRANT ([A-Z_, ]+) ON \*\.\* TO {re.escape(_quoted(name))}( WITH GRANT OPTION)?$"
            if (told := re.search(line, said)) is None:
                raise BackupFailed(f"The rights of the role {_quoted(name)} cannot be seen.")
            rights = [right for right in told[1].split(", ") if right != "USAGE"]
            yield {"name": name, "host": host, "on": "server", "rights": rights, "grantable": bool(told[2])}

    def _routine_rights(self, keys: Iterable[tuple[str, str]]) -> Iterator[dict[str, Any]]:
        known = set(keys)
        for name, host, database, object, kind, rights in self._asked(
            "SELECT JSON_ARRAY(user, host, db, routine_name, routine_type, proc_priv) FROM mysql.procs_priv "
            "ORDER BY user, host, db, routine_name, routine_type"
        ):
            if (name, host) in known:
                words = [word.upper() for word in rights.split(",") if word]
                yield (
                    {"name": name, "host": host, "on": kind, "database": database, "object": object}
                    | {"rights": [word for word in words if word != "GRANT"], "grantable": "GRANT" in words}
                )


@dataclass(frozen=True, repr=False)
class _UsersTrial(AccountsTrial[_Users], MariaDBUsers):
    """Reads the users of a backup in a drill, and creates none: what MariaDB has created, it cannot roll back."""

    def _try(self, stored: _Users) -> None:
        list(stored.statements())
        stored.later()
        self.notes.append("The users were read and checked, but not created.")


@dataclass(frozen=True, repr=False)
class MariaDBServer(WholeServer):
    """The databases of a MariaDB or MySQL server whose names match a pattern, and the users of a MariaDB server.

    Args:
        url: The URL of a server, with a pattern in place of the name of a database. `*` matches any characters. With
            `?users=false`, users, roles and rights are left out.
        password: As for `MariaDB`.

    Example:
        >>> from prefect_snapshots.backups.databases import MariaDBServer
        >>> MariaDBServer("mysql://db.example.com/shop_*").covers("mariadb://db.example.com:3306/shop_eu")
        True
    """

    schemes: ClassVar[tuple[str, ...]] = MariaDB.schemes
    kind: ClassVar[str] = "mariadb-server"
    default_port: ClassVar[int] = MariaDB.default_port
    options: ClassVar[tuple[str, ...]] = MariaDBUsers.options
    single: ClassVar[type[OpenedByURL]] = MariaDB
    accounts: ClassVar[type[OpenedByURL]] = MariaDBUsers
    of_accounts: ClassVar[tuple[str, ...]] = (_WITH_USERS,)
    home: ClassVar[str] = "_"

    @property
    def with_accounts(self) -> bool:
        return self.address.options.get(_WITH_USERS) != "false"

    def listed(self) -> list[str]:
        """See `WholeServer`. These are the databases that the user may see: a server names no others."""
        found = MariaDB(without_options(self.renamed(self.home), self.of_accounts), self.password)._ask(
            "SELECT JSON_ARRAY(schema_name) FROM information_schema.schemata ORDER BY schema_name", database=""
        )
        # Not in SQL, where "Sys" would be equal to "sys".
        return [name for (name,) in found if not self.is_own(name)]

    def is_own(self, database: str) -> bool:
        """See `WholeServer`. A folder that is no database has a name with #."""
        return (
            database in (*_SYSTEM, _NEW)
            or drill_lock(database) is not None
            or is_left_by_restore(database)
            or database.startswith("#mysql50#")
        )


def _read_account(name: str, host: str, attributes: dict[str, Any], more: list[str]) -> _Account:
    """Return an account from its row in `mysql.global_priv`."""
    if attributes.get("is_role"):
        return _Account(name=name, host=host, role=True)
    return _Account(
        name=name,
        host=host,
        role=False,
        plugins=sorted({attributes.get("plugin", _PASSWORDS), *more}),
        locked=bool(attributes.get("account_locked")),
        lifetime=attributes.get("password_lifetime", -1),
        tls=attributes.get("ssl_type", 0),
        cipher=attributes.get("ssl_cipher", ""),
        issuer=attributes.get("x509_issuer", ""),
        subject=attributes.get("x509_subject", ""),
        queries=attributes.get("max_questions", 0),
        updates=attributes.get("max_updates", 0),
        connections=attributes.get("max_connections", 0),
        at_once=attributes.get("max_user_connections", 0),
        seconds=attributes.get("max_statement_time", 0),
        default_role=attributes.get("default_role", ""),
    )


def _without_passwords(new: _Users) -> list[str]:
    users = []
    for account in new.accounts:
        others = [plugin for plugin in account.plugins if plugin != _PASSWORDS]
        if not account.role:
            users.append(f"{account.quoted()} (logged in with {' or '.join(others)})" if others else account.quoted())
    return [f"These users cannot log in until you set a password for each: {', '.join(users)}."] if users else []


def _account(name: str, host: str, role: bool) -> str:
    """An account as SQL. Only a user without a name cannot be quoted like other names."""
    if role:
        return _quoted(name)
    return f"{_quoted(name) if name else _string('')}@{_quoted(host) if host else _string('')}"


def _grantee(name: str, host: str) -> str:
    """An account as the information schema writes it, which escapes nothing."""
    return f"'{name}'@'{host}'"


def _shown(name: str, host: str) -> str:
    return f"{name!r}@{host!r}" if host else repr(name)


def _string(text: str) -> str:
    """A string for a session without modes, where no function may stand in its place."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def _pattern(database: str) -> str:
    """The names that a right on databases means, as a regular expression."""
    pieces = re.findall(r"(?s)\\.|.", database)
    return "".join({"%": ".*", "_": "."}.get(piece, re.escape(piece.removeprefix("\\") or piece)) for piece in pieces)
