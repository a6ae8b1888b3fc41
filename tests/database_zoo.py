"""The fixture zoos: for each database one schema with an object of every type that its manual has.

The page docs/databases.md is compared with these lists: what it says is kept is what the tests keep alive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Exhibit:
    """A type of object.

    Attributes:
        kind: What the documentation calls it.
        script: What makes some of them, in the language of the database.
        proof: Words that the database's own tool shows of them.
        for_superusers: Whether only a superuser may create them, and so no drill.
    """

    kind: str
    script: str
    proof: str
    for_superusers: bool = False


def script(exhibits: Sequence[Exhibit], end: str = "\n") -> str:
    return end.join(each.script for each in exhibits) + end


def kinds(exhibits: Sequence[Exhibit]) -> str:
    """The types as the documentation lists them."""
    return ", ".join(dict.fromkeys(each.kind for each in exhibits))


POSTGRESQL = [
    Exhibit("schemas", "CREATE SCHEMA app;", "CREATE SCHEMA app;"),
    Exhibit(
        "extensions",
        "CREATE EXTENSION hstore SCHEMA app; CREATE EXTENSION btree_gist;",
        "CREATE EXTENSION IF NOT EXISTS hstore WITH SCHEMA app;",
    ),
    Exhibit(
        "languages",
        "CREATE FUNCTION handle() RETURNS language_handler AS '$libdir/plpgsql', 'plpgsql_call_handler' LANGUAGE c; "
        "CREATE LANGUAGE plother HANDLER handle;",
        "PROCEDURAL LANGUAGE plother HANDLER public.handle",
        True,
    ),
    Exhibit(
        "access methods",
        "CREATE ACCESS METHOD heap2 TYPE TABLE HANDLER heap_tableam_handler; CREATE TABLE on_heap2 (i int) USING "
        "heap2;",
        "CREATE ACCESS METHOD heap2",
        True,
    ),
    Exhibit("enums", "CREATE TYPE mood AS ENUM ('sad', 'it''s ok');", "CREATE TYPE public.mood AS ENUM"),
    Exhibit("domains", "CREATE DOMAIN positive AS int CHECK (VALUE > 0);", "CREATE DOMAIN public.positive"),
    Exhibit("composite types", "CREATE TYPE pair AS (a int, b text);", "CREATE TYPE public.pair AS ("),
    Exhibit(
        "range types",
        "CREATE TYPE floats AS RANGE (subtype = float8, multirange_type_name = many_floats);",
        "multirange_type_name = public.many_floats",
    ),
    Exhibit(
        "base types",
        "CREATE TYPE word; CREATE FUNCTION word_in(cstring) RETURNS word AS 'textin' LANGUAGE internal STRICT "
        "IMMUTABLE; "
        "CREATE FUNCTION word_out(word) RETURNS cstring AS 'textout' LANGUAGE internal STRICT IMMUTABLE; "
        "CREATE TYPE word (INTERNALLENGTH = variable, INPUT = word_in, OUTPUT = word_out, ALIGNMENT = int4); "
        "CREATE TABLE words (w word); INSERT INTO words VALUES ('w');",
        "INPUT = public.word_in",
        True,
    ),
    Exhibit(
        "collations",
        "CREATE COLLATION nocase FROM \"C\"; CREATE COLLATION german (PROVIDER = icu, LOCALE = 'de-u-co-phonebk', "
        "DETERMINISTIC = false);",
        "CREATE COLLATION public.german (provider = icu",
    ),
    Exhibit(
        "conversions",
        "CREATE CONVERSION old FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8;",
        "CREATE CONVERSION public.old FOR 'LATIN1' TO 'UTF8'",
    ),
    Exhibit(
        "functions",
        "CREATE FUNCTION fold(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower($1)'; "
        "CREATE FUNCTION slug(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS "
        "'BEGIN RETURN replace(fold($1), '' '', ''-''); END'; CREATE FUNCTION modern(i int DEFAULT 1) RETURNS int "
        "SECURITY DEFINER SET search_path = app, public PARALLEL SAFE COST 7 LANGUAGE sql BEGIN ATOMIC SELECT i; END; "
        "CREATE FUNCTION many(VARIADIC a int[]) RETURNS TABLE (x int, y text) LANGUAGE sql ROWS 5 AS 'SELECT 1, "
        "''a''';",
        "SET search_path TO 'app', 'public'",
    ),
    Exhibit("procedures", "CREATE PROCEDURE app.p() LANGUAGE sql AS 'SELECT 1';", "CREATE PROCEDURE app.p()"),
    Exhibit(
        "aggregates",
        "CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0', MSFUNC = int4pl, MINVFUNC = int4mi, "
        "MSTYPE = int);",
        "CREATE AGGREGATE public.total",
    ),
    Exhibit(
        "aggregates",
        'CREATE AGGREGATE ranked(VARIADIC "any" ORDER BY VARIADIC "any") '
        "(SFUNC = ordered_set_transition_multi, STYPE = internal, FINALFUNC = rank_final, "
        "FINALFUNC_EXTRA, HYPOTHETICAL);",
        "HYPOTHETICAL",
        True,
    ),
    Exhibit(
        "operators, their classes and families",
        "CREATE OPERATOR === (FUNCTION = texteq, LEFTARG = text, RIGHTARG = text, RESTRICT = eqsel, HASHES);",
        "CREATE OPERATOR public.===",
    ),
    Exhibit(
        "operators, their classes and families",
        "CREATE OPERATOR FAMILY app.fam USING hash; CREATE OPERATOR CLASS cls FOR TYPE int USING hash FAMILY app.fam "
        "AS OPERATOR 1 =, FUNCTION 1 hashint4(int); CREATE TABLE hashed (i int); "
        "CREATE INDEX ON hashed USING hash (i cls);",
        "FOR TYPE integer USING hash FAMILY app.fam",
        True,
    ),
    Exhibit("casts", "CREATE CAST (mood AS int) WITH INOUT AS ASSIGNMENT;", "CREATE CAST (public.mood AS integer)"),
    Exhibit(
        "transforms",
        "CREATE TRANSFORM FOR int LANGUAGE sql (FROM SQL WITH FUNCTION prsd_lextype(internal), "
        "TO SQL WITH FUNCTION int4recv(internal));",
        "CREATE TRANSFORM FOR integer LANGUAGE sql",
        True,
    ),
    Exhibit(
        "sequences",
        "CREATE SEQUENCE app.numbers AS smallint START 7 CYCLE MAXVALUE 99; SELECT nextval('app.numbers'); "
        "CREATE TABLE owns (i serial); INSERT INTO owns DEFAULT VALUES; INSERT INTO owns DEFAULT VALUES;",
        "SELECT pg_catalog.setval('public.owns_i_seq', 2, true);",
    ),
    Exhibit(
        "identity and generated columns",
        "CREATE TABLE app.base (id int GENERATED BY DEFAULT AS IDENTITY (START 5) PRIMARY KEY, m mood, p positive, "
        "q pair, f floats, t text COLLATE nocase, j jsonb DEFAULT '{}', h app.hstore, "
        "twice int GENERATED ALWAYS AS (id * 2) STORED, EXCLUDE USING gist (f WITH &&)); "
        "INSERT INTO app.base (m, p, q, f, t, h) VALUES ('sad', 1, ROW(1, 'x'), '[1,2)', E'\\\\N\\t', 'a=>b');",
        "GENERATED BY DEFAULT AS IDENTITY",
    ),
    Exhibit(
        "inheritance",
        "CREATE TABLE app.child (extra text[]) INHERITS (app.base); "
        "INSERT INTO app.child (id, p, extra) VALUES (9, 2, '{a,NULL}');",
        "INHERITS (app.base)",
    ),
    Exhibit(
        "partitions",
        "CREATE TABLE ev (at date, x int, PRIMARY KEY (at, x)) PARTITION BY RANGE (at); "
        "CREATE TABLE ev_1 PARTITION OF ev FOR VALUES FROM ('2026-01-01') TO ('2027-01-01') PARTITION BY LIST (x); "
        "CREATE TABLE ev_1a PARTITION OF ev_1 FOR VALUES IN (1) PARTITION BY HASH (x); "
        "CREATE TABLE ev_1ah PARTITION OF ev_1a FOR VALUES WITH (MODULUS 1, REMAINDER 0); "
        "CREATE TABLE ev_rest PARTITION OF ev DEFAULT; INSERT INTO ev VALUES ('2026-02-01', 1), ('2030-01-01', 2);",
        "FOR VALUES WITH (modulus 1, remainder 0)",
    ),
    Exhibit("unlogged tables", "CREATE UNLOGGED TABLE rough (i int); INSERT INTO rough VALUES (1);", "UNLOGGED TABLE"),
    Exhibit(
        "typed tables", "CREATE TABLE pairs OF pair (PRIMARY KEY (a));", "CREATE TABLE public.pairs OF public.pair"
    ),
    Exhibit(
        "storage parameters",
        "CREATE TABLE tuned (i int, t text COMPRESSION pglz, d int) WITH (fillfactor = 70, autovacuum_enabled = off); "
        "ALTER TABLE tuned ALTER t SET STORAGE EXTERNAL, ALTER t SET STATISTICS 7, ALTER i SET (n_distinct = -0.5), "
        "DROP d; INSERT INTO tuned VALUES (1, repeat('x', 2000));",
        "ALTER COLUMN t SET STORAGE EXTERNAL",
    ),
    Exhibit(
        "constraints",
        "CREATE TABLE parents (a int, b int, PRIMARY KEY (a, b) INCLUDE (b), UNIQUE NULLS NOT DISTINCT (b)); "
        "CREATE TABLE children (a int, b int CHECK (b > 0) NO INHERIT, CONSTRAINT far FOREIGN KEY (a, b) "
        "REFERENCES parents MATCH FULL ON DELETE SET NULL (b) DEFERRABLE INITIALLY DEFERRED); "
        "INSERT INTO parents VALUES (1, 1); INSERT INTO children VALUES (1, 1); "
        "ALTER TABLE children ADD CONSTRAINT later CHECK (a > 5) NOT VALID;",
        "DEFERRABLE INITIALLY DEFERRED",
    ),
    Exhibit(
        "indexes",
        "CREATE INDEX ON app.base (lower(t) DESC NULLS LAST) WHERE p > 0; CREATE INDEX ON app.base USING gin (j); "
        "CREATE INDEX ON app.base USING brin (id); CREATE INDEX ON app.base USING hash (p); "
        "CREATE UNIQUE INDEX of_tuned ON tuned (i) INCLUDE (t) WITH (fillfactor = 50); ALTER TABLE tuned CLUSTER ON "
        "of_tuned;",
        "ALTER TABLE public.tuned CLUSTER ON of_tuned",
    ),
    Exhibit(
        "replica identity",
        "ALTER TABLE owns REPLICA IDENTITY FULL;",
        "ALTER TABLE ONLY public.owns REPLICA IDENTITY FULL",
    ),
    Exhibit(
        "extended statistics",
        "CREATE STATISTICS app.st (dependencies, mcv) ON m, p FROM app.base; CREATE STATISTICS st ON (id % 7) FROM "
        "app.base;",
        "CREATE STATISTICS app.st",
    ),
    Exhibit(
        "views",
        "CREATE TABLE pages (name text, s text GENERATED ALWAYS AS (slug(name)) STORED, CHECK (slug(name) <> '')); "
        "INSERT INTO pages VALUES ('A B'); CREATE INDEX ON pages (slug(name)); "
        "CREATE VIEW seen WITH (security_barrier, security_invoker) AS SELECT * FROM pages; "
        "CREATE VIEW checked AS SELECT a, b FROM parents WHERE a > 0 WITH LOCAL CHECK OPTION; "
        "CREATE RECURSIVE VIEW up (n) AS VALUES (1) UNION ALL SELECT n + 1 FROM up WHERE n < 3;",
        "WITH LOCAL CHECK OPTION",
    ),
    Exhibit(
        "materialized views",
        "CREATE MATERIALIZED VIEW slugs AS SELECT slug(name) AS s FROM pages; CREATE UNIQUE INDEX ON slugs (s); "
        "CREATE MATERIALIZED VIEW longer AS SELECT s || s AS s FROM slugs; "
        "CREATE MATERIALIZED VIEW empty AS SELECT 1 WITH NO DATA;",
        "REFRESH MATERIALIZED VIEW public.longer",
    ),
    Exhibit("rules", "CREATE RULE nothing AS ON DELETE TO seen DO INSTEAD NOTHING;", "CREATE RULE nothing AS"),
    Exhibit(
        "triggers",
        "CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; "
        "CREATE TRIGGER told AFTER INSERT ON pages EXECUTE FUNCTION tell(); ALTER TABLE pages DISABLE TRIGGER told; "
        "CREATE TRIGGER copied AFTER UPDATE ON parents REFERENCING OLD TABLE AS o NEW TABLE AS n EXECUTE FUNCTION "
        "tell(); "
        "ALTER TABLE parents ENABLE ALWAYS TRIGGER copied; CREATE CONSTRAINT TRIGGER last AFTER DELETE ON parents "
        "DEFERRABLE FOR EACH ROW WHEN (OLD.a > 0) EXECUTE FUNCTION tell(); "
        "CREATE TRIGGER instead INSTEAD OF UPDATE ON seen FOR EACH ROW EXECUTE FUNCTION tell();",
        "ENABLE ALWAYS TRIGGER copied",
    ),
    Exhibit(
        "event triggers",
        "CREATE FUNCTION ddl() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; "
        "CREATE EVENT TRIGGER watched ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION ddl();",
        "CREATE EVENT TRIGGER watched",
    ),
    Exhibit(
        "row security",
        "ALTER TABLE pages ENABLE ROW LEVEL SECURITY; ALTER TABLE pages FORCE ROW LEVEL SECURITY; "
        "CREATE POLICY mine ON pages AS RESTRICTIVE FOR SELECT TO PUBLIC USING (name = CURRENT_USER);",
        "CREATE POLICY mine ON public.pages AS RESTRICTIVE",
    ),
    Exhibit(
        "publications",
        "CREATE PUBLICATION pub FOR TABLE pages (name), parents WHERE (a > 0) WITH (publish = 'insert'); "
        "CREATE PUBLICATION app FOR TABLES IN SCHEMA app; CREATE PUBLICATION everything FOR ALL TABLES;",
        "CREATE PUBLICATION everything FOR ALL TABLES",
    ),
    Exhibit(
        "subscriptions",
        "CREATE SUBSCRIPTION sub CONNECTION 'host=/nowhere' PUBLICATION p "
        "WITH (connect = false, slot_name = NONE, enabled = false);",
        "CREATE SUBSCRIPTION sub",
    ),
    Exhibit(
        "foreign data wrappers, servers, user mappings and tables",
        "CREATE FOREIGN DATA WRAPPER far; CREATE SERVER away TYPE 't' VERSION '1' FOREIGN DATA WRAPPER far "
        "OPTIONS (host 'x'); CREATE USER MAPPING FOR PUBLIC SERVER away OPTIONS (password 'it''s'); "
        "CREATE FOREIGN TABLE far_t (i int OPTIONS (a 'b') NOT NULL) SERVER away OPTIONS (c 'd');",
        "CREATE USER MAPPING FOR public SERVER away",
    ),
    Exhibit(
        "text search",
        "CREATE TEXT SEARCH DICTIONARY dict (TEMPLATE = simple, STOPWORDS = english); "
        "CREATE TEXT SEARCH CONFIGURATION plain (COPY = simple); ALTER TEXT SEARCH CONFIGURATION plain "
        "ALTER MAPPING FOR asciiword WITH dict;",
        "ADD MAPPING FOR asciiword WITH public.dict",
    ),
    Exhibit(
        "text search",
        "CREATE TEXT SEARCH TEMPLATE tmpl (INIT = dsimple_init, LEXIZE = dsimple_lexize); "
        "CREATE TEXT SEARCH PARSER prs (START = prsd_start, GETTOKEN = prsd_nexttoken, END = prsd_end, "
        "LEXTYPES = prsd_lextype); CREATE TEXT SEARCH DICTIONARY other (TEMPLATE = tmpl); "
        "CREATE TEXT SEARCH CONFIGURATION parsed (PARSER = prs);",
        "CREATE TEXT SEARCH PARSER public.prs",
        True,
    ),
    Exhibit(
        "large objects",
        "SELECT lo_create(4711); SELECT lo_put(4711, 0, '\\x00ff00'); COMMENT ON LARGE OBJECT 4711 IS 'big'; "
        "GRANT SELECT ON LARGE OBJECT 4711 TO PUBLIC;",
        "GRANT SELECT ON LARGE OBJECT 4711 TO PUBLIC",
    ),
    Exhibit(
        "comments",
        "COMMENT ON TABLE pages IS E'it''s\\n\\\\'; COMMENT ON COLUMN pages.s IS 's'; COMMENT ON DATABASE shop IS "
        "'all'; "
        "COMMENT ON POLICY mine ON pages IS 'p'; COMMENT ON TRIGGER told ON pages IS 't';",
        "COMMENT ON POLICY mine",
    ),
    Exhibit(
        "owners, rights and default privileges",
        "CREATE ROLE reader; ALTER TABLE owns OWNER TO reader; GRANT SELECT (a) ON parents TO reader WITH GRANT "
        "OPTION; "
        "GRANT USAGE ON SCHEMA app TO reader; GRANT EXECUTE ON FUNCTION fold TO reader; "
        "GRANT USAGE ON TYPE mood TO reader; GRANT USAGE ON FOREIGN SERVER away TO reader; "
        "ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO PUBLIC; REVOKE ALL ON SCHEMA public FROM "
        "PUBLIC; "
        "GRANT CONNECT ON DATABASE shop TO reader;",
        "GRANT SELECT(a) ON TABLE public.parents TO reader WITH GRANT OPTION",
    ),
    Exhibit(
        "encoding, locale, connection limit and settings of the database",
        "ALTER DATABASE shop CONNECTION LIMIT 77; ALTER DATABASE shop SET work_mem = '5MB'; "
        "ALTER ROLE reader IN DATABASE shop SET search_path = app, public;",
        "CONNECTION LIMIT = 77",
    ),
]

MARIADB = [
    Exhibit(
        "character set and collation of the database",
        "ALTER DATABASE CHARACTER SET latin2 COLLATE latin2_croatian_ci;",
        "",
    ),
    Exhibit(
        "sequences and defaults that use them",
        "CREATE SEQUENCE sq START WITH 5 INCREMENT BY 2 CACHE 10 CYCLE MAXVALUE 999; SELECT nextval(sq); "
        "CREATE TABLE parents (id int PRIMARY KEY DEFAULT nextval(sq), name varchar(20) CHARACTER SET utf8mb4, KEY "
        "(name)); "
        "INSERT INTO parents VALUES (1, 'ü☃'), (2, 'it''s; a \"test\" \\\\'), (3, NULL); "
        "CREATE TABLE both_ways (a int DEFAULT nextval(sq), b int DEFAULT (nextval(sq) + 1)); "
        "INSERT INTO both_ways VALUES ();",
        "CREATE SEQUENCE `sq`",
    ),
    Exhibit(
        "keys and `CHECK`s",
        "CREATE TABLE children (id int PRIMARY KEY AUTO_INCREMENT, parent int, "
        "CONSTRAINT of_parent FOREIGN KEY (parent) REFERENCES parents (id) ON DELETE CASCADE, "
        "CONSTRAINT positive CHECK (parent > 0), UNIQUE KEY descending (parent DESC, id)) AUTO_INCREMENT = 7; "
        "INSERT INTO children (parent) VALUES (1), (2), (NULL);",
        "CONSTRAINT `of_parent` FOREIGN KEY",
    ),
    Exhibit(
        "generated and invisible columns",
        "CREATE TABLE made (i int, twice int AS (i * 2) STORED, half int AS (i / 2) VIRTUAL, "
        "at timestamp DEFAULT current_timestamp ON UPDATE current_timestamp, hidden int INVISIBLE DEFAULT 3, KEY "
        "(half)); "
        "INSERT INTO made (i, at) VALUES (4, '2026-01-01 00:00:00');",
        "`hidden` int(11) INVISIBLE",
    ),
    Exhibit(
        "partitions",
        "CREATE TABLE parts (i int, b blob, d date) PARTITION BY RANGE (i) SUBPARTITION BY HASH (year(d)) "
        "SUBPARTITIONS 2 "
        "(PARTITION p VALUES LESS THAN (10), PARTITION q VALUES LESS THAN MAXVALUE); "
        "INSERT INTO parts VALUES (1, x'00ff', '2026-01-01'), (100, NULL, NULL); "
        "CREATE TABLE lists (s varchar(9)) PARTITION BY LIST COLUMNS (s) (PARTITION a VALUES IN ('x'), PARTITION z "
        "DEFAULT); "
        "INSERT INTO lists VALUES ('x'), ('y');",
        "SUBPARTITION BY HASH",
    ),
    Exhibit(
        "system-versioned tables, without their history",
        "CREATE TABLE versions (x int) WITH SYSTEM VERSIONING; INSERT INTO versions VALUES (1); "
        "CREATE TABLE shown (x int, a timestamp(6) AS ROW START, b timestamp(6) AS ROW END, PERIOD FOR SYSTEM_TIME "
        "(a, b)) WITH SYSTEM VERSIONING; INSERT INTO shown (x) VALUES (1);",
        "WITH SYSTEM VERSIONING",
    ),
    Exhibit(
        "periods",
        "CREATE TABLE booked (room int, a date, b date, PERIOD FOR stay (a, b), UNIQUE (room, stay WITHOUT OVERLAPS)); "
        "INSERT INTO booked VALUES (1, '2026-01-01', '2026-01-03');",
        "WITHOUT OVERLAPS",
    ),
    Exhibit(
        "tables of InnoDB, Aria, MyISAM and others",
        "CREATE TABLE log (what text) ENGINE=Aria; CREATE TABLE old (i int, KEY (i)) ENGINE=MyISAM ROW_FORMAT=FIXED; "
        "INSERT INTO old VALUES (1); CREATE TABLE small (i int) ENGINE=InnoDB ROW_FORMAT=COMPRESSED COMMENT 'it''s'; "
        "CREATE TABLE gone (i int) ENGINE=MEMORY; CREATE TABLE flat (i int NOT NULL) ENGINE=CSV; "
        "INSERT INTO flat VALUES (7); CREATE TABLE merged (i int) ENGINE=MERGE UNION=(old);",
        "ENGINE=CSV",
    ),
    Exhibit(
        "all types of columns",
        "CREATE TABLE docs (j json, g point NOT NULL, e enum('a', 'it''s'), s set('x', 'y'), f bit(9), u uuid, i6 "
        "inet6, "
        "n decimal(30, 10), d datetime(6), t time(3), y year, c char(3) BINARY, v varbinary(9), FULLTEXT (j), "
        "SPATIAL KEY (g)); INSERT INTO docs VALUES ('{\"a\": 1}', ST_GeomFromText('POINT(1 2)'), 'it''s', 'x,y', "
        "b'101', "
        "'123e4567-e89b-12d3-a456-426655440000', '::1', 1.5, '2026-01-01 01:02:03.000004', '-12:00:00.5', 2026, "
        "'abc', x'00');",
        "SPATIAL KEY `g`",
    ),
    Exhibit(
        "views",
        "CREATE ALGORITHM=MERGE SQL SECURITY INVOKER VIEW named AS SELECT id, name FROM parents WHERE name IS NOT NULL "
        "WITH CASCADED CHECK OPTION; CREATE VIEW fewer AS SELECT id FROM named;",
        "VIEW `fewer`",
    ),
    Exhibit(
        "functions, procedures and packages",
        r"""delimiter $$
CREATE FUNCTION twice(i int) RETURNS int DETERMINISTIC COMMENT 'it''s' RETURN i * 2$$
CREATE AGGREGATE FUNCTION summed(x int) RETURNS int BEGIN
  DECLARE s int DEFAULT 0; DECLARE CONTINUE HANDLER FOR NOT FOUND RETURN s;
  LOOP FETCH GROUP NEXT ROW; SET s = s + x; END LOOP; END$$
CREATE PROCEDURE notes(INOUT a int) SQL SECURITY INVOKER BEGIN
  -- it's a comment with a quote
  INSERT INTO log VALUES ('
DELIMITER ;
INSERT INTO `log` VALUES
(1),
(2);
'); END$$
SET sql_mode = ANSI_QUOTES$$
CREATE FUNCTION "an ""si"() RETURNS int RETURN 1$$
SET sql_mode = ORACLE$$
CREATE PACKAGE pack AS FUNCTION f RETURN INT; END$$
CREATE PACKAGE BODY pack AS FUNCTION f RETURN INT AS BEGIN RETURN 1; END; END$$
SET sql_mode = DEFAULT$$
delimiter ;""",
        "PACKAGE BODY",
    ),
    Exhibit(
        "triggers",
        r"""delimiter $$
CREATE TRIGGER noted AFTER DELETE ON children FOR EACH ROW BEGIN
  INSERT INTO log VALUES (concat('DELETE;
DELIMITER ;
INSERT INTO `children` VALUES
(1,1,1);
', OLD.id)); END$$
CREATE TRIGGER second AFTER DELETE ON children FOR EACH ROW PRECEDES noted SET @x = 1$$
SET sql_mode = ANSI_QUOTES$$
CREATE TRIGGER "tr""i" BEFORE DELETE ON docs FOR EACH ROW SET @what = 'CREATE DEFINER=`x`@`y` FUNCTION f'$$
SET sql_mode = DEFAULT$$
delimiter ;""",
        "TRIGGER second",
    ),
    Exhibit(
        "events",
        r"""delimiter $$
CREATE EVENT nightly ON SCHEDULE EVERY 1 DAY STARTS '2030-01-01 00:00:00' COMMENT 'it''s ENABLE' DO BEGIN
DELETE FROM log WHERE what = '
DELIMITER ;
CREATE TABLE `nowhere` (
INSERT INTO `log` VALUES
(1);
'; END$$
CREATE EVENT off ON SCHEDULE AT '2037-01-01 00:00:00' ON COMPLETION PRESERVE DISABLE DO DELETE FROM log$$
delimiter ;""",
        "ON COMPLETION PRESERVE DISABLE",
    ),
]

SQLITE = [
    Exhibit(
        "pages, encoding and identification of the file",
        "PRAGMA page_size = 1024; PRAGMA encoding = 'UTF-16le'; PRAGMA auto_vacuum = INCREMENTAL; "
        "PRAGMA user_version = 7; PRAGMA application_id = 9;",
        "",
    ),
    Exhibit(
        "tables",
        "CREATE TABLE t (a INTEGER PRIMARY KEY AUTOINCREMENT, b TEXT COLLATE NOCASE DEFAULT 'x' NOT NULL ON CONFLICT "
        "REPLACE, "
        "c BLOB, d REAL CHECK (d > 0), UNIQUE (b, c)); INSERT INTO t VALUES (5, 'it''s', x'00ff', 1.5); "
        "CREATE TABLE k (a TEXT, b INT, PRIMARY KEY (b, a)) WITHOUT ROWID, STRICT; INSERT INTO k VALUES ('x', 1);",
        "WITHOUT ROWID, STRICT",
    ),
    Exhibit(
        "generated columns",
        "CREATE TABLE g (a INT, twice INT AS (a * 2) STORED, half AS (a / 2)); INSERT INTO g VALUES (4);",
        "twice INT AS (a * 2) STORED",
    ),
    Exhibit(
        "foreign keys",
        "CREATE TABLE f (t INT REFERENCES t ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED); INSERT INTO f VALUES "
        "(5);",
        "DEFERRABLE INITIALLY DEFERRED",
    ),
    Exhibit("indexes", "CREATE UNIQUE INDEX i ON t (lower(b) DESC, c) WHERE d > 1;", "CREATE UNIQUE INDEX i"),
    Exhibit("views", "CREATE VIEW v AS SELECT b FROM t; CREATE VIEW w AS SELECT * FROM v;", "CREATE VIEW w"),
    Exhibit(
        "triggers",
        "CREATE TRIGGER g1 AFTER UPDATE OF b ON t WHEN NEW.b <> OLD.b BEGIN INSERT INTO g VALUES (1); END; "
        "CREATE TRIGGER g2 INSTEAD OF DELETE ON v BEGIN SELECT RAISE(IGNORE); END;",
        "CREATE TRIGGER g2",
    ),
    Exhibit(
        "virtual tables",
        "CREATE VIRTUAL TABLE words USING fts5(body); INSERT INTO words VALUES ('a b'); "
        "CREATE VIRTUAL TABLE boxes USING rtree(id, x1, x2); INSERT INTO boxes VALUES (1, 0, 2);",
        "USING fts5",
    ),
    Exhibit("statistics", "ANALYZE;", "sqlite_stat1"),
]

DUCKDB = [
    Exhibit("schemas", 'CREATE SCHEMA s; CREATE SCHEMA "we ird";', "CREATE SCHEMA s;"),
    Exhibit(
        "types",
        "CREATE TYPE mood AS ENUM ('a', 'b ''c'); CREATE TYPE pair AS STRUCT(a INTEGER, b VARCHAR); "
        "CREATE TYPE s.alias AS INTEGER[];",
        "CREATE TYPE mood",
    ),
    Exhibit(
        "sequences",
        "CREATE SEQUENCE numbers START 42 INCREMENT 2 MAXVALUE 99 CYCLE; SELECT nextval('numbers');",
        "CREATE SEQUENCE numbers",
    ),
    Exhibit(
        "tables",
        "CREATE TABLE accounts (id INTEGER PRIMARY KEY DEFAULT nextval('numbers'), name VARCHAR UNIQUE, m mood, p "
        "pair, "
        "twice INTEGER AS (id * 2)); INSERT INTO accounts VALUES (1, 'ü☃', 'a', {'a': 1, 'b': '}'}), (2, '', NULL, "
        "NULL); "
        'CREATE TABLE "we ird"."-t" (h HUGEINT, b BLOB, i INTERVAL, l VARCHAR[], f INTEGER[3], '
        "mp MAP(VARCHAR, INTEGER), "
        "u UNION(x INTEGER, y VARCHAR), tz TIMETZ, ns TIMESTAMP_NS, de DECIMAL(38, 10), d DOUBLE, id UUID, bits BIT); "
        'INSERT INTO "we ird"."-t" VALUES (170141183460469231731687303715884105727, \'\\x00\\xff\'::BLOB, '
        "INTERVAL '1 month 2 days 3 us', ['', NULL, 'a,\"b'], [1, 2, 3], MAP {'k,=': 1}, 'NULL'::UNION(x INTEGER, y "
        "VARCHAR), "
        "'12:00:00+02'::TIMETZ, '2020-01-01 00:00:00.123456789'::TIMESTAMP_NS, 1234567890123456789.0123456789, "
        "'-inf'::DOUBLE, '123e4567-e89b-12d3-a456-426655440000', '0101'::BIT);",
        "CREATE TABLE accounts",
    ),
    Exhibit(
        "constraints",
        "CREATE TABLE orders (account INTEGER REFERENCES accounts (id), note VARCHAR NOT NULL CHECK (length(note) < "
        "100)); "
        "INSERT INTO orders VALUES (1, 'x'), (2, 'a\"b,c');",
        "FOREIGN KEY (account)",
    ),
    Exhibit(
        "indexes", "CREATE INDEX by_note ON orders (lower(note)); CREATE UNIQUE INDEX u ON orders (note);", "by_note"
    ),
    Exhibit(
        "views",
        "CREATE VIEW named AS SELECT name FROM accounts; CREATE VIEW s.fewer AS SELECT * FROM named WHERE name <> '';",
        "CREATE VIEW s.fewer",
    ),
    Exhibit(
        "macros",
        "CREATE MACRO one(x) AS x + 1; CREATE MACRO s.rows(y := 2) AS TABLE SELECT y AS y;",
        "one(x)",
    ),
    Exhibit("comments", "COMMENT ON TABLE orders IS 'it''s'; COMMENT ON COLUMN orders.note IS 'n';", "it's"),
]

REDIS = [
    Exhibit("strings", 'SET text "a\\n\\x00\\xff"', "text string"),
    Exhibit("bitmaps", "SETBIT bits 1000 1", "bits string"),
    Exhibit("HyperLogLogs", "PFADD log a b c", "log string"),
    Exhibit("hashes", "HSET hash a 1 b 2", "hash hash"),
    Exhibit("lists", "RPUSH list a b a", "list list"),
    Exhibit("sets", "SADD set a b\nSADD numbers 1 2 3", "numbers set"),
    Exhibit("sorted sets", "ZADD sorted 1.5 a -inf b", "sorted zset"),
    Exhibit("geospatial indexes", "GEOADD places 13.361389 38.115556 a", "places zset"),
    Exhibit(
        "streams with their groups",
        "XADD stream 1-1 a b\nXADD stream 2-1 c d\nXGROUP CREATE stream group 0\n"
        "XREADGROUP GROUP group me COUNT 1 STREAMS stream >\nXDEL stream 2-1",
        "stream stream",
    ),
    Exhibit("expiry times", "SET going x PXAT 4102444800000", "going expires"),
    Exhibit(
        "functions",
        "FUNCTION LOAD \"#!lua name=mine\\nredis.register_function('f', function(k, a) return 1 end)\"",
        "redis.register_function",
    ),
    Exhibit("all databases", "SELECT 3\nSET three 3\nSELECT 15\nSET last 15", "db15:keys=1"),
]

ETCD = [Exhibit("keys and values", 'put /a 1\nput /b/c "it\'s"', "/b/c")]
