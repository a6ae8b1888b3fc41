"""Functions whose fingerprints must be the same in every version of Python: see `test_fingerprint`."""

from __future__ import annotations

import abc
import collections
import enum
import functools
import itertools
import json
import math
import os
import re
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

T = typing.TypeVar("T")


class Colour(enum.Enum):
    RED = 1
    BLUE = enum.auto()

    def lower(self) -> str:
        return self.name.lower()


class Flags(enum.Flag):
    A = enum.auto()
    B = enum.auto()


class Text(enum.StrEnum):
    X = enum.auto()


@dataclass
class Point:
    x: int
    y: list[int] = field(default_factory=list)

    def norm(self) -> float:
        return math.hypot(self.x, len(self.y))


@dataclass(frozen=True, slots=True, order=True)
class Frozen:
    x: int = 3


class Pair(typing.NamedTuple):
    a: int
    b: str = "x"

    def both(self) -> Any:
        return self.a, self.b


Old = collections.namedtuple("Old", "a b")


class Options(typing.TypedDict, total=False):
    a: int


class Closing(typing.Protocol):
    def close(self) -> int: ...


class Generic(typing.Generic[T]):
    def same(self, x: T) -> T:
        return x


class Base(abc.ABC):
    @abc.abstractmethod
    def work(self) -> Any: ...

    @property
    def one(self) -> int:
        return 1

    @functools.cached_property
    def two(self) -> int:
        return 2


class Derived(Base):
    def work(self) -> Any:
        return super().one, {key: value + 1 for key, value in zip("ab", itertools.count(), strict=False)}


PATTERN = re.compile("a+")
ROOT = Path("/root")
CONSTANT = {"a": (1, 2.0), "b": frozenset({1})}


@functools.lru_cache
def cached(x: int) -> int:
    return x


def comprehensions(xs: list[int]) -> Any:
    n = 3
    return [x * n for x in xs if cached(x)], {y + 1 for y in xs}, (lambda z: z + n)(1)


def strings(x: Any, width: int = 3) -> str:
    return f"a{x!r:>{width}}bc{x=} {{}} {x:%Y-%m}" + f"{x['key']}"


def matching(x: Any) -> Any:
    match x:
        case {"a": [1, *rest]}:
            return rest
        case Point(x=0):
            return 1
        case _:
            return None


def globals_of_all_kinds(x: Any) -> Any:
    return PATTERN.match(str(x)), ROOT / "a", CONSTANT, os.path.join("a", "b"), json.dumps(x)


def closure(n: int) -> Any:
    def inner(x: Any) -> Any:
        class Local:
            value = n

            def method(self) -> Any:
                return globals_of_all_kinds(x)

        return Local().value

    return inner


async def waiting(x: Any) -> Any:
    async with x as y:
        return [z async for z in y]


def importing(x: Any) -> Any:
    import decimal
    from fractions import Fraction

    return decimal.Decimal(x), Fraction(1)


FUNCTIONS: dict[str, Any] = {
    "enum": lambda: Colour.RED.lower(),
    "flag": lambda: Flags.A | Flags.B,
    "string enum": lambda: Text.X,
    "dataclass": lambda: Point(1).norm(),
    "slots": lambda: Frozen(2),
    "named tuple": lambda: Pair(1).both(),
    "old named tuple": lambda: Old(1, 2),
    "typed dict": lambda: Options(a=1),
    "protocol": lambda: Closing,
    "generic": lambda: Generic[int]().same(1),
    "class": lambda: Derived().work(),
    "method": Point(1, [2]).norm,
    "partial": functools.partial(comprehensions, [1]),
    "built-in": len,
    "method of a built-in": str.upper,
    "closure": closure(3),
    **{f.__name__: f for f in (cached, comprehensions, strings, matching, globals_of_all_kinds, waiting, importing)},
}
