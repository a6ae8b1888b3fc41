"""Whole servers of PostgreSQL: every database whose name matches a pattern, and the roles.

Roles are a part of their own, which comes first. It is read from the catalog and not from `pg_dumpall`: so any user may
back it up, and a restore never runs SQL of a repository, because names and values are checked and become SQL here.
Passwords are not in it. A restore creates the roles that are missing, before the databases that they own. It changes no
role that exists, because it may belong to others by now.

Whoever can write to the repository can forge the list. So a new role gets nothing that reaches beyond the restored
databases, unless the restore allows it: no attribute that raises its rights, no membership in a role that exists, and
no setting that the role could not change for itself.

Until the switch, the comment of each new role says that a restore has not ended. The next restore recognises the roles
of a killed one by it, and takes them over.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, TypeAlias

import msgspec

from ...errors import BackupFailed, PrivilegesRefused
from ...messages import logger
from ..sources import Database, DumpReader, Switch
from .base import drill_lock, drill_mark, restoring
from .postgresql import (
    OWN_SETTINGS,
    PostgreSQL,
    _held_marks,
    _hold_mark,
    _literal,
    _major,
    _quoted,
    _Session,
    _set_statement,
    is_left_by_restore,
)
from .whole_servers import AccountsTrial, OpenedByURL, ServerAccounts, WholeServer

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
_PRIVILEGED = ("superuser", "createrole", "replication", "bypassrls")
"""Attributes with which a role can read or change what belongs to others."""

_LONGEST_NAME = 63
"""Bytes. PostgreSQL cuts longer names without an error: two names would become one, or that of an existing role."""

_UNFINISHED = re.compile(r"A restore by prefect-snapshots has not ended yet: ([0-9a-f]{16})")
"""The comment of a role whose restore has not ended."""


def _mark_in(comment: str | None) -> int | None:
    """Return the number of the lock of the restore that has created a role. None: no restore is unfinished."""
    found = _UNFINISHED.fullmatch(comment or "")
    return drill_lock(f"_drill_{found[1]}") if found else None


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

    def __post_init__(self) -> None:
        if len(self.name.encode()) > _LONGEST_NAME:
            raise ValueError("the name is too long")
        if _mark_in(self.comment) is not None:
            raise ValueError("the comment is that of an unfinished restore")


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

    def privileges(self, there: Collection[str], new: Collection[str], own_settings: Collection[str]) -> list[str]:
        """Return what some roles would get that reaches beyond the restored databases.

        Args:
            there: Roles of the server.
            new: The roles to create.
            own_settings: Settings that every role may change for itself.
        """
        found = []
        for role in self.roles:
            if role.name in new:
                what = [flag.upper() for flag in _PRIVILEGED if getattr(role, flag)]
                joined = [each.role for each in self.memberships if each.member == role.name and each.role not in new]
                what += [f"membership in {name!r}" for name in joined if name in there]
                names = [setting.partition("=")[0] for setting in role.settings]
                what += [f"the setting {name}" for name in names if name.lower() not in own_settings]
                found += [f"role {role.name!r}: {each}" for each in what]
        return found

    def statements(
        self, there: Collection[str], names: Mapping[str, str], server: int, adopted: Mapping[str, bool]
    ) -> Iterator[str]:
        """Yield what creates some of the roles, with their settings and memberships, and without comments.

        Args:
            there: Roles of the server that they can be members of.
            names: The roles to create: their new names by those in the backup.
            server: The version of the server.
            adopted: Those that a killed restore has created, and which get what is in this backup. Each says whether
                it expires now.
        """
        for role in self.roles:
            if (name := names.get(role.name)) is None:
                continue
            flags = " ".join(flag if getattr(role, flag) else f"no{flag}" for flag in _FLAGS).upper()
            verb, ends = "CREATE", role.valid_until
            if name in adopted:
                verb, ends = "ALTER", ends or ("infinity" if adopted[name] else None)
                yield f"ALTER ROLE {_quoted(name)} RESET ALL"
            until = "" if ends is None else f" VALID UNTIL {_literal(ends)}"
            yield f"{verb} ROLE {_quoted(name)} WITH {flags} CONNECTION LIMIT {role.connections}{until}"
            yield from (_set_statement(f"ALTER ROLE {_quoted(name)}", setting) for setting in role.settings)
        known = {**{name: name for name in there}, **names}
        # An existing role gets no membership: whoever can write to the repository could raise its rights.
        for each in self.memberships:
            if each.member in names and each.role in known:
                options = [("ADMIN", each.admin), ("INHERIT", each.inherit), ("SET", each.set)]
                told = ", ".join(f"{option} {str(value).upper()}" for option, value in options if value is not None)
                given = f" WITH {told}" if server >= 16 else " WITH ADMIN OPTION" * each.admin
                yield f"GRANT {_quoted(known[each.role])} TO {_quoted(names[each.member])}{given}"

    def comments(self, names: Mapping[str, str]) -> Iterator[str]:
        """Yield what gives some of the roles their comments, and removes the marks of an unfinished restore."""
        for role in self.roles:
            if role.name in names:
                comment = "NULL" if role.comment is None else _literal(role.comment)
                yield f"COMMENT ON ROLE {_quoted(names[role.name])} IS {comment}"


@dataclass(frozen=True, repr=False)
class PostgreSQLRoles(ServerAccounts[_Roles]):
    """The roles of a PostgreSQL server, with their attributes, settings and memberships, and without passwords.

    A restore creates the roles that are missing, and changes no other. Their passwords must be set afterwards.

    Args:
        url: The URL of the server.
        password: As for `PostgreSQL`.
        allow_privileges: Whether a restore may create roles with privileges: SUPERUSER, CREATEROLE, REPLICATION,
            BYPASSRLS, memberships in roles that exist, and settings that a role cannot change for itself.

    Example:
        >>> from prefect_snapshots.backups.databases import PostgreSQLRoles
        >>> PostgreSQLRoles("postgresql://db.example.com/").name
        'postgresql://db.example.com:5432/'
    """

    schemes: ClassVar[tuple[str, ...]] = PostgreSQL.schemes
    kind: ClassVar[str] = "postgresql-roles"
    default_port: ClassVar[int] = PostgreSQL.default_port
    options: ClassVar[tuple[str, ...]] = PostgreSQL.options
    word: ClassVar[str] = "roles"
    stored_as: ClassVar[type[_Roles]] = _Roles

    @property
    def _server(self) -> PostgreSQL:
        return PostgreSQL(self.renamed("postgres"), self.password)

    def check(self) -> list[str]:
        """See `Database`."""
        with self._server._maintenance() as session:
            version = session.ask("SELECT to_jsonb(current_setting('server_version'))")
        return [f"PostgreSQL {version}"]

    @contextlib.contextmanager
    def stage(self, dump: DumpReader, only: Sequence[str] = ()) -> Iterator[Switch]:
        """See `StagedRestores`. The databases that are staged next need the roles, so they are created here.

        Leaving the block without a switch drops the new ones. The next restore takes over those of a killed one.
        """
        self._refuse_some(only)
        with contextlib.ExitStack() as stack:
            with restoring(self.name, "and is unchanged"):
                stored = self._stored(dump)
                mark = drill_mark()
                # Before anything is made: what has no lock is taken over by others. The session ends with this process.
                _hold_mark(stack.enter_context(self._server._maintenance()), f"_drill_{mark}")
                new = self._create(stored, mark)
            done = False

            def switch() -> Sequence[str]:
                nonlocal done
                with restoring(self.name, "and is unchanged"), self._server._maintenance() as session:
                    _in_one(session, stored.comments(new))
                done = True
                users = [role.name for role in stored.roles if role.name in new and role.login]
                if not users:
                    return []
                return [f"These roles were created without a password. Set one for each: {', '.join(users)}."]

            try:
                yield switch
            finally:
                if not done and new:
                    self._drop(new)

    def _create(self, stored: _Roles, mark: str) -> dict[str, str]:
        """Create the roles that are missing, all or none of them. Returns their names."""
        with self._server._maintenance() as session:
            found = session.ask(
                "SELECT jsonb_agg(jsonb_build_array(rolname, shobj_description(oid, 'pg_authid'), "
                "rolvaliduntil IS NOT NULL)) FROM pg_roles"
            )
            # After the names: whoever made one of them held its lock before.
            held = _held_marks(session)
            there = {name for name, _, _ in found}
            left = {name: expires for name, comment, expires in found if _mark_in(comment) not in (None, *held)}
            new = {role.name: role.name for role in stored.roles if role.name not in there or role.name in left}
            kept = there - new.keys()
            if not self.allow_privileges:
                refused = stored.privileges(kept, new, session.ask(OWN_SETTINGS))
                if refused:
                    raise PrivilegesRefused(self.name, refused)
            granted = session.ask(
                "SELECT coalesce(jsonb_agg(jsonb_build_array(roleid::regrole, member::regrole, m.rolname)), '[]') "
                "FROM pg_auth_members JOIN pg_roles m ON m.oid = member"
            )
            revoked = [
                f"REVOKE {role} FROM {name}" for role, name, member in granted if member in left.keys() & new.keys()
            ]
            comment = _literal(f"A restore by prefect-snapshots has not ended yet: {mark}")
            _in_one(
                session,
                [
                    *revoked,
                    *stored.statements(kept, new, _major(session), left),
                    *(f"COMMENT ON ROLE {_quoted(name)} IS {comment}" for name in new),
                ],
            )
        return new

    def _drop(self, new: Iterable[str]) -> None:
        try:
            with self._server._maintenance() as session:
                _in_one(session, (f"DROP ROLE IF EXISTS {_quoted(name)}" for name in new))
        except BackupFailed as error:
            logger.warning(
                "The roles %s were created and could not be dropped. The next restore takes them over: %s",
                ", ".join(new),
                error,
            )

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Database]:
        """See `Database`."""
        yield _Trial(self.url, self.password)

    def _read(self) -> _Roles:
        with self._server._maintenance() as session:
            found = session.ask(_CATALOG)
        for key, name in ("roles", "name"), ("memberships", "member"):
            found[key] = [each for each in found[key] if drill_lock(each[name]) is None]
        for role in found["roles"]:
            if _mark_in(role["comment"]) is not None:
                role["comment"] = None
        return msgspec.convert(found, _Roles)


@dataclass(frozen=True, repr=False)
class _Trial(AccountsTrial[_Roles], PostgreSQLRoles):
    """Creates the roles of a backup under other names in a drill, and takes that back."""

    def _try(self, stored: _Roles) -> None:
        with self._server._maintenance() as session:
            there = session.ask("SELECT jsonb_agg(rolname) FROM pg_roles")
            may = session.ask("SELECT to_jsonb(rolsuper) FROM pg_roles WHERE rolname = current_user")
            if not may:
                self.notes.append("The roles were read and not created, because this user is no superuser.")
                return
            mark = drill_mark()
            new = {role.name: f"r{number}_drill_{mark}" for number, role in enumerate(stored.roles)}
            session.run("BEGIN")
            for statement in [*stored.statements(there, new, _major(session), {}), *stored.comments(new)]:
                session.run(statement)
            session.run("ROLLBACK")


_TEMPLATES = ("template0", "template1")


@dataclass(frozen=True, repr=False)
class PostgreSQLServer(WholeServer):
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
    single: ClassVar[type[OpenedByURL]] = PostgreSQL
    accounts: ClassVar[type[OpenedByURL]] = PostgreSQLRoles
    home: ClassVar[str] = "postgres"

    def listed(self) -> list[str]:
        """See `WholeServer`. Templates and databases that allow no connections are left out."""
        with PostgreSQL(self.renamed(self.home), self.password)._maintenance() as session:
            names = session.ask(
                "SELECT coalesce(jsonb_agg(datname ORDER BY datname), '[]') FROM pg_database "
                "WHERE datallowconn AND NOT datistemplate"
            )
        return [name for name in names if not self.is_own(name)]

    def is_own(self, database: str) -> bool:
        """See `WholeServer`. Whatever is in a template is in every database that is created later."""
        return database in _TEMPLATES or is_left_by_restore(database) or drill_lock(database) is not None


def _in_one(session: _Session, statements: Iterable[str]) -> None:
    """Run statements in one transaction."""
    session.run("BEGIN")
    for statement in statements:
        session.run(statement)
    session.run("COMMIT")
