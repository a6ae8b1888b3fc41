"""What people met who restored MariaDB: nothing is destroyed before its replacement stands, and no dump does harm."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import database_servers
import pytest
from database_servers import PASSWORD, Client, Server, killed_at_each_step, killed_in_a_drill, until

from prefect_snapshots.backups import BackupManager
from prefect_snapshots.backups.databases import MariaDB, MariaDBServer, MariaDBUsers, base, mariadb_dumps
from prefect_snapshots.backups.databases.base import Tool
from prefect_snapshots.backups.databases.mariadb_dumps import RowCounter, statements
from prefect_snapshots.errors import BackupFailed, InvalidArgument, PrivilegesRefused, RestoreFailed, StorageFull
from prefect_snapshots.testing import StoredDump

QUOTED = quote(PASSWORD, safe="")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with database_servers.mariadb() as server:
        yield server


@pytest.fixture
def admin(server: Server) -> Iterator[Client]:
    client = database_servers.mariadb_client(server)
    client("CREATE OR REPLACE DATABASE nc CHARACTER SET latin2; CREATE OR REPLACE DATABASE prod; USE prod;")
    client("CREATE TABLE prod.ticks (at datetime(6), who text); INSERT INTO prod.ticks VALUES (now(), 'me');")
    yield client
    client(
        "SET GLOBAL event_scheduler = OFF; DROP DATABASE prod; DROP DATABASE IF EXISTS nc; DROP USER IF EXISTS weak;"
    )


def of(server: Server, user: str = "admin", database: str = "nc", options: str = "") -> MariaDB:
    return MariaDB(f"mariadb://{user}@127.0.0.1:{server.port}/{database}{options}", PASSWORD)


def weak(admin: Client, server: Server, rights: str, on: str = "nc.*") -> MariaDB:
    escaped = PASSWORD.replace("\\", "\\\\").replace("'", "\\'")
    admin(f"CREATE OR REPLACE USER weak IDENTIFIED BY '{escaped}'; GRANT {rights} ON {on} TO weak;")
    return of(server, "weak")


def state(server: Server, database: str = "nc") -> list[str]:
    """Everything, by the server's own tool."""
    options = ["--host=127.0.0.1", f"--port={server.port}", "--user=admin", "--skip-comments", "--hex-blob"]
    more = ["--routines", "--triggers", "--events", "--skip-extended-insert", database]
    return Client(["mariadb-dump", "--no-defaults", *options, *more], {"MYSQL_PWD": PASSWORD})("")


def leftovers(admin: Client) -> list[str]:
    return [
        name
        for name in admin("SHOW DATABASES; SELECT user FROM mysql.user;")
        if any(mark in name for mark in ("being_restored", "replaced", "drill"))
    ]


EVERYTHING = r"""
CREATE SEQUENCE sq START WITH 5; SELECT nextval(sq);
CREATE TABLE parents (id int PRIMARY KEY DEFAULT nextval(sq), name varchar(20) CHARACTER SET utf8mb4, KEY (name));
INSERT INTO parents VALUES (1, 'ü☃'), (2, 'it''s; a "test" \\'), (3, NULL);
CREATE TABLE children (id int PRIMARY KEY AUTO_INCREMENT, parent int, twice int GENERATED ALWAYS AS (parent * 2) STORED,
  CONSTRAINT of_parent FOREIGN KEY (parent) REFERENCES parents (id) ON DELETE CASCADE, CHECK (parent > 0));
INSERT INTO children (parent) VALUES (1), (2), (NULL);
CREATE TABLE versions (x int) WITH SYSTEM VERSIONING; INSERT INTO versions VALUES (1);
CREATE TABLE parts (i int, b blob, d date) PARTITION BY RANGE (i) (PARTITION p VALUES LESS THAN (10),
  PARTITION q VALUES LESS THAN MAXVALUE);
INSERT INTO parts VALUES (1, x'00ff', '2026-01-01'), (100, NULL, NULL);
CREATE TABLE log (what text) ENGINE=Aria; CREATE TABLE docs (j json, g point, e enum('a','b'), f bit(9), FULLTEXT (j));
INSERT INTO docs VALUES ('{"a": 1}', ST_GeomFromText('POINT(1 2)'), 'b', b'101');
CREATE TABLE texts (t text CHARACTER SET utf8mb4, next bigint DEFAULT (lastval(sq) + 1), FULLTEXT (t));
CREATE VIEW words AS SELECT * FROM texts; CREATE VIEW found AS SELECT t FROM words WHERE MATCH (t) AGAINST ('x');
CREATE VIEW checked AS SELECT t FROM words WHERE t > '' WITH CASCADED CHECK OPTION;
CREATE VIEW binaries AS SELECT t COLLATE utf8mb4_bin AS t FROM (SELECT w.t FROM checked c JOIN words w USING (t)) x;
CREATE VIEW named AS SELECT id, name FROM parents WHERE name IS NOT NULL; CREATE VIEW fewer AS SELECT id FROM named;
delimiter $$
CREATE FUNCTION twice(i int) RETURNS int DETERMINISTIC RETURN i * 2$$
CREATE PROCEDURE notes() BEGIN
  -- it's a comment with a quote
  INSERT INTO log VALUES ('
DELIMITER ;
INSERT INTO `log` VALUES
(1),
(2);
'); END$$
CREATE TRIGGER noted AFTER DELETE ON children FOR EACH ROW BEGIN
  INSERT INTO log VALUES (concat('DELETE;
DELIMITER ;
INSERT INTO `children` VALUES
(1,1,1);
', OLD.id)); END$$
CREATE EVENT nightly ON SCHEDULE EVERY 1 DAY COMMENT 'it''s ENABLE' DO BEGIN DELETE FROM log WHERE what = '
DELIMITER ;
CREATE TABLE `nowhere` (
INSERT INTO `log` VALUES
(1);
'; END$$
CREATE EVENT off ON SCHEDULE EVERY 1 DAY DISABLE DO DELETE FROM log$$
SET sql_mode = ANSI_QUOTES$$
CREATE FUNCTION "an ""si"() RETURNS int RETURN 1$$
CREATE TRIGGER "tr""i" BEFORE DELETE ON docs FOR EACH ROW SET @what = 'CREATE DEFINER=`x`@`y` FUNCTION f'$$
SET sql_mode = ORACLE$$
CREATE PACKAGE pack AS FUNCTION f RETURN INT; END$$
CREATE PACKAGE BODY pack AS FUNCTION f RETURN INT AS BEGIN RETURN 1; END; END$$
SET sql_mode = DEFAULT$$
delimiter ;
"""


@pytest.fixture
def full(admin: Client, server: Server) -> MariaDB:
    database_servers.mariadb_client(server, "nc")(EVERYTHING)
    return of(server)


def test_every_object_comes_back_as_the_servers_own_dump_has_it(full: MariaDB, admin: Client, server: Server) -> None:
    before, kept = state(server), StoredDump.of(full)
    assert kept.counts["log"] == 0
    assert full.check_restorable() == []
    database_servers.mariadb_client(server, "nc")("DROP TABLE children; DROP VIEW named; CREATE TABLE later (i int);")
    full.restore(kept)
    assert state(server) == before
    admin("DROP DATABASE nc;")
    full.restore(kept)
    assert state(server) == before
    assert leftovers(admin) == []


def test_a_copy_elsewhere_draws_from_its_own_sequences_and_runs_no_events(
    full: MariaDB, admin: Client, server: Server
) -> None:
    kept, before = StoredDump.of(full), state(server)
    of(server, database="nc_copy").restore(kept)
    copy = state(server, "nc_copy")
    assert "`nc`" not in "\n".join(copy)
    assert [line.replace(" DISABLE ", " ENABLE ").replace("`nc_copy`", "`nc`") for line in copy] == [
        line.replace(" DISABLE ", " ENABLE ") for line in before
    ]
    assert admin("SELECT status FROM information_schema.events WHERE event_schema = 'nc_copy';") == ["DISABLED"] * 2
    admin("DROP DATABASE nc_copy;")


@pytest.mark.parametrize(
    ("rights", "sql"),
    [
        # The user cannot make what was dropped.
        ("SELECT, INSERT, DELETE, DROP, ALTER, LOCK TABLES, SHOW VIEW, TRIGGER, EVENT, REFERENCES, INDEX", ""),
        ("ALL", ""),
        # What belongs to somebody else, who is not there either.
        ("ALL", "CREATE DEFINER=root@localhost TRIGGER t BEFORE INSERT ON log FOR EACH ROW SET NEW.what = 'x';"),
        ("ALL", "CREATE DEFINER=root@localhost VIEW v AS SELECT * FROM log;"),
        ("ALL", "CREATE DEFINER=root@localhost PROCEDURE p() DELETE FROM log;"),
        ("ALL", "CREATE DEFINER=root@localhost EVENT v ON SCHEDULE EVERY 1 DAY DO DELETE FROM log;"),
    ],
)
@pytest.mark.parametrize("more", ["", "everywhere"])
def test_a_user_with_few_rights_destroys_nothing(
    admin: Client, server: Server, rights: str, sql: str, more: str
) -> None:
    admin(f"CREATE TABLE nc.log (what text); INSERT INTO nc.log VALUES ('1'); USE nc; {sql}")
    kept, before = StoredDump.of(of(server)), state(server)
    database = weak(admin, server, rights)
    if more:
        admin("GRANT ALL ON `nc\\_%`.* TO weak;")
    assert ("cannot restore this database" in database.check()[-1]) == bool(sql)
    if more and not sql and rights == "ALL":
        database.restore(kept)
        assert state(server) == before
        return
    with pytest.raises(RestoreFailed, match="is unchanged") as raised:
        database.restore(kept)
    assert PASSWORD not in str(raised.value)
    assert state(server) == before
    assert leftovers(admin) == []


ERRORS = (KeyboardInterrupt, SystemExit, BackupFailed, MemoryError)


@pytest.mark.parametrize(("step", "error"), [(step, ERRORS[step % 4]) for step in range(12)])
def test_a_restore_that_is_interrupted_anywhere_is_taken_back(
    full: MariaDB, admin: Client, server: Server, step: int, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = StoredDump.of(full)
    database_servers.mariadb_client(server, "nc")("INSERT INTO log VALUES ('later'); DROP VIEW fewer;")
    before, calls = state(server), 0

    class Interrupted(MariaDB):
        def _ask(self, query, database=None):  # type: ignore[no-untyped-def]
            nonlocal calls
            if armed:
                calls += 1
                if calls == step + 1:
                    raise error("stop")
            return super()._ask(query, database)

    armed = False
    with Interrupted(full.url, full.password).stage(kept) as switch:
        armed = True
        try:
            switch()
        except (error, RestoreFailed):
            armed = False
            assert state(server) == before
        else:
            armed = False
            assert "fewer" in "\n".join(state(server))
    assert leftovers(admin) == []


@pytest.mark.long
def test_a_restore_that_is_killed_at_any_step_of_its_switch_is_mended_by_the_next(
    full: MariaDB, admin: Client, server: Server, every: int
) -> None:
    kept, new = StoredDump.of(full), state(server)
    base = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'nc' AND table_type = 'BASE TABLE';"

    def begin() -> None:
        admin("USE nc; INSERT INTO log VALUES ('later'); CREATE TABLE later (i int);")

    def look() -> None:
        # The tables are all old or all new: they change places in one statement.
        tables = admin(base)
        assert ("later" in tables) == (admin("SELECT * FROM nc.log;") == ["later"])
        assert "parents" in tables
        full.restore(kept)
        assert state(server) == new
        assert leftovers(admin) == []

    assert killed_at_each_step(full, kept, MariaDB, "_ask", begin, look, every=every) > 10


def test_a_drill_runs_no_events(full: MariaDB, admin: Client, server: Server) -> None:
    admin(
        "SET GLOBAL event_scheduler = ON; USE nc; CREATE EVENT e ON SCHEDULE EVERY 1 SECOND "
        "DO INSERT INTO prod.ticks VALUES (now(6), database());"
    )
    kept = StoredDump.of(full)
    with full.scratch() as scratch:
        scratch.restore(kept)
        assert scratch.counts() == kept.counts
        name = scratch.name.rpartition("/")[2]
        assert admin(f"SELECT count(*) FROM information_schema.events WHERE event_schema = '{name}'") == ["0"]
        # As many seconds later as the event needs to run in the database that it belongs to.
        ticks = "SELECT count(*) FROM prod.ticks WHERE who = 'nc'"
        begun = int(admin(ticks)[0])
        deadline = time.monotonic() + 60
        while int(admin(ticks)[0]) < begun + 2 and time.monotonic() < deadline:
            time.sleep(0.05)
    admin("DROP EVENT nc.e;")
    assert set(admin("SELECT DISTINCT who FROM prod.ticks")) == {"me", "nc"}
    assert leftovers(admin) == []


@pytest.mark.parametrize(
    "hostile",
    [
        "DROP DATABASE prod;",
        "/*!50003 DROP DATABASE prod */;",
        "SET GLOBAL event_scheduler = ON;",
        "SET PASSWORD = 'x';",
        "CREATE USER evil;",
        "INSERT INTO `log` VALUES\n('a'); DROP DATABASE prod; -- '),\n('b');",
        "INSERT INTO `log` VALUES ('a'); DROP DATABASE prod;",
        "SET NAMES gbk;\nINSERT INTO `log` VALUES\n('\u0157\\'); DROP DATABASE prod; -- ');",
        "SET sql_mode = 'NO_BACKSLASH_ESCAPES';\nINSERT INTO `log` VALUES\n('\\',1); DROP DATABASE prod; -- ');",
        "SET @a = 'NO_BACKSLASH_ESCAPES';\nSET sql_mode = @a;",
        "DELIMITER ;;\nDROP DATABASE prod;;\nDELIMITER ;",
        "DELIMITER ;;\nCREATE TRIGGER t BEFORE INSERT ON log FOR EACH ROW SET @a = 1;;\n"
        "DROP DATABASE prod;;\nDELIMITER ;",
        "USE prod;",
        "\\! touch {file}",
        "system touch {file}",
        "source {file}",
        "CREATE TABLE `prod`.`x` (i int);",
        "RENAME TABLE prod.ticks TO nc.ticks;",
        "SELECT 1 INTO OUTFILE '{file}';",
        "LOAD DATA INFILE '/etc/passwd' INTO TABLE log;",
        "ALTER DATABASE `prod` CHARACTER SET latin1 COLLATE latin1_bin; DROP DATABASE prod;",
    ],
)
def test_a_hostile_dump_touches_nothing_else(
    full: MariaDB, admin: Client, server: Server, hostile: str, tmp_path: Path
) -> None:
    kept, before, prod = StoredDump.of(full), state(server), state(server, "prod")
    file = tmp_path / "evil"
    sql = kept.files["database.sql"].replace(b"DROP TABLE", f"{hostile.format(file=file)}\nDROP TABLE".encode(), 1)
    for part in (sql, kept.files["database.sql"] + hostile.format(file=file).encode() + b"\n"):
        made = StoredDump({**kept.files, "database.sql": part}, kept.counts)
        with pytest.raises(RestoreFailed, match=r"refused|ends in the middle"):
            full.restore(made)
        with full.scratch() as scratch, pytest.raises(RestoreFailed, match=r"refused|ends in the middle"):
            scratch.restore(made)
    assert state(server, "prod") == prod
    assert state(server) == before
    assert not file.exists()


@pytest.mark.parametrize(
    "body",
    [
        "SET NEW.what = 'x'; END; DROP DATABASE prod;",
        "DELETE FROM prod.ticks; END;",
        "SET NEW.what = load_file('/etc/passwd'); END;",
    ],
)
def test_the_code_of_a_hostile_backup_can_touch_nothing_else_in_a_drill(
    full: MariaDB, admin: Client, server: Server, body: str
) -> None:
    kept, prod = StoredDump.of(full), state(server, "prod")
    trigger = f"CREATE DEFINER=`admin`@`%` TRIGGER evil BEFORE INSERT ON log FOR EACH ROW BEGIN {body}"
    code = f"DELIMITER ;;\n{trigger}\n;;\nDELIMITER ;\n"
    made = StoredDump({**kept.files, "database.sql": kept.files["database.sql"] + code.encode()}, kept.counts)
    with full.scratch() as scratch:
        assert isinstance(scratch, MariaDB)
        try:
            scratch.restore(made)
            scratch._ask("INSERT INTO log VALUES ('y')")
        except BackupFailed as error:
            assert "denied" in str(error)  # noqa: PT017
        except RestoreFailed as error:
            assert "denied" in str(error)  # noqa: PT017
    assert state(server, "prod") == prod


@pytest.mark.parametrize(
    "settings",
    [
        b"",
        b"[]",
        b"{}",
        b'["latin1", "latin1_bin"]',
        *(
            json.dumps({"database": "nc", "charset": "utf8mb4", "collation": "utf8mb4_bin", **bad}).encode()
            for bad in (
                {"charset": "latin1; DROP DATABASE prod"},
                {"charset": "`; DROP DATABASE prod; -- "},
                {"collation": "x\n\\! touch /tmp/x"},
                {"collation": None},
                {"collation": 3},
                {"database": ["nc"]},
                {"more": "DROP DATABASE prod"},
                {"left_out": "x"},
                {"size": -1},
            )
        ),
    ],
)
def test_hostile_settings_are_refused(full: MariaDB, admin: Client, server: Server, settings: bytes) -> None:
    kept, before, prod = StoredDump.of(full), state(server), state(server, "prod")
    made = StoredDump({**kept.files, "database.json": settings}, kept.counts)
    with pytest.raises(RestoreFailed, match="is unchanged"):
        full.restore(made)
    assert (state(server), state(server, "prod")) == (before, prod)


@pytest.mark.parametrize("name", ["nc`; DROP DATABASE prod; -- ", "\\! touch x", "a\nDROP DATABASE prod;", "ü" * 60])
def test_the_database_of_a_backup_may_have_any_name(full: MariaDB, admin: Client, server: Server, name: str) -> None:
    kept, before, prod = StoredDump.of(full), state(server), state(server, "prod")
    settings = {**json.loads(kept.files["database.json"]), "database": name}
    full.restore(StoredDump({**kept.files, "database.json": json.dumps(settings).encode()}, kept.counts))
    assert [line.replace(" DISABLE ", " ENABLE ") for line in state(server)] == [
        line.replace(" DISABLE ", " ENABLE ") for line in before
    ]
    assert state(server, "prod") == prod


def test_what_does_not_fit_on_the_server_is_not_begun(
    full: MariaDB, admin: Client, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, before = StoredDump.of(full), state(server)
    settings = json.loads(kept.files["database.json"])
    assert 2**20 <= settings["size"] < 2**27
    large = {**settings, "size": 2**60}
    dump = StoredDump({**kept.files, "database.json": json.dumps(large).encode()}, kept.counts)
    for only in ((), ("versions",)):
        with pytest.raises(StorageFull, match=r"on the server needs 1,152,921,504,606,846,976 bytes in .* Nothing was"):
            full.restore(dump, only)
    with full.scratch() as scratch, pytest.raises(StorageFull):
        scratch.restore(dump)
    assert state(server) == before
    assert leftovers(admin) == []
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    full.restore(dump)  # what is free there is not known
    assert state(server) == before


DATA = [
    (b"(1,'\xc3\xbc", b"(2,'\xc3\xbc"),
    (b"(1,'\xc3\xbc", b"('not a number','\xc3\xbc"),
    (b"(1,'\xc3\xbc", b"(1,2,'secret','\xc3\xbc"),
    (b"(1,'\xc3\xbc", b"(1 2,'secret','\xc3\xbc"),
    (b"(1,'\xc3\xbc", b"(1 secret,'\xc3\xbc"),
    (b"(1,'\xc3\xbc", b"(+ 'a\\' for column secret','\xc3\xbc"),
    (b"'2026-01-01'", b"'secret'"),
    (b"'2026-01-01'", b"'x\\' for key \\'y\\' secret\\nsecret'"),
    (b"'b',0x", b"'secret',0x"),
    (b"0x000000000101000000", b"0x00000000ff"),
]
"""What makes rows that no table takes: each has data that a server repeats."""


def test_an_error_holds_no_data(full: MariaDB, admin: Client, server: Server) -> None:
    kept = StoredDump.of(full)
    for old, new in DATA:
        assert old in kept.files["database.sql"]
        sql = kept.files["database.sql"].replace(old, new)
        sql = sql.replace(b"SQL_MODE='NO_AUTO_VALUE_ON_ZERO'", b"SQL_MODE='NO_AUTO_VALUE_ON_ZERO,STRICT_ALL_TABLES'")
        with pytest.raises(RestoreFailed, match="ERROR ") as raised:
            full.restore(StoredDump({**kept.files, "database.sql": sql}, kept.counts))
        for data in ("secret", "it''s", "ü☃", "not a number", "01010000"):
            assert data not in str(raised.value)
    # Single tables go through a session.
    admin("INSERT INTO nc.parents VALUES (8, 'secret'), (9, 'secret');")
    kept = StoredDump.of(full)
    admin("DELETE FROM nc.parents WHERE id > 7; CREATE UNIQUE INDEX names ON nc.parents (name);")
    before = state(server)
    with pytest.raises(RestoreFailed, match=r"ERROR 1062.*Duplicate entry for key 'names'") as raised:
        full.restore(kept, only=["parents"])
    assert "secret" not in str(raised.value)
    assert state(server) == before


def test_views_that_no_server_can_create_are_named_or_left_out(full: MariaDB, admin: Client, server: Server) -> None:
    admin(
        "USE nc; CREATE OR REPLACE USER leaver; GRANT ALL ON nc.* TO leaver; "
        "CREATE TABLE gone (i int, j int); CREATE FUNCTION one() RETURNS int RETURN 1; "
        "CREATE VIEW no_table AS SELECT * FROM gone; CREATE VIEW no_function AS SELECT one(); "
        "CREATE DEFINER=leaver VIEW `no\n'definer` AS SELECT name FROM parents; "
        "CREATE VIEW above AS SELECT * FROM `no\n'definer`; "
        "DROP TABLE gone; DROP FUNCTION one; DROP USER leaver;"
    )
    found = full.check_restorable()
    assert [said.split(" cannot be used: ")[0] for said in found] == [
        f"View {name!r}" for name in ("above", "no\n'definer", "no_function", "no_table")
    ]
    assert all("strict=false" in said for said in found)
    assert "'leaver'@'%') does not exist" in found[0]
    database = of(server, options="?strict=false")
    assert database.check_restorable() == []
    with database.dump() as dump:
        assert [note.left_out for note in dump.notes if note.left_out] == [True] * 4
    kept = StoredDump.of(database)
    database.restore(kept)
    assert database.counts() == kept.counts
    assert database.check_restorable() == []
    assert full.check_restorable() == []


def test_owners_that_a_server_does_not_have_are_named_or_left_out(full: MariaDB, admin: Client, server: Server) -> None:
    leaver = "CREATE OR REPLACE USER leaver; GRANT ALL ON nc.* TO leaver; USE nc; "
    admin(f"""{leaver}
delimiter $$
CREATE DEFINER=leaver VIEW of_leaver AS SELECT id, 'CREATE DEFINER=`leaver`@`%`' AS s FROM parents$$
CREATE DEFINER=leaver TRIGGER t BEFORE INSERT ON log FOR EACH ROW SET NEW.what = 'x'$$
SET sql_mode = ORACLE$$
CREATE DEFINER=leaver FUNCTION of_leaver() RETURN int AS BEGIN RETURN 1; END$$
""")
    kept, before = StoredDump.of(full), state(server)
    admin("DROP USER leaver;")
    with full.stage(kept) as switch:
        (warning,) = switch()
    assert "users that do not exist on this server: leaver@%." in warning
    assert "owners=false" in warning
    admin(leaver)
    assert state(server) == before
    # Other views could not use a view of nobody.
    admin(f"{leaver} CREATE VIEW above AS SELECT * FROM of_leaver;")
    kept, before = StoredDump.of(full), state(server)
    admin("DROP USER leaver;")
    of(server, options="?owners=false").restore(kept)
    ours = re.sub(r"DEFINER=([`\"])leaver\1@", r"DEFINER=\1admin\1@", "\n".join(before))
    assert "\n".join(state(server)) == ours.replace("'CREATE DEFINER=`admin`", "'CREATE DEFINER=`leaver`")
    admin("DROP DATABASE nc;")
    database = weak(admin, server, "ALL")
    admin("GRANT ALL ON `nc\\_%`.* TO weak;")
    with pytest.raises(
        RestoreFailed, match=r"code and views of admin@%, leaver@%, which weak@% may not .*owners=false"
    ):
        database.restore(kept)
    of(server, "weak", options="?owners=false").restore(kept)
    assert full.counts() == kept.counts
    assert admin("SELECT DISTINCT definer FROM information_schema.routines WHERE routine_schema = 'nc';") == ["weak@%"]


def test_a_restore_that_fails_drops_no_view_that_nobody_can_create(
    full: MariaDB, admin: Client, server: Server
) -> None:
    kept = StoredDump.of(full)
    admin(
        "USE nc; CREATE OR REPLACE USER leaver; GRANT ALL ON nc.* TO leaver; CREATE TABLE gone (i int); "
        "CREATE VIEW no_table AS SELECT * FROM gone; CREATE DEFINER=leaver VIEW no_definer AS SELECT id FROM parents; "
        "DROP TABLE gone; DROP USER leaver;"
    )
    views = "SELECT table_name FROM information_schema.views WHERE table_schema = 'nc' ORDER BY 1;"
    before = admin(views)
    assert {"no_table", "no_definer"} < set(before)

    class Failing(MariaDB):
        def _ask(self, query, database=None):  # type: ignore[no-untyped-def]
            if query.startswith("ALTER DATABASE"):
                raise BackupFailed("no")
            return super()._ask(query, database)

    with Failing(full.url, full.password).stage(kept) as switch, pytest.raises(RestoreFailed, match="is unchanged"):
        switch()
    assert admin(views) == before
    full.restore(kept)
    assert admin(views) == [view for view in before if not view.startswith("no_")]


def test_what_a_server_took_once_it_takes_again(full: MariaDB, admin: Client, server: Server) -> None:
    database_servers.mariadb_client(server, "nc")(
        "CREATE OR REPLACE USER leaver; GRANT ALL ON nc.* TO leaver; "
        "CREATE TABLE odd (i int CHECK (i > 1), d date NOT NULL); "
        "CREATE TABLE strays (id int AUTO_INCREMENT PRIMARY KEY, parent int, name varchar(20) CHARACTER SET utf8mb4, "
        "FOREIGN KEY (parent) REFERENCES parents (id), FOREIGN KEY (name) REFERENCES parents (name)); "
        "SET check_constraint_checks = 0, foreign_key_checks = 0, sql_mode = 'ALLOW_INVALID_DATES'; "
        "INSERT INTO odd VALUES (0, '0000-00-00'), (1, '2026-02-31'); "
        "INSERT INTO children (parent) VALUES (9); "
        "INSERT INTO strays (parent, name) VALUES (9, 'ü☃'), (2, '☃'), (1, NULL); DELETE FROM strays WHERE id = 3; "
        # A server names the database in the columns of a view whose definer is gone.
        "CREATE DEFINER=leaver VIEW plain AS SELECT odd.i, '`nc`.`odd`' AS s FROM odd; DROP USER leaver;"
    )
    assert len(full.check_restorable()) == 1
    kept = StoredDump.of(full)
    full.restore(kept)
    assert StoredDump.of(full).files == kept.files
    with full.scratch() as scratch:
        scratch.restore(kept)
        assert scratch.counts() == kept.counts
    admin("DROP VIEW nc.plain;")
    before = state(server)
    full.restore(kept, only=["odd", "strays"])
    assert StoredDump.of(full).counts == kept.counts
    assert admin("SELECT d FROM nc.odd;") == ["0000-00-00", "2026-02-31"]
    admin("DELETE FROM nc.strays;")
    with full.stage(kept, only=["strays"]) as switch:
        assert switch() == ["Rows of strays refer to rows that do not exist, as in the backup."]
    assert full.counts() == kept.counts
    admin("SET foreign_key_checks = 0; DELETE FROM nc.parents WHERE id = 2; TRUNCATE nc.strays;")
    with pytest.raises(RestoreFailed, match="refer to rows that do not exist"):
        full.restore(kept, only=["strays"])
    full.restore(kept, only=["parents", "strays"])
    assert state(server) == before


def test_a_drill_leaves_out_what_needs_other_databases(full: MariaDB, admin: Client, server: Server) -> None:
    admin("USE nc; CREATE VIEW elsewhere AS SELECT * FROM prod.ticks; CREATE VIEW above AS SELECT * FROM elsewhere;")
    kept = StoredDump.of(full)
    with full.scratch() as scratch:
        scratch.restore(kept)
        assert scratch.counts() == kept.counts
        notes = getattr(scratch, "notes", [])
        assert 1 <= len(notes) <= 2
        assert any("`prod`.`ticks`" in note for note in notes)
    # A copy uses its own views, and not those of the database that it came from.
    of(server, database="beside").restore(kept)
    uses = (
        "SELECT view_definition FROM information_schema.views WHERE table_schema = 'beside' AND table_name = 'above';"
    )
    assert "`beside`.`elsewhere`" in admin(uses)[0]
    assert "`nc`" not in admin(uses)[0]
    admin("DROP DATABASE beside;")
    admin("DROP VIEW nc.above; DROP VIEW nc.elsewhere;")
    kept = StoredDump.of(full)
    broken = kept.files["database.sql"].replace(b" from `named`", b" from `nowhere`")
    assert broken != kept.files["database.sql"]
    with full.scratch() as scratch, pytest.raises(RestoreFailed, match="nowhere"):
        scratch.restore(StoredDump({**kept.files, "database.sql": broken}, kept.counts))


def test_what_a_server_has_set_for_people_is_in_nobodys_way(full: MariaDB, admin: Client, server: Server) -> None:
    admin("SET sql_mode = 'NO_AUTO_VALUE_ON_ZERO'; USE nc; CREATE TABLE zero (i int AUTO_INCREMENT PRIMARY KEY);")
    admin("SET sql_mode = 'NO_AUTO_VALUE_ON_ZERO'; INSERT INTO nc.zero VALUES (0);")
    before = state(server)
    settings = {
        "autocommit": "0",
        "tx_read_only": "1",
        "sql_safe_updates": "1",
        "max_statement_time": "0.0001",
        "sql_mode": "'ORACLE,NO_BACKSLASH_ESCAPES,STRICT_ALL_TABLES,NO_ZERO_DATE,EMPTY_STRING_IS_NULL'",
        "group_concat_max_len": "4",
        "idle_transaction_timeout": "1",
        "sql_auto_is_null": "1",
        "completion_type": "2",
    }
    usual = admin(f"SELECT {', '.join(f'@@{name}' for name in settings)};")[0].split("\t")
    try:
        admin("".join(f"SET GLOBAL {name} = {value};" for name, value in settings.items()))
        kept = StoredDump.of(full)
        with full.scratch() as scratch:
            scratch.restore(kept)
            assert scratch.counts() == kept.counts
        full.restore(kept)
        full.restore(kept, only=["zero"])
        admin("SET SESSION TRANSACTION READ WRITE; SET max_statement_time = 0; DROP DATABASE nc;")
        full.restore(kept)
    finally:
        admin(
            "".join(
                f"SET GLOBAL {name} = '{value}';" if name == "sql_mode" else f"SET GLOBAL {name} = {value};"
                for name, value in zip(settings, usual, strict=True)
            )
        )
    assert state(server) == before


@pytest.mark.parametrize(
    "setting",
    ["sql_select_limit = 2", "system_versioning_asof = '2020-01-01 00:00:00'", "sql_quote_show_create = OFF"],
)
def test_settings_that_would_spoil_a_dump_are_refused(
    full: MariaDB, admin: Client, server: Server, setting: str
) -> None:
    name = setting.partition(" ")[0]
    try:
        admin(f"SET GLOBAL {setting};")
        with pytest.raises(BackupFailed, match=name):
            StoredDump.of(full)
    finally:
        admin(f"SET GLOBAL {name} = DEFAULT;")
    assert StoredDump.of(full).counts["parents"] == 3


def test_tables_with_folders_of_their_own_come_back(full: MariaDB, admin: Client, server: Server) -> None:
    place = server.folder / "elsewhere"
    place.mkdir()
    place.chmod(0o777)
    folder = f"DATA DIRECTORY '{place}'"
    admin(f"USE nc; CREATE TABLE d1 (i int) {folder}; CREATE TABLE d2 (i int) ENGINE=MyISAM INDEX DIRECTORY '{place}'")
    admin(f"USE nc; CREATE TABLE d3 (i int) PARTITION BY RANGE (i) (PARTITION p VALUES LESS THAN (9) {folder});")
    admin("USE nc; CREATE TABLE d4 (i int COMMENT ' DATA DIRECTORY=''x''', `DATA DIRECTORY='` int);")
    admin("USE nc; INSERT INTO d1 VALUES (1); INSERT INTO d2 VALUES (2); INSERT INTO d3 VALUES (3);")
    rows = "USE nc; SELECT * FROM d1; SELECT * FROM d2; SELECT * FROM d3; SHOW CREATE TABLE d4;"
    before, kept = admin(rows), StoredDump.of(full)
    with full.scratch() as scratch:
        scratch.restore(kept)
    for _ in range(2):
        with full.stage(kept) as switch:
            told = [warning.split()[1] for warning in switch()]
        assert told == ["d1", "d2", "d3"]
        assert admin(rows) == before
    assert leftovers(admin) == []


def test_a_drill_leaves_out_foreign_keys_to_other_databases(full: MariaDB, admin: Client, server: Server) -> None:
    admin("CREATE TABLE prod.p (i int PRIMARY KEY); INSERT INTO prod.p VALUES (1);")
    admin(
        "USE nc; CREATE TABLE f (i int, j int, FOREIGN KEY (i) REFERENCES prod.p (i), FOREIGN KEY (j) REFERENCES "
        "parents (id)); INSERT INTO f VALUES (1, 1);"
    )
    before, kept = state(server), StoredDump.of(full)
    with full.scratch() as scratch:
        scratch.restore(kept)
        assert scratch.counts() == kept.counts
        assert any("`prod`.`p`" in note for note in getattr(scratch, "notes", []))
    full.restore(kept)
    assert state(server) == before
    admin("DROP TABLE nc.f;")


def test_what_a_server_forbids_of_tables_is_told(full: MariaDB, admin: Client, server: Server) -> None:
    kept = StoredDump.of(full)
    try:
        admin("SET GLOBAL innodb_force_primary_key = ON; SET GLOBAL enforce_storage_engine = InnoDB;")
        with full.dump() as dump:
            for file in dump.files:
                assert list(file.pieces)
            told = [note.text for note in dump.notes]
        assert [text.split()[1].strip("'") for text in told if "primary key" in text] == [
            "docs",
            "parts",
            "texts",
            "versions",
        ]
        admin("SET GLOBAL innodb_force_primary_key = OFF;")
        with full.stage(kept) as switch:
            assert any("All tables are tables of InnoDB" in warning for warning in switch())
    finally:
        admin("SET GLOBAL innodb_force_primary_key = OFF; SET GLOBAL enforce_storage_engine = NULL;")


def test_what_no_dump_holds_of_a_table_is_told(full: MariaDB, admin: Client) -> None:
    admin(
        "USE nc; CREATE TABLE `f``s` (`a``1` float, b float(20, 10), c float, d double, e float AS (`a``1`));"
        "INSERT INTO `f``s` (`a``1`, b, c, d) VALUES (1, 1.23456789, 0.1, 16777217), (16777217, 0.1, -1e20, 0.1e0);"
        "INSERT INTO `f``s` VALUES (); CREATE VIEW seen AS SELECT * FROM `f``s`;"
    )
    admin(
        "USE nc; SET sql_mode = NO_BACKSLASH_ESCAPES; CREATE FUNCTION path() RETURNS text RETURN 'a\\';"
        "CREATE FUNCTION paths() RETURNS text RETURN 'a\\b'; "
        "CREATE EVENT later ON SCHEDULE EVERY 1 DAY DO SET @a = '\\'"
    )
    found = [problem.split(" could")[0] for problem in full.check_restorable()]
    assert found == ["Event 'later'", "Function 'path'"]
    with full.dump() as dump:
        for file in dump.files:
            assert list(file.pieces)
    assert [note.text.split(":")[0] for note in dump.notes] == [
        "Column 'a`1' of table 'f`s' loses digits",
        "Table 'versions' is system-versioned",
    ]


def test_what_a_killed_drill_leaves_is_dropped_by_the_next(full: MariaDB, admin: Client, server: Server) -> None:
    kept = StoredDump.of(full)
    admin("CREATE DATABASE nc_drill_0123456789abcdef;")  # somebody's own
    killed = killed_in_a_drill(full, PASSWORD).rpartition("/")[2]
    assert killed in leftovers(admin)
    with full.scratch() as living:
        name = living.name.rpartition("/")[2]
        until(lambda: killed not in leftovers(admin), full.drop_abandoned)
        living.restore(kept)
        assert full.drop_abandoned() == []
        assert sorted(leftovers(admin)) == sorted(
            [name, f"snapshots_{name.removeprefix('nc_')}", "nc_drill_0123456789abcdef"]
        )
    admin("DROP DATABASE nc_drill_0123456789abcdef;")
    assert leftovers(admin) == []


def test_a_table_that_others_refer_to_is_not_moved(full: MariaDB, admin: Client, server: Server) -> None:
    admin("CREATE TABLE prod.of_nc (i int, FOREIGN KEY (i) REFERENCES nc.parents (id))")
    kept, before = StoredDump.of(full), state(server)
    with pytest.raises(RestoreFailed, match=r"Tables of other databases refer to tables of this one: prod\.of_nc"):
        full.restore(kept)
    assert state(server) == before


KILLED = """
import pickle, sys
from prefect_snapshots.backups import BackupManager
from prefect_snapshots.backups.databases import MariaDB, MariaDBServer, MariaDBUsers
from prefect_snapshots.backups.databases.base import Tool
url, password, kept = pickle.load(open(sys.argv[1], "rb"))
class Waiting(type(kept)):
    def open(self, path):
        for piece in super().open(path):
            yield piece
            if path == "database.sql":
                print("half", flush=True)
                sys.stdin.read()
kept.__class__ = Waiting
MariaDB(url, password).restore(kept)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_restore_that_is_killed_leaves_the_old_state_and_no_password(
    full: MariaDB, admin: Client, server: Server, number: int, tmp_path: Path
) -> None:
    import pickle

    kept, before = StoredDump.of(full), state(server)
    (tmp_path / "kept").write_bytes(pickle.dumps((full.url, full.secret(), kept)))
    (tmp_path / "temporary").mkdir()
    command = [sys.executable, "-c", KILLED, str(tmp_path / "kept")]
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        process.send_signal(number)
        process.wait()
    assert state(server) == before
    assert list((tmp_path / "temporary").iterdir()) == []
    full.restore(kept)
    assert state(server) == before
    assert leftovers(admin) == []


def test_text_that_looks_like_rows_is_not_counted() -> None:
    rows = b"\nDELIMITER ;\nINSERT INTO `t` VALUES\n(1),\n(2);\n"
    body = b"CREATE PROCEDURE p() BEGIN\n-- it's\n# don't\n/* ' */ SELECT '%b'; END" % rows
    sql = b"CREATE TABLE `t` (\n  `i` int\n);\nDELIMITER ;;\n%b\n;;\nDELIMITER ;\nINSERT INTO `t` VALUES\n(1);\n" % body
    for size in (1, 7, 50, len(sql)):
        counter = RowCounter()
        assert b"".join(counter.passed(sql[at : at + size] for at in range(0, len(sql), size))) == sql
        assert counter.counts == {"t": 1}
    assert b"".join(text for _, text in statements([sql])) == sql


def test_a_statement_that_would_fill_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    table = b"CREATE TABLE `t` (\n  `i` int\n);\n"
    monkeypatch.setattr(mariadb_dumps, "_LONGEST", len(table))
    assert [text for _, text in statements([table])] == [table]
    with pytest.raises(BackupFailed):
        list(statements([table.replace(b"int", b"int DEFAULT 1")]))


def test_a_line_that_would_fill_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_LONGEST_LINE", 5)
    assert list(base.lines([b"abcd\nab", b"cd\n", b"abcde"])) == [b"abcd\n", b"abcd\n", b"abcde"]
    with pytest.raises(BackupFailed, match="a line of more than"):
        list(base.lines([b"abcd\nab", b"cd", b"ef"]))


def test_rows_that_name_the_database_are_not_changed() -> None:
    row = b"INSERT INTO `t` VALUES ('nextval(`shop`.`s`)');\n"
    assert mariadb_dumps.of_this_database(row, "shop") == row
    table = b"CREATE TABLE `t` (\n  `i` bigint(20) DEFAULT nextval(`shop`.`s`)\n);\n"
    assert mariadb_dumps.of_this_database(table, "shop") == table.replace(b"`shop`.", b"")


GTIDS = b"e0783cc6-2f90-11f1-8a7a-5e66e8ae3384:1-210,\nf713f104-2ebc-11f1-bcaa-9e56d1c8c1c3:tag_1:1-150"


@pytest.mark.parametrize("plus", [b"", b"/*!80000 '+'*/ "])
@pytest.mark.parametrize("gtids", [b"", GTIDS])
def test_a_dump_of_a_mysql_server_with_gtids_changes_no_replication(plus: bytes, gtids: bytes) -> None:
    table = [b"CREATE TABLE `t` (\n  `i` int\n);\n", b"INSERT INTO `t` VALUES (1);\n"]
    before = b"SET @MYSQLDUMP_TEMP_LOG_BIN = @@SESSION.SQL_LOG_BIN;\nSET @@SESSION.SQL_LOG_BIN= 0;\n\n"
    purged = b"SET @@GLOBAL.GTID_PURGED=%b'%b';\n\n" % (plus, gtids)
    after = b"SET @@SESSION.SQL_LOG_BIN = @MYSQLDUMP_TEMP_LOG_BIN;\n"
    assert [text for _, text in statements([before, purged, *table, after])] == table


@pytest.mark.parametrize(
    "forged",
    [
        b"SET @@GLOBAL.read_only = 0;\n",
        b"SET @@SESSION.SQL_LOG_BIN= @other;\n",
        b"SET @@GLOBAL.GTID_PURGED='', @@GLOBAL.read_only='0';\n",
        b"SET @@GLOBAL.GTID_PURGED=/*!80000 '+'*/ ''; DROP DATABASE other;\n",
        b"SET @@GLOBAL.GTID_PURGED=(SELECT 'a');\n",
    ],
)
def test_what_only_resembles_the_lines_about_gtids_is_refused(forged: bytes) -> None:
    with pytest.raises(BackupFailed):
        next(statements([forged]))


PEOPLE = r"""
CREATE ROLE reader; CREATE ROLE `odd 'ro`;
CREATE USER clerk IDENTIFIED BY 'x' REQUIRE SSL WITH MAX_QUERIES_PER_HOUR 5 MAX_STATEMENT_TIME 2.5
  PASSWORD EXPIRE INTERVAL 90 DAY ACCOUNT LOCK;
CREATE USER "it's"@'10.0.0.0/255.0.0.0' IDENTIFIED VIA unix_socket OR mysql_native_password USING PASSWORD('q')
  REQUIRE SUBJECT '/CN=x''\\' AND ISSUER '/CN=y' AND CIPHER 'a-b' PASSWORD EXPIRE NEVER; CREATE USER ''@`x.y`;
GRANT SELECT, INSERT ON nc.* TO clerk WITH GRANT OPTION; GRANT SELECT ON `n\_%`.* TO reader;
GRANT reader TO clerk WITH ADMIN OPTION; GRANT `odd 'ro` TO reader; SET DEFAULT ROLE reader FOR clerk;
GRANT SELECT (id, name), UPDATE (id), DELETE ON nc.parents TO "it's"@'10.0.0.0/255.0.0.0' WITH GRANT OPTION;
GRANT EXECUTE ON PROCEDURE nc.notes TO clerk; GRANT ALTER ROUTINE ON FUNCTION nc.twice TO `odd 'ro` WITH GRANT OPTION;
GRANT ALL ON `we``ird'_%db`.* TO clerk; GRANT USAGE ON nc.log TO reader WITH GRANT OPTION;
SET sql_mode = ORACLE; GRANT EXECUTE ON PACKAGE nc.pack TO clerk; SET sql_mode = DEFAULT;
CREATE DEFINER=clerk VIEW nc.by_clerk AS SELECT id FROM nc.parents; CREATE VIEW nc.over AS SELECT * FROM nc.by_clerk;
CREATE DEFINER=`it's`@`10.0.0.0/255.0.0.0` VIEW nc.by_its AS SELECT id FROM nc.parents;
CREATE VIEW nc.above AS SELECT * FROM nc.by_its;
"""
FORGET = "DROP USER IF EXISTS clerk, `it's`@`10.0.0.0/255.0.0.0`, ''@`x.y`; DROP ROLE IF EXISTS reader, `odd 'ro`;"


@pytest.fixture
def people(full: MariaDB, admin: Client, server: Server) -> Iterator[MariaDBUsers]:
    admin(PEOPLE)
    yield MariaDBUsers(f"mariadb://admin@127.0.0.1:{server.port}/", PASSWORD)
    admin(FORGET + "DROP ROLE IF EXISTS mighty, boss; DROP USER IF EXISTS chief;")


def rights(admin: Client) -> list[str]:
    """What the server itself says of all accounts, without their passwords."""
    accounts = admin(
        "SELECT concat('`', user, '`', if(host = '', '', concat('@`', host, '`'))) FROM mysql.global_priv "
        "WHERE host <> (SELECT lower(@@hostname));"
    )
    asked = [
        f"SHOW GRANTS FOR {account};" + f"SHOW CREATE USER {account};" * ("@" in account)
        for account in (account.replace("``@", "''@") for account in accounts)
    ]
    told = "\n".join(sorted(admin(" ".join(asked))))
    return re.sub(r" IDENTIFIED (VIA|BY PASSWORD) [^']*'(\*\w{40}|invalid)'", "", told).splitlines()


def test_proxy_rights_are_told(people: MariaDBUsers, admin: Client) -> None:
    with people.dump() as dump:
        assert dump.notes == []
    admin("INSERT INTO mysql.proxies_priv VALUES ('localhost', 'chief', '%', 'clerk', 0, '', now());")
    with people.dump() as dump:
        [note] = dump.notes
    admin("DELETE FROM mysql.proxies_priv WHERE user = 'chief';")
    assert note.left_out
    assert note.text == "PROXY rights of 'chief'@'localhost' are left out. Grant them again after a restore."


def test_a_whole_server_comes_back_with_its_users(
    people: MariaDBUsers, admin: Client, server: Server, tmp_path: Path
) -> None:
    url = f"mariadb://admin:{QUOTED}@127.0.0.1:{server.port}/*"
    manager = BackupManager(tmp_path / "repository", databases=[url])
    before, states = rights(admin), [state(server), state(server, "prod")]
    assert sum("clerk" in line for line in before) > 5
    # Only one of these has the mark of a restore that was killed.
    admin("CREATE DATABASE nc_replaced_12345678; CREATE DATABASE nc_being_restored_ef28ba4e;")
    backup = manager.create_backup(prove=True)
    place = f"mariadb://127.0.0.1:{server.port}/"
    assert backup.part_names == [place, *(f"{place}{name}" for name in ("nc", "nc_replaced_12345678", "prod"))]
    admin("DROP DATABASE nc_replaced_12345678;")
    assert backup.parts[0].counts == {"users": 7, "roles": 2, "memberships": 4, "rights": 12}
    stored = b"".join(StoredDump.of(people).files.values())
    hashes = admin("SELECT json_value(priv, '$.authentication_string') FROM mysql.global_priv WHERE user = 'clerk';")
    assert hashes[0].encode() not in stored
    assert PASSWORD not in repr(manager) + json.dumps(backup.to_dict())
    admin(FORGET + "DROP DATABASE nc; DELETE FROM prod.ticks;")
    only: dict[str, list[str]] = {name: [] for name in backup.part_names if not name.endswith("8")}
    with pytest.raises(PrivilegesRefused, match=r"''@'x\.y' \(the place of existing users"):
        manager.restore_backup(backup.name, confirm=True, only=only)
    report = manager.restore_backup(backup.name, confirm=True, only=only, allow_privileges=True)
    assert [state(server), state(server, "prod")] == states
    assert rights(admin) == before
    assert "until you set a password for each: ``@`x.y`, `clerk`@`%`, `it's`@" in report.warnings[-1].replace(
        "''@", "``@"
    )
    # Accounts that exist are left as they are, whatever the backup says.
    admin("REVOKE INSERT ON nc.* FROM clerk; REVOKE reader FROM clerk; ALTER USER clerk ACCOUNT UNLOCK;")
    changed = rights(admin)
    assert changed != before
    manager.restore_backup(backup.name, confirm=True, only=only)
    assert rights(admin) == changed
    alone = BackupManager(tmp_path / "repository", databases=[url.replace("/*", "/n*c?users=false")])
    assert alone.create_backup(dry_run=True).part_names == [f"{place}nc"]
    with pytest.raises(BackupFailed, match=r"No database matches.* The server has: nc, prod\."):
        BackupManager(tmp_path / "repository", databases=[url.replace("/*", "/x*")]).create_backup()


@pytest.mark.parametrize(
    "name", ["mysql", "MySQL", "%6Dysql", "sys", "information_schema", "prefect_snapshots_new_users", "%23mysql50%23x"]
)
def test_a_forged_part_replaces_no_database_of_the_server_itself(name: str) -> None:
    """A restore of `mysql` would give all rights to whoever forged it."""
    server = MariaDBServer("mariadb://db.example.com/*")
    assert server.covers("mariadb://db.example.com:3306/mysql2")
    assert not server.covers(f"mariadb://db.example.com:3306/{name}")


def test_a_forged_dump_of_the_database_of_rights_is_not_restored(admin: Client, server: Server, tmp_path: Path) -> None:
    """Somebody who can write to a repository stores a dump of theirs as `mysql`, and all databases are restored."""
    place = f"mariadb://127.0.0.1:{server.port}/"

    class Forged(MariaDB):
        name = f"{place}mysql"

    admin("""
        CREATE TABLE nc.t AS SELECT 1; CREATE DATABASE evil; CREATE TABLE evil.global_priv LIKE mysql.global_priv;
        INSERT INTO evil.global_priv VALUES ('%', 'chief', '{"access": 18446744073709551615}');""")
    evil = Forged(f"mariadb://admin@127.0.0.1:{server.port}/evil", PASSWORD)
    BackupManager(tmp_path, databases=[of(server), evil]).create_backup()
    admin("DROP DATABASE evil; DROP TABLE nc.t;")
    rights = "SELECT * FROM mysql.global_priv ORDER BY host, user;"
    before, tables = admin(rights), admin("SHOW TABLES FROM mysql;")
    manager = BackupManager(tmp_path, databases=[f"mariadb://admin:{QUOTED}@127.0.0.1:{server.port}/*"])
    for allow in (False, True):
        with pytest.raises(InvalidArgument, match=rf"No target for part '{place}mysql'"):
            manager.restore_backup("latest", confirm=True, allow_privileges=allow)
        assert admin("SHOW TABLES FROM nc;") == []
    manager.restore_backup("latest", confirm=True, only={f"{place}nc": []})
    assert admin("SHOW TABLES FROM nc;") == ["t"]
    assert (admin(rights), admin("SHOW TABLES FROM mysql;")) == (before, tables)


def test_users_that_were_killed_on_their_way_are_made_again(
    people: MariaDBUsers, admin: Client, server: Server
) -> None:
    kept, before = StoredDump.of(people), rights(admin)

    allowed = people.allowing_privileges()

    def look() -> None:
        allowed.restore(kept)
        assert rights(admin) == before

    assert killed_at_each_step(allowed, kept, Tool, "run", lambda: admin(FORGET), look, staging=True) > 6
    assert "prefect_snapshots_new_users" not in admin("SHOW DATABASES;")


def forged(dump: StoredDump, **changes: Any) -> StoredDump:
    """A dump with a user "chief" and a role "boss", and more."""
    found = json.loads(dump.files["users.json"])
    found["accounts"] += [
        {"name": "boss", "host": "", "role": True},
        {"name": "chief", "host": "%", "role": False, **changes.pop("account", {})},
    ]
    for key, more in changes.items():
        found[key] = [*found[key], *more]
    return StoredDump({"users.json": json.dumps(found).encode()}, dump.counts)


def right(on: str, *rights: str, name: str = "chief", **more: Any) -> dict[str, Any]:
    return {"name": name, "host": "%" * (name != "boss"), "on": on, "rights": rights, "grantable": False, **more}


PRIVILEGED: list[tuple[dict[str, Any], str]] = [
    ({"rights": [right("server", "ALL PRIVILEGES")]}, r"'chief'@'%' \(ALL PRIVILEGES ON \*\.\*"),
    ({"rights": [right("server", "SUPER", name="boss")]}, r"'boss' \(SUPER ON \*\.\*"),
    ({"rights": [right("server", "SELECT")]}, r"'chief'@'%' \(SELECT ON \*\.\*"),
    ({"rights": [right("server", grantable=True)]}, r"GRANT OPTION ON \*\.\*"),
    ({"rights": [right("database", "INSERT", database="mysql")]}, r"INSERT ON `mysql`\.\*"),
    ({"rights": [right("database", "INSERT", database="%")]}, r"INSERT ON `%`\.\*"),
    ({"rights": [right("database", "INSERT", database="MYS_L")]}, r"INSERT ON `MYS_L`\.\*"),
    ({"rights": [right("table", "UPDATE", database="mysql", object="global_priv")]}, "UPDATE ON `mysql`"),
    ({"rights": [right("table", database="mysql", object="db", columns={"UPDATE": ["User"]})]}, "ON `mysql`"),
    ({"memberships": [{"role": "mighty", "name": "chief", "host": "%", "admin": False}]}, "the existing role 'mighty'"),
    ({"memberships": [{"role": "mighty", "name": "boss", "host": "", "admin": True}]}, r"'boss' \(the existing role"),
]


def test_a_forged_list_of_users_gives_nobody_rights_on_the_server(people: MariaDBUsers, admin: Client) -> None:
    admin("CREATE ROLE mighty; GRANT ALL ON *.* TO mighty;")
    kept, before = StoredDump.of(people), rights(admin)
    for changes, told in PRIVILEGED:
        with pytest.raises(PrivilegesRefused, match=told):
            people.restore(forged(kept, **changes))
    # The server would pick these when the existing user connects, who has a less specific host.
    for name, told in ("clerk", "the existing user 'clerk'"), ("", "existing users"):
        with pytest.raises(PrivilegesRefused, match=rf"'{name}'@'127\.0\.0\.1' \(the place of {told}, "):
            people.restore(forged(kept, account={"name": name, "host": "127.0.0.1"}))
    assert rights(admin) == before
    # What an account has that exists is no matter of the backup.
    for changes, _ in PRIVILEGED[::3]:
        made = json.loads(json.dumps(changes).replace("chief", "clerk").replace("boss", "reader"))
        people.restore(forged(kept, **made))
        admin("DROP ROLE boss; DROP USER chief;")
        assert rights(admin) == before
    people.allowing_privileges().restore(forged(kept, **PRIVILEGED[0][0]))
    assert any(re.match("GRANT ALL PRIVILEGES .* `chief`", line) for line in rights(admin))


FORGED: list[dict[str, Any]] = [
    {"account": {"name": "a\0"}},
    {"account": {"name": "x" * 129}},
    {"account": {"password": "x"}},
    {"account": {"locked": "x; DROP DATABASE prod"}},
    {"account": {"seconds": "1; DROP DATABASE prod"}},
    {"account": {"tls": 4}},
    {"rights": [right("database", "SELECT ON *.* TO chief; --", database="nc")]},
    {"rights": [right("database", "select", database="nc")]},
    {"rights": [right("table", database="nc", object="log", columns={"SELECT (a), INSERT": ["what"]})]},
    {"rights": [right("everywhere", "SELECT")]},
]


def test_forged_users_are_refused(people: MariaDBUsers, admin: Client) -> None:
    kept, before = StoredDump.of(people), rights(admin)
    for changes in FORGED:
        with pytest.raises(RestoreFailed, match="damaged or forged"):
            people.restore(forged(kept, **changes))
    assert rights(admin) == before


def test_hostile_names_of_users_are_only_names(people: MariaDBUsers, admin: Client, server: Server) -> None:
    name = "`; DROP DATABASE prod; -- \n\\! touch /tmp/x '\""
    own = {
        "account": {"subject": f"'{name}", "issuer": "\\", "tls": 3},
        "rights": [
            right("database", "SELECT", database=name),
            right("table", "SELECT", database="nc", object=name),
            right("FUNCTION", "EXECUTE", database=name, object=name),
            right("table", database="nc", object="log", columns={"SELECT": [name]}),
        ],
    }
    kept, prod, before = StoredDump.of(people), state(server, "prod"), rights(admin)
    dump = forged(kept, **own)
    with people.stage(dump) as switch:
        warnings = switch()
    # What rights are on may be in another backup.
    assert sum(": there is no such table, column or routine." in said for said in warnings) == 3
    assert state(server, "prod") == prod
    admin("DROP ROLE boss; DROP USER chief;")
    assert rights(admin) == before


def test_whoever_may_not_see_users_is_told_so(people: MariaDBUsers, admin: Client, server: Server) -> None:
    database = weak(admin, server, "ALL")
    for given in ("", "GRANT SELECT ON mysql.global_priv TO weak;"):
        admin(given)
        with pytest.raises(BackupFailed, match=r"Grant SELECT ON mysql\.\* .*users=false"):
            MariaDBUsers(database.renamed(""), PASSWORD).counts()
    admin("GRANT SELECT ON mysql.* TO weak;")
    assert MariaDBUsers(database.renamed(""), PASSWORD).counts()["users"] == people.counts()["users"]
    with pytest.raises(RestoreFailed, match="and is unchanged"):
        MariaDBUsers(database.renamed(""), PASSWORD).restore(forged(StoredDump.of(people)))
    assert not admin("SELECT user FROM mysql.user WHERE user IN ('chief', 'boss');")
