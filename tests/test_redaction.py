"""What may be shown, logged or pickled: only what is known to be harmless."""

from __future__ import annotations

import pickle
import traceback
from typing import Any

import cloudpickle
import numpy as np
import pytest
import servers
from hypothesis import given
from hypothesis import strategies as st

from prefect_snapshots import Repository, Snapper, SnapshotManager, errors
from prefect_snapshots.redaction import MASK, harmless_options, hider, safe_url
from prefect_snapshots.repository import envelopes
from prefect_snapshots.repository.location import open_location
from prefect_snapshots.results import ResultLog

TOKEN = "ghp_16C7e42F292c6912E7710c838347Ae178B4a"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sftp://backup:p@ss@host/folder", "sftp://backup@host/folder"),
        ("sftp://backup:p@ss:w@rd@host:22/folder", "sftp://backup@host:22/folder"),
        ("sftp://backup:p/a@ss@host/folder", "sftp://backup@host/folder"),
        ("sftp://backup:p?a#ss@host/folder", "sftp://backup@host/folder"),
        ("sftp://backup@host/mail/me@example.org", "sftp://backup@host/mail/me@example.org"),
        ("sftp://host:22/mail/me@example.org", "sftp://host:22/mail/me@example.org"),
        ("sftp://:secret@host/x", "sftp://host/x"),
        (f"https://{TOKEN}@host/x", "https://host/x"),
        (f"https://{TOKEN}:x-oauth-basic@host/x", "https://host/x"),
        (f"https://{TOKEN}:@host/x", "https://host/x"),
        ("https://AKIAIOSFODNN7EXAMPLE:k@host", "https://host"),
        ("https://host/x?sig=abc&token=def", "https://host/x"),
        ("https://host/x#access_token=abc", "https://host/x"),
        ("https://u:p@host?token=a/b@c", "https://u@host"),
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


@given(
    user=st.from_regex(r"[a-z]{1,8}", fullmatch=True),
    password=st.text(st.characters(exclude_characters="/", min_codepoint=33, max_codepoint=126), min_size=1).map(
        lambda text: f"Pw0{text}Pw1"
    ),
)
def test_no_part_of_a_password_is_shown(user: str, password: str) -> None:
    shown = safe_url(f"sftp://{user}:{password}@host/folder")
    assert shown == f"sftp://{user}@host/folder"


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
    assert SECRET.encode() not in dump({"a": [repository]})
    assert SECRET not in repr(repository)


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


def test_no_name_in_an_encrypted_repository_follows_from_what_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same work under two secrets: whatever is equal in both could be calculated by anybody."""
    monkeypatch.setattr(envelopes, "COST", 2)
    names = []
    for number in range(2):
        repository = Repository(f"memory://names-{number}", password="the same password")
        manager = SnapshotManager(repository, name="salaries")
        manager.save_snapshot({"array": np.arange(500_000), "small": 1}, "one", tags=["a"])
        ResultLog(repository, "results").write("key-of-a-result", b"x" * 100_000)
        Snapper(range(100), lambda item: item + 1, repository=repository, name="items", function_version=1).start()
        found = repository.location.list("")
        parts = {part for info in found for part in info.path.split("/")}
        names.append({part for part in parts if len(part.partition("-")[0]) >= 16 or any(map(str.isalpha, part))})
        repository.location.delete(info.path for info in found)
    fixed = names[0] & names[1]
    assert all(not any(map(str.isdigit, part)) for part in fixed), sorted(fixed)
    assert fixed <= {
        *("catalog", "root", "packs", "index", "logs", "compacted", "hint", "head", "claims", "whole"),
        *("repository.json", "repository.copy.json", "level"),
    }, sorted(fixed)
