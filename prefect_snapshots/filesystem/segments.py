"""The paths of the file system: `KIND/NAME@VERSION/PATH`.

Names keep their slashes: the first `@` in a path ends the name. A version is always one component. What would have a
meaning in a path or a pattern is percent-encoded in names and versions: `% @ * ? [ ] \\ ::`, control characters, and
slashes in versions. `PATH` is as it is stored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from ..errors import PathNotFound

_SPECIAL = re.compile(r"[\x00-\x1f\x7f%@*?\[\]\\\ud800-\udfff]|:(?=:)")


@dataclass(frozen=True, slots=True)
class Reference:
    """A path that names a version.

    Attributes:
        kind: The first component, such as "artifacts".
        name: The name in its encoded form.
        version: The version, decoded.
        top: The path up to the version.
        inside: The path within the version. Empty for the version itself.
    """

    kind: str
    name: str
    version: str
    top: str
    inside: str


def parse_path(path: str) -> Reference | None:
    """Return the version that a path names, or None if it does not name one.

    Example:
        >>> parse_path("artifacts/vision/features@v3/part-0.parquet")
        ... # doctest: +NORMALIZE_WHITESPACE
        Reference(kind='artifacts', name='vision/features', version='v3', top='artifacts/vision/features@v3',
            inside='part-0.parquet')
        >>> parse_path("artifacts/vision") is None
        True
    """
    head, at, tail = path.partition("@")
    kind, slash, name = head.partition("/")
    if not at or not slash:
        return None
    version, _, inside = tail.partition("/")
    return Reference(kind, name, decoded(version), f"{head}@{version}", inside)


def encoded(name: str) -> str:
    """Return a name as it is written in paths.

    Example:
        >>> encoded("vision/a@b"), encoded("a/../b")
        ('vision/a%40b', 'a/%2E%2E/b')
    """
    return "/".join(map(component, name.split("/")))


def component(text: str) -> str:
    """Return any string as one component of a path that leads nowhere else.

    Example:
        >>> component("2026/1"), component(".."), component("")
        ('2026%2F1', '%2E%2E', '%')
    """
    if text in ("", ".", ".."):
        return "%2E" * len(text) or "%"
    return _SPECIAL.sub(_escape, text).replace("/", "%2F")


def decoded(text: str) -> str:
    """Return a name or a version from its form in paths.

    Raises:
        PathNotFound: It is no string: its percent-encoded bytes are not UTF-8.
    """
    try:
        return unquote(text, errors="surrogatepass")
    except UnicodeError:
        raise PathNotFound(
            f"There is nothing at {text!r}, whose percent-encoded bytes are not UTF-8. List what there is with "
            "`prefect-snapshots ls`."
        ) from None


def _escape(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass"))
