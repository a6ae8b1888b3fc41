"""Whole servers of PostgreSQL: every database whose name matches a pattern, and the roles.

`postgresql://host/*` means all databases of a server, and `postgresql://host/shop_*` those that begin with `shop_`. The
list is made once, when a backup begins. Each database is a part of its own, as if its URL had been given.

Roles are a part of their own, which comes first. It is read from the catalog and not from `pg_dumpall`: so any user may
back it up, and a restore never runs SQL of a repository, because names and values are checked and become SQL here.
Passwords are not in it. A restore creates the roles that are missing, before the databases that they own. It changes no
role that exists, because it may belong to others by now.
"""

from __future__ import annotations

import contextlib
import fnmatch
import glob
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, TypeAlias
from urllib.parse import quote, unquote

import msgspec

from ...errors import BackupFailed, InvalidArgument
from ...messages import logger
from ..sources import Database, Dump, DumpFile, DumpReader, Switch
from .base import Address, ServerDatabase, check_counts, drill_lock, drill_mark, read_settings, restoring
from .postgresql import PostgreSQL, _literal, _major, _quoted, _Session, _set_statement, is_left_by_restore

_ROLES = "roles.json"
_Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=63, pattern=r"^[^\x00]+\Z")]
_Text: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[^\x00]*\Z")]
_Setting: TypeAlias = Annotated[
    str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_$]*(?:\.[A-Za-z_][A-Za-z0-9_$]*)*=[^\x00]*\Z")
]

_CATALOG = """
SELECT jsonb_build_object(
  'roles', (SELECT coalesce(jsonb_agg(jsonb_build_object(
      'name', rolname, 'superuser', rolsuper, 'inherit', rolinherit, 'createrole', rolcreaterole,
      'createdb', rolcreatedb, 'login', rolcanlogin, 'replication', rolreplication, 'bypassrls', rolbypassrls,
      'connections', rolconnlimit, 'valid_until', rolvaliduntil, 'comment', shobj_description(oid, 'pg_authid'),
      'settings', (SELECT coalesce(jsonb_agg(c ORDER BY c), '[]') FROM pg_db_role_setting, unnest(setconfig) c
        WHERE setrole = r.oid AND setdatabase = 0)) ORDER BY rolname), '[]')
    FROM pg_roles r WHERE rolname !~ '^pg_'),
  'memberships', (SELECT coalesce(jsonb_agg(to_jsonb(g) ORDER BY role, member), '[]') FROM (
      SELECT g.rolname AS role, m.rolname AS member, bool_or(admin_option) AS admin,
        bool_or((to_jsonb(a) ->> 'inherit_option')::boolean) AS inherit,
        bool_or((to_jsonb(a) ->> 'set_option')::boolean) AS set
      FROM pg_auth_members a JOIN pg_roles g ON g.oid = a.roleid JOIN pg_roles m ON m.oid = a.member
      GROUP BY 1, 2) g WHERE member !~ '^pg_'))
"""
_FLAGS = ("superuser", "inherit", "createrole", "createdb", "login", "replication", "bypassrls")


class _Role(msgspec.Struct, forbid_unknown_fields=True):
    name: _Name
    superuser: bool
    inherit: bool
    createrole: bool
    createdb: bool
    login: bool
    replication: bool
    bypassrls: bool
    connections: Annotated[int, msgspec.Meta(ge=-1, lt=2**31)]
    valid_until: _Text | None
    comment: _Text | None
    settings: list[_Setting]


class _Membership(msgspec.Struct, forbid_unknown_fields=True):
    role: _Name
    member: _Name
    admin: bool
    inherit: bool | None
    """None before PostgreSQL 16, as the next one."""
    set: bool | None


class _Roles(msgspec.Struct, forbid_unknown_fields=True):
    """The roles of a server. They come out of a backup: every value has a type, and no line of its own."""

    roles: list[_Role]
    memberships: list[_Membership]

    @property
    def counts(self) -> dict[str, int]:
        return {"roles": len(self.roles), "memberships": len(self.memberships)}

    def statements(self, there: Mapping[str, str], names: Mapping[str, str], server: int) -> Iterator[str]:
        """Yield what creates some of the roles, with their settings and memberships.

        Args:
            there: Roles of the server that they can be members of, by their names in the backup.
            names: The roles to create: their new names by those in the backup.
            server: The version of the server.
        """
        for role in self.roles:
            if (name := names.get(role.name)) is None:
                continue
            flags = " ".join(flag if getattr(role, flag) else f"no{flag}" for flag in _FLAGS).upper()
            until = "" if role.valid_until is None else f" VALID UNTIL {_literal(role.valid_until)}"
            yield f"CREATE ROLE {_quoted(name)} WITH {flags} CONNECTION LIMIT {role.connections}{until}"
            if role.comment is not None:
                yield f"COMMENT ON ROLE {_quoted(name)} IS {_literal(role.comment)}"
            yield from (_set_statement(f"ALTER ROLE {_quoted(name)}", setting) for setting in role.settings)
        known = {**there, **names}
        # An existing role gets no membership: whoever can write to the repository could raise its rights.
        for each in self.memberships:
            if each.member in names and each.role in known:
                options = [("ADMIN", each.admin), ("INHERIT", each.inherit), ("SET", each.set)]
                told = ", ".join(f"{option} {str(value).upper()}" for option, value in options if value is not None)
                given = f" WITH {told}" if server >= 16 else " WITH ADMIN OPTION" * each.admin
                yield f"GRANT {_quoted(known[each.role])} TO {_quoted(names[each.member])}{given}"


@dataclass(frozen=True, repr=False)
class PostgreSQLRoles(ServerDatabase):
    """The roles of a PostgreSQL server, with their attributes, settings and memberships, and without passwords.

    A restore creates the roles that are missing, and changes no other. Their passwords must be set afterwards.

    Example:
        >>> from prefect_snapshots.backups.databases import PostgreSQLRoles
        >>> PostgreSQLRoles("postgresql://db.example.com/").name
        'postgresql://db.example.com:5432/'
    """

    schemes: ClassVar[tuple[str, ...]] = PostgreSQL.schemes
    kind: ClassVar[str] = "postgresql-roles"
    swaps: ClassVar[bool] = True
    default_port: ClassVar[int] = PostgreSQL.default_port
    options: ClassVar[tuple[str, ...]] = PostgreSQL.options
    has_databases: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """The URL of the server, without a database."""
        return _place(self.address)

    @property
    def _server(self) -> PostgreSQL:
        return PostgreSQL(self.renamed("postgres"), self.password)

    def check(self) -> list[str]:
        """See `Database`."""
        with self._server._maintenance() as session:
            version = session.ask("SELECT to_jsonb(current_setting('server_version'))")
        return [f"PostgreSQL {version}"]

    @contextlib.contextmanager
    def dump(self) -> Iterator[Dump]:
        """See `Database`."""
        found = self._read()
        data = json.dumps(msgspec.to_builtins(found), indent=1, sort_keys=True).encode()
        yield Dump([DumpFile(_ROLES, iter([data]))], found.counts)

    def counts(self) -> dict[str, int]:
        """See `Database`."""
        return self._read().counts

    @contextlib.contextmanager
    def stage(self, dump: DumpReader, only: Sequence[str] = ()) -> Iterator[Switch]:
        """See `StagedRestores`. The databases that are staged next need the roles, so they are created here.

        Leaving the block without a switch drops the new ones. A kill leaves them, where they harm nobody.
        """
        if only:
            raise InvalidArgument("Roles are restored together. Pass an empty list for this part: [].")
        with restoring(self.name, "and is unchanged"):
            stored = read_settings(dump, _ROLES, _Roles)
            with self._server._maintenance() as session:
                there = set(session.ask("SELECT jsonb_agg(rolname) FROM pg_roles"))
                new = {role.name: role.name for role in stored.roles if role.name not in there}
                _in_one(session, stored.statements({name: name for name in there}, new, _major(session)))
        switched = False

        def switch() -> Sequence[str]:
            nonlocal switched
            switched = True
            users = [role.name for role in stored.roles if role.name in new and role.login]
            if not users:
                return []
            return [f"These roles were created without a password. Set one for each: {', '.join(users)}."]

        try:
            yield switch
        finally:
            if not switched and new:
                try:
                    with self._server._maintenance() as session:
                        _in_one(session, (f"DROP ROLE IF EXISTS {_quoted(name)}" for name in new))
                except BackupFailed as error:
                    logger.warning("The roles %s were created and could not be dropped: %s", ", ".join(new), error)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Database]:
        """See `Database`."""
        yield _Trial(self.url, self.password)

    def _read(self) -> _Roles:
        with self._server._maintenance() as session:
            found = session.ask(_CATALOG)
        for key, name in ("roles", "name"), ("memberships", "member"):
            found[key] = [each for each in found[key] if drill_lock(each[name]) is None]
        return msgspec.convert(found, _Roles)


@dataclass(frozen=True, repr=False)
class _Trial(PostgreSQLRoles):
    """Creates the roles of a backup under other names in a drill, and takes that back."""

    notes: list[str] = field(default_factory=list, compare=False)
    found: dict[str, int] = field(default_factory=dict, compare=False)

    def counts(self) -> dict[str, int]:
        return self.found

    def restore(self, dump: DumpReader, only: Sequence[str] = ()) -> None:
        with restoring(self.name, "for a drill"):
            stored = read_settings(dump, _ROLES, _Roles)
            with self._server._maintenance() as session:
                there = {name: name for name in session.ask("SELECT jsonb_agg(rolname) FROM pg_roles")}
                may = session.ask("SELECT to_jsonb(rolsuper) FROM pg_roles WHERE rolname = current_user")
                if may:
                    mark = drill_mark()
                    new = {role.name: f"r{number}_drill_{mark}" for number, role in enumerate(stored.roles)}
                    session.run("BEGIN")
                    for statement in stored.statements(there, new, _major(session)):
                        session.run(statement)
                    session.run("ROLLBACK")
                else:
                    self.notes.append("The roles were read and not created, because this user is no superuser.")
        self.found.update(stored.counts)
        check_counts(self.found, dump.counts)


@dataclass(frozen=True, repr=False)
class PostgreSQLServer(ServerDatabase):
    """The databases of a PostgreSQL server whose names match a pattern, and its roles.

    Args:
        url: The URL of a server, with a pattern in place of the name of a database. `*` matches any characters.
        password: As for `PostgreSQL`.

    Example:
        >>> from prefect_snapshots.backups.databases import PostgreSQLServer
        >>> PostgreSQLServer("postgresql://db.example.com/shop_*").covers("postgresql://db.example.com:5432/shop_eu")
        True
    """

    schemes: ClassVar[tuple[str, ...]] = PostgreSQL.schemes
    kind: ClassVar[str] = "postgresql-server"
    default_port: ClassVar[int] = PostgreSQL.default_port
    options: ClassVar[tuple[str, ...]] = PostgreSQL.options

    @property
    def name(self) -> str:
        """The URL without user, password and options."""
        return _place(self.address) + "*".join(quote(piece, safe="") for piece in self._pieces)

    def databases(self) -> list[Database]:
        """Return the roles of the server, and the databases that match now.

        Raises:
            BackupFailed: The server cannot be reached, or no database matches.
        """
        with PostgreSQL(self.renamed("postgres"), self.password)._maintenance() as session:
            names = session.ask(
                "SELECT coalesce(jsonb_agg(datname ORDER BY datname), '[]') FROM pg_database "
                "WHERE datallowconn AND NOT datistemplate"
            )
        found = [
            name for name in names if self._matches(name) and not is_left_by_restore(name) and drill_lock(name) is None
        ]
        if not found:
            raise BackupFailed(f"No database matches {self.name}. The server has: {', '.join(names)}.")
        return [self.named(""), *map(self.named, found)]

    def covers(self, part: str) -> bool:
        """Return whether a part of a backup comes from this server, and its name matches.

        Args:
            part: The name of the part.
        """
        head, _, name = part.rpartition("/")
        return f"{head}/" == _place(self.address) and (not name or self._matches(unquote(name)))

    def named(self, database: str) -> Database:
        """Return one database of the server.

        Args:
            database: Its name. Empty: the roles.
        """
        kind = PostgreSQL if database else PostgreSQLRoles
        return kind(self.renamed(database), self.password)

    def drop_abandoned(self) -> list[str]:
        """See `DropsAbandoned`."""
        return PostgreSQL(self.renamed("postgres"), self.password).drop_abandoned()

    @property
    def _pieces(self) -> list[str]:
        """What is between the stars. They are found before decoding: a `%2A` is a part of a name."""
        return [unquote(piece) for piece in self.url.partition("?")[0].rpartition("/")[2].split("*")]

    def _matches(self, name: str) -> bool:
        return fnmatch.fnmatchcase(name, "*".join(map(glob.escape, self._pieces)))


def _place(address: Address) -> str:
    host = f"[{address.host}]" if ":" in address.host else address.host or "localhost"
    return f"{PostgreSQL.kind}://{host}:{address.port or PostgreSQL.default_port}/"


def _in_one(session: _Session, statements: Iterable[str]) -> None:
    """Run statements in one transaction."""
    session.run("BEGIN")
    for statement in statements:
        session.run(statement)
    session.run("COMMIT")
