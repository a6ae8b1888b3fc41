"""Read the SQL of `mariadb-dump`: count its rows, and check its statements before any of them runs.

A dump comes out of a repository, so it is untrusted: a statement that `mariadb-dump` never writes is refused.
Statements are sorted by `StatementPart`, because tables are built first, beside the old ones, and code (triggers,
routines, events, views) is created when the tables are in place.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ...errors import BackupFailed
from .base import lines

AS_STORED = "NO_AUTO_VALUE_ON_ZERO,ALLOW_INVALID_DATES"
"""The mode of a session that takes all values of a backup: others change a 0 of a key, or the 31st of February."""
_HEAD_MODE = b"SQL_MODE='NO_AUTO_VALUE_ON_ZERO'"
"""The mode that `mariadb-dump` sets for its rows."""

_LONGEST = 64 << 20
"""Bytes of a statement that is no row: more than any definition that a server takes (its `max_allowed_packet` is 16 MB
by default), and little enough to hold in memory."""

_NAME = rb"`(?:[^`]|``)+`"
_QUOTED = rb"(?:%s|\"(?:[^\"]|\"\")+\")" % _NAME
"""A name in the code of somebody who had the mode ANSI_QUOTES or ORACLE may be in double quotes."""
_INSERT = rb"INSERT INTO (?P<filled>%(name)s)(?: \((?:%(name)s(?:, )?)+\))? VALUES(?:\n| )" % {b"name": _NAME}
# Before Python 3.11.5, `(?:...)*+` takes too little if what is repeated has a choice (CPython issue 106052). Hence the
# atomic groups.
_STRING = rb"'(?>(?:[^'\\]++|\\.|'')*)'|\"(?>(?:[^\"\\]++|\\.|\"\")*)\"|`[^`]*+`"
# Comments of bodies may hold quotes; comments that begin with ! or M! are statements.
_COMMENT = rb"--(?=[ \t\n])[^\n]*+|\#[^\n]*+|/\*(?!M?!)(?>(?:[^*]++|\*(?!/))*)\*/"
_TOKEN = rb"(?>%s|%s|[^'\"`;\#/\n-]++|[;\#/\n-])" % (_STRING, _COMMENT)

_FILLED = re.compile(_INSERT)
_HEAD = re.compile(
    rb"\n(?:CREATE TABLE (?P<created>%(name)s) \(|%(insert)s|DELIMITER ;;(?:%(token)s)*?\nDELIMITER ;(?=\n))"
    % {b"name": _NAME, b"insert": _INSERT, b"token": _TOKEN},
    re.DOTALL,
)
"""Where a table is made or filled; the bodies of triggers and routines are passed over whole."""

_STATEMENT = re.compile(rb"(?>(?:%s|%s|[^'\"`;\#/-]++|[\#/-])*);\s*" % (_STRING, _COMMENT), re.DOTALL)
_BLOCK = re.compile(rb"DELIMITER ;;(?P<body>(?:%s)*?)\nDELIMITER ;\n" % _TOKEN, re.DOTALL)
_IN_BLOCK = re.compile(rb"(?P<one>(?:(?!;;)%s)+?);;\s*" % _TOKEN, re.DOTALL)
_ROW = re.compile(rb"\((?>(?:[^'\"`;()\\]++|'(?>(?:[^'\\]++|\\.|'')*)')*)\)[,;]\n")
_SANDBOX = re.compile(rb"/\*M?!999999\\?-[^\n]*\*/\s*\n")
_REPLICATION = re.compile(
    rb"SET @MYSQLDUMP_TEMP_LOG_BIN = @@SESSION\.SQL_LOG_BIN;\s*|"
    rb"SET @@SESSION\.SQL_LOG_BIN ?= ?(?:0|@MYSQLDUMP_TEMP_LOG_BIN);\s*|"
    rb"SET @@GLOBAL\.GTID_PURGED=(?:/\*!80000 '\+'\*/ )?'[\w:,\s-]*';\s*"
)
"""What `mysqldump` of MySQL writes if the server has GTIDs. A restore skips it: it prepares a new replica, would change
the whole server, and would hide the restored rows from its replicas."""
_EXECUTABLE = re.compile(rb"/\*M?!\d{5,6}\s?|\s?\*/")

_VALUE = rb"(?:@*\w+|'[^'\\]*'|-?\d+)"
_SET = rb"SET\s+(?:NAMES \w+|(?:(?!(?:PASSWORD|ROLE)\b)@*\w+\s*=\s*%s(?:,\s*)?)+)\s*" % _VALUE
_DEFINER = rb"(?:DEFINER=%(n)s(?:@%(n)s)?\s*)?" % {b"n": _QUOTED}
_GAP = rb"(?:\s|/\*M?!\d*|\*/)*"
_OWNER = re.compile(
    rb"%(gap)sCREATE\b(?:\s+OR REPLACE)?(?:\s+ALGORITHM=\w+)?%(gap)s"
    rb"(?P<owner>DEFINER=(?P<user>%(n)s)(?:@(?P<host>%(n)s))?)" % {b"n": _QUOTED, b"gap": _GAP}
)
_ROUTINE = rb"(?:PROCEDURE|FUNCTION|PACKAGE BODY|PACKAGE)"
_DROPPED_ROUTINE = re.compile(rb"%sDROP %s IF EXISTS " % (_GAP, _ROUTINE))
_CREATED_ROUTINE = re.compile(
    rb"\A(?P<head>(?:DELIMITER ;;\n)?%(gap)sCREATE)(?=\b%(gap)s%(definer)s%(gap)s(?:AGGREGATE\s+)?%(routine)s\b)"
    % {b"gap": _GAP, b"definer": _DEFINER, b"routine": _ROUTINE}
)
_TABLES = re.compile(
    rb"(?:CREATE TABLE (?:IF NOT EXISTS )?%(n)s \(|CREATE SEQUENCE %(n)s |"
    rb"(?:DO|SELECT) SETVAL\(%(n)s, -?\d+, [01](?:, \d+)?\)\s*;|"
    rb"DROP (?:TABLE|SEQUENCE) IF EXISTS %(n)s\s*;|ALTER TABLE %(n)s (?:DISABLE|ENABLE) KEYS|"
    rb"LOCK TABLES %(n)s WRITE\s*;|UNLOCK TABLES\s*;)" % {b"n": _NAME}
)
_CODE = re.compile(
    rb"(?:CREATE VIEW %(n)s AS SELECT|CREATE ALGORITHM=\w+\s+%(d)s(?:SQL SECURITY \w+\s+)?VIEW %(n)s (?:\(|AS )|"
    rb"DROP (?:VIEW|EVENT|PROCEDURE|FUNCTION|PACKAGE|PACKAGE BODY|TRIGGER) IF EXISTS %(n)s|"
    rb"ALTER DATABASE %(n)s CHARACTER SET \w+ COLLATE \w+)" % {b"n": _NAME, b"d": _DEFINER}
)
_BOTH = re.compile(rb"(?:%s|(?i:commit)\s*);" % _SET)
_SET_IN_BLOCK = re.compile(_SET)
_CREATED_CODE = re.compile(
    rb"CREATE\s+(?:OR REPLACE\s+)?%s(?:AGGREGATE\s+)?(?P<kind>TRIGGER|PROCEDURE|FUNCTION|EVENT|PACKAGE)\b" % _DEFINER
)
_ODD = re.compile(rb"(?i)NO_BACKSLASH_ESCAPES|\b(?:gbk|gb18030|sjis|cp932|big5)\b")
"""Modes and character sets in which a quote ends somewhere else than where this module sees it end."""
_ASSIGNED = re.compile(
    rb"(?:SET\s+|,\s*)(?P<variable>@*\w+)\s*=\s*(?P<value>%s)|SET (?P<names>NAMES) (?P<charset>\w+)" % _VALUE
)
_VIEW = re.compile(rb"(?:/\*!\d+ )?CREATE ALGORITHM=")
_FINAL_VIEW = re.compile(
    rb"CREATE ALGORITHM=\w+\s+%(d)s(?:SQL SECURITY \w+\s+)?VIEW (?P<view>%(n)s) " % {b"n": _NAME, b"d": _DEFINER}
)
_READ_BY_VIEW = re.compile(rb"(?:\bfrom|join) \(*(?:%(n)s\.)?(%(n)s)" % {b"n": _NAME})
_DROPPED_VIEW = re.compile(rb"DROP VIEW IF EXISTS ")
_CREATED_TABLE = re.compile(rb"CREATE TABLE (?:IF NOT EXISTS )?(?P<table>%s) \(" % _NAME)
_PLACE = re.compile(
    rb"(?P<kept>%(text)s|%(name)s)|\s(?:DATA|INDEX) DIRECTORY ?= ?%(text)s"
    % {b"text": rb"'(?:[^'\\]|\\.|'')*'", b"name": _NAME},
    re.DOTALL,
)
_FAR_KEY = re.compile(
    rb",\n  CONSTRAINT %(n)s FOREIGN KEY [^\n]* REFERENCES %(n)s\.%(n)s [^\n]*?(?=,?\n)" % {b"n": _NAME}
)
"""A line of its own, because line feeds in comments and defaults are written as \\n."""
_ALTER_DATABASE = re.compile(rb"ALTER DATABASE %s " % _NAME)
_STATUS = re.compile(
    rb"(?P<head>EVENT %s ON SCHEDULE (?:[^'\"`]|'[^'\\]*')*? ON COMPLETION (?:NOT )?PRESERVE) (?:ENABLE|DISABLE)\b"
    % _NAME
)


class StatementPart(enum.Enum):
    """What a statement of a dump is for."""

    TABLES = "tables"
    """It creates or fills a table or sequence."""
    CODE = "code"
    """It creates a trigger, a routine or a view."""
    EVENT = "event"
    """It creates an event, which the server would start to run at once."""
    BOTH = "both"
    """It sets a variable of the session."""


@dataclass
class RowCounter:
    """Counts the rows of a dump while it is read.

    Attributes:
        counts: Rows per table.
    """

    counts: dict[str, int] = field(default_factory=dict)
    _rest: bytes = b"\n"
    _table: str | None = None

    def passed(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the pieces unchanged, and count their rows."""
        for piece in pieces:
            self._take(piece)
            yield piece

    def _take(self, piece: bytes) -> None:
        data, at = self._rest + piece, 0
        while True:
            if self._table is not None:
                # A line is a row, and line feeds within values are written as \n.
                end = data.find(b";\n", at)
                self.counts[self._table] += data.count(b"\n", at, end + 2 if end >= 0 else len(data))
                if end < 0:
                    self._rest = data[-1:] if data[-1:] == b";" else b""
                    return
                self._table, at = None, end + 1
            found = _HEAD.search(data, at)
            body = data.find(b"\nDELIMITER ;;\n", at)
            # What looks like a table within a body whose end is not there yet is none.
            if found is None or 0 <= body < found.start():
                self._rest = data[_unfinished(data, at) :]
                return
            at = found.end()
            if found["created"]:
                self.counts[name_of(found["created"])] = 0
            elif found["filled"]:
                self._table = name_of(found["filled"])


def _unfinished(data: bytes, at: int) -> int:
    """Where something may begin whose end is not there yet."""
    starts = [data.find(start, at) for start in (b"\nCREATE TABLE `", b"\nINSERT INTO `", b"\nDELIMITER ;;\n")]
    return min([start for start in starts if start >= 0], default=max(at, len(data) - 20))


def name_of(quoted: bytes) -> str:
    """Return the name that is written in backticks or double quotes."""
    quote = quoted[:1]
    return quoted[1:-1].replace(quote * 2, quote).decode()


def rows(content: Iterable[bytes]) -> Iterator[tuple[str, bytes]]:
    """Yield each row of a dump with the name of its table."""
    table = ""
    for part, text in statements(content):
        if part is not StatementPart.TABLES:
            continue
        row = text
        if filled := _FILLED.match(text):
            table, row = name_of(filled["filled"]), text[filled.end() :]
        elif not text.startswith(b"("):
            continue
        if row:  # without the comma, or the end of the statement, behind it
            yield table, row[:-2]


def statements(content: Iterable[bytes | memoryview]) -> Iterator[tuple[StatementPart, bytes]]:
    """Split a dump into statements, each with what it is for. A statement of many rows comes row by row.

    Raises:
        BackupFailed: `mariadb-dump` never writes such a statement: the dump is damaged or forged.
    """
    begun, filling = b"", False
    odd: set[bytes] = set()
    for number, line in enumerate(lines(map(bytes, content)), 1):
        if filling:
            if not _ROW.fullmatch(line):
                raise _refused(number)
            filling = line.endswith(b",\n")
            yield StatementPart.TABLES, line
            continue
        begun += line
        if len(begun) > _LONGEST:
            raise _refused(number)
        if begun.isspace() or _SANDBOX.fullmatch(begun) or _REPLICATION.fullmatch(begun):
            begun = b""
        elif begun.startswith(b"DELIMITER ;;\n"):
            # Between two events stands the beginning of a block alone.
            ending = line in (b"DELIMITER ;\n", b"DELIMITER ;;\n") and begun != line
            if ending and (block := _BLOCK.fullmatch(begun[: -len(line)] + b"DELIMITER ;\n")):
                yield _part_of_block(block["body"] + b"\n", number), block[0]
                begun = line if line == b"DELIMITER ;;\n" else b""
        elif begun.startswith(b"INSERT INTO "):
            if odd:
                raise _refused(number)
            if filled := _FILLED.match(begun):
                if begun[filled.end() :] and not _ROW.fullmatch(begun, filled.end()):
                    raise _refused(number)
                # The rows follow, one a line, unless this line had the only one.
                filling = not begun.endswith(b";\n")
                yield StatementPart.TABLES, begun
                begun = b""
        elif line.rstrip().endswith(b";") and _STATEMENT.fullmatch(begun):
            part = _part(begun, number)
            if part is StatementPart.BOTH:
                _follow(begun, odd, number)
            elif part is StatementPart.TABLES and odd:
                raise _refused(number)
            yield part, begun
            begun = b""
    if begun.strip() or filling:
        raise BackupFailed("The dump of this backup ends in the middle of a statement: it is damaged.")


def definer(code: bytes) -> tuple[str, str] | None:
    """Return the user and the host that a statement creates something for. A role has no host."""
    found = _owner(code)
    return found and (name_of(found["user"]), name_of(found["host"] or b"``"))


def without_definer(code: bytes) -> bytes:
    """Return a statement without its definer, so that the object belongs to the user who runs it."""
    found = _owner(code)
    return code[: found.start("owner")] + code[found.end("owner") :] if found else code


def _owner(code: bytes) -> re.Match[bytes] | None:
    """Find the definer at the head of a statement, or of one in a block: a body may quote others."""
    if not code.startswith(b"DELIMITER ;;\n"):
        return _OWNER.match(code)
    at = code.index(b"\n") + 1
    while found := _IN_BLOCK.match(code, at):
        if owner := _OWNER.match(code, at):
            return owner
        at = found.end()
    return None


def replacing(code: bytes) -> bytes:
    """Return a statement that replaces a routine instead of dropping it first, which would revoke all rights on it.

    A statement that drops one becomes empty.
    """
    return b"" if _DROPPED_ROUTINE.match(code) else _CREATED_ROUTINE.sub(rb"\g<head> OR REPLACE", code)


def disabled(event: bytes) -> bytes:
    """Return statements that create an event which does not run.

    Raises:
        BackupFailed: `mariadb-dump` never writes such statements.
    """
    changed, number = _STATUS.subn(rb"\g<head> DISABLE", event)
    if number != 1:
        raise BackupFailed("The dump of this backup has an event that mariadb-dump never writes: it was refused.")
    return changed


def can_be_split(code: bytes) -> bool:
    """Return whether the strings of a trigger, routine or event end where this module sees them end."""
    return re.fullmatch(rb"(?>(?:%s)*)" % _TOKEN, code, re.DOTALL) is not None


def taking_all_dates(statement: bytes) -> bytes:
    """Return the head of a dump so that it sets the mode `AS_STORED`, and other statements as they are."""
    if not statement.startswith((b"/*!40101 SET ", b"SET ")):
        return statement
    return statement.replace(_HEAD_MODE, f"SQL_MODE='{AS_STORED}'".encode())


def is_setting(statement: bytes) -> bool:
    """Return whether a statement only sets variables of the session."""
    return _BOTH.match(_plain(statement)) is not None


def sets_back(statement: bytes) -> bool:
    """Return whether a statement gives a variable the value that it had before a view was created."""
    return b"= @saved_c" in statement and is_setting(statement)


def drops_view(statement: bytes) -> bool:
    """Return whether a statement drops a view."""
    return _DROPPED_VIEW.match(_plain(statement)) is not None


def created_view(statement: bytes) -> tuple[bytes, list[bytes]] | None:
    """Return the view that a statement creates, and the tables and views that it reads. A stand-in is none."""
    plain = _plain(statement)
    found = _FINAL_VIEW.match(plain)
    return found and (found["view"], _READ_BY_VIEW.findall(plain, found.end()))


def in_order_of_use(used: Mapping[bytes, Sequence[bytes]]) -> list[bytes]:
    """Return the keys so that each one comes behind those that it uses, as far as that is possible."""
    ordered: dict[bytes, None] = {}
    begun: set[bytes] = set()
    todo = sorted(used, reverse=True)
    while todo:
        key = todo[-1]
        before = [] if key in begun else [other for other in used[key] if other in used and other not in begun]
        begun.add(key)
        if before:
            todo += before
        else:
            ordered[todo.pop()] = None
    return list(ordered)


def of_this_database(statement: bytes, source: str) -> bytes:
    """Return a statement without the name of the database it came from, which it would change otherwise."""
    quoted = b"`" + source.replace("`", "``").encode() + b"`."
    view, plain = _VIEW.match(statement) is not None, statement
    if view or _CREATED_TABLE.match(statement):  # nothing in a row or a body is changed
        plain = re.sub(rb"\b((?i:nextval|lastval|setval))\(" + re.escape(quoted), rb"\1(", statement)
    if view:
        # A server names the database in a view that also uses another one, and in the columns of a view whose definer
        # is gone or has lost rights. An alias may be called like the database: only these places are certain.
        within = (
            rb"(?P<kept>'(?:[^'\\]|\\.|'')*')|(?P<head>\b(?:from|join) \(*)%(q)b(?=`)|%(q)b(?=`(?:[^`]|``)*`[.(])"
            % {b"q": re.escape(quoted)}
        )
        plain = re.sub(within, lambda found: found["kept"] or found["head"] or b"", plain, flags=re.DOTALL)
    return _ALTER_DATABASE.sub(b"ALTER DATABASE ", plain)


def without_places(statement: bytes) -> tuple[bytes, str]:
    """Return a statement without the folders of their own that a table or its partitions have, and the table's name.

    Two tables of one name cannot share such a folder, and one that is moved to another database leaves a file behind,
    because of which the server cannot drop the first one. Without such folders, the name is empty.
    """
    if b" DIRECTORY" not in statement or (found := _CREATED_TABLE.match(statement)) is None:
        return statement, ""
    kept = _PLACE.sub(lambda each: each["kept"] or b"", statement)
    return kept, "" if kept == statement else name_of(found["table"])


def without_far_keys(statement: bytes) -> tuple[bytes, list[str]]:
    """Return a statement that makes a table without the foreign keys to tables of other databases, and these."""
    if not statement.startswith(b"CREATE TABLE "):
        return statement, []
    keys = [key.decode(errors="replace").strip(", \n") for key in _FAR_KEY.findall(statement)]
    return _FAR_KEY.sub(b"", statement), keys


def _plain(statement: bytes) -> bytes:
    """Return a statement as a server reads it that knows its executable comments."""
    return _EXECUTABLE.sub(b"", statement).lstrip()


def _part(statement: bytes, number: int) -> StatementPart:
    plain = _plain(statement)
    if _BOTH.match(plain):
        return StatementPart.BOTH
    if _TABLES.match(plain):
        return StatementPart.TABLES
    if _CODE.match(plain):
        return StatementPart.CODE
    raise _refused(number)


def _follow(statement: bytes, odd: set[bytes], number: int) -> None:
    """Keep the variables of the session in `odd` that make quotes end somewhere else.

    `mariadb-dump` sets them around a trigger or routine that was made so, and never around a table.
    """
    for found in _ASSIGNED.finditer(_EXECUTABLE.sub(b"", statement)):
        variable = (found["variable"] or found["names"]).lower().removeprefix(b"@@")
        value = found["value"] or found["charset"]
        if variable.startswith(b"@"):
            if _ODD.search(value) or value.lower().removeprefix(b"@@") in odd:
                raise _refused(number)  # it would come back by a name that we do not follow
        elif _ODD.search(value):
            odd.add(variable)
        else:
            odd.discard(variable)


def _part_of_block(body: bytes, number: int) -> StatementPart:
    at, part = 1, StatementPart.BOTH
    while at < len(body):
        found = _IN_BLOCK.match(body, at)
        if found is None:
            raise _refused(number)
        plain = _EXECUTABLE.sub(b"", found["one"]).strip()
        if made := _CREATED_CODE.match(plain):
            part = StatementPart.EVENT if made["kind"] == b"EVENT" else StatementPart.CODE
        elif not _SET_IN_BLOCK.fullmatch(plain) and not _CODE.match(plain):
            raise _refused(number)
        at = found.end()
    return part


def _refused(number: int) -> BackupFailed:
    return BackupFailed(f"Line {number} of the dump is a statement that mariadb-dump never writes: it was refused.")
