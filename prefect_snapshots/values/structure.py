"""The structure of a value: which containers hold which leaves.

A *branch* describes a container: its kind, its keys and its children, which are branches or *leaves* (everything that
is not a container). Live values and stored manifests give the same branches, so one implementation of paths, selection
and rebuilding serves both. A *kind* describes how to build containers of one type.

Containers are dict, OrderedDict, defaultdict of a built-in type, list, tuple, set, frozenset, deque, SimpleNamespace,
named tuples, dataclasses, and nodes registered with JAX. A list that occurs at two places becomes two branches. A
container inside itself is an error. Dataclasses are split by field, even if they are registered with JAX in another
way. A dataclass with other state than its fields, or with its own pickling, is a leaf. So is a dict or a set with keys
that are not plain.
"""

from __future__ import annotations

import copyreg
import dataclasses
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..errors import LeafError, StructureMismatch, UnserialisableLeaf
from ..messages import close_names, hint
from .arrays import loaded_jax
from .paths import components, matcher
from .scalars import (
    FROZENSET,
    TUPLE,
    WRITERS,
    Node,
    NotPlain,
    encode_node,
    key_text,
    kind_of,
    plain_node,
)
from .tensors import is_tensor_class

MAX_DEPTH = 200
"""How deep containers may nest. Deeper ones would reach Python's recursion limit."""

FACTORIES: dict[str, type] = {
    cls.__name__: cls for cls in (bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset)
}
"""The factories of a defaultdict that need no pickle."""


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """How to build containers of one type."""

    name: str
    code: int
    keyed: bool
    """Whether children have keys or field names. If not, they have positions."""
    fixed: bool
    """Whether a child that is not selected is replaced by `...`, because all others must keep their places. If not, it
    is left out."""
    join: Callable[[Any, Sequence[Any], list[Any]], Any]
    """Builds the container from `maker`, `names` and the children."""


LIST = Kind("list", 1, False, True, lambda _, __, children: children)
TUPLE_KIND = Kind("tuple", TUPLE, False, True, lambda _, __, children: tuple(children))
SET = Kind("set", 3, False, False, lambda _, __, children: set(children))
FROZENSET_KIND = Kind("frozenset", FROZENSET, False, False, lambda _, __, children: frozenset(children))
DEQUE = Kind("deque", 5, False, True, lambda maxlen, _, children: deque(children, maxlen))
DICT = Kind("dict", 6, True, False, lambda _, names, children: dict(zip(names, children, strict=True)))
ORDERED_DICT = Kind(
    "OrderedDict", 7, True, False, lambda attributes, names, children: _join_ordered(attributes, names, children)
)
DEFAULT_DICT = Kind(
    "defaultdict",
    8,
    True,
    False,
    lambda factory, names, children: defaultdict(factory, zip(names, children, strict=True)),
)
NAMESPACE = Kind(
    "SimpleNamespace",
    9,
    True,
    True,
    lambda _, names, children: SimpleNamespace(**dict(zip(names, children, strict=True))),
)
NAMED_TUPLE = Kind("namedtuple", 10, True, True, lambda cls, _, children: tuple.__new__(cls, children))
DATACLASS = Kind("dataclass", 11, True, True, lambda cls, names, children: _join_dataclass(cls, names, children))
REGISTERED = Kind("registered pytree node", 12, True, True, lambda made, _, children: made[1].unflatten(children))

KINDS: dict[int, Kind] = {
    kind.code: kind
    for kind in (
        LIST, TUPLE_KIND, SET, FROZENSET_KIND, DEQUE, DICT, ORDERED_DICT, DEFAULT_DICT, NAMESPACE, NAMED_TUPLE,
        DATACLASS, REGISTERED,
    )
}  # fmt: skip


@dataclass(slots=True, eq=False)
class Branch:
    """The description of a container."""

    kind: Kind
    keys: list[Node] | None
    """The nodes of the keys or field names, or None if children have positions."""
    children: list[Any]
    names: Sequence[Any] = ()
    """The keys themselves. For a stored branch, they are set when it is resolved."""
    maker: Any = None
    """The other argument of `kind.join`: a class, a factory or a length limit. For a stored branch, its form in the
    manifest until it is resolved."""

    def components(self) -> list[str]:
        """Return the path component of each child.

        Raises:
            ValueError, TypeError, ArithmeticError: The branch is stored and damaged.
        """
        if self.keys is None:
            return list(map(str, range(len(self.children))))
        return components([key_text(key) for key in self.keys], [kind_of(key) for key in self.keys])

    def keep(self, positions: list[int]) -> Branch:
        """Return the same container with only some of its children."""
        return Branch(
            self.kind,
            self.keys and [self.keys[position] for position in positions],
            [self.children[position] for position in positions],
            self.names and [self.names[position] for position in positions],
            self.maker,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Static:
    """A field that is registered with JAX as static, such as a function. It is part of the structure."""

    value: Any


PLACEHOLDER = Static(...)
"""Replaces a child of a fixed kind that was not selected."""


# --- live values ----------------------------------------------------------------------------------------------------


def iter_leaves(value: Any) -> Iterator[tuple[str, Any]]:
    """Return the leaves of a value in order, each with its path.

    If the value itself is a leaf, its path is the empty string.

    Raises:
        UnserialisableLeaf: A container contains itself, or containers nest too deeply.

    Example:
        >>> list(iter_leaves({"loss": 0.5, "layers": [1, 2]}))
        [('loss', 0.5), ('layers/0', 1), ('layers/1', 2)]
    """
    return iter(leaf_paths(outline(value)))


def map_leaves(fn: Callable[..., Any], value: Any, *rest: Any) -> Any:
    """Apply a function to the leaves of a value, or to the leaves of several values at the same paths.

    None and fields that are registered with JAX as static are part of the structure, as in JAX. They are taken from the
    first value and never passed to `fn`.

    Args:
        fn: Called with one leaf of each value.
        value: The first value, which determines the containers of the result.
        rest: More values with the same paths.

    Raises:
        StructureMismatch: A path is in one value, but not in another.
        UnserialisableLeaf: A container contains itself, or containers nest too deeply.

    Example:
        >>> map_leaves(lambda old, new: (old + new) / 2, {"w": 1.0, "b": [0.0]}, {"w": 3.0, "b": [1.0]})
        {'w': 2.0, 'b': [0.5]}
    """
    return map_leaves_with_path(lambda _, *row: fn(*row), value, *rest)


def map_leaves_with_path(fn: Callable[..., Any], value: Any, *rest: Any) -> Any:
    """Do the same as `map_leaves`, but pass the path of the leaves to `fn` as the first argument.

    Example:
        >>> map_leaves_with_path(lambda path, leaf: 0.0 if path.endswith("b") else leaf, {"w": 1.0, "b": 2.0})
        {'w': 1.0, 'b': 0.0}
    """
    shape = outline(value, static=True)
    first = dict(leaf_paths(shape))
    others = [dict(leaf_paths(outline(other, static=True))) for other in rest]
    for number, other in enumerate(others, start=2):
        same_paths(first, other, "value 1", f"value {number}")
    results = []
    for path, leaf in first.items():
        if type(leaf) is Static:
            results.append(leaf.value)
            continue
        row = [leaf, *(other[path] for other in others)]
        empty = [item is None for item in row]
        if any(empty) and not all(empty):
            raise StructureMismatch(path, "It is None in one value and something else in another.")
        results.append(None if all(empty) else fn(path, *row))
    return build(shape, iter(results))


def outline(value: Any, *, static: bool = False, registered: bool = True) -> Any:
    """Return a value as a tree of branches, or the value itself if it is a leaf.

    Args:
        value: Any object.
        static: Whether fields that are registered with JAX as static become `Static` leaves.
        registered: Whether nodes that only JAX can take apart are branches. If not, they are leaves.

    Raises:
        UnserialisableLeaf: A container contains itself, or containers nest too deeply.
    """
    try:
        return _outline(value, set(), static, registered)
    except _Endless as endless:
        raise UnserialisableLeaf("/".join(reversed(endless.trail)), endless.reason) from None


def split(value: Any) -> Branch | None:
    """Return the branch of one container, with its children as they are, or None for a leaf."""
    cls = type(value)
    splitter = _SPLITTERS.get(cls)
    if splitter is not None:
        return splitter(value)
    if cls in _LEAF_TYPES:
        return None
    record = record_of(cls)  # type: ignore[arg-type]
    if record is not None:
        return _split_record(value, *record)
    if is_tensor_class(cls):
        _LEAF_TYPES.add(cls)
        return None
    return _split_registered(value)


# --- branches, live or stored -----------------------------------------------------------------------------------------


def leaf_paths(item: Any) -> list[tuple[str, Any]]:
    """Return the leaves of a branch in order, each with its path."""
    found: list[tuple[str, Any]] = []
    _collect(item, "", found)
    return found


def leaves_of(item: Any) -> list[Any]:
    """Return the leaves of a branch in order."""
    if type(item) is not Branch:
        return [item]
    found: list[Any] = []
    for child in item.children:
        if type(child) is Branch:
            found += leaves_of(child)
        else:
            found.append(child)
    return found


def branches_of(item: Any) -> list[Branch]:
    """Return a branch and all branches below it."""
    if type(item) is not Branch:
        return []
    found = [item]
    for child in item.children:
        if type(child) is Branch:
            found += branches_of(child)
    return found


def path_of(root: Any, wanted: Any) -> str:
    """Return the path of the first place of a branch or leaf, found by identity."""
    stack = [("", root)]
    while stack:
        path, item = stack.pop()
        if item is wanted:
            return path.removesuffix("/")
        if type(item) is Branch:
            below = [(f"{path}{name}/", child) for name, child in zip(item.components(), item.children, strict=True)]
            stack += reversed(below)
    return ""


def select(root: Any, patterns: str | Sequence[str]) -> Any:
    """Return the part of a tree that leads to the leaves with matching paths.

    An empty container counts as a leaf. See `paths.matcher` for patterns.

    Raises:
        LeafError: No path matches.
    """
    given = [patterns] if isinstance(patterns, str) else list(patterns)
    chosen = prune(root, matcher(given))
    if chosen is PLACEHOLDER:
        paths = [path for path, _ in leaf_paths(root)]
        below = [f"{pattern}/**" for pattern in given if any(path.startswith(f"{pattern}/") for path in paths)]
        advice = f"Did you mean {' or '.join(map(repr, below))}?" if below else hint(", ".join(given), paths)
        raise LeafError(", ".join(given), f"No leaf has such a path. {advice}")
    return chosen


def prune(root: Any, keep: Callable[[str], bool], *, own: bool = False) -> Any:
    """Return the part of a tree that leads to the leaves with paths to keep; `PLACEHOLDER` if there are none.

    Args:
        root: The tree.
        keep: Whether to keep the leaf of a path.
        own: Whether other children of kinds with fixed children keep their own values. If not, they are `PLACEHOLDER`.
    """
    return _prune(root, "", keep, own)


def build(item: Any, leaves: Iterator[Any]) -> Any:
    """Build the value of a tree, with new leaves in the order of `leaves_of`."""
    if type(item) is not Branch:
        return next(leaves)
    children = []
    for child in item.children:
        children.append(build(child, leaves) if type(child) is Branch else next(leaves))
    return item.kind.join(item.maker, item.names, children)


def same_paths(
    expected: Collection[str], found: Collection[str], expected_name: str, found_name: str, advice: str = ""
) -> None:
    """Check that two collections contain the same paths. If not, `advice` is the end of the message.

    Raises:
        StructureMismatch: A path is in one collection, but not in the other.
    """
    for some, others, here, there in (
        (expected, found, expected_name, found_name),
        (found, expected, found_name, expected_name),
    ):
        for path in some:
            if path not in others:
                near = close_names(path, others)
                has = f", which has {', '.join(map(repr, near))}" if near else ""
                raise StructureMismatch(path, f"It is in {here}, but not in {there}{has}.{advice}")


# --- helpers ----------------------------------------------------------------------------------------------------------


class _Endless(Exception):
    """Containers nest too deeply. `trail` collects the path components, the innermost first."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.trail: list[str] = []


def _outline(value: Any, around: set[int], static: bool, registered: bool) -> Any:
    branch = split(value)
    if branch is None or (branch.kind is REGISTERED and not registered):
        return value
    if id(value) in around:
        raise _Endless("This container contains itself. Only pickle could store it.")
    if len(around) == MAX_DEPTH:
        raise _Endless(f"Containers nest more than {MAX_DEPTH} levels deep.")
    around.add(id(value))
    if static and branch.kind is DATACLASS:
        _mark_static(value, branch)
    children = branch.children
    for position, child in enumerate(children):
        if type(child) not in _LEAF_TYPES:
            try:
                children[position] = _outline(child, around, static, registered)
            except _Endless as endless:
                endless.trail.append(branch.components()[position])
                raise
    around.discard(id(value))
    return branch


def _collect(item: Any, prefix: str, found: list[tuple[str, Any]]) -> None:
    if type(item) is not Branch:
        found.append((prefix.removesuffix("/"), item))
        return
    for name, child in zip(item.components(), item.children, strict=True):
        if type(child) is Branch:
            _collect(child, f"{prefix}{name}/", found)
        else:
            found.append((prefix + name, child))


def _prune(item: Any, prefix: str, keep: Callable[[str], bool], own: bool) -> Any:
    if type(item) is not Branch or not item.children:
        return item if keep(prefix.removesuffix("/")) else PLACEHOLDER
    named = zip(item.components(), item.children, strict=True)
    children = [_prune(child, f"{prefix}{name}/", keep, own) for name, child in named]
    positions = [position for position, child in enumerate(children) if child is not PLACEHOLDER]
    if not positions:
        return PLACEHOLDER
    if item.kind.fixed:
        positions = list(range(len(children)))
        if own:
            pairs = zip(item.children, children, strict=True)
            children = [_as_static(before) if child is PLACEHOLDER else child for before, child in pairs]
    pruned = item.keep(positions)
    pruned.children = [children[position] for position in positions]
    return pruned


def _as_static(item: Any) -> Any:
    """Return a live tree whose leaves are `Static`, so that it is built again as it is."""
    if type(item) is not Branch:
        return item if type(item) is Static else Static(item)
    found = item.keep(list(range(len(item.children))))
    found.children = [_as_static(child) for child in item.children]
    return found


# --- one function for each type of container --------------------------------------------------------------------------


def _keyed(kind: Kind, names: list[Any], children: list[Any], maker: Any = None) -> Branch | None:
    try:
        keys = [name if type(name) is str and name.isascii() else plain_node(name) for name in names]
    except NotPlain:
        return None
    return Branch(kind, keys, children, names, maker)


def _split_ordered(value: OrderedDict[Any, Any]) -> Branch | None:
    attributes = vars(value) or None
    try:
        plain_node(plain_form(attributes))
    except NotPlain:
        return None
    return _keyed(ORDERED_DICT, list(value), list(value.values()), attributes)


def _join_ordered(attributes: dict[str, Any] | None, names: Sequence[Any], children: list[Any]) -> Any:
    made = OrderedDict(zip(names, children, strict=True))
    if attributes is not None:
        vars(made).update(attributes)
    return made


_FORMS: dict[type, int] = {dict: 1, OrderedDict: 2, list: 3, tuple: 4}


def plain_form(attributes: Any) -> Any:
    """Return attributes of a container as nested tuples, such as the `_metadata` of a state dict of PyTorch.

    Raises:
        NotPlain: An object in them has attributes, too.
    """
    code = _FORMS.get(type(attributes))
    if code is None:
        return attributes
    if code == 2 and vars(attributes):
        raise NotPlain
    parts = (part for pair in attributes.items() for part in pair) if code < 3 else attributes
    return code, *map(plain_form, parts)


def attributes_of(form: Any) -> Any:
    """Return the attributes that `plain_form` has converted.

    Raises:
        ValueError, TypeError: The form is damaged.
    """
    if type(form) is not tuple:
        return form
    code, *parts = form
    made = [attributes_of(part) for part in parts]
    if code == 4:
        return tuple(made)
    if code == 3:
        return made
    if code not in (1, 2):
        raise ValueError(f"{code!r} is no form of attributes")
    return (dict if code == 1 else OrderedDict)(zip(made[::2], made[1::2], strict=True))


def _split_defaultdict(value: defaultdict[Any, Any]) -> Branch | None:
    factory: Any = value.default_factory
    if factory is not None and FACTORIES.get(getattr(factory, "__name__", "")) is not factory:
        return None
    return _keyed(DEFAULT_DICT, list(value), list(value.values()), factory)


def _split_set(kind: Kind, value: Collection[Any]) -> Branch | None:
    try:
        nodes = [(encode_node(plain_node(item)), item) for item in value]
    except NotPlain:
        return None
    nodes.sort(key=lambda pair: pair[0])
    return Branch(kind, None, [item for _, item in nodes])


_SPLITTERS: dict[type, Callable[[Any], Branch | None]] = {
    list: lambda value: Branch(LIST, None, list(value)),
    tuple: lambda value: Branch(TUPLE_KIND, None, list(value)),
    set: lambda value: _split_set(SET, value),
    frozenset: lambda value: _split_set(FROZENSET_KIND, value),
    deque: lambda value: Branch(DEQUE, None, list(value), (), value.maxlen),
    dict: lambda value: _keyed(DICT, list(value), list(value.values())),
    OrderedDict: _split_ordered,
    defaultdict: _split_defaultdict,
    SimpleNamespace: lambda value: _keyed(NAMESPACE, list(vars(value)), list(vars(value).values())),
}
_LEAF_TYPES: set[type] = {*WRITERS, bytearray, np.ndarray, np.memmap, Static}
"""The types that are always leaves. Those of JAX arrays and tensors are added when the first one is encountered."""


@lru_cache(maxsize=1024)
def record_of(cls: type) -> tuple[Kind, tuple[str, ...]] | None:
    """Return the kind and the fields of a named tuple or dataclass that has no other state, or else None."""
    if any(getattr(cls, hook) is not getattr(object, hook) for hook in ("__reduce__", "__reduce_ex__")):
        return None
    if cls in copyreg.dispatch_table or not all(
        base.__flags__ & _HEAP_TYPE for base in cls.__mro__[:-1] if base is not tuple
    ):
        return None
    if issubclass(cls, tuple):
        fields: Any = getattr(cls, "_fields", None)
        named = type(fields) is tuple and all(type(name) is str for name in fields)
        return (NAMED_TUPLE, fields) if named else None
    state_hooks = (getattr(cls, hook, None) for hook in ("__getstate__", "__setstate__", "__getnewargs_ex__"))
    if not dataclasses.is_dataclass(cls) or not all(map(_is_default_hook, state_hooks)):
        return None
    return DATACLASS, tuple(field.name for field in dataclasses.fields(cls))


_HEAP_TYPE = 1 << 9
"""CPython's flag for classes that are written in Python. Others may have state that is not in their fields."""


def _is_default_hook(hook: Any) -> bool:
    # dataclasses adds these hooks to frozen classes with slots
    return hook is None or hook is object.__getstate__ or hook.__module__ == "dataclasses"


def _split_record(value: Any, kind: Kind, fields: tuple[str, ...]) -> Branch | None:
    names = list(fields)
    if kind is NAMED_TUPLE:
        whole = len(value) == len(fields) and not getattr(value, "__dict__", None)
        return Branch(kind, names, list(tuple.__iter__(value)), names, type(value)) if whole else None
    state: Any = object.__getstate__(value) or {}
    if type(state) is tuple:
        state = (state[0] or {}) | state[1]
    if state.keys() != set(fields):
        return None
    return Branch(kind, names, [state[name] for name in fields], names, type(value))


def _join_dataclass(cls: type, names: Sequence[str], children: list[Any]) -> Any:
    """Set the fields of a new object without running its `__init__`."""
    made: Any = object.__new__(cls)
    for name, child in zip(names, children, strict=True):
        object.__setattr__(made, name, child)
    return made


def _split_registered(value: Any) -> Branch | None:
    """Return the branch of a node that is registered with JAX, or None. JAX is not imported."""
    jax = loaded_jax()
    if jax is None or isinstance(value, tuple):
        return None
    if isinstance(value, jax.Array):
        _LEAF_TYPES.add(type(value))
        return None
    pairs, treedef = jax.tree_util.tree_flatten_with_path(value, is_leaf=lambda item: item is not value)
    if len(pairs) == 1 and jax.tree_util.treedef_is_leaf(treedef):
        return None
    texts = [jax.tree_util.keystr(path, simple=True) for path, _ in pairs]
    keys = texts if len(set(texts)) == len(texts) else list(map(str, range(len(texts))))
    cls = type(value)
    return Branch(
        REGISTERED, keys, [child for _, child in pairs], keys, (f"{cls.__module__}:{cls.__qualname__}", treedef)
    )


def _mark_static(value: Any, branch: Branch) -> None:
    registered = _split_registered(value)
    dynamic = registered.names if registered else branch.names
    if set(dynamic) <= set(branch.names):
        named = zip(branch.names, branch.children, strict=True)
        branch.children = [child if name in dynamic else Static(child) for name, child in named]
