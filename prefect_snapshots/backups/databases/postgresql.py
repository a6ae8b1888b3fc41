"""PostgreSQL: `pg_dump` of one database, and a restore into a new database that is then renamed.

The dump is PostgreSQL's custom format without compression, so that unchanged rows are deduplicated between backups. The
rows are counted in the same snapshot that `pg_dump` reads. Properties of the database itself that are in no dump
(encoding, owner, settings, who may connect) are stored in a small file beside the dump.

A restore creates a new database, fills it, compares the counts, and only then renames both databases in one
transaction: whenever it is interrupted, the database is the old one or the new one. It needs the rights to create
databases and to own this one.

Backups are untrusted: the settings are checked before they become part of SQL. `psql` has commands that run programs,
so it never gets a dump, but only rows that were recognised line by line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, ClassVar, Literal
from urllib.parse import quote

import msgspec

from ...errors import BackupFailed, InvalidArgument, RestoreRunning, SourceUnusable
from ...messages import logger
from ..sources import Database, DatabaseDescription, Dump, DumpFile, DumpNote, DumpReader, Switch
from .base import (
    Address,
    Checksums,
    ServerDatabase,
    Tool,
    check_counts,
    check_only,
    drill_lock,
    drill_mark,
    missing,
    private_file,
    read_settings,
    restoring,
)
from .postgresql_facts import conninfo

_DUMP = "database.pgdump"
_SETTINGS = "database.json"
_LARGE_OBJECTS = "(large objects)"
_OTHER = "(sequences and large objects)"
_PACKAGE = "postgresql-client"
_FITTING = "/usr/lib/postgresql/{server}/bin/{name}"
"""Where packages of several versions lie side by side."""
_STEM = 28
"""Bytes of a name in the names of the databases that a restore makes beside it."""
_LEFT = re.compile(r"(?s)(.*)_(?:being_restored|replaced)_([0-9a-f]{8})_[0-9a-f]+")
_ATTEMPTS = 10
"""To swap while others keep connecting to the old database."""

_ENDING = 5.0
"""Seconds in which the server notices that the client of a killed restore is gone, and gives its lock back."""

_OPTIONS = {
    "host": "PGHOST",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "channel_binding": "PGCHANNELBINDING",
    "connect_timeout": "PGCONNECT_TIMEOUT",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "application_name": "PGAPPNAME",
    "options": "PGOPTIONS",
    "passfile": "PGPASSFILE",
    "service": "PGSERVICE",
}
"""What a URL may say after its `?`, and the environment variable of the same meaning."""

_COPY = re.compile(rb'COPY ((?:"(?:[^"]|"")*"|[^" ])+) (?:\(.*\))? FROM stdin;\n', re.DOTALL)
_UNCOMPARED = (b"\\restrict ", b"\\unrestrict ", b"-- ")
"""Lines of a script that differ every time, and comments: they name owners, and a drill restores without owners."""

_SETVAL = re.compile(rb"SELECT pg_catalog\.setval\((E?'(?:[^'\\]|''|\\\\)*'), (-?\d+), (true|false)\);\n", re.DOTALL)
"""What a data dump says of a sequence."""

_NAME = rb'(?:"(?:[^"]|"")*"|[A-Za-z_\x80-\xff][A-Za-z0-9_$\x80-\xff]*)'
_COPY_INTO = re.compile(rb"COPY (%b)\.(%b) (?:\(%b(?:, %b)*\))? FROM stdin;\n" % ((_NAME,) * 4))
_ENCODING = re.compile(rb"SET client_encoding = '[A-Za-z0-9_-]+';\n")
_LONGEST_HEAD = 1 << 20
"""Bytes of a `COPY` with its columns: 1,600 columns with names of 63 bytes are a tenth of it."""

_ENTRY = r"\d+; \d+ \d+ "
"""How a line of `pg_restore --list` begins."""
_REACHING = re.compile(_ENTRY + r"(?:EVENT TRIGGER|FOREIGN |SERVER|USER MAPPING|SUBSCRIPTION|PUBLICATION)")
"""What a drill leaves out: it would run by itself, or reach others."""
_WATCHING = re.compile(_ENTRY + r"(?:(?:COMMENT|SECURITY LABEL) - )?EVENT TRIGGER ")
_INDEX = re.compile(_ENTRY + r"(?:CONSTRAINT|INDEX|INDEX ATTACH) ")
_FUNCTION = re.compile(_ENTRY + "(?:FUNCTION|PROCEDURE) ")
_TABLE = re.compile(_ENTRY + "TABLE (?!DATA )")
_CUTS = 20
"""Programs that are started at most to create tables after the functions that they call. Two are usual."""
_CONFINED = (*("--no-comments", "--no-security-labels", "--no-publications", "--no-subscriptions", "--no-tablespaces"),)
_FAILED = re.compile(
    r"(?:^pg_restore: from TOC entry \d+; \d+ \d+ (.*)\n)?"
    r"^pg_restore: error: could not execute query: (?:ERROR:\s*)?(.*)\n(?:(?!Command was: ).*\n)*?"
    r"Command was: (.*(?:\n(?!pg_restore: ).*)*)",
    re.MULTILINE,
)

_NOT_SUPPORTED = "0A000"
"""The SQLSTATE of what a server cannot do."""

_CREATED = re.compile(r'(?:CREATE|ALTER) [A-Z ]+ ((?:"(?:[^"]|"")*"|[^\s".(]+)(?:\.(?:"(?:[^"]|"")*"|[^\s".(]+))?)')
"""What a statement makes or changes, and its name."""
_ABSENT = re.compile(r'(?:relation|type|function) "?(.+?)"?(?:\(.*\))? does not exist')
_KEYS_IN = "--section=post-data"
"""The part of a dump that has its foreign keys."""
_COMMENT = "COMMENT ON CONSTRAINT "

_OWN_ENCODING = (
    "SELECT set_config('client_encoding', 'SQL_ASCII', false) WHERE current_setting('server_encoding') = 'SQL_ASCII'"
)
"""Where names may be in any encoding, bytes are taken as they are."""

_SESSION = (
    "SET search_path = pg_catalog; SET row_security = off; SET client_min_messages = error; "
    "SET default_transaction_read_only = off; SET quote_all_identifiers = off; SET standard_conforming_strings = on; "
    f"{_OWN_ENCODING}; "
    "SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN ('statement_timeout', 'lock_timeout', "
    "'transaction_timeout', 'idle_session_timeout', 'idle_in_transaction_session_timeout')"
)
"""What a role or a database may have set for people, and what `pg_dump` switches off as well."""

_IN_THE_WAY = """
SELECT to_jsonb(coalesce(string_agg(format('-c %s=%s', name, CASE vartype WHEN 'bool' THEN 'off' ELSE '0' END), ' '),
  '')) FROM pg_settings
WHERE name IN ('idle_session_timeout', 'default_transaction_read_only', 'statement_timeout')
  AND reset_val NOT IN ('0', 'off')
"""
"""The same for `pg_restore`, which does not switch them off by itself, or only after its first statement."""

_LISTS = (
    *("local_preload_libraries", "search_path", "session_preload_libraries", "shared_preload_libraries"),
    *("temp_tablespaces", "unix_socket_directories"),
)
"""Settings whose value is a list of names: quoted as one value, it would become one long name."""
_ELEMENT = re.compile(r'"((?:[^"]|"")*)"|([^",\s]+)')

OWN_SETTINGS = """
SELECT coalesce(jsonb_agg(lower(name)), '[]') FROM pg_settings
WHERE context = 'user' AND name NOT IN ('local_preload_libraries', 'role', 'session_authorization')
"""
"""Settings that every role may change for itself. Not among them: settings of extensions that are not loaded, because
the server cannot say what they do, and those that load a library or change the user."""
_KEEPING_OUT = ("default_transaction_read_only", "idle_session_timeout", "exit_on_error")

_OWNERS = "owners"
"""An option of a URL: with `false`, a restore leaves owners and rights to whoever restores."""

_LOOKING = 3
"""Seconds in which a backup looks for rows that break foreign keys, in all tables together, the small ones first: a
backup must not take longer for it than people notice. What is not found is told by the restore."""

_DRILLS = 0x736E6170
"""The first number of the advisory locks of drills and of restores of roles: "snap". Nobody else uses it by chance."""

_AT_ONCE = 100
"""Tables that are counted before their locks are given back: far fewer than a server has room for (6,400 by default,
of which `pg_dump` needs one for each table)."""

_DATA = re.compile(
    r"(?m)^(?:[^\n:]*: )?(?:DETAIL|CONTEXT|STATEMENT|QUERY|HINT|Command was|LINE \d+):?.*"
    r"(?:\n(?!pg_restore: |psql:|ERROR).*)*\n?"
    r"|(?P<kept>invalid (?:input|byte|value|memory)[^\n\"]*?)(?:: |)\"[^\n]*"
)
"""What clients repeat of rows and statements."""

# The hash of an enum is another one in each database. So `pg_dump` writes the rows of partitions by it as rows of the
# whole table, which is one table here. It does not look into arrays, records and ranges, nor at names of objects, so
# for these it is told to do that, which it then does for all tables.
_HASHED = """
SELECT pg_partition_root(partrelid)::oid AS root, opcname FROM pg_partitioned_table, unnest(partclass) u
JOIN pg_opclass o ON o.oid = u JOIN pg_am a ON a.oid = opcmethod
WHERE amname = 'hash' AND opcnamespace = 'pg_catalog'::regnamespace
"""
_BY_ROOT = f"""
EXISTS (SELECT FROM ({_HASHED}) hashed
  WHERE opcname IN ('array_ops', 'record_ops', 'range_ops', 'multirange_ops', 'oid_ops'))
"""
_TABLES = f"""
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN (
  SELECT root FROM ({_HASHED}) hashed WHERE opcname = 'enum_ops'
  UNION SELECT pg_partition_root(partrelid) FROM pg_partitioned_table WHERE {_BY_ROOT}
) h ON h.root = CASE WHEN c.relispartition OR c.relkind = 'p' THEN pg_partition_root(c.oid) END
WHERE (c.relkind = 'r' AND h.root IS NULL OR c.oid = h.root)
  AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (
    SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
"""

_DATABASE = """
SELECT jsonb_build_object(
  'encoding', pg_encoding_to_char(encoding), 'owner', pg_get_userbyid(datdba), 'connections', datconnlimit,
  'LC_COLLATE', datcollate, 'LC_CTYPE', datctype,
  'provider', CASE to_jsonb(d) ->> 'datlocprovider' WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'libc' END,
  'locale', coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale'),
  'rules', to_jsonb(d) ->> 'daticurules',
  'tablespace', (SELECT spcname FROM pg_tablespace t WHERE t.oid = dattablespace),
  'comment', shobj_description(oid, 'pg_database'), 'template', datistemplate,
  'roles', (SELECT coalesce(jsonb_agg(DISTINCT r.rolname), '[]') FROM pg_shdepend s
    JOIN pg_roles r ON r.oid = s.refobjid AND s.refclassid = 'pg_authid'::regclass
    WHERE s.dbid = d.oid OR s.dbid = 0 AND s.classid = 'pg_database'::regclass AND s.objid = d.oid),
  'extensions', (SELECT coalesce(jsonb_agg(extname ORDER BY extname), '[]') FROM pg_extension),
  'tablespaces', (SELECT coalesce(jsonb_agg(DISTINCT spcname), '[]')
    FROM pg_class c JOIN pg_tablespace t ON t.oid = c.reltablespace WHERE spcname <> 'pg_global'),
  'settings', (SELECT coalesce(jsonb_agg(jsonb_build_array(r.rolname, c) ORDER BY r.rolname, i), '[]')
    FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = setrole, unnest(setconfig) WITH ORDINALITY AS u(c, i)
    WHERE setdatabase = d.oid),
  'session', jsonb_build_object('TimeZone', current_setting('TimeZone')) || CASE WHEN EXISTS (
    SELECT FROM pg_attribute WHERE atttypid = 'money'::regtype AND attrelid >= 16384)
    THEN jsonb_build_object('lc_monetary', current_setting('lc_monetary')) ELSE '{}' END,
  'grants', (SELECT jsonb_agg(jsonb_build_array(r.rolname, privilege_type, is_grantable, g.rolname) ORDER BY n)
    FROM aclexplode(datacl) WITH ORDINALITY a (grantor, grantee, privilege_type, is_grantable, n)
    LEFT JOIN pg_roles r ON r.oid = a.grantee JOIN pg_roles g ON g.oid = a.grantor WHERE datacl IS NOT NULL))
FROM pg_database d WHERE datname = current_database()
"""

# Functions whose body finds others by the search path: a dump is loaded with an empty one, and so generated columns,
# checks, indexes and materialized views that call them could not be computed.
_UNQUALIFIED = """
SELECT coalesce(jsonb_agg(format('%s %s', CASE prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END,
  p.oid::regprocedure) ORDER BY p.oid), '[]')
FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace JOIN pg_language l ON l.oid = prolang
WHERE prokind IN ('f', 'w') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND lanname NOT IN ('c', 'internal') AND NOT EXISTS (SELECT FROM unnest(proconfig) c WHERE c LIKE 'search_path=%')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
"""

# Tables with columns that hold the names of others, which may be those of indexes: these have to be there first.
_NAMING = """
SELECT coalesce(jsonb_agg(DISTINCT jsonb_build_array(n.nspname, c.relname)), '[]')
FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_type t ON t.oid = atttypid
WHERE 'regclass'::regtype IN (t.oid, typelem, typbasetype) AND attnum > 0 AND NOT attisdropped AND relkind = 'r'
  AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
"""

# Whether something calls a function of the database, by its name or as an operator. What is written in C reads no
# table.
_CALLS = """EXISTS (
  SELECT FROM pg_depend d LEFT JOIN pg_operator o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
  JOIN pg_proc p ON p.oid = CASE d.refclassid WHEN 'pg_proc'::regclass THEN d.refobjid ELSE o.oprcode END
  JOIN pg_language l ON l.oid = p.prolang JOIN pg_namespace n ON n.oid = p.pronamespace
  WHERE d.classid = '{0}'::regclass AND d.objid = {1}.oid
    AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass)
    AND n.nspname <> 'pg_catalog' AND lanname NOT IN ('c', 'internal'))"""

# CHECKs that call a function of the database: those of tables and domains, parents before those that inherit. The
# function may read a table whose rows come later, or may have changed since the rows were written.
_CALLING = f"""
SELECT coalesce(jsonb_agg(jsonb_build_array(
  CASE WHEN conrelid = 0 THEN 'DOMAIN ' || contypid::regtype ELSE 'TABLE ' || conrelid::regclass END,
  quote_ident(conname), pg_get_constraintdef(c.oid), obj_description(c.oid, 'pg_constraint'), contypid::bigint)
  ORDER BY c.oid), '[]')
FROM pg_constraint c
WHERE contype = 'c' AND convalidated AND (conislocal OR conrelid = 0) AND {_CALLS.format("pg_constraint", "c")}
  AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.deptype = 'e' AND (e.classid, e.objid) IN
    (('pg_class'::regclass, conrelid), ('pg_type'::regclass, contypid)))
"""

# Domains that tables hold within arrays, ranges or composite types, and all tables that hold each of these. The server
# can add no CHECK to such a domain.
_WITHIN = """
WITH RECURSIVE edges (inner_type, outer_type, within) AS MATERIALIZED (
  SELECT typbasetype, oid, false FROM pg_type WHERE typtype = 'd'
  UNION ALL SELECT typelem, oid, true FROM pg_type WHERE typelem <> 0
  UNION ALL SELECT rngsubtype, unnest(ARRAY[rngtypid, (to_jsonb(r) ->> 'rngmultitypid')::oid]), true FROM pg_range r
  UNION ALL SELECT atttypid, reltype, true FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
    WHERE reltype <> 0 AND attnum > 0 AND NOT attisdropped),
holding (domain, type, within) AS (
  SELECT d::oid, d::oid, false FROM jsonb_array_elements_text('{domains}') d
  UNION SELECT domain, outer_type, h.within OR e.within FROM holding h JOIN edges e ON inner_type = type)
SELECT coalesce(jsonb_object_agg(domain, names), '{{}}') FROM (
  SELECT domain, jsonb_agg(DISTINCT jsonb_build_array(n.nspname, relname)) AS names
  FROM holding JOIN pg_attribute ON atttypid = type AND attnum > 0 AND NOT attisdropped
  JOIN pg_class c ON c.oid = attrelid AND relkind = 'r' JOIN pg_namespace n ON n.oid = relnamespace
  GROUP BY domain HAVING bool_or(within)) found
"""

# Tables with generated columns that call a function of the database, which may read other tables.
_COMPUTED = f"""
SELECT coalesce(jsonb_agg(DISTINCT jsonb_build_array(s.nspname, relname)), '[]')
FROM pg_attrdef a JOIN pg_attribute t ON t.attrelid = adrelid AND attnum = adnum AND attgenerated = 's'
JOIN pg_class c ON c.oid = adrelid AND relkind = 'r' JOIN pg_namespace s ON s.oid = relnamespace
WHERE {_CALLS.format("pg_attrdef", "a")}
"""

# What no dump of PostgreSQL contains: of each what to tell, whether it is left out, and whether a restore needs it.
_UNDUMPED = """
WITH own AS (
  SELECT i.identity, i.type, EXISTS (
    SELECT FROM pg_depend d WHERE (d.refclassid, d.refobjid) = (class, x.oid) AND d.deptype = 'n') AS used
  FROM (
    SELECT 'pg_proc'::regclass::oid AS class, oid, pronamespace AS place FROM pg_proc
    UNION ALL SELECT 'pg_operator'::regclass, oid, oprnamespace FROM pg_operator
    UNION ALL SELECT 'pg_class'::regclass, oid, relnamespace FROM pg_class WHERE relkind IN ('r', 'v', 'm', 'S', 'p')
    UNION ALL SELECT 'pg_type'::regclass, oid, typnamespace FROM pg_type
      WHERE typelem = 0 AND typtype IN ('b', 'd', 'e')
  ) x, pg_identify_object(class, x.oid, 0) i
  WHERE x.oid >= 16384 AND place IN (SELECT oid FROM pg_namespace WHERE nspname IN ('pg_catalog', 'information_schema'))
    AND NOT EXISTS (
      SELECT FROM pg_depend d WHERE (d.classid, d.objid) = (class, x.oid) AND d.deptype = 'e'))
SELECT coalesce(jsonb_agg(told), '[]') FROM (
  SELECT jsonb_build_array(format('%s %s is in a schema of the server, which no dump contains%s. '
    'Move it: ALTER %s ... SET SCHEMA.', initcap(type), identity,
    CASE WHEN used THEN ', and other objects use it' ELSE '' END, upper(type)), true, used) AS told FROM own
  UNION ALL SELECT jsonb_build_array(format('Index %s is invalid, and no restore brings it back. Run REINDEX INDEX, or '
    'drop it.', indexrelid::regclass), false, false) FROM pg_index JOIN pg_class c ON c.oid = indexrelid
    WHERE NOT indisvalid AND relkind = 'i' AND relpersistence <> 't'
  UNION ALL SELECT jsonb_build_array(format('The rows of table %s are not in the backup, because it belongs to the '
    'extension %s, which does not mark it for dumps (pg_extension_config_dump).', c.oid::regclass, extname),
    false, false)
    FROM pg_extension e JOIN pg_depend d ON (refclassid, refobjid, deptype) = ('pg_extension'::regclass, e.oid, 'e')
    JOIN pg_class c ON (d.classid, d.objid) = ('pg_class'::regclass, c.oid)
    WHERE relkind = 'r' AND c.oid <> ALL (coalesce(extconfig, '{}')) AND pg_relation_size(c.oid) > 0
  UNION ALL SELECT jsonb_build_array(format('Foreign key %L of %s: its own triggers are disabled, so it is not '
    'checked. A restore enables them.', conname, conrelid::regclass), false, false) FROM pg_constraint k
    WHERE contype = 'f' AND EXISTS (
      SELECT FROM pg_trigger WHERE tgconstraint = k.oid AND tgisinternal AND tgenabled = 'D')
) found
"""

# Foreign keys with rows that refer to nothing: triggers were off once. Each look is rolled back, which gives back its
# locks. Operators of users are never called, because we may have more rights. A look that fails otherwise says nothing.
_ORPHANS = """
DO $do$
DECLARE key record; broken boolean; found jsonb := '[]';
BEGIN
  PERFORM set_config('snapshots.orphans', '[]', false);
  FOR key IN
    SELECT conrelid::regclass AS child, confrelid::regclass AS parent, conname, format(
      'SELECT EXISTS (SELECT FROM %s %s c WHERE %s AND NOT EXISTS (SELECT FROM %s %s p WHERE %s))',
      CASE WHEN f.relkind = 'p' THEN '' ELSE 'ONLY' END, conrelid::regclass, pairs.given,
      CASE WHEN t.relkind = 'p' THEN '' ELSE 'ONLY' END, confrelid::regclass, pairs.same) AS query
    FROM pg_constraint k JOIN pg_class f ON f.oid = conrelid JOIN pg_class t ON t.oid = confrelid, LATERAL (
      SELECT string_agg(format('c.%I IS NOT NULL', a.attname), ' AND ') AS given,
        string_agg(format('p.%I OPERATOR(pg_catalog.%s) c.%I', b.attname, o.oprname, a.attname), ' AND ') AS same,
        bool_and(n.nspname = 'pg_catalog') AS known
      FROM unnest(conkey, confkey, conpfeqop) AS u(mine, theirs, op)
      JOIN pg_attribute a ON a.attrelid = conrelid AND a.attnum = mine
      JOIN pg_attribute b ON b.attrelid = confrelid AND b.attnum = theirs
      JOIN pg_operator o ON o.oid = op JOIN pg_namespace n ON n.oid = o.oprnamespace) pairs
    WHERE contype = 'f' AND conparentid = 0 AND convalidated AND known
      AND coalesce(to_jsonb(k) ->> 'conperiod', 'false') = 'false' {which}
    ORDER BY f.relpages
  LOOP
    BEGIN
      EXECUTE key.query INTO broken;
      RAISE EXCEPTION USING ERRCODE = 'U0001';
    EXCEPTION
      WHEN SQLSTATE 'U0001' THEN
        IF broken THEN
          found := found || jsonb_build_array(jsonb_build_array(key.child::text, key.parent::text, key.conname));
          PERFORM set_config('snapshots.orphans', found::text, false);
        END IF;
      WHEN query_canceled THEN RETURN;
      WHEN OTHERS THEN NULL;
    END;
  END LOOP;
END $do$
"""

# What stands in the way of replacing the rows of a table, and comes back afterwards: keys, which are then checked
# against all rows again, triggers, each with its own way of being enabled, and row security that holds for owners too.
# The tables are a JSON array of [schema, table]. Keys of a partition are those of the table that it is a part of.
_OBSTACLES = """
WITH RECURSIVE named AS (
  SELECT c.oid FROM jsonb_array_elements({tables}) e JOIN pg_class c ON c.relname = e ->> 1
  JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = e ->> 0),
t AS (
  SELECT oid FROM named UNION SELECT p.relid FROM named, pg_partition_tree(oid) p
  UNION SELECT a.relid FROM named, pg_partition_ancestors(oid) a),
above AS (SELECT oid FROM t UNION SELECT inhparent FROM above JOIN pg_inherits ON inhrelid = oid),
keys AS (
  SELECT *, conrelid::regclass AS place FROM pg_constraint WHERE contype = 'f' AND conparentid = 0
    AND (conrelid IN (SELECT oid FROM t) OR confrelid IN (SELECT oid FROM t))),
triggers AS (SELECT *, tgrelid::regclass AS place FROM pg_trigger
  WHERE NOT tgisinternal AND tgenabled <> 'D' AND tgrelid IN (SELECT oid FROM t)),
forced AS (SELECT oid::regclass AS place FROM pg_class WHERE relforcerowsecurity AND oid IN (SELECT oid FROM t))
SELECT jsonb_build_object(
  'before', (SELECT coalesce(jsonb_agg(format('ALTER TABLE %s DROP CONSTRAINT %I', place, conname)), '[]') FROM keys)
    || (SELECT coalesce(jsonb_agg(format('ALTER TABLE ONLY %s DISABLE TRIGGER %I', place, tgname)), '[]') FROM triggers)
    || (SELECT coalesce(jsonb_agg(format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY', place)), '[]') FROM forced),
  'keys', (SELECT coalesce(jsonb_agg(jsonb_build_array(place, conname, format('ALTER TABLE %s ADD CONSTRAINT %I %s',
        place, conname, pg_get_constraintdef(oid)),
        format('COMMENT ON CONSTRAINT %I ON %s IS %L', conname, place, obj_description(oid, 'pg_constraint')))
      ORDER BY conname), '[]') FROM keys),
  'after', (SELECT coalesce(jsonb_agg(format('ALTER TABLE ONLY %s ENABLE %s TRIGGER %I', place,
        CASE tgenabled WHEN 'A' THEN 'ALWAYS' WHEN 'R' THEN 'REPLICA' ELSE '' END, tgname)), '[]') FROM triggers)
    || (SELECT coalesce(jsonb_agg(format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', place)), '[]') FROM forced),
  'above', (SELECT jsonb_agg(format('TABLE %s', oid::regclass)) FROM above),
  'sequences', (SELECT coalesce(jsonb_agg(jsonb_build_array(n.nspname, s.relname)), '[]')
      FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
      JOIN pg_namespace n ON n.oid = s.relnamespace
      WHERE d.classid = 'pg_class'::regclass AND d.refobjid IN (SELECT oid FROM named)
        AND d.deptype IN ('a', 'i')))
"""

# Event triggers may refuse what a restore of tables does. Whoever may change this setting may switch them off as well.
_UNWATCHED = """
SELECT set_config('session_replication_role', 'replica', true) FROM pg_roles WHERE rolname = current_user AND rolsuper
"""

# Transactions that wait for a COMMIT PREPARED: they keep a database from being renamed, and tables from being locked.
_PREPARED = """
SELECT coalesce(jsonb_agg(format('%L (since %s)', gid, date_trunc('second', prepared)) ORDER BY prepared), '[]')
FROM pg_prepared_xacts WHERE database = {database}
"""


class _PostgreSQLSettings(
    msgspec.Struct, forbid_unknown_fields=True, rename={"collate": "LC_COLLATE", "ctype": "LC_CTYPE"}
):
    """What belongs to a database itself. It comes out of a backup: every value has a type, and no line of its own."""

    encoding: str
    owner: str
    connections: int
    collate: str
    ctype: str
    provider: Literal["icu", "builtin", "libc"]
    locale: str | None
    comment: str | None
    settings: list[tuple[str | None, str]]
    grants: list[tuple[str | None, Literal["CREATE", "CONNECT", "TEMPORARY"], bool, str]] | None
    """To whom (None: to all), what, whether they may grant it, and who has granted it, whose own right comes before."""
    session: dict[Literal["TimeZone", "lc_monetary"], str] = {}
    """What the text of the rows, and checks of them, depend on."""
    template: bool = False
    rules: str | None = None
    tablespace: str = "pg_default"
    roles: list[str] = []
    extensions: list[str] = []
    tablespaces: list[str] = []

    @property
    def search_path(self) -> str:
        """Where names without a schema are looked for, as SQL."""
        paths = [
            text.partition("=")[2] for role, text in self.settings if role is None and text.startswith("search_path=")
        ]
        return ", ".join(map(_literal, (_elements(paths[0]) if paths else []) or ["$user", "public"]))

    def __post_init__(self) -> None:
        named = [self.encoding, self.owner, self.collate, self.ctype, self.locale or "C", self.tablespace, *self.roles]
        named += [setting[0] for setting in self.settings if setting[0] is not None]
        named += [role for grant in self.grants or [] for role in (grant[0], grant[3]) if role is not None]
        named += self.session.values()
        if not all(named) or any("\0" in text for text in (*named, self.comment or "", self.rules or "")):
            raise ValueError("a name is empty, or has a zero byte")
        if not re.fullmatch(r"[A-Z0-9_]+", self.encoding) or not -1 <= self.connections < 2**31:
            raise ValueError("the encoding or the number of connections")
        for _, setting in self.settings:
            if not re.match(r"[^\W\d][\w$]*(?:\.[^\W\d][\w$]*)*=", setting) or "\0" in setting:
                raise ValueError("a setting")


@dataclass(frozen=True, repr=False)
class PostgreSQL(ServerDatabase):
    """A database of a PostgreSQL server, version 13 or newer.

    Example:
        >>> from prefect_snapshots.backups.databases import PostgreSQL
        >>> PostgreSQL("postgresql://backup:secret@db.example.com/shop")
        PostgreSQL('postgresql://backup@db.example.com/shop')

    Parts that the URL leaves out are found as by `psql`: in `PGHOST`, `PGUSER`, `PGPASSWORD`, `~/.pgpass` and so on.
    The URL can have the options of libpq, such as `?sslmode=` or `host=` (the folder of the server's socket), and
    `owners=false` to restore without owners and rights, for a server that does not have the same roles.
    """

    schemes: ClassVar[tuple[str, ...]] = ("postgresql", "postgres")
    kind: ClassVar[str] = "postgresql"
    swaps: ClassVar[bool] = True
    description: ClassVar[DatabaseDescription] = DatabaseDescription(
        title="PostgreSQL 13+",
        urls="`postgresql://user@host/name`",
        needs="`postgresql-client` of the server's version or newer",
        dump="one snapshot (`pg_dump -Fc -Z0`), rows counted in the same snapshot",
        restored=(
            "into a new database, which is counted; then both databases are renamed in one transaction, and other "
            "connections are ended"
        ),
        not_kept=(
            "roles (unless you back up [the whole server](backups.md#whole-servers)), tablespaces (if the server has "
            "those of the backup, tables are restored to them; else to the default one, with a warning), replication "
            "slots, statistics (`ANALYZE` is run), invalid indexes, disabled triggers of foreign keys, and your own "
            "objects in `pg_catalog` (a backup names these three), changes of objects that belong to an extension, "
            "and the rows of its tables that it does not mark for dumps (a backup names these tables)"
        ),
    )
    default_port: ClassVar[int] = 5432
    options: ClassVar[tuple[str, ...]] = (*_OPTIONS, _OWNERS)

    def check_url(self, address: Address) -> None:
        if address.options.get(_OWNERS, "true") not in ("true", "false"):
            raise InvalidArgument("In the URL of a PostgreSQL database, owners= is true or false.")
        # libpq takes what stands before a colon for an engine of OpenSSL, and loads it as a library.
        if ":" in address.options.get("sslkey", ""):
            raise InvalidArgument("In the URL of a PostgreSQL database, sslkey= is a path without a colon.")

    def check(self) -> list[str]:
        with self._session() as session:
            server = self._check_version(session)
        return [f"pg_dump {self._dump_version()}", f"PostgreSQL {server}"]

    def data_folder(self) -> Path | None:
        """See `StoredHere`. Only a superuser may ask the server."""
        try:
            with self._maintenance() as session:
                path, *times = session.ask(
                    "SELECT jsonb_build_array(current_setting('data_directory'), extract(epoch FROM modification), "
                    "extract(epoch FROM change)) FROM pg_stat_file('.')"
                )
            # The same path on this machine may belong to another server. Its times would differ.
            found = os.stat(path)
        except (BackupFailed, OSError):
            return None  # the restore says what is wrong with the server
        return Path(path) if times == [int(found.st_mtime), int(found.st_ctime)] else None

    def check_restorable(self) -> list[str]:
        """See `Database`."""
        with self._session() as session:
            gone = session.ask(
                "SELECT coalesce(jsonb_agg(extname ORDER BY extname), '[]') FROM pg_extension "
                "WHERE extname NOT IN (SELECT name FROM pg_available_extensions)"
            )
            needed = [text for text, _, used in session.ask(_UNDUMPED) if used]
        return needed + [
            f"Extension {name!r} is in the database, but its files are no longer on the server. Install its package, "
            "or drop the extension."
            for name in gone
        ]

    @contextlib.contextmanager
    def dump(self) -> Iterator[Dump]:
        with self._session() as session:
            self._check_version(session)
            session.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            snapshot = session.ask("SELECT to_jsonb(pg_export_snapshot())")
            database = session.ask(_DATABASE)
            settings = json.dumps(database, indent=1, sort_keys=True).encode()
            # A database may be set to have its clients use another encoding, which has fewer letters.
            arguments = ["--format=custom", "--compress=0", "--no-password", f"--encoding={database['encoding']}"]
            arguments.append(f"--snapshot={snapshot}")
            if session.ask(f"SELECT to_jsonb({_BY_ROOT})"):
                arguments.append("--load-via-partition-root")
            tool = self._tool("pg_dump", server=_major(session))
            with contextlib.closing(tool.stream(*arguments)) as pieces:
                counts = _counts(session)
                notes = _notes(session)
                yield Dump([DumpFile(_SETTINGS, iter([settings])), DumpFile(_DUMP, pieces)], counts, notes)

    def counts(self) -> dict[str, int]:
        with self._session() as session:
            session.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            return _counts(session)

    def checksums(self, dump: Iterable[DumpFile]) -> dict[str, str]:
        found = Checksums()
        with tempfile.TemporaryFile() as script:
            for file in dump:
                if file.path == _DUMP:
                    # A drill creates no owners, privileges and comments, which large objects have among their data.
                    arguments = ["--data-only", "--file=-", "--no-owner", "--no-privileges", "--no-comments"]
                    self._tool("pg_restore").run(*arguments, stdin=file.pieces, stdout=script)
            script.seek(0)
            table, head = "", b""
            for line in script:
                if table:
                    if line == b"\\.\n":
                        table = ""
                    else:
                        found.add(table, line)
                elif head or line.startswith(b"COPY "):  # over several lines where a name has line feeds
                    head += line
                    if copied := _COPY.fullmatch(head):
                        table, head = copied[1].decode(errors="backslashreplace"), b""
                elif not line.startswith(_UNCOMPARED):
                    found.add(_OTHER, line)
        return found.of_tables()

    @contextlib.contextmanager
    def stage(self, dump: DumpReader, only: Sequence[str] = ()) -> Iterator[Switch]:
        """See `StagedRestores`."""
        with contextlib.ExitStack() as stack:
            with restoring(self.name, "and is unchanged"):
                staged = stack.enter_context(self._staged_tables(dump, only) if only else self._staged(dump))

            def switch() -> Sequence[str]:
                with restoring(self.name, "and is unchanged"):
                    return staged()

            yield switch

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Database]:
        self.drop_abandoned()
        mark = drill_mark()
        other = dataclasses.replace(self, url=self.renamed(f"{_stem(self._database)}_drill_{mark}"))
        with self._maintenance() as session:
            # Before anything is made: what has no lock is dropped by others. The session ends with this process.
            _hold_mark(session, other._database)
            session.run(f"CREATE DATABASE {_quoted(other._database)} TEMPLATE template0")
            try:
                yield _ScratchPostgreSQL(other.url, other.password, self, mark)
            finally:
                for warning in self._drop_all(other._database, other._beside, other._replaced):
                    logger.warning("%s", warning)

    def drop_abandoned(self) -> list[str]:
        """See `DropsAbandoned`."""
        with self._maintenance() as session:
            databases, roles = (
                {name: lock for name in session.ask(query) if (lock := drill_lock(name)) is not None}
                for query in (
                    "SELECT coalesce(jsonb_agg(datname), '[]') FROM pg_database WHERE pg_has_role(datdba, 'USAGE')",
                    "SELECT coalesce(jsonb_agg(rolname), '[]') FROM pg_roles",
                )
            )
            # After the names: whoever made one of them held its lock before.
            held = _held_marks(session)
            left = [name for name, lock in databases.items() if lock not in held]
            warnings = self._drop_all(*left)
        for role, lock in roles.items():
            if lock not in held:
                try:
                    with self._maintenance() as session:
                        session.run(f"DROP ROLE IF EXISTS {_quoted(role)}")
                except BackupFailed as error:
                    warnings.append(f"The role {role}, which a killed drill left, could not be dropped: {error}")
        for warning in warnings:
            logger.warning("%s", warning)
        return left

    # --- restoring ---

    @contextlib.contextmanager
    def _staged(self, dump: DumpReader) -> Iterator[Switch]:
        settings = read_settings(dump, _SETTINGS, _PostgreSQLSettings)
        with self._maintenance() as session:
            self._hold(session)
            self._await_prepared(session)
            self._check_roles(session, settings)
            _check_extensions(session, settings)
            # What an earlier restore left that was killed, or that could not be dropped: it never stands in the way,
            # because names are new each time.
            self._drop_left(session)
            token = secrets.token_hex(4)
            beside = dataclasses.replace(self, url=self.renamed(f"{self._beside}_{token}"))
            replaced = f"{self._replaced}_{token}"
            spaces = session.ask("SELECT jsonb_agg(spcname) FROM pg_tablespace")
            session.run(_create_statement(beside._database, settings, self._with_owners, spaces))
            try:
                for statement in _early_statements(session, beside._database, settings):
                    session.run(statement)
                warnings = beside._load(dump, settings)
                superuser = session.ask("SELECT to_jsonb(rolsuper) FROM pg_roles WHERE rolname = current_user")
                # Not before, because a database can be set to be read only.
                for statement in _alter_statements(beside._database, settings, self._with_owners, superuser):
                    session.run(statement)

                def switch() -> Sequence[str]:
                    self._swap(session, beside._database, replaced)
                    # From here on it is restored, whatever happens: what fails is a warning.
                    return [*map(_shown, warnings), *self._drop_all(replaced)]

                yield switch
            finally:
                self._drop_all(beside._database)

    def _hold(self, session: _Session) -> None:
        """Hold the lock of this database on its server, for restores on other machines, until the session ends."""
        lock = int(_digest(self._database), 16)
        deadline = time.monotonic() + _ENDING
        while not session.ask(f"SELECT to_jsonb(pg_try_advisory_lock({lock}))"):
            if time.monotonic() > deadline:
                held = session.ask(
                    "SELECT to_jsonb(string_agg(format('a restore by user %s at %s, which has been running since %s', "
                    "usename, coalesce(host(client_addr), 'an unknown address'), backend_start), ' and ')) "
                    "FROM pg_locks JOIN pg_stat_activity USING (pid) "
                    f"WHERE locktype = 'advisory' AND classid = 0 AND objid = {lock} AND objsubid = 1 AND granted"
                )
                raise RestoreRunning(self.name, held or "a restore that is just ending")
            time.sleep(_ENDING / 50)

    def _await_prepared(self, session: _Session) -> None:
        """Wait for prepared transactions of this database, and refuse if one of them stays."""
        query = _PREPARED.format(database=_literal(self._database))
        waiting, deadline = session.ask(query), time.monotonic() + _ENDING
        while waiting:
            if time.monotonic() > deadline:
                raise BackupFailed(
                    f"Prepared transactions of the database hold its tables: {', '.join(waiting)}. End each of them "
                    "in this database with COMMIT PREPARED or ROLLBACK PREPARED, and restore again."
                )
            time.sleep(_ENDING / 50)
            there = session.ask(query)
            waiting = [each for each in waiting if each in there]

    def _check_roles(self, session: _Session, settings: _PostgreSQLSettings) -> None:
        """Refuse before anything is made: `pg_restore` would stop at the first role that is not there."""
        if not self._with_owners:
            return
        there = set(session.ask("SELECT jsonb_agg(rolname) FROM pg_roles"))
        named = {settings.owner, *settings.roles} | {setting[0] for setting in settings.settings if setting[0]}
        named |= {role for grant in settings.grants or [] for role in (grant[0], grant[3]) if role}
        if absent := sorted(named - there):
            raise BackupFailed(
                f"The roles {', '.join(absent)} own something in the backup or have rights on it, but do not exist on "
                "this server. Create them, or add ?owners=false to the URL to restore without owners and rights."
            )

    def _load(
        self, dump: DumpReader, settings: _PostgreSQLSettings, *, drill: bool = False, there: Collection[str] = ()
    ) -> list[str]:
        """Load a dump into this database, which is empty, and count what is there, except in a drill.

        Args:
            drill: leave out what would reach others, and owners; what the role may not create is a warning.
            there: schemas that need not be created.

        Returns:
            Warnings: what was left out, or is empty.
        """
        with self._session() as session:
            server, options = _major(session), session.ask(_IN_THE_WAY)
            for name, value in settings.session.items():
                if session.ask(f"SELECT to_jsonb(current_setting({_literal(name)}))") != value:
                    options += f" -c {name}={_option(value)}"
            spaces = session.ask("SELECT jsonb_agg(spcname) FROM pg_tablespace")
        pg_restore = self._tool("pg_restore", server=server)
        if options:
            given = pg_restore.environment.get("PGOPTIONS", os.environ.get("PGOPTIONS", ""))
            environment = {**pg_restore.environment, "PGOPTIONS": f"{given} {options}".strip()}
            pg_restore = dataclasses.replace(pg_restore, environment=environment)
        unowned = drill or not self._with_owners
        arguments = ["--no-password", f"--dbname={self._conninfo}"]
        arguments += ["--no-owner", "--no-privileges"] if unowned else []
        arguments += _CONFINED if drill else []
        if (absent := sorted({*settings.tablespaces, settings.tablespace} - set(spaces))) and not drill:
            arguments.append("--no-tablespaces")
        listed = pg_restore.run("--list", stdin=dump.open(_DUMP)).decode(errors="surrogateescape").splitlines()
        views = [line for line in listed if re.match(_ENTRY + "MATERIALIZED VIEW DATA ", line)]
        left = [line for line in listed if drill and _REACHING.match(line)]
        watching = [line for line in listed if not drill and _WATCHING.match(line)]
        schemas = [f"SCHEMA - {schema} " for schema in there]
        apart = {*views, *left, *watching}
        others = [line for line in listed if line not in apart and not any(each in line for each in schemas)]
        warnings = [f"The drill left out {re.sub(_ENTRY, '', line)}." for line in left]
        if absent and not drill:
            names = ", ".join(absent)
            warnings.append(f"All tables are in the default tablespace, because the server does not have: {names}.")

        def run(lines: Sequence[str], *more: str) -> Sequence[str]:
            with private_file("\n".join(lines)) as (path, descriptor):
                tool = dataclasses.replace(pg_restore, descriptors=(descriptor,))
                chosen = [*arguments, f"--use-list={path}", *more]
                told, keys = _restored(tool, chosen, dump, newer=_version(tool) > server, drill=drill, gone=gone)
                warnings.extend(told)
                return keys

        gone = {name for line in left if " FOREIGN TABLE " in line for name in _listed_names(line)}
        functions: list[str] = []
        for segment in _segments(others):
            run(segment, "--section=pre-data")
            with self._session() as session:
                made = session.ask(_UNQUALIFIED)
                _in_batches(session, [f"ALTER {each} SET search_path TO {settings.search_path}" for each in made])
            functions += made

        def take(tables: Iterable[Sequence[str]]) -> list[str]:
            """Take the lines of the rows of some tables out of those that are loaded with all others."""
            marks = [_listed(*table) for table in tables]
            taken = [line for line in others if any(mark in line for mark in marks)] if marks else []
            others[:] = [line for line in others if line not in taken]
            return taken

        with self._session() as session:
            checks = session.ask(_CALLING)
            domains = json.dumps([domain for *_, domain in checks if domain])
            within = session.ask(_WITHIN.format(domains=domains)) if domains != "[]" else {}
            kept = [check for check in checks if str(check[4]) in within]
            checks = [check for check in checks if check not in kept]
            _set_aside(session, checks)
            named = take(session.ask(_NAMING))
            computed = take(session.ask(_COMPUTED))
            holding = sorted({(schema, table) for tables in within.values() for schema, table in tables})
            checked = take(holding)
        run(others, "--section=data")
        if checked:
            try:
                run(checked, "--section=data")
            except BackupFailed:  # some rows violate these: then they are made as NOT VALID
                with self._session() as session:
                    _set_aside(session, kept)
                    names = ", ".join(f"ONLY {_quoted(schema)}.{_quoted(table)}" for schema, table in holding)
                    session.run(f"TRUNCATE {names}")
                checks += kept
                run(checked, "--section=data")
        if computed:
            run(computed, "--section=data")
        if named:
            indexes = [line for line in others if _INDEX.match(line)]
            run(indexes, _KEYS_IN)
            run(named, "--section=data")
            others = [line for line in others if line not in indexes]
        if not drill:  # whose role may not see all rows; an owner does not see them once row security is forced
            self._verify(dump)
        warnings.extend(self._add_keys(run(others, _KEYS_IN)))
        with self._session() as session:
            warnings.extend(_add_checks(session, checks))
        while views:  # in the order in which one may read another, except through a function
            failed: dict[str, BackupFailed] = {}
            for line in views:
                try:
                    run([line])
                except BackupFailed as error:
                    failed[line] = error
            if len(failed) == len(views):
                for line, why in failed.items():
                    view = re.sub(_ENTRY + "MATERIALIZED VIEW DATA ", "", line)
                    warnings.append(f"The materialized view {view} could not be filled, and is empty: {why}")
                break
            views = list(failed)
        with self._session() as session:
            if not drill:
                session.run("ANALYZE")
            _in_batches(session, [f"ALTER {function} RESET search_path" for function in functions])
            if not drill and "plpgsql" not in settings.extensions:  # every new database has it
                session.run("DROP EXTENSION IF EXISTS plpgsql")
        # They would react to all that was done until here: refuse it, or note it in a table.
        if watching:
            run(watching)
        return warnings

    def _add_keys(self, statements: Sequence[str]) -> Iterator[str]:
        """Make foreign keys that rows break, and their comments, without looking at the rows. Yields warnings.

        The statements are those of the dump. In a literal, nothing in them is a command of psql.
        """
        for statement in statements:
            is_key = not statement.startswith(_COMMENT)
            # A partitioned table can have no such key before PostgreSQL 18; then there is none to comment on either.
            body = f"""
                BEGIN EXECUTE {_literal(statement + " NOT VALID" * is_key)};
                EXCEPTION WHEN wrong_object_type OR feature_not_supported OR undefined_object THEN
                  PERFORM set_config('snapshots.left_out', 'true', false); END"""
            with self._session() as session:
                session.run(f"DO {_literal(body)}")
                left_out = session.ask(
                    "SELECT to_jsonb(coalesce(current_setting('snapshots.left_out', true), '') = 'true')"
                )
            if is_key:
                made = "left out" if left_out else "created as NOT VALID"
                key = re.sub(r"\s+", " ", statement).removeprefix("ALTER TABLE ").removeprefix("ONLY ")
                yield f"Some rows refer to rows that do not exist, so this foreign key was {made}: {key}"

    def _verify(self, dump: DumpReader) -> None:
        with self._session() as session:
            session.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            check_counts(_counts(session), dump.counts)

    def _swap(self, session: _Session, beside: str, instead: str) -> None:
        """Give the new database the name; the old one keeps it until that has happened."""
        old, new, replaced = map(_quoted, (self._database, beside, instead))
        names = f"{_literal(self._database)}, {_literal(beside)}"
        # A connection that is made just then makes renaming fail.
        session.run(f"""
            DO $do$
            DECLARE attempt integer := 0;
            BEGIN
              LOOP
                BEGIN
                  PERFORM pg_stat_clear_snapshot();
                  PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname IN ({names});
                  IF EXISTS (SELECT FROM pg_database WHERE datname = {_literal(self._database)}) THEN
                    ALTER DATABASE {old} RENAME TO {replaced};
                  END IF;
                  ALTER DATABASE {new} RENAME TO {old};
                  EXIT;
                EXCEPTION WHEN object_in_use THEN
                  attempt := attempt + 1;
                  IF attempt = {_ATTEMPTS} THEN RAISE; END IF;
                END;
              END LOOP;
            END $do$""")

    @contextlib.contextmanager
    def _staged_tables(self, dump: DumpReader, only: Sequence[str]) -> Iterator[Switch]:
        """Replace the rows of some tables in a transaction; the switch commits it."""
        settings = read_settings(dump, _SETTINGS, _PostgreSQLSettings)
        with self._session() as session:
            there = {
                _shown(name): (schema, table, whole, name)
                for name, schema, table, whole in session.ask(
                    f"SELECT coalesce(jsonb_agg(jsonb_build_array(format('%I.%I', nspname, relname), nspname, relname, "
                    f"relkind = 'p')), '[]') {_TABLES}"
                )
            }
            partitions = _partitions(session, [name for name in only if name not in there])
            wanted = [part for name in only for part in [each[0] for each in partitions.get(name, [])] or [name]]
            check_only(wanted, dump.counts)
            if absent := sorted(set(wanted) - set(there)):
                raise BackupFailed(
                    f"{', '.join(absent)} is not in the database. Restore the whole backup to another database, and "
                    "copy the table from there."
                )
            places = sorted(there[name][:2] for name in wanted)
            # Without ONLY in front of each, the rows of tables that inherit from it would go as well.
            tables = ", ".join(("" if there[name][2] else "ONLY ") + there[name][3] for name in wanted)
            self._await_prepared(session)
            session.run("BEGIN")
            session.run(_UNWATCHED)
            session.run(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE")
            obstacles = session.ask(_OBSTACLES.format(tables=_json_literal(places)))
            checks = [check for check in session.ask(_CALLING) if check[0] in obstacles["above"]]
            orphans = _orphans(session, [key[:2] for key in obstacles["keys"]])
            # Generated columns, checks and indexes may call functions that find others by the search path.
            session.run(f"SET LOCAL search_path TO {settings.search_path}")
            _set_aside(session, checks)
            for statement in [*obstacles["before"], f"TRUNCATE {tables}"]:
                session.run(statement)
            dumped = _partitions(session, [name for name in wanted if there[name][2]])
            parts = [(schema, table) for each in dumped.values() for _, schema, table in each]
            self._feed(session, dump, places, parts, [(schema, name) for schema, name in obstacles["sequences"]])
            warnings = list(_add_checks(session, checks))
            counts = _count(session, [(there[name][3], there[name][2]) for name in wanted])
            check_counts(counts, {name: dump.counts[name] for name in wanted})
            for place, name, made, comment in obstacles["keys"]:
                # Rows that referred to nothing before, and may still do so, are no reason to keep all others.
                broken = [place, name] in [[child, key] for child, _, key in orphans]
                session.run(made + " NOT VALID" * broken)
                session.run(comment)
                if broken:
                    warnings.append(
                        f"Before the restore, rows of {place} referred to rows that do not exist, so the foreign key "
                        f"{name!r} was created as NOT VALID. Correct the rows, and run ALTER TABLE ... VALIDATE "
                        "CONSTRAINT."
                    )
            for statement in obstacles["after"]:
                session.run(statement)

            def commit() -> Sequence[str]:
                session.run("COMMIT")
                return [*map(_shown, warnings)]

            yield commit

    def _feed(
        self,
        session: _Session,
        dump: DumpReader,
        places: Sequence[tuple[str, str]],
        parts: Sequence[tuple[str, str]],
        sequences: Sequence[tuple[str, str]],
    ) -> None:
        """Copy the rows of some tables, of their partitions whose rows are dumped as theirs, and of their sequences.

        `psql` runs what it reads: only rows between `COPY` and `\\.` of these tables, and calls of `setval` get there.
        """
        literals = session.ask(
            "SELECT coalesce(jsonb_agg(quote_literal(format('%I.%I', e ->> 0, e ->> 1))), '[]') "
            f"FROM jsonb_array_elements({_json_literal(sequences)}) e"
        )
        numbered = [literal.encode(errors="surrogateescape") for literal in literals]
        for schema, found in itertools.groupby(sorted([*places, *parts, *sequences]), key=lambda place: place[0]):
            chosen = [f"--table={table}" for _, table in found]
            with tempfile.TemporaryFile() as script:
                arguments = ["--data-only", f"--schema={schema}", *chosen, "--file=-"]
                self._tool("pg_restore").run(*arguments, stdin=dump.open(_DUMP), stdout=script)
                script.seek(0)
                session.feed(_rows(script, set(places), numbered))

    # --- names, tools and sessions ---

    @property
    def _database(self) -> str:
        return self.address.database

    @property
    def _beside(self) -> str:
        return f"{_stem(self._database)}_being_restored_{_digest(self._database)}"

    @property
    def _replaced(self) -> str:
        return f"{_stem(self._database)}_replaced_{_digest(self._database)}"

    @property
    def _conninfo(self) -> str:
        return conninfo(self._database)

    @property
    def _with_owners(self) -> bool:
        return self.address.options.get(_OWNERS) != "false"

    def _tool(self, name: str, database: str | None = None, server: int | None = None) -> Tool:
        """A client of PostgreSQL.

        Args:
            server: the server's version. If the client on the PATH is newer, the one of that version is taken if it is
                installed, because clients set what older servers do not know.
        """
        address = self.address
        secret = self.secret()
        told = {"host": address.host, "port": str(address.port or ""), "user": address.user, "password": secret or ""}
        options = {option: value for option, value in address.options.items() if option in _OPTIONS}
        environment = {_OPTIONS[option]: value for option, value in (told | options).items() if value}
        environment = {"PGCONNECT_TIMEOUT": "15"} | environment | {"PGDATABASE": database or self._database}
        # A dump is in the encoding of its database: not every byte in it is text of another one. Messages are in
        # English, because some of them are read.
        environment |= {"PGCLIENTENCODING": "UTF8" if name == "psql" else "", "LC_ALL": "C"}
        tool = Tool(_program(name), environment, [secret] if secret else [], hidden=_DATA)
        if server is not None and _version(tool) > server:
            fitting = _FITTING.format(server=server, name=name)
            return dataclasses.replace(tool, path=fitting) if os.access(fitting, os.X_OK) else tool
        return tool

    @contextlib.contextmanager
    def _session(self, database: str | None = None) -> Iterator[_Session]:
        tool = self._tool("psql", database)
        arguments = ["--no-psqlrc", "--no-password", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1"]
        arguments.append("--set=VERBOSITY=terse")
        with tool.started(*arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            session = _Session(process)
            try:
                session.run(_SESSION)
                yield session
            except BrokenPipeError:
                # It has ended, and its own words say why.
                process.wait()
                if not process.returncode:
                    raise

    @contextlib.contextmanager
    def _maintenance(self) -> Iterator[_Session]:
        """A session in another database than this one, which cannot be renamed from within."""
        with contextlib.ExitStack() as stack:
            yield self._elsewhere(stack)

    def _elsewhere(self, stack: contextlib.ExitStack) -> _Session:
        failed: BackupFailed | None = None
        for name in self._candidates():
            try:
                return stack.enter_context(self._session(name))
            except BackupFailed as error:
                failed = failed or error
        raise failed or BackupFailed("The server has no other database.")

    def _candidates(self) -> Iterator[str]:
        """Databases to work from: those that servers usually have, and then whatever there is."""
        usual = [name for name in ("postgres", "template1") if name != self._database]
        yield from usual
        with contextlib.suppress(BackupFailed), self._session() as session:
            others = session.ask("SELECT jsonb_agg(datname) FROM pg_database WHERE datallowconn")
            # A session in one of these would keep it from being dropped, or end with it.
            dropped = (self._beside, self._replaced, f"{_stem(self._database)}_drill_")
            yield from [
                name for name in others if name not in (*usual, self._database) and not name.startswith(dropped)
            ]

    def _drop_left(self, session: _Session) -> None:
        """Drop what earlier restores of this database left beside it."""
        patterns = [f"{name}%" for name in map(_like, (self._beside, self._replaced))]
        wanted = " OR ".join(f"datname LIKE {_literal(pattern)}" for pattern in patterns)
        left = session.ask(f"SELECT coalesce(jsonb_agg(datname), '[]') FROM pg_database WHERE {wanted}")
        self._drop_all(*left)

    def _drop_all(self, *names: str) -> list[str]:
        """Drop databases that are there. What cannot be dropped is a warning."""
        warnings = []
        for name in names:
            try:
                with self._maintenance() as session:
                    if session.ask(f"SELECT to_jsonb(count(*)) FROM pg_database WHERE datname = {_literal(name)}"):
                        self._drop(session, name)
            except BackupFailed as error:
                warnings.append(f"The database {name} could not be dropped. Drop it yourself: {error}")
        return warnings

    def _drop(self, session: _Session, name: str) -> None:
        """Drop a database with its subscriptions, which would keep it."""
        subscriptions = session.ask(
            "SELECT coalesce(jsonb_agg(subname), '[]') FROM pg_subscription s JOIN pg_database d ON d.oid = subdbid "
            f"WHERE datname = {_literal(name)}"
        )
        if subscriptions:
            with self._session(name) as inside:
                for subscription in map(_quoted, subscriptions):
                    # The slot belongs to the database that is in place now.
                    inside.run(f"ALTER SUBSCRIPTION {subscription} DISABLE")
                    inside.run(f"ALTER SUBSCRIPTION {subscription} SET (slot_name = NONE)")
                    inside.run(f"DROP SUBSCRIPTION {subscription}")
        session.run(f"ALTER DATABASE {_quoted(name)} IS_TEMPLATE false")
        session.run(f"DROP DATABASE IF EXISTS {_quoted(name)} WITH (FORCE)")

    def _dump_version(self) -> int:
        return _version(self._tool("pg_dump"))

    def _check_version(self, session: _Session) -> str:
        server = session.ask(
            "SELECT jsonb_build_array(current_setting('server_version'), "
            "current_setting('server_version_num')::int / 10000)"
        )
        if (dump := self._dump_version()) < server[1]:
            raise SourceUnusable(
                f"The installed pg_dump {dump} cannot dump PostgreSQL {server[1]}, which is newer. Install "
                f"postgresql-client-{server[1]}."
            )
        return str(server[0])


@dataclass(frozen=True, repr=False)
class _ScratchPostgreSQL(PostgreSQL):
    """An empty database for a drill.

    What a backup creates runs nothing and reaches nobody: no event triggers, subscriptions, publications or foreign
    servers. If this user may create roles, the dump is loaded by a role that owns this one database and nothing else.

    Attributes:
        drilled: the database beside it. What extensions that one has, an administrator has chosen.
        mark: what its name ends in, and that of the role.
        notes: see `Noted`.
    """

    drilled: PostgreSQL | None = None
    mark: str = ""
    notes: list[str] = field(default_factory=list, compare=False)

    def restore(self, dump: DumpReader, only: Sequence[str] = ()) -> None:
        check_only(only, dump.counts)
        with restoring(self.name, "and contains only a part of the backup"):
            settings = read_settings(dump, _SETTINGS, _PostgreSQLSettings)
            with self._maintenance() as session:
                session.run(f"DROP DATABASE IF EXISTS {_quoted(self._database)} WITH (FORCE)")
                session.run(_create_statement(self._database, settings, owners=False))
                for statement in _early_statements(session, self._database, settings):
                    session.run(statement)
            schemas = self._extend()
            with self._confined(schemas) as loader:
                self.notes.extend(map(_shown, loader._load(dump, settings, drill=True, there=schemas)))
            self._verify(dump)

    def _extend(self) -> set[str]:
        """Create the extensions of the drilled database, and return the schemas that were created for them."""
        assert self.drilled is not None
        try:
            with self.drilled._session() as session:
                extensions = session.ask(
                    "SELECT coalesce(jsonb_agg(jsonb_build_array(extname, nspname)), '[]') FROM pg_extension "
                    "JOIN pg_namespace n ON n.oid = extnamespace WHERE extname <> 'plpgsql'"
                )
        except BackupFailed:  # it is not there: the drill is of a database that was lost
            return set()
        with self._session() as session:
            for extension, schema in extensions:
                session.run(f"CREATE SCHEMA IF NOT EXISTS {_quoted(schema)}")
                session.run(f"CREATE EXTENSION IF NOT EXISTS {_quoted(extension)} SCHEMA {_quoted(schema)}")
        return {schema for _, schema in extensions}

    @contextlib.contextmanager
    def _confined(self, schemas: Collection[str]) -> Iterator[PostgreSQL]:
        """This database as a role sees it that owns it, and nothing else. It may create something in these schemas."""
        role, password = f"snapshots_drill_{self.mark}", secrets.token_hex(16)
        scheme, _, rest = self.url.partition("://")
        loader = PostgreSQL(f"{scheme}://{quote(role)}@{rest.rpartition('@')[2]}", password)
        try:
            with self._session() as session:
                session.run(f"CREATE ROLE {role} LOGIN NOINHERIT PASSWORD {_literal(password)}")
                session.run(f"GRANT {role} TO CURRENT_USER; ALTER DATABASE {_quoted(self._database)} OWNER TO {role}")
                session.run(f"ALTER SCHEMA public OWNER TO {role}")
                for schema in schemas:
                    session.run(f"GRANT USAGE, CREATE ON SCHEMA {_quoted(schema)} TO {role}")
            with loader._session():
                pass  # not every server lets a new role in
        except BackupFailed:
            self.notes.append(
                "The drill ran with the rights of the backup's user, because no other role could be created or log in. "
                "A backup that somebody made to do harm could have done it. Grant CREATEROLE to confine drills."
            )
            loader = self
        try:
            yield loader
        finally:
            with contextlib.suppress(BackupFailed), self._session() as session:
                if session.ask(f"SELECT to_jsonb(count(*)) FROM pg_roles WHERE rolname = '{role}'"):
                    session.run(f"REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}")


class _Session:
    """A psql that waits for statements."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._input: IO[bytes] = process.stdin
        self._output: IO[bytes] = process.stdout

    def run(self, statement: str) -> None:
        """Run a statement that returns nothing we need."""
        self._answer(statement)

    def ask(self, query: str) -> Any:
        """The one JSON value that a query returns."""
        return json.loads(self._answer(query).decode(errors="surrogateescape"))

    def feed(self, script: Iterable[bytes]) -> None:
        """Run statements with rows between them."""
        for line in script:
            self._input.write(line)

    def _answer(self, statement: str) -> bytes:
        mark = secrets.token_hex(8)
        self._input.write(f"{statement};\n\\echo {mark}\n".encode(errors="surrogateescape"))
        self._input.flush()
        answer = b""
        for line in self._output:
            if line == f"{mark}\n".encode():
                return answer
            answer = line
        raise BrokenPipeError


def _hold_mark(session: _Session, name: str) -> None:
    """Hold the lock of a name that ends in a `drill_mark`, until the session ends."""
    session.run(f"SELECT pg_advisory_lock({_DRILLS}, {drill_lock(name)})")


def _held_marks(session: _Session) -> list[int]:
    """Return the numbers of the locks that running drills and restores hold."""
    held: list[int] = session.ask(
        "SELECT coalesce(jsonb_agg(objid::bigint), '[]') FROM pg_locks "
        f"WHERE locktype = 'advisory' AND classid = {_DRILLS} AND objsubid = 2"
    )
    return held


def _counts(session: _Session) -> dict[str, int]:
    """Rows per table. The session is in a transaction."""
    names = session.ask(
        "SELECT coalesce(jsonb_agg(jsonb_build_array(format('%I.%I', nspname, relname), relkind = 'p') "
        f"ORDER BY format('%I.%I', nspname, relname)), '[]') {_TABLES}"
    )
    counts: dict[str, int] = session.ask(
        f"SELECT CASE count(*) WHEN 0 THEN '{{}}' ELSE jsonb_build_object({_literal(_LARGE_OBJECTS)}, count(*)) END "
        "FROM pg_largeobject_metadata"
    )
    return counts | _count(session, names)


def _count(session: _Session, names: Sequence[tuple[str, bool]]) -> dict[str, int]:
    """Rows of these tables: of each its name as SQL, and whether its partitions are counted as well."""
    counts: dict[str, int] = {}
    for start in range(0, len(names), _AT_ONCE):
        counted = " UNION ALL ".join(
            f"SELECT {_literal(name)}, count(*) FROM {'' if whole else 'ONLY'} {name}"
            for name, whole in names[start : start + _AT_ONCE]
        )
        # A transaction keeps the locks of all tables that it has read; going back to a savepoint gives them back.
        session.run("SAVEPOINT counting")
        # A plan looks into functions that indexes call, which may find others by the search path.
        session.run("SET LOCAL search_path TO DEFAULT")
        found = session.ask(f"SELECT jsonb_object_agg(name, n) FROM ({counted}) AS c(name, n)")
        counts |= {_shown(name): n for name, n in found.items()}
        session.run("ROLLBACK TO SAVEPOINT counting; RELEASE SAVEPOINT counting")
    return counts


def _partitions(session: _Session, tables: Sequence[str]) -> dict[str, list[tuple[str, str, str]]]:
    """For each of these that is partitioned: the name, schema and table of each partition that has rows of its own."""
    found = session.ask(
        "SELECT coalesce(jsonb_agg(jsonb_build_array(w.name, (SELECT jsonb_agg(jsonb_build_array("
        "format('%I.%I', n.nspname, c.relname), n.nspname, c.relname)) FROM pg_partition_tree(p.oid) t "
        "JOIN pg_class c ON c.oid = t.relid AND c.relkind = 'r' JOIN pg_namespace n ON n.oid = c.relnamespace))), "
        f"'[]') FROM (SELECT jsonb_array_elements_text({_json_literal(tables)}) AS name) w "
        "JOIN pg_namespace n ON true JOIN pg_class p ON p.relnamespace = n.oid AND p.relkind = 'p' "
        "WHERE format('%I.%I', n.nspname, p.relname) = w.name"
    )
    return {whole: [(name, schema, table) for name, schema, table in parts or []] for whole, parts in found}


def _notes(session: _Session) -> list[DumpNote]:
    """What comes back in another form, or not at all. The session is in a transaction."""
    notes = [DumpNote(_shown(text), left_out=left_out) for text, left_out, _ in session.ask(_UNDUMPED)]
    # Where nobody may use that language, nothing is found now, and the restore tells.
    if not session.ask(
        "SELECT to_jsonb(count(*)) FROM pg_language WHERE lanname = 'plpgsql' AND has_language_privilege(oid, 'USAGE')"
    ):
        return notes
    session.run(f"SET LOCAL statement_timeout = '{_LOOKING}s'")
    orphans = _orphans(session)
    session.run("SET LOCAL statement_timeout = 0")
    return notes + [
        DumpNote(
            _shown(
                f"Foreign key {name!r} of {child}: some rows refer to rows that are not in {parent}. A restore brings "
                "the rows back, and creates the key as NOT VALID. Correct the rows."
            )
        )
        for child, parent, name in orphans
    ]


def _orphans(session: _Session, keys: Sequence[Sequence[str]] | None = None) -> list[tuple[str, str, str]]:
    """Find foreign keys that rows break: of each the table, the other table and the name.

    Args:
        keys: the table and the name of those that are looked at. None: all.
    """
    which = ""
    if keys is not None:
        which = f"AND {_json_literal(keys)} @> jsonb_build_array(jsonb_build_array(conrelid::regclass, conname))"
    session.run(_ORPHANS.replace("{which}", which))
    found: list[tuple[str, str, str]] = session.ask("SELECT current_setting('snapshots.orphans')::jsonb")
    return found


def _add_checks(session: _Session, checks: Sequence[Sequence[Any]]) -> Iterator[str]:
    """Make CHECKs that were set aside while the rows were loaded. Yields a warning for each that rows break."""
    for place, name, definition, comment, _ in checks:
        made = f"ALTER {place} ADD CONSTRAINT {name} {definition}"
        body = f"""
            BEGIN EXECUTE {_literal(made)}; PERFORM set_config('snapshots.broken', '', false);
            EXCEPTION WHEN check_violation OR invalid_object_definition OR feature_not_supported THEN
              PERFORM set_config('snapshots.broken', SQLSTATE, false);
              EXECUTE {_literal(made + " NOT VALID")}; END"""
        session.run(f"DO {_literal(body)}")
        if broken := session.ask("SELECT to_jsonb(current_setting('snapshots.broken'))"):
            why = "The server cannot look for values within arrays, ranges and composite types that violate"
            why = why if broken == _NOT_SUPPORTED else "Some rows violate"
            kind, _, rest = place.partition(" ")
            yield f"{why} the constraint {name} of {kind.lower()} {rest}, so it was created as NOT VALID."
        if comment is not None:
            on = place.removeprefix("TABLE ")
            session.run(f"COMMENT ON CONSTRAINT {name} ON {on} IS {_literal(comment)}")


def _set_aside(session: _Session, checks: Iterable[Sequence[Any]]) -> None:
    _in_batches(session, [f"ALTER {place} DROP CONSTRAINT {name}" for place, name, *_ in checks])


def _in_batches(session: _Session, statements: Sequence[str]) -> None:
    for start in range(0, len(statements), _AT_ONCE):
        session.run("; ".join(statements[start : start + _AT_ONCE]))


def _rows(
    script: Iterable[bytes], tables: Collection[tuple[str, str]], sequences: Collection[bytes]
) -> Iterator[bytes]:
    """Yield the rows of some tables, and the values of some sequences, of a script that holds data alone.

    A script is made from a dump, which may hold anything; a line that is none of these is passed over.
    """
    head, within, wanted = b"", False, False
    for line in script:
        if within:
            within = line != b"\\.\n"
            if wanted:
                yield line
        elif encoding := _ENCODING.fullmatch(line):
            yield encoding[0]
        elif head or line.startswith((b"COPY ", b"SELECT pg_catalog.setval(")):  # over several lines, if a name is
            head += line
            if copied := _COPY_INTO.fullmatch(head):
                wanted = (_unquoted(copied[1]), _unquoted(copied[2])) in tables
                within = True
                if wanted:
                    yield head
                head = b""
            elif _SETVAL.fullmatch(head):
                if any(head.startswith(b"SELECT pg_catalog.setval(" + each + b", ") for each in sequences):
                    yield head
                head = b""
            elif len(head) > _LONGEST_HEAD:
                raise BackupFailed("The dump of this backup was not written by pg_dump: it was refused.")
    if within:
        raise BackupFailed("The dump of this backup ends in the middle of a table: it is damaged.")
    yield f"SET client_encoding = 'UTF8'; {_OWN_ENCODING};\n".encode()


def _restored(
    pg_restore: Tool, arguments: Sequence[str], dump: DumpReader, *, newer: bool, drill: bool, gone: set[str]
) -> tuple[list[str], list[str]]:
    """Run pg_restore to its end.

    Args:
        gone: the names of what a drill has left out. What needs one of these is left out as well, and added.

    Returns:
        Warnings, and the statements that make foreign keys that rows break, and comments on these.

    Raises:
        BackupFailed: there was an error. Three kinds are none: that a server does not know a time-out which a newer
            pg_restore switches off, in a drill that a role may not create something or that it needs what was left
            out, and that rows break a foreign key.
    """
    warnings: list[str] = []
    keys: list[str] = []
    if not newer and not drill and _KEYS_IN not in arguments:
        pg_restore.run(*arguments, "--exit-on-error", stdin=dump.open(_DUMP))
        return warnings, keys
    with tempfile.TemporaryFile() as said:
        try:
            pg_restore.run(*arguments, stdin=dump.open(_DUMP), stderr=said)
        except BackupFailed:
            said.seek(0)
            words = said.read().decode(errors="surrogateescape")
            failed = _FAILED.findall(words)
            ignored = re.search(r"errors ignored on restore: (\d+)", words)
            if ignored is None or int(ignored[1]) != len(failed):
                raise
            for entry, error, command in failed:
                if newer and re.match(r"SET \w+_timeout = 0;", command):
                    continue
                if "violates foreign key constraint" in error or (keys and command.startswith(_COMMENT)):
                    keys.append(command.strip().removesuffix(";"))
                    continue
                made = _CREATED.match(command) or ("an object", "")
                absent = _ABSENT.search(error)
                if drill and absent is not None and absent[1] in gone:
                    gone.add(re.sub(r'"((?:[^"]|"")*)"', lambda quoted: quoted[1].replace('""', '"'), made[1]))
                elif not drill or not re.search(r"permission denied|must be (?:superuser|owner|able)", error):
                    raise
                warnings.append(f"The drill could not create {entry or made[0]}: {error}.")
    return warnings, keys


def _check_extensions(session: _Session, settings: _PostgreSQLSettings) -> None:
    """Refuse before anything is made: `pg_restore` would stop at the first extension that is not there."""
    there = session.ask("SELECT coalesce(jsonb_agg(name), '[]') FROM pg_available_extensions")
    if absent := sorted(set(settings.extensions) - set(there)):
        raise BackupFailed(
            f"The backup needs the extensions {', '.join(absent)}, which are not installed on this server. "
            "Install their packages on the server first."
        )


def _create_statement(name: str, settings: _PostgreSQLSettings, owners: bool, spaces: Collection[str] = ()) -> str:
    parts = [f"CREATE DATABASE {_quoted(name)} TEMPLATE template0 ENCODING {_literal(settings.encoding)}"]
    parts += [f"LC_COLLATE {_literal(settings.collate)} LC_CTYPE {_literal(settings.ctype)}"]
    if settings.provider != "libc" and settings.locale is not None:
        option = {"icu": "ICU_LOCALE", "builtin": "BUILTIN_LOCALE"}[settings.provider]
        parts += [f"LOCALE_PROVIDER {settings.provider} {option} {_literal(settings.locale)}"]
        parts += [f"ICU_RULES {_literal(settings.rules)}"] if settings.rules is not None else []
    # Without a word, a database is in the tablespace of its template. To name that one takes rights to it.
    if settings.tablespace != "pg_default" and settings.tablespace in spaces:
        parts += [f"TABLESPACE {_quoted(settings.tablespace)}"]
    parts += [f"OWNER {_quoted(settings.owner)}"] if owners else []
    return " ".join(parts)


def _early_statements(session: _Session, name: str, settings: _PostgreSQLSettings) -> Iterator[str]:
    """Yield what sets settings that rows may depend on: what a `CHECK` or a generated column computes from them.

    Not among them is what anybody would need more rights for than those of an owner, and what would keep us out.
    """
    allowed = {name.lower() for name in session.ask(OWN_SETTINGS)}
    there = {name.lower() for name in session.ask("SELECT jsonb_agg(name) FROM pg_settings")}
    for role, setting in settings.settings:
        option = setting.partition("=")[0].lower()
        if (
            role is None
            and option not in _KEEPING_OUT
            and (option in allowed or ("." in option and option not in there))
        ):
            yield _set_statement(f"ALTER DATABASE {_quoted(name)}", setting)


def _alter_statements(name: str, settings: _PostgreSQLSettings, owners: bool, superuser: bool) -> Iterator[str]:
    database = _quoted(name)
    yield f"ALTER DATABASE {database} CONNECTION LIMIT {settings.connections}"
    if settings.comment is not None:
        yield f"COMMENT ON DATABASE {database} IS {_literal(settings.comment)}"
    if settings.grants is not None and owners:
        yield f"REVOKE ALL ON DATABASE {database} FROM PUBLIC, {_quoted(settings.owner)}"
        for role, privilege, grantable, grantor in settings.grants:
            option = " WITH GRANT OPTION" if grantable and role != settings.owner else ""
            if grantor != settings.owner and superuser:
                yield f"SET ROLE {_quoted(grantor)}"
            yield f"GRANT {privilege} ON DATABASE {database} TO {_quoted(role) if role else 'PUBLIC'}{option}"
            yield "RESET ROLE"
    for role, setting in settings.settings:
        if role is None or owners:
            target = f"ALTER ROLE {_quoted(role)} IN DATABASE {database}" if role else f"ALTER DATABASE {database}"
            yield _set_statement(target, setting)
    if settings.template:
        yield f"ALTER DATABASE {database} IS_TEMPLATE true"


def _set_statement(target: str, setting: str) -> str:
    option, _, value = setting.partition("=")
    values = _elements(value) if option in _LISTS else [value]
    # The names of extensions' settings are two, joined by a dot. Nothing else than letters, digits and `_` is in them
    # (see `_PostgreSQLSettings`), but a word of SQL may be.
    named = ".".join(map(_quoted, option.split(".")))
    return f"{target} SET {named} TO {', '.join(map(_literal, values or ['']))}"


def _elements(value: str) -> list[str]:
    """The names of a list, as the server keeps it: quoted where that is needed."""
    return [plain or quoted.replace('""', '"') for quoted, plain in _ELEMENT.findall(value)]


def _major(session: _Session) -> int:
    return int(session.ask("SELECT to_jsonb(current_setting('server_version_num')::int / 10000)"))


def _version(tool: Tool) -> int:
    found = re.search(rb"(\d+)\S*", tool.run("--version"))
    if found is None:
        raise BackupFailed(f"{tool.name} does not say its version.")
    return int(found[1])


def _option(value: str) -> str:
    """A value within `PGOPTIONS`."""
    return re.sub(r"([\\\s])", r"\\\1", value)


def _segments(lines: Sequence[str]) -> Iterator[Sequence[str]]:
    """Cut a list of `pg_restore` in front of tables that come after functions, which they may call when they are made.

    The last segment is the rest, however often it could be cut.
    """
    start, called, cuts = 0, False, 0
    for at, line in enumerate(lines):
        called = called or _FUNCTION.match(line) is not None
        if called and cuts < _CUTS and _TABLE.match(line):
            yield lines[start:at]
            start, called, cuts = at, False, cuts + 1
    yield lines[start:]


def _listed_names(line: str) -> Iterator[str]:
    """Yield what the name of a table in a list of `pg_restore` may be. Spaces in names look as those between them."""
    words = re.sub(_ENTRY + "FOREIGN TABLE ", "", line).split(" ")
    for start, end in itertools.combinations(range(1, len(words)), 2):
        yield f"{' '.join(words[:start])}.{' '.join(words[start:end])}"


def _listed(schema: str, table: str) -> str:
    """How a list of `pg_restore` names the rows of a table."""
    return re.sub(r"[\r\n]", " ", f" TABLE DATA {schema} {table} ")


def _unquoted(name: bytes) -> str:
    plain = name[1:-1].replace(b'""', b'"') if name.startswith(b'"') else name
    return plain.decode(errors="surrogateescape")


def _like(text: str) -> str:
    """A pattern that matches this text."""
    return re.sub(r"([\\%_])", r"\\\1", text)


def is_left_by_restore(name: str) -> bool:
    """Return whether a killed restore has left this database: it holds what is on its way, or was replaced.

    A database of the user's may have a similar name, but not the checksum of what stands in front of it. Where that was
    shortened, it cannot be checked.
    """
    found = _LEFT.fullmatch(name)
    if found is None:
        return False
    # The last character may have lost up to three bytes.
    return _digest(found[1]) == found[2] or len(found[1].encode()) > _STEM - 4


def _stem(database: str) -> str:
    """The beginning of a name, with room for what is put behind it: names have at most 63 bytes."""
    return database.encode()[:_STEM].decode(errors="ignore")


def _digest(database: str) -> str:
    return hashlib.blake2b(database.encode(), digest_size=4).hexdigest()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _json_literal(value: Any) -> str:
    """A value as a literal of JSON. Its bytes are those of the database: with escapes, they would be others."""
    return _literal(json.dumps(value, ensure_ascii=False))


def _shown(text: str) -> str:
    """A name as others see it: in a database with the encoding SQL_ASCII, it may be in any encoding."""
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _literal(text: str) -> str:
    # With a backslash the plain form would depend on a setting.
    return ("E'" if "\\" in text else "'") + text.replace("\\", "\\\\").replace("'", "''") + "'"


def _program(name: str) -> str:
    """The program on the PATH, or the newest one of Debian's, whose own wrapper picks another version by itself."""
    path = shutil.which(name)
    if path is None or os.path.basename(os.path.realpath(path)) == "pg_wrapper":
        versions = glob.glob(f"/usr/lib/postgresql/*/bin/{name}")
        path = max(versions, key=lambda found: float(found.split("/")[4]), default=None)
    if path is None:
        raise missing(name, _PACKAGE)
    return path
