"""Remove secrets from everything that is shown, logged or pickled. Only this module decides what is harmless.

It uses allow-lists: a part of a URL, or an option of a file system, is kept only if it is known to contain no secret.
Unknown parts are removed, whatever their names are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote

MASK = "***"

# A user name that a person chose. Access tokens have the same place in a URL, but look random.
_USER = re.compile(r"[A-Za-z][a-z._-]{0,23}[0-9]{0,4}")
# A separator of chained URLs: no other colon comes before it, and a scheme follows it.
_CHAIN = re.compile(r"((?:[a-z0-9+.-]+://)?[^:]*)::([a-z][a-z0-9+.-]*(?:://|::).*)", re.DOTALL)
_PORT = re.compile(r":[0-9]+")
_WITH_PORT = re.compile(r"[^:\]]:[0-9]+$")  # a password cannot follow the bracket of an IPv6 address

# A shorter secret is masked only where it is a whole word.
_SHORTEST_SECRET = 4

_NAMED_SECRETS = frozenset(
    {"key", "secret", "token", "password", "passphrase", "passwd", "username", "user", "sas_token", "account_key"}
    | {"client_secret", "connection_string", "aws_access_key_id", "aws_secret_access_key", "aws_session_token"}
)
"""Options whose value is a secret, however short it is. Short values of other options, such as `"s3"` or `5`, are words
that messages need."""

_PLAIN = frozenset(
    {
        # a directory
        *("auto_mkdir", "umask"),
        # s3fs, and the options that it passes to botocore
        *("anon", "endpoint_url", "use_ssl", "verify", "region_name", "api_version", "profile", "requester_pays"),
        *("version_aware", "default_block_size", "max_concurrency", "connect_timeout", "read_timeout"),
        *("object_lock_days", "object_lock_mode", "as_of"),
        *("max_pool_connections", "signature_version", "tcp_keepalive", "total_max_attempts", "max_attempts", "mode"),
        *("addressing_style", "payload_signing_enabled", "use_accelerate_endpoint", "use_dualstack_endpoint"),
        # gcsfs
        *("project", "access", "consistency", "timeout", "default_location"),
        # other file systems
        *("host", "port", "account_name"),
    }
)
"""Options that contain no secret."""

_URL_OPTIONS = frozenset(
    {
        # PostgreSQL, MariaDB and etcd: modes, and paths of files, whose contents are not shown
        *("sslmode", "sslrootcert", "sslcert", "sslkey", "channel_binding", "connect_timeout", "application_name"),
        *("target_session_attrs", "passfile", "service", "host", "port", "ssl_ca", "ssl_cert", "ssl_key", "cacert"),
        *("cert", "unix_socket", "strict", "owners"),
        # MongoDB and ArangoDB
        *("authSource", "authMechanism", "replicaSet", "tls", "ssl", "tlsCAFile", "directConnection", "retryWrites"),
        *("readPreference", "readConcernLevel", "w", "database", "threads"),
    }
)
"""Options in the query of a database URL that contain no secret, as the databases name them."""

# Web services accept access tokens in place of a user name.
_TOKEN_SCHEMES = frozenset({"http", "https", "webdav", "dav"})

# The part before the @ is the name of a container, which is needed to find the data again.
_CONTAINER_SCHEMES = frozenset({"abfs", "abfss", "adl", "wasb", "wasbs"})
_CONTAINER = re.compile(r"[a-z0-9](?:-?[a-z0-9]){2,62}|\$root|\$web")

_GROUPS = frozenset({"client_kwargs", "config_kwargs", "retries", "s3"})
"""Options that are dictionaries of such options."""

_HARMLESS_VALUES = {"token": frozenset({"anon", "cloud", "google_default"})}
"""Options that contain a secret or name a way to get one."""


def safe_url(url: str) -> str:
    """Return a URL without passwords, tokens and options, so that it can be shown and logged.

    A user name is kept if it looks like one; a token in its place is removed. From the query, harmless options of
    databases such as `sslmode` are kept. The rest and the fragment are removed. Text after a password is masked if it
    could be part of the password (see `is_ambiguous`). Anything that is not a URL, such as a path, is not changed.

    Example:
        >>> safe_url("sftp://backup:p@ss@host/folder")
        'sftp://backup@host/folder'
        >>> safe_url("https://ghp_16C7e42F292c6912E7710c838347Ae178B4a@host/folder?sig=abc")
        'https://host/folder'
    """
    return "::".join(map(_safe_part, _chained(url)))


def harmless_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return only those options of a file system that are known to contain no secret.

    Example:
        >>> harmless_options({"anon": False, "key": "AKIA", "client_kwargs": {"region_name": "eu-west-1"}})
        {'anon': False, 'client_kwargs': {'region_name': 'eu-west-1'}}
    """
    kept: dict[str, Any] = {}
    for name, value in options.items():
        if name in _GROUPS and isinstance(value, Mapping):
            kept[name] = harmless_options(value)
        elif _is_harmless(name, value):
            kept[name] = safe_url(value) if isinstance(value, str) else value
    return kept


def hider(url: str | None, options: Mapping[str, Any]) -> Callable[[str], str]:
    """Return a function that masks the secrets of a URL and its options in any string.

    Libraries include their arguments in their messages, sometimes quoted.

    Example:
        >>> hider(None, {"token": "ab/cdef"})("401: GET /?access_token=ab%2Fcdef")
        '401: GET /?access_token=***'
    """
    secrets = set(_secrets(options))
    for part in _chained(url or ""):
        secrets.update(_secrets_of(part))
    return masking(form for secret in secrets for form in (secret, quote(secret, safe=""), unquote(secret)))


def masking(secrets: Iterable[str]) -> Callable[[str], str]:
    """Return a function that masks these secrets in any string.

    A secret of fewer than 4 characters is masked only as a whole word: a password `a` would make messages unreadable.

    Example:
        >>> masking(["a", "letmein"])("password 'a' at letmeinside")
        "password '***' at ***side"
    """
    longest_first = sorted({secret for secret in secrets if secret}, key=len, reverse=True)
    if not longest_first:
        return str
    words = (re.escape(secret) if len(secret) >= _SHORTEST_SECRET else _word(secret) for secret in longest_first)
    hidden = re.compile("|".join(words))
    return lambda text: hidden.sub(MASK, text)


def _word(secret: str) -> str:
    return rf"(?<!\w){re.escape(secret)}(?!\w)"


def is_ambiguous(url: str) -> bool:
    """Return whether it is unclear where the password in a URL ends, because it contains an unquoted `@` and `/`.

    Libraries disagree on the meaning of such a URL, so part of the password could be mistaken for a host or a path. The
    same is true for an `@` that follows a port and a `/`: in `u:22/x?y@host`, the password may be `22/x?y`.

    Example:
        >>> is_ambiguous("sftp://user:p@ss/w@host/folder"), is_ambiguous("sftp://user:p%40ss%2Fw@host/folder")
        (True, False)
    """
    info, place = _split(url.partition("://")[2])
    if not info:
        address, _, rest = place.partition("/")
        return "@" in rest and _WITH_PORT.search(address) is not None
    return ":" in info and "@" in place


def _chained(url: str) -> list[str]:
    """Split a URL of chained file systems. Passwords and addresses may contain `::`, too."""
    found = _CHAIN.fullmatch(url)
    return [found[1], *_chained(found[2])] if found else [url]


def _safe_part(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not separator or scheme in ("file", "local"):
        return url
    info, place = _split(rest)
    user = info.partition(":")[0]
    known = _CONTAINER if scheme in _CONTAINER_SCHEMES else _USER
    shown = f"{user}@" if known.fullmatch(user) and scheme not in _TOKEN_SCHEMES else ""
    if is_ambiguous(url):
        return f"{scheme}://{shown}{MASK}"
    address, *more = re.split(r"[?#]", place, maxsplit=1)
    kept = [option for option in _options(more) if option.partition("=")[0] in _URL_OPTIONS]
    return f"{scheme}://{shown}{address}{'?' if kept else ''}{'&'.join(kept)}"


def _split(rest: str) -> tuple[str, str]:
    """Split the part after `://` into user info and the rest. A password may contain any character, even `@`, `/`."""
    authority = rest.partition("/")[0]
    before, at, _ = authority.rpartition("@")
    if at:
        return before, rest[len(before) + 1 :]
    _, colon, port = authority.partition(":")
    # If the password contains a slash, the authority seems to end there, but then its port is not a number.
    if colon and "@" in rest and not _PORT.fullmatch(colon + port):
        before, _, place = rest.rpartition("@")
        return before, place
    return "", rest


def _options(query: list[str]) -> list[str]:
    """Return the options of a query, if there is one. A fragment counts as one more option."""
    return re.split(r"[?&#]", query[0]) if query else []


def _secrets_of(url: str) -> Iterator[str]:
    scheme, separator, rest = url.partition("://")
    if not separator or scheme in ("file", "local"):
        return
    info, place = _split(rest)
    user, _, password = info.partition(":")
    yield password
    if f"{user}@" not in _safe_part(url):
        yield user
    for option in _options(re.split(r"[?#]", place, maxsplit=1)[1:]):
        name, _, value = option.partition("=")
        if name not in _URL_OPTIONS:
            yield value


def _is_harmless(name: str, value: object) -> bool:
    if name in _PLAIN:
        return value is None or isinstance(value, str | bool | int | float)
    return isinstance(value, str) and value in _HARMLESS_VALUES.get(name, ())


def _secrets(options: Mapping[str, Any]) -> Iterator[str]:
    """Yield everything in options that is not known to be harmless."""
    for name, value in options.items():
        if name in _GROUPS and isinstance(value, Mapping):
            yield from _secrets(value)
        elif not _is_harmless(name, value):
            shortest = 1 if name in _NAMED_SECRETS else _SHORTEST_SECRET
            yield from (secret for secret in _strings(value) if len(secret) >= shortest)
        elif isinstance(value, str):
            yield from _secrets_of(value)


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from _strings(list(value.values()))
    elif isinstance(value, list | tuple | set | frozenset):
        for each in value:
            yield from _strings(each)
    elif isinstance(value, bytes):
        yield value.decode(errors="replace")
    elif value is not None and not isinstance(value, bool):
        yield str(value)
