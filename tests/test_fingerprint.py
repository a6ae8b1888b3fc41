"""Fingerprints of functions: what must change one does, and nothing else: no comment, formatting, docstring or file."""

from __future__ import annotations

import ast
import dataclasses
import functools
import gc
import importlib.util
import math
import operator
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import jax
import numpy as np
import portable
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_snapshots.checkpoints.fingerprint import _parse, explain_fingerprint, fingerprint, label
from prefect_snapshots.errors import InvalidArgument, UnfingerprintableFunction

_modules = count()


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Callable[..., Any]]:
    """Writes a module and returns its `process`, from a new file each time."""
    root = tmp_path_factory.mktemp("sources")

    def load(source: str, name: str = "process", module: str = "sample") -> Any:
        path = root / f"file{next(_modules)}.py"
        path.write_text(textwrap.dedent(source))
        spec = importlib.util.spec_from_file_location(module, path)
        assert spec is not None
        assert spec.loader is not None
        made = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(made)
        return getattr(made, name)

    return load


BASE = """
    import math
    FACTOR = 2
    TABLE = {"a": [1, 2], "b": {3}}
    class Scaler:
        base = 10
        def __init__(self, by):
            self.by = by
        def scale(self, x):
            '''Scales.'''
            return x * self.by + self.base
    SCALER = Scaler(3)
    def deep(x):
        return x - 1
    def helper(x, *, step=1):
        return deep(x) + step
    def process(x, offset=5):
        '''Does it.'''
        total = 0
        for part in range(3):  # a loop
            total += part * FACTOR
        def inner(y):
            '''Inside.'''
            return y + 0.5
        return helper(inner(x)) + math.sqrt(total) + offset + SCALER.scale(len(TABLE))
"""

SAME = {
    "a comment": ("FACTOR = 2", "# twice\n    FACTOR = 2  # really"),
    "a docstring": ("'''Does it.'''", "'''Does it,\n        in two lines.'''"),
    "no docstring": ("'''Does it.'''", ""),
    "the docstring of an inner function": ("'''Inside.'''", ""),
    "the docstring of a method": ("'''Scales.'''", ""),
    "line breaks": (
        "return helper(inner(x)) + math",
        "return (\n            helper(\n                inner(x),\n            )\n            + math",
    ),
    "quotes": ('{"a": [1, 2], "b": {3}}', "{'a': [1, 2],\n        'b': {3,}}"),
    "the order of a dict": ('{"a": [1, 2], "b": {3}}', '{"b": {3}, "a": [1, 2]}'),
    "lines above": ("import math", "import math\n    import os\n\n\n    UNRELATED = os.sep"),
    "another function": ("def deep", "def unrelated(x):\n        return FACTOR * x\n    def deep"),
    "the spelling of a number": ("y + 0.5", "y + .50"),
}
OTHER = {
    "a constant": ("y + 0.5", "y + 0.25"),
    "the type of a constant": ("y + 0.5", "y + True"),
    "a default": ("offset=5", "offset=6"),
    "a default of a helper": ("step=1", "step=2"),
    "a helper": ("deep(x) + step", "deep(x) - step"),
    "a helper of a helper": ("x - 1", "x - 2"),
    "a global": ("FACTOR = 2", "FACTOR = 3"),
    "the type of a global": ("FACTOR = 2", "FACTOR = 2.0"),
    "the inside of a global": ("[1, 2]", "[1, 3]"),
    "the state of an object": ("Scaler(3)", "Scaler(4)"),
    "a method": ("x * self.by + self.base", "x * self.by - self.base"),
    "an attribute of a class": ("base = 10", "base = 11"),
    "a name": ("total += part", "total -= part"),
    "another standard function": ("math.sqrt", "math.exp"),
    "the order of a list": ("[1, 2]", "[2, 1]"),
}


@pytest.mark.parametrize(("old", "new"), SAME.values(), ids=SAME)
def test_does_not_change_it(load: Callable[..., Any], old: str, new: str) -> None:
    changed = BASE.replace(old, new)
    if new.startswith("return ("):
        changed = changed.replace("SCALER.scale(len(TABLE))", "SCALER.scale(len(TABLE))\n        )")
    assert changed != BASE
    assert fingerprint(load(changed)) == fingerprint(load(BASE))


@pytest.mark.parametrize(("old", "new"), OTHER.values(), ids=OTHER)
def test_changes_it(load: Callable[..., Any], old: str, new: str) -> None:
    assert old in BASE
    assert fingerprint(load(BASE.replace(old, new))) != fingerprint(load(BASE))


constants = st.integers(-5, 5) | st.booleans() | st.floats(-2, 2).map(lambda x: x + 0.0) | st.text("ab", max_size=2)
programs = st.fixed_dictionaries(
    {
        "factor": constants,
        "default": constants,
        "constant": constants,
        "captured": constants,
        "argument": constants,
        "operation": st.sampled_from(["+", "*"]),
    }
)

PROGRAM = """
    import functools
    FACTOR = {factor!r}
    def helper(x):
        return x {operation} FACTOR
    def make(captured):
        def inner(x, argument, default={default!r}):
            return helper(x), captured, {constant!r}, default, argument
        return inner
    process = functools.partial(make({captured!r}), argument={argument!r})
"""
NOISE = [
    lambda source: source.replace("def helper", "# comment\n\n    def helper"),
    lambda source: source.replace("return helper(x), ", "return helper(\n                x,\n            ), "),
    lambda source: source.replace("def helper(x):", "def helper(x):\n        '''Helps.'''"),
    lambda source: "\n\n" + source,
]


@given(programs, programs, st.lists(st.sampled_from(NOISE), unique=True))
def test_it_is_equal_exactly_when_the_meaning_is(
    load: Callable[..., Any], left: dict[str, Any], right: dict[str, Any], noise: list[Callable[[str], str]]
) -> None:
    noisy = PROGRAM.format(**right)
    for change in noise:
        noisy = change(noisy)
    same = {key: repr(value) for key, value in left.items()} == {key: repr(value) for key, value in right.items()}
    assert (fingerprint(load(PROGRAM.format(**left))) == fingerprint(load(noisy))) == same


def test_it_is_the_same_in_other_processes(load: Callable[..., Any], tmp_path: Path) -> None:
    source = tmp_path / "elsewhere.py"
    source.write_text(textwrap.dedent(BASE))
    code = f"""
import importlib.util
from prefect_snapshots.checkpoints.fingerprint import fingerprint
spec = importlib.util.spec_from_file_location("sample", {str(source)!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(fingerprint(module.process))
"""
    for seed in ("1", "2"):
        run = [sys.executable, "-c", code]
        done = subprocess.run(run, env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == fingerprint(load(BASE))


COUNTERS = {
    "by type(self)": "def __init__(self): type(self).count += 1",
    "by self.__class__": "def __init__(self): self.__class__.count += 1",
    "by an alias": "def __init__(self):\n            kind = type(self)\n            kind.count += 1",
    "by its name": "def __init__(self): Counted.count += 1",
    "in __new__": "def __new__(cls):\n            cls.count += 1\n            return object.__new__(cls)",
    "in a method that is called": "def __init__(self): self.note()\n        def note(self): type(self).count += 1",
    "in a list": "def __init__(self): self.seen.append(1)",
}
COUNTED = """
    class Counted:
        count, seen, scale = 0, [], 3
        {body}
    def process(x):
        return Counted().scale * x
"""


@pytest.mark.parametrize("body", COUNTERS.values(), ids=COUNTERS)
def test_what_a_class_counts_does_not_change_it(load: Callable[..., Any], body: str) -> None:
    process = load(COUNTED.format(body=body))
    before = fingerprint(process)
    process(1)
    assert fingerprint(process) == before
    other = COUNTED.replace("scale = 0, [], 3", "scale = 0, [], 4")
    assert fingerprint(load(other.format(body=body))) != before


@pytest.mark.parametrize(
    "body",
    [
        "def __init__(self): self.count += 1",
        "@classmethod\n        def load(cls): cls.count = 7",
    ],
)
def test_an_attribute_that_use_leaves_as_it_is_changes_it(load: Callable[..., Any], body: str) -> None:
    other = COUNTED.replace("scale = 0,", "scale = 1,")
    assert fingerprint(load(COUNTED.format(body=body))) != fingerprint(load(other.format(body=body)))


def test_functions_that_call_each_other(load: Callable[..., Any]) -> None:
    source = """
        def process(n):
            return n == 0 or odd(n - 1)
        def odd(n):
            return n != 0 and process(n - {})
    """
    assert fingerprint(load(source.format(1))) == fingerprint(load(source.format(1)))
    assert fingerprint(load(source.format(1))) != fingerprint(load(source.format(2)))


def make_lambdas() -> list[Callable[[int], int]]:
    return [lambda x: x + 1, lambda x: x + 2, lambda x: (lambda x: x + 1)(x), lambda x: x + 1]  # fmt: skip


def test_lambdas_on_one_line_are_told_apart() -> None:
    first, second, third, fourth = map(fingerprint, make_lambdas())
    assert first == fourth
    assert len({first, second, third}) == 3


class Adder:
    def __init__(self, by: int) -> None:
        self.by = by

    def __call__(self, x: int) -> int:
        return x + self.by

    def subtract(self, x: int) -> int:
        return x - self.by

    @staticmethod
    def same(x: int) -> int:
        return x


def scale(x: float, by: float) -> float:
    return x * by


def closure(by: Any) -> Callable[[Any], Any]:
    def add(x: Any) -> Any:
        return x + by

    return add


@functools.cache
def cached(x: int) -> int:
    return x


DISTINCT: list[Callable[..., Any]] = [
    *(len, max, math.sqrt, operator.itemgetter(1), operator.itemgetter(2), str, int, str.upper, "x".join, "y".join),
    *(np.sqrt, np.exp, np.array([1]).dot, re.compile("a").match, re.compile("b").match, re.sub, Adder, cached),
    *(Adder(1), Adder(2), Adder(1).subtract, Adder(2).subtract, Adder.same, scale, jax.jit(scale), jax.jit(closure(1))),
    *(functools.partial(scale, by=1), functools.partial(scale, by=2), functools.partial(scale, 1), closure(1)),
    *(closure(2), closure(1.0), closure(np.array([1])), closure([1]), closure(len), closure(threading.Lock())),
]


def test_whatever_can_be_called_has_one_of_its_own() -> None:
    assert len({fingerprint(function) for function in DISTINCT}) == len(DISTINCT)
    assert fingerprint(Adder(1)) == fingerprint(Adder(1))
    assert fingerprint(closure([1])) == fingerprint(closure([1]))


def test_what_a_function_changes_itself_is_not_its_meaning() -> None:
    seen: list[int] = []
    counts: dict[int, int] = {}
    total = 0

    def process(x: int) -> int:
        nonlocal total
        seen.append(x)
        counts[x] = counts.get(x, 0) + 1
        total += x
        return x

    before = fingerprint(process)
    process(1)
    process(2)
    assert fingerprint(process) == before


def test_a_version_stands_for_the_code() -> None:
    assert fingerprint(Adder(1), "v1") == fingerprint(scale, "v1")
    assert fingerprint(scale, "v1") != fingerprint(scale, "v2")
    assert fingerprint(scale, 1) != fingerprint(scale, "1")


def test_what_has_no_source_needs_a_version() -> None:
    scope: dict[str, Any] = {}
    exec("def made(x): return x", scope)
    with pytest.raises(UnfingerprintableFunction, match=r"made has no fingerprint: the source .* function_version="):
        fingerprint(scope["made"])
    assert fingerprint(scope["made"], "v1")


def test_what_has_no_content_is_named() -> None:
    with pytest.raises(UnfingerprintableFunction, match=r"add has no fingerprint: 'by', which it uses: a .*generator"):
        fingerprint(closure(number for number in range(3)))


def numbers(x: int) -> Any:
    yield x


async def async_numbers(x: int) -> Any:
    yield x


@pytest.mark.parametrize("function", [numbers, async_numbers, functools.partial(numbers, 1)])
def test_a_generator_function_is_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(InvalidArgument, match=r"generator function\. Its result can be read only once"):
        fingerprint(function)


def test_a_source_that_was_changed_since_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "changing.py"
    path.write_text("def process(x):\n    return x\n")
    spec = importlib.util.spec_from_file_location("changing", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    path.write_text("import os\n\n\ndef process(x):\n    return x\n")
    with pytest.raises(UnfingerprintableFunction, match="differs from the code that runs: it was edited"):
        fingerprint(module.process)


def test_a_parse_that_garbage_collection_disturbs_is_done_again() -> None:
    """The collector may run code that parses at another depth, which Python 3.11 takes for an error of the source."""
    source = "def f(x):\n" + "    x = [x, (x, {x: x})]\n" * 2000
    disturbed = 0

    def parse(depth: int) -> None:
        if depth:
            parse(depth - 1)
        else:
            ast.parse("y = 1")

    def disturb(phase: str, _: object) -> None:
        nonlocal disturbed
        if phase == "stop":
            disturbed += 1
            parse(20)

    thresholds = gc.get_threshold()
    gc.callbacks.append(disturb)
    gc.set_threshold(50)
    try:
        parsed = _parse(source)
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(disturb)
    assert disturbed
    assert gc.isenabled()
    assert len(parsed.body) == 1


def test_labels_are_the_names_of_functions() -> None:
    assert label(scale) == "test_fingerprint.scale"
    assert label(functools.partial(scale, by=1)) == "test_fingerprint.scale"
    assert label(Adder(1)) == "test_fingerprint.Adder"
    assert label(Adder(1).subtract) == "test_fingerprint.Adder.subtract"
    assert label(len) == "len"


SAME_EVERYWHERE = {
    "enum": "92410469",
    "flag": "f7f03744",
    "string enum": "f57d5d28",
    "dataclass": "f3f0d6e6",
    "slots": "ebc8ab2c",
    "named tuple": "e018db4a",
    "old named tuple": "6c170019",
    "typed dict": "9ed2cfa3",
    "protocol": "7623f530",
    "generic": "219d3e98",
    "class": "ca2df372",
    "method": "d656ada4",
    "partial": "8aac8a49",
    "built-in": "d54177e1",
    "method of a built-in": "7d2a0a51",
    "closure": "542f7c5e",
    "cached": "c123efac",
    "comprehensions": "f0567f23",
    "strings": "010c8f94",
    "matching": "3b752c27",
    "globals_of_all_kinds": "dca37a7a",
    "waiting": "9c379eb0",
    "importing": "41ea387b",
}


@pytest.mark.parametrize("name", portable.FUNCTIONS)
def test_it_is_the_same_in_every_version_of_python(name: str) -> None:
    """Another fingerprint here means that everything is computed again: in this version of Python, or everywhere."""
    assert fingerprint(portable.FUNCTIONS[name])[:8] == SAME_EVERYWHERE[name]


def test_what_a_flag_does_with_unknown_bits_counts(load: Callable[..., Any]) -> None:
    source = "import enum\nclass Access(enum.Flag{}):\n    READ = 1\ndef process(x):\n    return x | Access.READ"
    said = [fingerprint(load(source.format(f", boundary=enum.{name}"))) for name in ("KEEP", "EJECT", "KEEP")]
    assert said[0] == said[2] != said[1]
    assert fingerprint(load(source.format(""))) not in said


def test_a_fingerprint_is_explained(load: Callable[..., Any]) -> None:
    source = """
        import math, random
        import numpy as np
        OFFSET = {0}
        RNG = random.Random()
        class Cleaner:
            limit = 5
            def clean(self, x):
                return x + OFFSET
        def helper(x):
            return np.mean(x)
        def process(x):
            return helper(Cleaner().clean(math.sqrt(x))) + RNG.random()
    """
    one, other = (explain_fingerprint(load(source.format(offset))) for offset in (1, 2))
    assert one == explain_fingerprint(load(source.format(1)))
    module = load(source.format(1)).__module__
    found = {part.name.removeprefix(f"{module}."): (part.kind, part.detail) for part in one}
    assert found == {
        "process": ("code", ""),
        "process: RNG": ("state", "Random"),
        "helper": ("code", ""),
        "Cleaner: limit": ("value", "int"),
        "Cleaner.clean": ("code", ""),
        "Cleaner.clean: OFFSET": ("value", "int"),
        "math": ("version", "Python"),
        "numpy": ("version", np.__version__),
    }
    differing = {a.name for a, b in zip(one, other, strict=True) if a != b}
    assert {name.removeprefix(f"{module}.") for name in differing} == {"Cleaner.clean: OFFSET"}
    [part] = explain_fingerprint(len, "v1")
    assert (part.name, part.kind, part.detail) == ("function_version", "value", "'v1'")


def test_what_changes_an_enum_or_a_named_tuple_counts(load: Callable[..., Any]) -> None:
    source = """
        import enum, typing
        class Colour(enum.Enum):
            RED = {0}
            def lower(self):
                return self.name.lower() + "{1}"
        class Pair(typing.NamedTuple):
            a: int = {2}
            def both(self):
                return self.a, "{3}"
        def process(x):
            return Colour.RED.lower(), Pair().both()
    """
    made = [fingerprint(load(source.format(*values))) for values in np.eye(4, dtype=int).tolist()]
    assert len(set(made)) == 4
    assert made[0] == fingerprint(load(source.format(1, 0, 0, 0)))


# --- what use changes, and what it reaches -------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Writes a package `reached` whose `helpers` and `deep.inner` have given sources; returns its `process`."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def forget() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "reached"]:
            del sys.modules[name]
        importlib.invalidate_caches()

    def write(process: str, helpers: str = "", inner: str = "") -> Any:
        forget()
        root = tmp_path / f"version{next(_modules)}"
        (root / "reached" / "deep").mkdir(parents=True)
        monkeypatch.syspath_prepend(str(root))
        files = {"__init__": "", "helpers": helpers, "deep/__init__": "", "deep/inner": inner, "main": process}
        for name, source in files.items():
            (root / "reached" / f"{name}.py").write_text(textwrap.dedent(source))
        return importlib.import_module("reached.main").process

    yield write
    forget()


REACHING = {
    "a dotted import": "import reached.helpers\ndef process(x):\n    return reached.helpers.clean(x)",
    "two levels": "import reached.deep.inner\ndef process(x):\n    return reached.deep.inner.clean(x)",
    "a name": "import reached.helpers as h\ndef process(x):\n    return h.clean(x)",
    "a local import": "def process(x):\n    import reached.helpers\n    return reached.helpers.clean(x)",
    "a local import by another name": "def process(x):\n    import reached.helpers as h\n    return h.clean(x)",
    "a local import of a function": "def process(x):\n    from reached.helpers import clean\n    return clean(x)",
    "a local relative import": "def process(x):\n    from .helpers import clean as c\n    return c(x)",
    "a local import of a module": "def process(x):\n    from . import helpers\n    return helpers.clean(x)",
    "a constant": "import reached.helpers\ndef process(x):\n    return x + reached.helpers.OFFSET",
    "a class": "import reached.helpers\ndef process(x):\n    return reached.helpers.Cleaner().clean(x)",
    "an inner function": "import reached.helpers\ndef process(x):\n    return [reached.helpers.clean(y) for y in x]",
}
HELPERS = """
    OFFSET = {0}
    UNUSED = {1}
    def clean(x):
        return x + {0}
    class Cleaner:
        def clean(self, x):
            return x + {0}
"""


@pytest.mark.parametrize("way", REACHING)
def test_what_a_function_reaches_counts(package: Callable[..., Any], way: str) -> None:
    def made(matters: int, other: int) -> str:
        source = HELPERS.format(matters, other)
        return fingerprint(package(REACHING[way], source, source))

    assert made(1, 1) == made(1, 1)
    assert made(1, 1) != made(2, 1)
    if way != "a local import of a module":
        assert made(1, 1) == made(1, 2)


# Each is a module with one "$", which stands for 1 or 2, and a module `helpers` beside it.
MATTERS = {
    "a method whose name is that of a change": "from . import helpers\ndef process(x): return helpers.update(x)",
    "a local name of a module": "from . import helpers\ndef process(x):\n    h = helpers\n    return h.update(x)",
    "a module by getattr": "from . import helpers\ndef process(x): return getattr(helpers, 'update')(x)",
    "a module in a dict": "from . import helpers\nTABLE = {1: helpers}\ndef process(x): return TABLE[1].update(x)",
    "a module as a default": "from . import helpers\ndef process(x, h=helpers): return h.update(x)",
    "import_module": "import importlib as i\ndef process(x): return i.import_module('.helpers', 'reached').update(x)",
    "a name that a module makes": "from . import helpers\ndef process(x): return helpers.made(x)",
    "a method of another module": "from . import helpers\nclass A: m = helpers.update\ndef process(x): return A.m(x)",
    "globals": "K = $\ndef process(x): return globals()['K']",
    "eval": "K = $\ndef process(x): return eval('K')",
    "a class method": """
        class Store:
            @classmethod
            def add(cls, x): return x + $
        def process(x): return Store.add(x)
        """,
    "the code of an object that is changed": """
        class Sum:
            total = 0
            def add(self, x):
                self.total += $
        total = Sum()
        def process(x): return total.add(x)
        """,
    "a metaclass": "class M(type):\n    K = $\nclass A(metaclass=M): pass\ndef process(x): return A.K",
    "a decorator that is a class": """
        import functools
        class Decorator:
            def __init__(self, function):
                functools.update_wrapper(self, function)
            def __call__(self, x): return self.__wrapped__(x) + $
        @Decorator
        def process(x): return x
        """,
    "an attribute of a function": "def process(x): return x + process.rate\nprocess.rate = $",
    "a factory of a dataclass": """
        from dataclasses import dataclass, field
        @dataclass
        class A:
            b: list = field(default_factory=lambda: [$])
        def process(x): return A()
        """,
    "an option of a dataclass": """
        from dataclasses import dataclass, field
        @dataclass
        class A:
            b: int = field(compare=$ > 1)
        def process(x): return A(x) == A(2)
        """,
    "a made dataclass": """
        import dataclasses
        A = dataclasses.make_dataclass("A", [("b", int, $)])
        def process(x): return A()
        """,
    "what a pattern takes apart": """
        class A: __match_args__ = ("a", "b")[:$]
        def process(x):
            match x:
                case A(a): return a
        """,
    "a bound of a model": """
        import pydantic
        class A(pydantic.BaseModel):
            b: int = pydantic.Field(ge=$)
        def process(x): return A(b=x)
        """,
    "a model in a model": """
        import pydantic
        class A(pydantic.BaseModel):
            v: int = $
        class B(pydantic.BaseModel):
            a: list[A] | None
        def process(x): return B(a=x)
        """,
    "a validator in an annotation": """
        from typing import Annotated
        import pydantic
        class A(pydantic.BaseModel):
            b: Annotated[int, pydantic.AfterValidator(lambda v: v + $)]
        def process(x): return A(b=x)
        """,
    "a private attribute of a model": """
        import pydantic
        class A(pydantic.BaseModel):
            _b: int = $
        def process(x): return A()._b
        """,
    "a default of msgspec": "import msgspec\nclass A(msgspec.Struct):\n    b: int = $\ndef process(x): return A()",
    "a type of msgspec": """
        import msgspec
        class A(msgspec.Struct):
            b: (int, float)[$ - 1]
        def process(x): return msgspec.convert(x, A)
        """,
    "a decoder": "import msgspec\nD = msgspec.json.Decoder((int, float)[$ - 1])\ndef process(x): return D.decode(x)",
    "a hook of a decoder": """
        import msgspec
        D = msgspec.msgpack.Decoder(ext_hook=lambda code, data: $)
        def process(x): return D.decode(x)
        """,
    "an encoder": """
        import msgspec
        E = msgspec.json.Encoder(order=(None, "sorted")[$ - 1])
        def process(x): return E.encode(x)
        """,
    "a format": "import struct\nS = struct.Struct('<' + 'i' * $)\ndef process(x): return S.unpack(x)",
    "a constraint of msgspec": """
        import msgspec, typing
        class A(msgspec.Struct):
            b: typing.Annotated[int, msgspec.Meta(gt=$)] = 9
        def process(x): return msgspec.convert(x, A)
        """,
    "subclasses": """
        class A: pass
        class B(A):
            def go(self, x): return x + $
        def process(x): return [one().go(x) for one in A.__subclasses__()]
        """,
    "a cached property of attrs": """
        import attrs, functools
        @attrs.define
        class A:
            b: int
            @functools.cached_property
            def c(self): return self.b + $
        def process(x): return A(x).c
        """,
    "what a validated function does": """
        import msgspec, pydantic
        UNRELATED = msgspec.Meta()
        @pydantic.validate_call
        def f(x: int) -> int: return x + $
        def process(x): return f(x)
        """,
    "what a validated function takes": """
        import pydantic
        @pydantic.validate_call
        def f(x: (int, float)[$ - 1]): return x
        def process(x): return f(x)
        """,
    "an entry of a defaultdict": """
        from collections import defaultdict
        D = defaultdict(int, a=$)
        def process(x): return D[x]
        """,
    "an item of a dict that notes something": """
        class A(dict):
            def look(self, x):
                self.last = x
                return self[x]
        a = A(b=$)
        def process(x): return a.look(x)
        """,
    "what a constructor sets beside a cache": """
        class A:
            def __init__(self, b): self.b = b
            def __getattr__(self, name):
                setattr(self, name, 1)
                return 1
        a = A($)
        def process(x): return a.b + a.c
        """,
    "a static method": "g = staticmethod(lambda x: x + $)\ndef process(x): return g(x)",
}
USED = """
    def update(x):
        return x + $
    def __getattr__(name):
        if name == "made":
            return update
        raise AttributeError(name)
"""


@pytest.mark.parametrize("name", MATTERS)
def test_what_changes_the_outcome_counts(package: Callable[..., Any], name: str) -> None:
    def made(value: int) -> str:
        source = textwrap.dedent(MATTERS[name])
        return fingerprint(package(source.replace("$", str(value)), USED.replace("$", str(value))))

    assert made(1) == made(1)
    assert made(1) != made(2)


USES = {
    "passed on": "SEEN = []\ndef put(to, x): to.append(x)\ndef process(x): put(SEEN, x)",
    "a default that is passed on": "def put(to, x): to[x] = 1\ndef process(x, seen={}): put(seen, x)",
    "by another name": "SEEN = {}\ndef process(x):\n    seen = SEEN\n    seen[x] = 1",
    "read elsewhere": "SEEN = []\ndef process(x):\n    n = len(SEEN)\n    put(x)\ndef put(x): SEEN.append(x)",
    "made when it is needed": """
        MODEL = None
        def init():
            global MODEL
            MODEL = {"w": 1}
        def process(x):
            if MODEL is None:
                init()
            return MODEL["w"]
        """,
    "in another module": "from . import helpers\ndef process(x): helpers.last = x",
    "by functions of a library": "import heapq\nHEAP = []\ndef process(x): heapq.heappush(HEAP, x)",
    "in place": "import numpy as np\nA = np.zeros(2)\ndef process(x):\n    np.add(A, x, out=A)\n    A.fill(x)",
    "tensors": "import torch\nA = torch.zeros(2)\ndef process(x): A.add_(x)",
    "with slots": """
        from dataclasses import dataclass
        @dataclass(slots=True)
        class A:
            n: int = 0
            def add(self, x):
                self.n += x
        a = A()
        def process(x): add(x)
        def add(x): a.add(x)
        """,
    "of a model": """
        import pydantic
        class A(pydantic.BaseModel):
            n: int = 0
            _m: int = 0
            def count(self, x):
                self.n += x
                self._m += x
        a = A()
        def process(x): a.count(x)
        """,
    "of context": "import contextvars\nV = contextvars.ContextVar('v', default=0)\ndef process(x): V.set(V.get() + x)",
    "of a defaultdict that is read": "import collections as c\nD = c.defaultdict(list)\ndef process(x): return D[x]",
    "of a defaultdict of zeros": "import collections as c\nD = c.defaultdict(lambda: 0)\ndef process(x): return D[x]",
    "of an own list": """
        class A(list):
            def note(self, x): self.append(x)
        a = A()
        def process(x): a.note(x)
        """,
    "of a dict with a default": """
        class A(dict):
            def __missing__(self, x):
                self[x] = 1
                return 1
        a = A()
        def process(x): return a[x]
        """,
    "by subscription": """
        class A:
            def __init__(self): self.read = {}
            def __getitem__(self, x):
                self.read[x] = 1
                return 1
        a = A()
        def process(x): return a[x]
        """,
    "of attributes that nobody names": """
        class A:
            def __getattr__(self, name):
                if name.startswith("__"):
                    raise AttributeError(name)
                self.__dict__[name] = vars(self)["other"] = 1
                setattr(self, name + "_", 1)
                return 1
        a = A()
        def process(x): return a.found
        """,
    "a cached property of attrs": """
        import attrs, functools
        @attrs.define
        class A:
            b: int
            @functools.cached_property
            def c(self): return self.b + 1
        a = A(1)
        def process(x): return a.c
        """,
    "of weak references": """
        import weakref
        class A: pass
        ALIVE, BY_NAME, KNOWN, LAST = [], weakref.WeakValueDictionary(), weakref.WeakSet(), weakref.ref(A)
        def make(x):
            ALIVE.append(A())
            BY_NAME[x] = ALIVE[-1]
        def process(x):
            make(x)
            return x in BY_NAME, x in KNOWN, LAST()
        """,
    "of an executor": """
        from concurrent.futures import ThreadPoolExecutor
        pool = ThreadPoolExecutor(1)
        def process(x): return pool.submit(abs, x).result()
        """,
}


@pytest.mark.parametrize("name", USES)
def test_use_does_not_change_it(package: Callable[..., Any], name: str) -> None:
    function = package(USES[name], "last = None")
    before = fingerprint(function)
    for item in (1, 2):
        function(item)
    assert fingerprint(function) == before


def test_a_class_variable_of_a_dataclass_does_not_change_it(load: Callable[..., Any]) -> None:
    source = """
        from dataclasses import dataclass
        from typing import ClassVar
        @dataclass
        class A:
            n: ClassVar[int] = 0
        def process(x): return A()
    """
    function = load(source, "process")
    before = fingerprint(function)
    for field in function.__globals__["A"].__dataclass_fields__.values():
        field.kw_only = vars(dataclasses)["_MISSING_TYPE"]()  # it has another address in another process
    assert fingerprint(function) == before


def test_a_function_that_only_frompyfunc_knows_is_refused(load: Callable[..., Any]) -> None:
    made = load("import numpy as np\ng = np.frompyfunc(lambda x: x + 1, 1, 1)\ndef process(x): return g(x)", "process")
    with pytest.raises(UnfingerprintableFunction, match="'g', which it uses"):
        fingerprint(made)


STATEFUL = """
    import functools, itertools, random
    import numpy as np
    import pydantic

    class Model(pydantic.BaseModel):
        v: int = 1

    class Stats:
        def __init__(self):
            self.hits, self.limit, self._model = 0, 10, None
        def hit(self):
            self._note()
            return self.limit
        def _note(self):
            self.hits += 1
            self._model = object()
        @functools.cached_property
        def table(self):
            return list(range(self.limit))

    class Point:
        def __init__(self, x):
            self.x = x

    generator, old, plain = np.random.default_rng(), np.random.RandomState(), random.Random()
    numbers, items = itertools.count(), iter([1, 2, 3])
    stats, origin = Stats(), Point(1)

    def models(x):
        return Model(v=x).v
    def rolls(x):
        return x + generator.normal() + old.normal() + plain.random()
    def counts(x):
        return next(numbers) + next(items, 0)
    def hits(x):
        return stats.hit() + len(stats.table)
    def pickles(x):
        import copy
        return copy.copy(origin).x + x  # as pickling does, it leaves `__slotnames__` in the class

    class Seen:
        seen = []
        def __call__(self, x):
            self.seen.append(x)
            return x
    see = Seen()
    def once(x, seen=set(), *, cache={}, step=1):
        seen.add(x)
        cache[x] = x
        return x + step
    def classes(x):
        return see(x)
    def defaults(x):
        return once(x)
"""


@pytest.mark.parametrize("name", ["models", "rolls", "counts", "hits", "pickles", "classes", "defaults"])
def test_what_use_changes_does_not_count(load: Callable[..., Any], name: str) -> None:
    function = load(STATEFUL, name)
    before = fingerprint(function)
    for item in range(3):
        function(item)
    assert fingerprint(function) == before
    assert fingerprint(load(STATEFUL, name)) == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("models", "v: int = 1", "v: int = 2"),
        ("models", "v: int = 1", "v: int = 1; w: int = 3"),
        ("hits", "0, 10, None", "0, 11, None"),
        ("hits", "return self.limit", "return self.limit + 1"),
        ("pickles", "Point(1)", "Point(2)"),
        ("rolls", "plain.random()", "2 * plain.random()"),
        ("classes", "            return x\n", "            return 2 * x\n"),
        ("defaults", "seen=set()", "seen={1}"),
        ("defaults", "step=1", "step=2"),
    ],
)
def test_what_matters_beside_it_counts(load: Callable[..., Any], name: str, old: str, new: str) -> None:
    assert fingerprint(load(STATEFUL, name)) != fingerprint(load(STATEFUL.replace(old, new), name))


def test_random_generators_of_numpy_are_known_without_importing_them() -> None:
    code = "import prefect_snapshots.checkpoints.fingerprint, sys; print('numpy.random' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_model_that_was_fitted_counts(load: Callable[..., Any]) -> None:
    source = """
        class Model:
            def fit(self, weight):
                self.weight = weight
                return self
            def predict(self, x):
                return x * self.weight
        model = Model().fit({})
        def process(x):
            return model.predict(x)
    """
    assert fingerprint(load(source.format(1))) == fingerprint(load(source.format(1)))
    assert fingerprint(load(source.format(1))) != fingerprint(load(source.format(2)))


def test_functions_of_installed_packages_count_by_name_and_version() -> None:
    import jax.numpy as jnp
    import pandas as pd
    from sklearn.linear_model import LinearRegression

    model = LinearRegression().fit([[0.0], [1.0]], [0.0, 2.0])
    other = LinearRegression().fit([[0.0], [1.0]], [0.0, 3.0])
    functions: list[Callable[..., Any]] = [pd.read_csv, pd.read_json, jnp.sum, jnp.prod, model.predict, other.predict]
    assert [fingerprint(function) for function in functions] == [fingerprint(function) for function in functions]
    assert len({fingerprint(function) for function in functions}) == len(functions)


def wrapped(function: Any) -> Any:
    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        return function(*arguments)

    return call


class Decorated:
    """Its methods change it, and are wrapped by decorators."""

    def __init__(self, factor: int) -> None:
        self.factor = factor
        self.calls = self.cached = 0

    @wrapped
    def times(self, x: int) -> Any:
        self.calls += 1
        return self.factor * x

    @functools.lru_cache  # noqa: B019 - the object lives as long as the test
    def remembered(self, x: int) -> int:
        self.cached += 1
        return x

    def method(self, x: int) -> Any:
        return self.times(x) + self.remembered(x)


def test_what_decorated_methods_change_does_not_count_and_the_rest_is_named() -> None:
    one = Decorated(2)
    before = fingerprint(one.method)
    assert one.method(1) == 3
    assert (one.calls, one.cached) == (1, 1)
    assert fingerprint(one.method) == before
    assert fingerprint(Decorated(3).method) != before
    old, new = ({part.name: part.digest for part in explain_fingerprint(Decorated(n).method)} for n in (2, 3))
    assert {name.rpartition(": ")[2] for name in old if old[name] != new[name]} == {"self", "factor"}
