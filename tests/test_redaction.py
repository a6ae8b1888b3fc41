"""What may be shown, logged or pickled: only what is known to be harmless."""

from __future__ import annotations

import pickle
import traceback
from typing import Any
from urllib.parse import quote

import cloudpickle
import pytest
import servers
from hypothesis import example, given
from hypothesis import strategies as st

from prefect_snapshots import BackupManager, Repository, errors
from prefect_snapshots.backups.databases import PostgreSQL, open_database
from prefect_snapshots.backups.databases.base import Tool
from prefect_snapshots.redaction import MASK, harmless_options, hider, safe_url
from prefect_snapshots.repository.handing_over import WithSecrets
from prefect_snapshots.repository.location import open_location

TOKEN = "ghp_16C7e42F292c6912E7710c838347Ae178B4a"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sftp://backup:p@ss@host/folder", "sftp://backup@host/folder"),
        ("sftp://backup:p@ss:w@rd@host:22/folder", "sftp://backup@host:22/folder"),
        ("sftp://backup:p/a@ss@host/folder", "sftp://backup@host/folder"),
        ("sftp://backup:p?a#ss@host/folder", "sftp://backup@host/folder"),
        ("sftp://backup@host/mail/me@example.org", "sftp://backup@host/mail/me@example.org"),
        ("sftp://host/mail/me@example.org", "sftp://host/mail/me@example.org"),
        ("sftp://host:22/mail/me", "sftp://host:22/mail/me"),
        ("sftp://ada:22/secret@host", "sftp://***"),
        ("sftp://ada:22/x?secret@host", "sftp://***"),
        ("sftp://ada:22/x#secret@host/folder", "sftp://***"),
        ("postgresql://host:5432/shop?options=me%40here", "postgresql://host:5432/shop"),
        ("sftp://:secret@host/x", "sftp://host/x"),
        (f"https://{TOKEN}@host/x", "https://host/x"),
        (f"https://{TOKEN}:x-oauth-basic@host/x", "https://host/x"),
        (f"https://{TOKEN}:@host/x", "https://host/x"),
        ("https://AKIAIOSFODNN7EXAMPLE:k@host", "https://host"),
        ("https://host/x?sig=abc&token=def", "https://host/x"),
        ("https://host/x#access_token=abc", "https://host/x"),
        ("https://u:p@host?token=a/b@c", "https://***"),
        ("https://lowercasetoken@host/x", "https://host/x"),
        ("sftp://u:p@ss/w@rd@host/x", "sftp://u@***"),
        ("postgresql://u:p@ss/w@db/shop", "postgresql://u@***"),
        ("postgresql://u:p%40s@db/shop?sslmode=require&options=-ctoken", "postgresql://u@db/shop?sslmode=require"),
        ("arangodb+unix://root:s3cret@/run/a.sock?database=x", "arangodb+unix://root@/run/a.sock?database=x"),
        ("abfs://team1-data@account.dfs.core.windows.net/x", "abfs://team1-data@account.dfs.core.windows.net/x"),
        ("abfs://container@account.dfs.core.windows.net/x", "abfs://container@account.dfs.core.windows.net/x"),
        ("simplecache::sftp://u:p@ss@host/x", "simplecache::sftp://u@host/x"),
        ("postgresql://ada:se%40cret@db/shop?password=x", "postgresql://ada@db/shop"),
        ("s3://bucket/me@example.org", "s3://bucket/me@example.org"),
        ("/data/a b@c:d?e#f", "/data/a b@c:d?e#f"),
        ("file:///data/a@b:c@d", "file:///data/a@b:c@d"),
        ("", ""),
    ],
)
def test_urls_are_shown_without_secrets(url: str, shown: str) -> None:
    assert safe_url(url) == shown
    assert safe_url(shown) == shown


# Every character that a keyboard has.
_PASSWORDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
_USERS = st.from_regex(r"[A-Za-z][A-Za-z0-9._-]{0,11}", fullmatch=True)
_SCHEMES = st.sampled_from(
    [
        *("sftp", "ssh", "ftp", "smb", "s3", "gs", "abfs", "http", "https", "webdav", "hdfs", "github", "cached::sftp"),
        *("postgresql", "mariadb", "mysql", "mongodb", "redis", "rediss", "arangodb", "etcd", "sqlite", "duckdb", "x"),
    ]
)
_PLACES = st.sampled_from(["host/folder", "host:22/folder", "host", "host/shop?sslmode=require", "[::1]:5/shop"])


@given(scheme=_SCHEMES, user=_USERS, text=_PASSWORDS, start=st.sampled_from(["Pw0", "22/", "22?", "22"]), place=_PLACES)
@example(scheme="sftp", user="u", text="x?y", start="22/", place="host")
def test_no_user_leads_to_a_part_of_a_password(scheme: str, user: str, text: str, start: str, place: str) -> None:
    assert "Pw1" not in safe_url(f"{scheme}://{user}:{start}{text}Pw1@{place}")


@given(scheme=st.sampled_from(["sftp", "ssh", "postgresql", "mariadb", "mongodb", "x"]), text=_PASSWORDS, place=_PLACES)
def test_no_part_of_a_password_is_shown(scheme: str, text: str, place: str) -> None:
    url = f"{scheme}://user:Pw0{text}Pw1@{place}"
    assert safe_url(url) in (f"{scheme}://user@{place}", f"{scheme}://user@{MASK}")
    for shown in shown_by_a_database(url), shown_by_a_location(url):
        assert "Pw0" not in shown
        assert "Pw1" not in shown


@given(name=st.sampled_from(["token", "sig", "password", "options", "sslpassword"]), text=_PASSWORDS)
def test_no_option_of_a_url_is_shown_unless_it_is_known(name: str, text: str) -> None:
    quoted = quote(f"Pw0{text}Pw1", safe="")
    for url in f"mongodb://host/shop?tls=true&{name}={quoted}", f"https://host/x?{name}={quoted}#{quoted}":
        assert "Pw" not in safe_url(url) + shown_by_a_database(url) + shown_by_a_location(url)


@given(rest=_PASSWORDS)
@example(rest="x")
def test_a_password_that_looks_like_a_port_is_refused_and_not_shown(rest: str) -> None:
    url = f"sftp://ada:22/{rest}Pw1@host/folder"
    assert "Pw1" not in safe_url(url)
    with pytest.raises(errors.InvalidArgument, match=r"not clear where the password ends|chained URL") as raised:
        Repository(url)
    assert "Pw1" not in str(raised.value)


def shown_by_a_database(url: str) -> str:
    """All that a database says of itself: name, representation, pickle, and the error if the URL is refused."""
    try:
        database = open_database(url)
    except errors.UsageError as error:
        return "".join(traceback.format_exception(error))
    return f"{database.name} {database!r} {pickle.dumps(database)!r} {pickle.loads(pickle.dumps(database))!r}"


def shown_by_a_location(url: str) -> str:
    try:
        repository = Repository(url)
    except errors.SnapshotsError as error:
        return str(error)
    holders = repository, repository.location, BackupManager(repository, name="x")
    return f"{holders!r} {pickle.dumps(holders)!r}"


def test_a_password_of_a_database_stays_in_this_process() -> None:
    given = open_database("postgresql://ada@db/shop?sslmode=require", SECRET)
    manager = BackupManager("memory://x", databases=[given])
    assert SECRET.encode() not in pickle.dumps(manager) + cloudpickle.dumps(manager)
    [copy] = pickle.loads(pickle.dumps(manager)).databases
    assert copy == PostgreSQL("postgresql://ada@db/shop?sslmode=require")


def test_another_process_of_ours_is_handed_the_url_as_it_was_given() -> None:
    repository = Repository("ftp://ada:secret@host/x", password=False)
    _, (_, url, _) = WithSecrets(repository).__reduce__()
    assert url == "ftp://ada:secret@host/x"


SECRET = "hunter2-is-the-secret"
OPTIONS: list[dict[str, Any]] = [
    {"connection_string": f"DefaultEndpointsProtocol=https;AccountKey={SECRET}"},
    {"auth": ("ada", SECRET)},
    {"auth": [{"name": "ada", "value": SECRET}]},
    {"headers": {"Authorization": f"Bearer {SECRET}"}},
    {"client_kwargs": {"headers": {"X": SECRET}}},
    {"client_kwargs": {"region_name": "eu-west-1", "aws_session_token": SECRET}},
    {"client_kwargs": [{"region_name": SECRET}]},
    {"config_kwargs": {"proxies": {"https": f"http://u:{SECRET}@proxy"}}},
    {"endpoint_url": f"https://ada:{SECRET}@minio:9000"},
    {"sas": SECRET},
    {"pat": SECRET},
    {"cookie": SECRET.encode()},
    {"token": {"type": "service_account", "private_key": SECRET}},
    {"project": {"nested": SECRET}},
    {"anon": [SECRET]},
    {"username": SECRET, "host": "storage"},
    {"session_kwargs": {"x": {"y": [1, SECRET]}}},
    {SECRET: True},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dump", [pickle.dumps, cloudpickle.dumps])
def test_a_pickled_repository_keeps_no_secret(options: dict[str, Any], dump: Any) -> None:
    repository = Repository("s3://bucket/prefix", storage_options=options, password=SECRET)
    assert SECRET.encode() not in dump({"a": [repository, repository.location]})
    assert SECRET not in repr([repository, repository.location])


def test_a_pickled_repository_keeps_what_is_harmless() -> None:
    options = {
        "anon": False,
        "key": "AKIA",
        "endpoint_url": "http://minio:9000",
        "client_kwargs": {"region_name": "eu-west-1", "verify": "/etc/ca.pem"},
        "config_kwargs": {
            "connect_timeout": 5,
            "retries": {"total_max_attempts": 3},
            "s3": {"addressing_style": "path"},
        },
    }
    expected = {key: value for key, value in options.items() if key != "key"}
    assert harmless_options(options) == expected
    assert harmless_options({"token": "anon"}) == {"token": "anon"}
    assert harmless_options({"token": "ya29.secret"}) == {}


_VALUES = st.recursive(
    st.text() | st.integers() | st.binary() | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
)


@given(st.dictionaries(st.text(max_size=9).map("x_{}".format), _VALUES, max_size=5))
def test_what_is_not_known_is_not_kept(options: dict[str, Any]) -> None:
    assert harmless_options(options) == {}


@pytest.mark.parametrize("options", OPTIONS[:-1])
def test_secrets_are_masked_in_any_message(options: dict[str, Any]) -> None:
    hide = hider("sftp://u:p@ss@host", options)
    said = hide(f"401: p@ss does not fit, nor does p%40ss, nor {options}")
    assert SECRET not in said
    assert "p@ss" not in said
    assert "p%40ss" not in said
    assert MASK in said


def test_what_is_harmless_is_not_masked() -> None:
    hide = hider("s3://bucket/x", {"client_kwargs": {"region_name": "eu-west-1"}, "endpoint_url": "http://minio:9000"})
    assert hide("eu-west-1 at http://minio:9000 has no bucket") == "eu-west-1 at http://minio:9000 has no bucket"


@pytest.mark.parametrize("given", ["url", "options"])
def test_no_traceback_shows_a_secret(given: str) -> None:
    """Libraries put what they were given into their errors, and logs show the causes of errors, too."""
    with servers.refusing_ftp() as port:
        place = f"127.0.0.1:{port}/x"
        if given == "url":
            location = open_location(f"ftp://ada:p@ss-word@{place}")
        else:
            location = open_location(f"ftp://{place}", {"username": "ada", "password": "p@ss-word"})
        with pytest.raises(errors.SnapshotsError) as caught:
            location.read("a")
    assert "ss-word" not in "".join(traceback.format_exception(caught.value))


def test_a_short_password_leaves_messages_readable() -> None:
    hide = hider("sftp://u:a@host", {})
    assert (
        hide("no such database as 'a': password a was refused")
        == f"no such database as '{MASK}': password {MASK} was refused"
    )
    hide = hider("s3://bucket", {"key": "me", "secret": "abc", "client_kwargs": {"aws_session_token": "x1"}, "pool": 3})
    assert (
        hide("me at s3://bucket with 'abc' or x1: abcd and some 3 others, me%2Fabc")
        == f"{MASK} at s3://bucket with '{MASK}' or {MASK}: abcd and some 3 others, {MASK}%2Fabc"
    )
    tool = Tool("pg_dump", {}, ["e"])
    assert tool.masked("the server refused e") == f"the server refused {MASK}"
