"""Conditions on versions, written as text: `metrics.loss < 0.1 and tags = 'best'`.

```text
condition  = all { "or" all }
all        = one { "and" one }
one        = "not" one | "(" condition ")" | field [ test ]
test       = ( "=" | "!=" | "<" | "<=" | ">" | ">=" | "like" | "ilike" ) value
           | [ "not" ] "in" "(" value { "," value } ")"
```

A *field* is a word, or anything in backquotes. A *value* is a string in quotes, or a word: a number, `true`, `false`,
`null`, or else a string. A field without a test must exist, and must not be false or empty. The text is data: it is
parsed here, and nothing in it is ever executed.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

from ..errors import InvalidArgument
from ..messages import hint, logger
from .metadata import finder
from .times import parse_time

TIMES = frozenset({"created_at", "expiry"})
"""Fields that are compared as points in time."""

_LENGTH = 10_000
"""The most characters of a condition: more than anybody types, and little to parse."""
_SHOWN = 100
"""The most characters of a condition, or of a word in it, in an error."""
_DEPTH = 50
"""The most parentheses and negations within each other, so that parsing needs little stack."""

_TOKEN = re.compile(
    r"""\s+|(?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")|`(?P<name>[^`]+)`|(?P<sign><=|>=|!=|==|<>|[=<>(),])"""
    r"""|(?P<word>[^\s'"`=<>!(),]+)"""
)
_NUMBER = re.compile(r"[-+]?(?:\d{1,300}(?:\.\d{0,300})?|\.\d{1,300})(?:[eE][-+]?\d{1,3})?")
_NAMED = {"true": True, "false": False, "null": None}
_MISSING = object()

Fields = Callable[[str], Any]
"""Returns the value of a field of one version, or `_MISSING`."""
Predicate = Callable[[Fields], bool]


@dataclass(frozen=True, slots=True)
class Literal:
    """A value in a condition: what it means, and how it was written. A quoted one means only its text."""

    value: Any
    text: str


class Condition:
    """A condition on the fields of a version.

    Args:
        text: The condition: see the module.

    Raises:
        InvalidArgument: The text cannot be parsed. The message says where.

    Example:
        >>> condition = Condition("loss < 0.1 and tags = 'best'")
        >>> condition.matches({"tags": ["best", "final"]}, {"loss": 0.05})
        True
    """

    def __init__(self, text: str) -> None:
        if not isinstance(text, str) or len(text) > _LENGTH:
            raise InvalidArgument(f"A condition must be a string of up to {_LENGTH:,} characters.")
        self.text = text
        parser = _Parser(text)
        self._predicate = parser.parse()
        self._names = tuple(dict.fromkeys(parser.names))

    def matches(self, fields: Mapping[str, Any], metadata: dict[str, Any]) -> bool:
        """Return whether a version meets the condition.

        Args:
            fields: The fields that every version has, by name.
            metadata: Its metadata, where all other fields are looked up.
        """
        return self._predicate(lambda name: _look_up(name, fields, metadata))

    def unknown_fields(self, versions: Iterable[tuple[Mapping[str, Any], dict[str, Any]]]) -> list[str]:
        """Return a sentence for each field of the condition that none of these versions has: it may be misspelt.

        Args:
            versions: The fields and the metadata of each version, as for `matches`.

        Example:
            >>> Condition("los < 0.1").unknown_fields([({"id": "a"}, {"loss": 0.05})])
            ["Nothing here has 'los'. Did you mean 'loss'?"]
        """
        missing, known = set(self._names), dict[str, None]()
        for fields, metadata in versions:
            missing = {name for name in missing if _look_up(name, fields, metadata) is _MISSING}
            if not missing:
                return []
            known |= dict.fromkeys((*fields, *_paths(metadata)))
        if not known:
            return []
        return [f"Nothing here has {name!r}. {hint(name, known)}" for name in self._names if name in missing]

    def warn_if_misspelt(self, versions: Iterable[tuple[Mapping[str, Any], dict[str, Any]]]) -> None:
        """Log a warning for each field that no version has. Call it if nothing was found.

        Args:
            versions: The fields and the metadata of each version, as for `matches`.
        """
        for remark in self.unknown_fields(versions):
            logger.warning("Nothing meets the condition %r. %s", self.text, remark)

    def __repr__(self) -> str:
        return f"Condition({self.text!r})"


def _look_up(name: str, fields: Mapping[str, Any], metadata: dict[str, Any]) -> Any:
    if name in fields:
        return fields[name]
    first, _, rest = name.partition(".")
    if first == "tags" and rest:  # tags.team is the value of a tag such as team=a
        found = [tag[len(rest) + 1 :] for tag in fields.get("tags", ()) if tag.startswith(f"{rest}=")]
        return found or _MISSING
    if first == "metadata" and rest:
        name = rest
    return finder(name, _MISSING)(metadata)


def _paths(metadata: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Yield the fields in metadata, with dots in those of nested dictionaries."""
    for key, value in metadata.items():
        yield f"{above}{key}"
        if isinstance(value, Mapping):
            yield from _paths(value, f"{above}{key}.")


class _Wanted:
    """Values one of which is wanted. Finding one takes the same time however many there are."""

    def __init__(self, literals: Sequence[Literal]) -> None:
        values = [one.value for one in literals]
        self._texts = {one.text for one in literals}
        self._numbers = {value for value in values if type(value) in (int, float)}
        self._flags = {value for value in values if isinstance(value, bool)}
        self._times = {value for value in values if isinstance(value, datetime)}
        self._times.update(parse_time(value) for value in values if isinstance(value, str) and _is_time(value))
        self._nothing = None in values

    def has_any(self, value: Any) -> bool:
        """Return whether a value, or one of a list, is wanted: as a value, or as it was written."""
        if value is None or value is _MISSING:
            return self._nothing
        return any(self._has(each) for each in _each(value))

    def _has(self, value: Any) -> bool:
        match value:
            case str():
                return value in self._texts
            case bool():  # not a number
                return value in self._flags
            case int() | float():
                return value in self._numbers
            case datetime():
                return value in self._times
        return False


class _Parser:
    """Parses one condition, from left to right."""

    def __init__(self, text: str) -> None:
        self.names: list[str] = []
        self._text = text
        self._tokens = self._split(text)
        self._at = 0
        self._depth = 0

    def parse(self) -> Predicate:
        """Return the whole text as a predicate."""
        predicate = self._condition()
        if self._at < len(self._tokens):
            self._refuse("there should be 'and', 'or' or the end")
        return predicate

    def _split(self, text: str) -> list[tuple[str, str]]:
        """Return the kind and the text of each token."""
        found, at = [], 0
        while at < len(text):
            token = _TOKEN.match(text, at)
            if token is None:
                raise self._refused(repr(text[at : at + 20]), "a quote is not closed, or a sign is unknown")
            if token.lastgroup:
                found.append((token.lastgroup, token[token.lastgroup]))
            at = token.end()
        return found

    def _refuse(self, expected: str) -> NoReturn:
        rest = repr(_shortened(self._tokens[self._at][1])) if self._at < len(self._tokens) else "its end"
        raise self._refused(rest, expected)

    def _refused(self, place: str, reason: str) -> InvalidArgument:
        return InvalidArgument(
            f"The condition {_shortened(self._text)!r} cannot be read at {place}: {reason}. Write it as in "
            "\"metrics.loss < 0.1 and tags = 'best'\"."
        )

    def _accept(self, *words: str) -> str | None:
        """Take the next token if it is one of these signs or keywords."""
        if self._at < len(self._tokens):
            kind, text = self._tokens[self._at]
            if kind in ("sign", "word") and text.lower() in words:
                self._at += 1
                return text.lower()
        return None

    def _condition(self) -> Predicate:
        parts = [self._all()]
        while self._accept("or"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else lambda fields: any(part(fields) for part in parts)

    def _all(self) -> Predicate:
        parts = [self._one()]
        while self._accept("and"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else lambda fields: all(part(fields) for part in parts)

    def _one(self) -> Predicate:
        self._depth += 1
        if self._depth > _DEPTH:
            self._refuse(f"more than {_DEPTH} parentheses are within each other")
        try:
            if self._accept("not"):
                inner = self._one()
                return lambda fields: not inner(fields)
            if self._accept("("):
                inner = self._condition()
                if not self._accept(")"):
                    self._refuse("there should be ')'")
                return inner
            return self._comparison()
        finally:
            self._depth -= 1

    def _comparison(self) -> Predicate:
        kind, name = self._tokens[self._at] if self._at < len(self._tokens) else ("", "")
        if kind not in ("word", "name") or (kind == "word" and name.lower() in ("and", "or", "not", "in")):
            self._refuse("there should be the name of a field")
        self._at += 1
        self.names.append(name)
        if self._accept("not"):
            if not self._accept("in"):
                self._refuse("there should be 'in'")
            listed = self._list(name)
            return lambda fields: (value := fields(name)) is not _MISSING and not listed.has_any(value)
        if self._accept("in"):
            listed = self._list(name)
            return lambda fields: listed.has_any(fields(name))
        if pattern := self._accept("like", "ilike"):
            like = _like(self._value("").text, pattern == "ilike")
            return lambda fields: any(isinstance(each, str) and like(each) for each in _each(fields(name)))
        sign = self._accept("=", "==", "!=", "<>", "<", "<=", ">", ">=")
        if sign is None:
            return lambda fields: _is_something(fields(name))
        wanted = self._value(name)
        only = _Wanted([wanted])
        if sign in ("=", "=="):
            return lambda fields: only.has_any(fields(name))
        if sign in ("!=", "<>"):
            return lambda fields: (value := fields(name)) is not _MISSING and not only.has_any(value)
        order = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}[sign]
        return lambda fields: any(_is_ordered(each, wanted, order) for each in _each(fields(name)))

    def _list(self, name: str) -> _Wanted:
        if not self._accept("("):
            self._refuse("there should be '(' and the values")
        listed = [self._value(name)]
        while self._accept(","):
            listed.append(self._value(name))
        if not self._accept(")"):
            self._refuse("there should be ',' or ')'")
        return _Wanted(listed)

    def _value(self, name: str) -> Literal:
        kind, text = self._tokens[self._at] if self._at < len(self._tokens) else ("", "")
        if kind not in ("text", "word"):
            self._refuse("there should be a value")
        if kind == "text":
            quote, text = text[0], text[1:-1]
            text = text.replace(quote * 2, quote)
        if name in TIMES and not (kind == "word" and text == "null"):
            try:
                literal = Literal(parse_time(text), text)
            except InvalidArgument:
                self._refuse("there should be a date or time, such as '2026-01-31T12:00'")
        elif kind == "text":
            literal = Literal(text, text)
        else:
            literal = Literal(_meaning(text), text)
        self._at += 1
        return literal


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _meaning(word: str) -> Any:
    if word.lower() in _NAMED:
        return _NAMED[word.lower()]
    if not _NUMBER.fullmatch(word):
        return word
    return int(word) if re.fullmatch(r"[-+]?\d+", word) else float(word)


def _is_something(value: Any) -> bool:
    """Return whether a value exists, and is neither false nor empty. Zero is a value."""
    return not any(value is nothing for nothing in (_MISSING, None, False)) and value not in ("", [], {}, ())


def _each(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]


def _is_ordered(value: Any, wanted: Literal, order: Callable[[Any, Any], bool]) -> bool:
    if isinstance(value, bool) or not _comparable(value, wanted.value):
        return False
    return bool(order(value, _as(value, wanted.value)))


def _comparable(value: Any, wanted: Any) -> bool:
    if isinstance(value, bool) or isinstance(wanted, bool):
        return isinstance(value, bool) and isinstance(wanted, bool)
    if isinstance(value, datetime):
        return isinstance(wanted, datetime) or (isinstance(wanted, str) and _is_time(wanted))
    return any(isinstance(value, kind) and isinstance(wanted, kind) for kind in (int | float, str))


def _as(value: Any, wanted: Any) -> Any:
    """Return what was written in the type of a value: a time in the metadata is compared as one."""
    return parse_time(wanted) if isinstance(value, datetime) and isinstance(wanted, str) else wanted


def _is_time(text: str) -> bool:
    try:
        parse_time(text)
    except InvalidArgument:
        return False
    return True


def _like(pattern: str, ignore_case: bool) -> Callable[[str], bool]:
    """Return a function that compares strings with a pattern, in which `%` is any string. Takes linear time."""
    fold: Callable[[str], str] = str.casefold if ignore_case else str
    first, *others = fold(pattern).split("%")

    def matches(text: str) -> bool:
        text = fold(text)
        if not others:
            return text == first
        *middle, last = others
        if not text.startswith(first) or not text.endswith(last) or len(text) < len(first) + len(last):
            return False
        at, end = len(first), len(text) - len(last)
        for part in middle:
            at = text.find(part, at, end)
            if at < 0:
                return False
            at += len(part)
        return True

    return matches
