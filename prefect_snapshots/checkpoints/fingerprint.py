"""Fingerprints of functions: they are equal as long as the meaning of a function is the same.

Included are its code, constants, defaults, closure, the arguments of a partial, the state of a callable object, the
globals that it uses (`helpers.clean`, `package.helpers.clean`), its imports, and, recursively, the functions and
classes of its own package that it uses. Comments, formatting, docstrings, file names and line numbers are ignored. Code
is compared as a syntax tree, because byte code differs with line breaks and between versions of Python.

Code with a *version* (packages installed from an index) is represented by its name and version, and the standard
library only by name, so that a fingerprint is the same in every version of Python.

Objects that change during use are state, not meaning, so only their type and its code are included: objects that the
function itself changes (`seen.append(x)`, `counts[x] += 1`, `global total`) or passes to a function that does,
attributes or items that methods of your classes change, random generators, locks, iterators, weak references, cached
properties, and entries of a `defaultdict` that reading adds.

If a function uses a module otherwise than for its attributes, as in `run(helpers)`, all code of the module is included.
"""

from __future__ import annotations

import ast
import builtins
import concurrent.futures
import contextlib
import contextvars
import dataclasses
import dis
import functools
import gc
import importlib.metadata
import importlib.util
import inspect
import itertools
import linecache
import os
import queue
import random
import sys
import sysconfig
import threading
import types
import typing
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, Flag
from functools import partial
from typing import Any, Literal, NamedTuple, TypeGuard

from blake3 import blake3

from ..errors import InvalidArgument, UnfingerprintableFunction
from ..values.classes import SCRIPT, SCRIPT_MODULES
from .canonical import Canon, Unhashable, canonical, module_of


def fingerprint(function: Callable[..., Any], version: object = None) -> str:
    """Return the fingerprint of a function: 32 hexadecimal digits.

    Args:
        function: A function, lambda, method, partial, built-in or callable object.
        version: Identifies the code instead of its source. Pass another value whenever the results would change.
            Default: None, use the source.

    Raises:
        UnfingerprintableFunction: The source of the function or of something that it uses is not available. Pass a
            version.
        InvalidArgument: It is a generator function.

    Example:
        >>> fingerprint(len) == fingerprint(len)
        True
        >>> fingerprint(len) == fingerprint(max)
        False
    """
    return parts_of(function, version)[0]


def parts_of(function: Callable[..., Any], version: object = None) -> tuple[str, list[FingerprintPart]]:
    """Return the fingerprint of a function, and what it includes."""
    if inspect.isgeneratorfunction(inspect.unwrap(function)) or inspect.isasyncgenfunction(inspect.unwrap(function)):
        raise InvalidArgument(
            f"{label(function)} is a generator function. Its result can be read only once, so it cannot be stored. "
            "Return a list instead."
        )
    try:
        if version is None:
            form, parts = _form(function)
        else:
            form = canonical(["version", version])
            parts = [FingerprintPart("function_version", "value", repr(version), _digest(form))]
    except Unhashable as error:
        raise UnfingerprintableFunction(label(function), str(error)) from error.__cause__
    return blake3(form).hexdigest(16), parts


@dataclass(frozen=True, slots=True)
class FingerprintPart:
    """One thing that a fingerprint includes.

    Attributes:
        name: The function, class or package, or the function and the name that it uses, as in `pipeline.embed: MODEL`.
        kind: "code"; "version" for code that is included by its version only; "value"; "state" for an object that
            changes during use, of which only the type is included.
        detail: The version, or the type of a value.
        digest: Hexadecimal digits that change when this part changes.
    """

    name: str
    kind: Literal["code", "version", "value", "state"]
    detail: str
    digest: str


def explain_fingerprint(function: Callable[..., Any], version: object = None) -> list[FingerprintPart]:
    """Return what the fingerprint of a function includes, sorted by name.

    Args:
        function, version: As for `fingerprint`.

    Raises:
        UnfingerprintableFunction, InvalidArgument: As for `fingerprint`.

    Example:
        >>> import functools
        >>> [(part.name, part.kind, part.detail) for part in explain_fingerprint(functools.partial(round, ndigits=2))]
        [('builtins.round', 'version', 'Python')]
    """
    return parts_of(function, version)[1]


def label(function: Callable[..., Any]) -> str:
    """Return the module and name of a function, for messages and as the default name of its checkpoints."""
    while isinstance(function, partial):
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    module = module_of(named)
    name: str = named.__qualname__
    return name if module in ("", SCRIPT, "builtins") else f"{module}.{name}"


def _form(function: Callable[..., Any]) -> tuple[bytes, list[FingerprintPart]]:
    package, state = _package(function), set[tuple[int, str, bool]]()
    while True:
        walk = _Walk(package, frozenset(state))
        walk.called(function, ())
        form = canonical(function, walk.special)
        if walk.state <= state:
            return form, sorted(walk.parts.values(), key=lambda part: part.name)
        state |= walk.state  # what one function changes may be read by another one, which was written before


def _digest(form: bytes | bytearray) -> str:
    return blake3(form).hexdigest(8)


class _Walk:
    """A walk through everything that a function uses. An object that was already visited is written as its number."""

    def __init__(self, package: str, known: frozenset[tuple[int, str, bool]]) -> None:
        self._package = package
        self._known = known
        """Globals that functions change, found by an earlier walk: the id of their module's dict, their name, and
        whether they are assigned."""
        self.state: set[tuple[int, str, bool]] = set()
        """Those that this walk has found."""
        self._changed_attributes: dict[int, set[str]] = {}
        """The attributes of a class that functions change, by its id."""
        self._called: dict[int, set[str]] = {}
        """The methods of an object that are called, by its id."""
        self._numbers: dict[int, int] = {}
        self._alive: list[Any] = []
        self.parts: dict[str, FingerprintPart] = {}
        self._whole_modules: set[int] = set()
        self._inside = ""
        """The function or class whose parts are being written."""

    def special(self, value: Any, canon: Canon) -> bool:
        """Write functions, classes, modules and their parts."""
        writer = next((write for kinds, write in _WRITERS if isinstance(value, kinds)), None)
        if writer is None and _is_state(value):
            writer = _Walk.by_type
        if writer is None:
            if callable(value) and not self._own(value) and _can_be_found(value):
                self._version(value, canon)  # such as a compiled function of a library: `jnp.sum`
                return True
            wrapped = getattr(value, "__wrapped__", None)
            if wrapped is not None and callable(value) and not hasattr(type(value), "__wrapped__"):
                canon.sequence(b"w", [type(value).__qualname__, wrapped])
                if self._own(type(value)):
                    self._decorator(value, canon)
                return True
            if isinstance(value, staticmethod | classmethod):
                canon.sequence(b"w", [type(value).__qualname__, value.__func__])
                return True
            if special := _SPECIAL.get((type(value).__module__, type(value).__name__)):
                special(self, value, canon)
                return True
            if self._own(type(value)):
                canon.write(type(value))
                return self._without_state(value, canon)
            return False
        number = self._numbers.get(id(value))
        if number is not None:
            canon.sequence(b"#", [number])
            return True
        self._numbers[id(value)] = len(self._numbers)
        self._alive.append(value)  # so that its id is not reused
        writer(self, value, canon)
        return True

    def called(self, value: Any, methods: Iterable[str]) -> None:
        """Note that methods of an object are called. Calling the object itself is one of them."""
        if isinstance(value, types.ModuleType | types.FunctionType):
            return
        for each in (value,) if isinstance(value, type) else (value, type(value)):
            self._called.setdefault(id(each), {*_IMPLICIT}).update(methods)
            self._alive.append(each)

    # --- objects ------------------------------------------------------------------------------------------------------

    def function(self, value: types.FunctionType, canon: Canon) -> None:
        if not self._own(value) and _can_be_found(value):
            self._version(value, canon)
            return
        with self._in(label(value)):
            self._function(value, canon)

    def _function(self, value: types.FunctionType, canon: Canon) -> None:
        node = _definition(value)
        code = value.__code__
        own, chains, paths = self._own(value), _chains(node), _changed_paths(node)
        cells = zip(code.co_freevars, value.__closure__ or (), strict=True)
        known = {name: cell.cell_contents for name, cell in cells if not _is_empty(cell)}
        changed = _changed_by(node) | self._changed_by_called(node, {**value.__globals__, **known})
        start = len(canon.out)
        canon.text(b"S", _source_form(node))
        canon.sequence(b"D", _defaults(value, changed))
        self._part(self._inside, "code", "", canon.out[start:])
        for name in code.co_freevars:
            if name not in known:  # a variable of the enclosing function that has no value yet
                canon.text(b"s", name)
                canon.text(b"?", name)
            else:
                self._variable(known[name], name, node, name in changed, canon)
        if not own:
            self._version(value, canon)  # defined inside an installed function, whose code has a version
            return
        scope, names = value.__globals__, _global_names(code)
        rebound = _rebound(node)
        self.state.update((id(scope), name, name in rebound) for name in (names | rebound) & changed if name in scope)
        for name in sorted(names | (rebound & scope.keys())):
            if name in rebound or (id(scope), name, True) in self._known:
                canon.text(b"?", name)  # its value and its type are state
                self._part(f"{self._inside}: {name}", "state", "global", b"")
            elif name in scope:
                self._variable(
                    scope[name], name, node, name in changed or (id(scope), name, False) in self._known, canon
                )
            elif not hasattr(builtins, name):
                canon.text(b"?", name)
        if any(name in _ANY_NAME and name not in scope for name in names):
            self._whole(sys.modules.get(scope.get("__name__", "")), canon)  # it may use any of the globals
        self._imports(value, node, chains, paths, canon)

    def method(self, value: types.MethodType, canon: Canon) -> None:
        canon.text(b"s", "method")
        self.called(value.__self__, [value.__name__])
        canon.write(value.__func__)
        start = len(canon.out)
        canon.write(value.__self__)
        if not isinstance(value.__self__, type):
            self._part(f"{label(value)}: self", "value", type(value.__self__).__name__, canon.out[start:])

    def partial(self, value: partial[Any], canon: Canon) -> None:
        canon.text(b"s", "partial")
        for part in (value.func, value.args, value.keywords):
            canon.write(part)

    def builtin(self, value: Any, canon: Canon) -> None:
        self._version(value, canon)
        owner = getattr(value, "__self__", None)
        if owner is not None and not isinstance(owner, types.ModuleType | type):
            canon.write(owner)

    def klass(self, value: type, canon: Canon) -> None:
        if not self._own(value):
            self._version(value, canon)
            return
        with self._in(label(value)):
            self._class(value, canon)

    def _class(self, value: type, canon: Canon) -> None:
        canon.text(b"s", f"class {value.__qualname__}")
        canon.write(value.__bases__)
        members: Mapping[str, Any] = vars(value)
        if issubclass(value, Enum):
            # How members are kept in a class differs between versions of Python.
            for name, one in value.__members__.items():
                self._name(name, partial(getattr, one, "_value_"), False, canon)
            # So does what a flag does with unknown bits, unless the class says it.
            said = vars(value).get("_boundary_") is not getattr(value.__bases__[-1], "_boundary_", None)
            noise = _ENUM_NOISE if said else _ENUM_NOISE | {"_boundary_"}
            members = _without(members, {"_value2member_map_", *value.__members__, *noise})
        elif issubclass(value, tuple):
            members = _without(members, getattr(value, "_fields", ()))  # `_fields` itself is a member
        if type(value) is not type and self._own(type(value)):
            canon.write(type(value))
        self._fields(value, canon)
        for name, function in sorted(_cached_properties(value).items()):
            canon.text(b"s", name)
            canon.write(function)
        state = _state_of_class(value, self._called.get(id(value), ())) | self._changed_attributes.get(id(value), set())
        for name, member in sorted(members.items()):
            if name in _CLASS_NOISE or name in state or name.startswith("__pydantic_"):
                continue
            for part in _parts(member):
                if isinstance(part, types.FunctionType) and self._is_own_code(part) and _has_source(part):
                    canon.text(b"s", name)
                    canon.write(part)
                elif not isinstance(part, types.FunctionType | types.MemberDescriptorType | types.GetSetDescriptorType):
                    self._name(name, partial(_itself, part), False, canon)

    def _subclasses(self, value: type, canon: Canon) -> None:
        """Write the classes that are derived from one, which code asks for."""
        # A class decorator may have replaced one by another of its name.
        derived: list[type] = type.__subclasses__(value)
        below = {label(one): one for one in derived if self._own(one)}
        for name, one in sorted(below.items()):
            canon.text(b"s", name)
            canon.write(one)
            self._subclasses(one, canon)

    def _is_own_code(self, function: types.FunctionType) -> bool:
        """Return whether to inspect a function: it is own code, or the decorator of a library has wrapped own code."""
        cells = (cell.cell_contents for cell in function.__closure__ or () if not _is_empty(cell))
        return self._own(function) or any(isinstance(one, types.FunctionType) and self._own(one) for one in cells)

    def module(self, value: types.ModuleType, canon: Canon) -> None:
        """Write a module that is a value: a function may use any of its names."""
        self._whole(value, canon)

    def _whole(self, value: types.ModuleType | None, canon: Canon) -> None:
        """Write all code of an own module, and of the own modules that it imports."""
        if value is None:
            return
        self._module_name(value, canon)
        if not self._own(value) or id(value) in self._whole_modules:
            return
        self._whole_modules.add(id(value))
        tree = _tree_of(value)
        if tree is None:
            return
        start = len(canon.out)
        canon.text(b"S", _dump(tree))
        self._part(_module_of(value), "code", "", canon.out[start:])
        for name in _imported_names(tree):
            found = self._imported(name, vars(value))
            if isinstance(found, types.ModuleType):
                self._whole(found, canon)

    def _module_name(self, value: types.ModuleType, canon: Canon) -> None:
        name = _module_of(value)
        version = _version_of(name)
        text = f"{name} {version or ''}"
        canon.text(b"V", text)
        if version is not None and name not in self.parts:
            self._part(name, "version", version, text.encode())

    # --- what the fingerprint includes --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _in(self, name: str) -> Iterator[None]:
        outer, self._inside = self._inside, name
        try:
            yield
        finally:
            self._inside = outer

    def _part(
        self, name: str, kind: Literal["code", "version", "value", "state"], detail: str, form: bytes | bytearray
    ) -> None:
        known = name
        for number in itertools.count(2):  # such as several lambdas of one module
            if known not in self.parts:
                break
            known = f"{name} ({number})"
        self.parts[known] = FingerprintPart(known, kind, detail, _digest(form))

    def _version(self, value: Any, canon: Canon) -> None:
        """Write code that is included by its version."""
        text = _versioned(value)
        canon.text(b"V", text)
        module = _module_of(value)
        package, version = module.partition(".")[0], _version_of(module) or ""
        known = f"{module}.{getattr(value, '__qualname__', type(value).__qualname__)}"
        if known not in self.parts and value is not object:
            detail = version if version in ("", "Python") else f"{package} {version}"
            self._part(known, "version", detail, text.encode("utf-8", "surrogatepass"))

    def by_type(self, value: Any, canon: Canon) -> None:
        canon.text(b"V", f"a {type(value).__name__}")

    # --- names in functions -------------------------------------------------------------------------------------------

    def _variable(self, found: Any, name: str, node: ast.AST, changed: bool, canon: Canon) -> None:
        """Write a global, or a variable of an enclosing function, as a function uses it."""
        chains = _chains(node).get(name, set())
        paths = _changed_paths(node)
        self.called(found, [chain[0] for chain in chains])
        if isinstance(found, types.ModuleType):
            canon.text(b"s", name)
            self._module(name, found, chains, _bare(node), paths, canon)
            return
        if isinstance(found, type):
            attributes = {path.split(".")[1] for path in paths if path.startswith(f"{name}.")}
            self._changed_attributes.setdefault(id(found), set()).update(attributes)
            if any("__subclasses__" in chain for chain in chains):
                self._subclasses(found, canon)
        self._name(name, partial(_itself, found), changed, canon)
        if isinstance(found, types.FunctionType) and self._own(found):
            own = _changed_by_itself(found)
            for attribute in sorted({chain[0] for chain in chains} & vars(found).keys() - own - {"__wrapped__"}):
                path = f"{name}.{attribute}"
                self._name(path, partial(_itself, vars(found)[attribute]), path in paths, canon)

    def _module(
        self,
        name: str,
        found: types.ModuleType,
        chains: Iterable[tuple[str, ...]],
        bare: Collection[str],
        paths: Mapping[str, bool],
        canon: Canon,
    ) -> None:
        """Write what a function uses of a module: `helpers.clean`, `package.helpers.clean`, or any of it."""
        reached: dict[str, Any] = {}
        whole: dict[str, types.ModuleType] = {name: found} if name in bare else {}
        for chain in chains:
            path, value = name, found
            for attribute in chain:
                if not isinstance(value, types.ModuleType) or not self._own(value):
                    break
                if attribute not in vars(value):  # its `__getattr__` makes it, or somebody sets it later
                    whole[path] = value
                    break
                path, value = f"{path}.{attribute}", vars(value)[attribute]
                reached[path] = value
            else:
                if isinstance(value, types.ModuleType) and path in bare:  # it is an argument, for example
                    whole[path] = value
        self._module_name(found, canon)
        for path, value in sorted(reached.items()):
            if isinstance(value, types.ModuleType):
                canon.text(b"s", path)
                self._module_name(value, canon)
            elif paths.get(path):
                canon.text(b"?", path)  # it is assigned, so its type is state, too
                self._part(f"{self._inside}: {path}", "state", "global", b"")
            else:
                self._name(path, partial(_itself, value), path in paths, canon)
        for path, value in sorted(whole.items()):
            canon.text(b"s", path)
            self._whole(value, canon)

    def _changed_by_called(self, node: ast.AST, scope: Mapping[str, Any]) -> set[str]:
        """Return the names that a function passes to own functions that change them."""
        found: set[str] = set()
        for function, arguments in _calls_with_names(node):
            called = scope.get(function)
            if isinstance(called, types.FunctionType) and self._own(called):
                with contextlib.suppress(Unhashable):
                    inner = _definition(called)
                    changed = _changed_by(inner)
                    found.update(name for place, name in arguments if _parameter(inner, place) in changed)
        return found

    def _imports(
        self,
        function: types.FunctionType,
        node: ast.AST,
        chains: dict[str, set[tuple[str, ...]]],
        paths: Mapping[str, bool],
        canon: Canon,
    ) -> None:
        """Write the imports inside a function."""
        scope, bare = function.__globals__, _bare(node)

        def use(name: str, bound: str, found: Any) -> None:
            if isinstance(found, types.ModuleType):
                canon.text(b"s", name)
                self._module(bound, found, chains.get(bound, ()), bare, paths, canon)
            else:
                self._name(name, partial(_itself, found), False, canon)

        for name in _imported_by_call(node):
            found = self._imported(name, scope)
            if isinstance(found, types.ModuleType):
                self._whole(found, canon)
        for part in ast.walk(node):
            if isinstance(part, ast.Import):
                for one in part.names:
                    bound = one.asname or one.name.partition(".")[0]
                    module = self._imported(one.name if one.asname else bound, scope)
                    self._imported(one.name, scope)  # so that `package.helpers` is an attribute of the package
                    use(one.name, bound, module)
            elif isinstance(part, ast.ImportFrom):
                source = "." * part.level + (part.module or "")
                module = self._imported(source, scope)
                for one in part.names:
                    found = getattr(module, one.name, None)
                    if found is None:
                        found = self._imported(f"{source}{'' if source.endswith('.') else '.'}{one.name}", scope)
                    use(f"{source}:{one.name}", one.asname or one.name, found)

    def _imported(self, name: str, scope: Mapping[str, Any]) -> Any:
        """Return a module, imported to inspect its code, if it has no version. Otherwise return its name."""
        try:
            if name.startswith("."):
                name = importlib.util.resolve_name(name, scope.get("__package__") or "")
            if name not in sys.modules and _version_of(name) is not None:
                return f"{name} {_version_of(name)}"
            return importlib.import_module(name)
        except Exception:  # the function gets the same error, or never runs this import
            return f"{name}?"

    def _without_state(self, value: Any, canon: Canon) -> bool:
        """Write an instance of a user's class without attributes that its methods change. False if it has none."""
        cls = type(value)
        state = _state_of(cls, self._called.get(id(value), ()))
        content = _content(value)
        if not state or content is None:
            return False
        if _ANY_ATTRIBUTE in state:
            content = {name: part for name, part in content.items() if name in _given_by_constructor(cls)}
        for name in sorted(content.keys() - state):
            self._name(name, partial(_itself, content[name]), False, canon)
        base = next((base for base in cls.__mro__ if base in _ITEMS), None)
        if base is not None and _ITSELF not in state:
            self._name("items", partial(base, value), False, canon)
        return True

    def _decorator(self, value: Any, canon: Canon) -> None:
        """Write an instance of an own class that wraps a function, without what `update_wrapper` copies to it."""
        cls = type(value)
        canon.write(cls)
        called = {"__call__", "__get__", *self._called.get(id(value), ())}
        copied = {*functools.WRAPPER_ASSIGNMENTS, "__wrapped__", *vars(value.__wrapped__)}
        content = _content(value) or {}
        for name in sorted(content.keys() - _state_of(cls, called) - copied):
            self._name(name, partial(_itself, content[name]), False, canon)

    def _coder(self, value: Any, canon: Canon) -> None:
        """Write an encoder or decoder of msgspec, which cannot be pickled."""
        canon.text(b"V", f"{module_of(type(value))} {type(value).__name__}")
        self._annotation(getattr(value, "type", None), canon)
        for option in _CODER_OPTIONS:
            if hasattr(value, option):
                self._name(option, partial(getattr, value, option), False, canon)

    def _constraint(self, value: Any, canon: Canon) -> None:
        """Write what msgspec checks, which cannot be pickled."""
        canon.text(b"V", "msgspec Meta")
        for name in filter(_is_public, dir(value)):
            self._name(name, partial(getattr, value, name), False, canon)

    def _validated(self, value: Any, canon: Canon) -> None:
        """Write a function that pydantic validates, without the namespace and the validator that pydantic keeps."""
        canon.text(b"V", f"{label(value)} {value.validate_return}")
        canon.write([value.function, value.config_wrapper.config_dict])
        for annotation in inspect.get_annotations(inspect.unwrap(value.schema_type)).values():
            self._annotation(annotation, canon)

    def _table(self, value: Any, canon: Canon) -> None:
        """Write a `defaultdict` without the entries that reading a missing key has added."""
        canon.text(b"V", "defaultdict")
        make = value.default_factory
        canon.write(make)
        absent = canonical(make()) if make in _EMPTY or _gives_constant(make) else None
        canon.write({key: one for key, one in value.items() if absent is None or not _has_form(one, absent)})

    def _fields(self, cls: type, canon: Canon) -> None:
        """Write the fields of a dataclass, or of a class of pydantic or msgspec, whose options are nowhere else."""
        members = vars(cls)
        for name, field in members.get("__dataclass_fields__", {}).items():
            # A class variable has no `kw_only`: what stands for that shows its address.
            chosen = [getattr(field, option) for option in ("init", "repr", "hash", "compare", "kw_only")]
            options = [one if isinstance(one, bool) else None for one in chosen]
            canon.text(b"s", f"{name} {field._field_type.name} {options}")
            values = [one for one in (field.default, field.default_factory) if one is not dataclasses.MISSING]
            self._name(name, partial(_itself, [values, dict(field.metadata)]), False, canon)
        if params := members.get("__dataclass_params__"):
            canon.text(b"s", str([getattr(params, one) for one in ("repr", "eq", "order", "unsafe_hash", "frozen")]))
        # Everything else that pydantic generates contains memory addresses.
        for name, info in (members.get("__pydantic_fields__") or {}).items():
            canon.text(b"s", name)
            self._annotation(info.annotation, canon)
            values = [getattr(info, option, None) for option in _PYDANTIC_OPTIONS]
            self._name(name, partial(_itself, [*values, info.metadata]), False, canon)
        for name, info in (members.get("__private_attributes__") or {}).items():
            self._name(name, partial(_itself, [info.default, info.default_factory]), False, canon)
        if hasattr(cls, "__struct_config__"):
            struct: Any = cls
            config = {one: getattr(struct.__struct_config__, one, None) for one in _MSGSPEC_OPTIONS}
            canon.text(b"s", f"{struct.__struct_fields__} {struct.__struct_encode_fields__} {config}")
            defaults = [getattr(default, "factory", default) for default in struct.__struct_defaults__]
            self._name("defaults", partial(_itself, defaults), False, canon)
            for annotation in inspect.get_annotations(cls).values():
                self._annotation(annotation, canon)

    def _annotation(self, annotation: Any, canon: Canon) -> None:
        """Write an annotation that a library turns into code. How unions are kept differs between Pythons."""
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        if origin is None and not arguments:
            if annotation is None or isinstance(annotation, type | str):
                self._name("annotation", partial(_itself, annotation), False, canon)
            else:
                canon.text(b"s", getattr(annotation, "__name__", type(annotation).__name__))
            return
        union = origin is types.UnionType or origin is typing.Union
        canon.text(b"s", "Union" if union else getattr(origin, "__qualname__", str(origin)))
        for argument in arguments:
            if isinstance(argument, type | types.GenericAlias) or typing.get_origin(argument) is not None:
                self._annotation(argument, canon)
            elif isinstance(argument, list):  # the arguments of a Callable
                canon.text(b"s", f"{len(argument)}")
                for one in argument:
                    self._annotation(one, canon)
            elif isinstance(argument, typing.TypeVar):
                canon.text(b"s", argument.__name__)
            else:  # a value of a Literal, or the metadata of an Annotated
                self._name("annotation", partial(_itself, argument), False, canon)

    def _name(self, name: str, get: Callable[[], Any], changed: bool, canon: Canon) -> None:
        canon.text(b"s", name)
        value = get()
        start, kind = len(canon.out), type(value).__name__
        if changed and not isinstance(value, _NAMED):  # these have code, which counts
            canon.text(b"V", f"a {kind}")
            if self._own(type(value)):
                canon.write(type(value))
            for part in (value.values() if isinstance(value, dict) else value) if type(value) in _HOLDERS else ():
                if isinstance(part, _NAMED):  # as in `STEPS["a"].update(x)`
                    canon.write(part)
            self._part(f"{self._inside}: {name}", "state", kind, canon.out[start:])
            return
        try:
            canon.write(value)
            if not isinstance(value, _NAMED):
                is_state = isinstance(value, _LOCKS) or _is_state(value)
                self._part(f"{self._inside}: {name}", "state" if is_state else "value", kind, canon.out[start:])
        except Unhashable as error:
            raise Unhashable(f"{name!r}, which it uses: {error}") from error.__cause__

    def _own(self, value: Any) -> bool:
        """Return whether to inspect an object, because it has no version."""
        if isinstance(value, type) and value.__module__ == "types" and not _can_be_found(value):
            return True  # `make_dataclass` and `new_class` do not know the module of their caller
        package = _package(value)
        if package == self._package and (package == _OURS or _is_from_folder(package)):
            return True
        return _version_of(package) is None


_NAMED = (types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.ModuleType, type)
"""Types of objects that are parts under their own names, whoever uses them."""
_HOLDERS = (dict, list, tuple)
_LOCKS = (
    type(threading.Lock()),
    type(threading.RLock()),
    threading.Condition,
    threading.Event,
    threading.Semaphore,
    threading.local,
)
_WRITERS: list[tuple[Any, Callable[[_Walk, Any, Canon], None]]] = [
    (types.FunctionType, _Walk.function),
    (types.MethodType, _Walk.method),
    (partial, _Walk.partial),
    (
        types.BuiltinFunctionType
        | types.MethodDescriptorType
        | types.WrapperDescriptorType
        | types.MethodWrapperType
        | types.ClassMethodDescriptorType,
        _Walk.builtin,
    ),
    (type, _Walk.klass),
    (types.ModuleType, _Walk.module),
    (_LOCKS, _Walk.by_type),
]
_ENUM_NOISE = frozenset({**vars(Enum("_", "A")), **vars(Flag("_", "A"))}) - {"A", "_boundary_"} | {
    "_unhashable_values_map_",
    "_hashable_values_",
    "_singles_mask_",
    "_sort_order_",
}
_CLASS_NOISE = frozenset(
    [
        "__dict__",
        "__weakref__",
        "__doc__",
        "__module__",
        "__annotations__",
        "__firstlineno__",
        "__static_attributes__",
        "__slots__",
        "__dataclass_fields__",
        "__dataclass_params__",
        "__abstractmethods__",
        "_abc_impl",
        "__parameters__",
        "__orig_bases__",
        "__annotate__",
        "__annotations_cache__",
        "__annotate_func__",
        "__classdictcell__",
        "__type_params__",
        "__protocol_attrs__",
        "__non_callable_proto_members__",
        "__callable_proto_members_only__",
        "__readonly_keys__",
        "__mutable_keys__",
        "__replace__",
        "__hash__",
        # created during use: pickling, signatures, resolved annotations
        "__slotnames__",
        "__signature__",
        "__class_vars__",
        "__private_attributes__",
        "model_computed_fields",
        "model_fields",
    ]
)


def _without(members: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: member for name, member in members.items() if name not in names}


def _itself(value: Any) -> Any:
    return value


def _parts(member: Any) -> Iterator[Any]:
    """Yield the functions inside a property, class method or static method. Otherwise yield the member itself."""
    if isinstance(member, property):
        yield from (part for part in (member.fget, member.fset, member.fdel) if part is not None)
    elif isinstance(member, classmethod | staticmethod):
        yield member.__func__
    elif isinstance(member, functools.cached_property):
        yield member.func
    else:
        yield member


def _functions(member: Any) -> Iterator[types.FunctionType]:
    """Yield the functions of a member, and those that decorators wrap, such as `lru_cache` and `@task`."""
    for part in _parts(member):
        seen: set[int] = set()
        while part is not None and id(part) not in seen:
            seen.add(id(part))
            if isinstance(part, types.FunctionType):
                yield part
            part = getattr(part, "__wrapped__", None)


def _has_source(function: types.FunctionType) -> bool:
    """Return False for functions that a class decorator has generated, as for dataclasses."""
    inner: Any = inspect.unwrap(function)  # the __repr__ of a dataclass is wrapped
    return not inner.__code__.co_filename.startswith("<")


def _cached_properties(cls: type) -> dict[str, types.FunctionType]:
    """Return the cached properties that attrs has moved from classes with slots to a `__getattr__` of its own."""
    found: dict[str, types.FunctionType] = {}
    for base in reversed(cls.__mro__):
        getter = vars(base).get("__getattr__")
        if isinstance(getter, types.FunctionType) and getter.__code__.co_filename.startswith("<attrs generated"):
            found |= getter.__globals__.get("cached_properties", {})
    return found


def _gives_constant(function: Any) -> bool:
    """Return whether a function without arguments returns a constant or an empty container, and does nothing else."""
    if not isinstance(function, types.FunctionType) or function.__closure__ or function.__defaults__:
        return False
    code, names = function.__code__, {kind.__name__ for kind in _EMPTY}
    return not code.co_argcount and set(code.co_names) <= names - function.__globals__.keys()


def _has_form(value: Any, form: bytes) -> bool:
    try:
        return canonical(value) == form
    except Unhashable:
        return False


def _is_public(name: str) -> bool:
    return not name.startswith("_")


def _is_state(value: Any) -> bool:
    """Return whether a value changes just by being used, so that only its type is included."""
    if isinstance(value, _STATES):
        return True
    # A generator of a library exists only where the library is imported, so none is imported for this.
    return any(
        isinstance(value, getattr(found, name, ()))
        for module, names in _GENERATORS.items()
        if (found := sys.modules.get(module)) is not None
        for name in names
    )


_GENERATORS = {
    "numpy.random": ("Generator", "BitGenerator", "RandomState", "SeedSequence"),
    "torch": ("Generator",),
}
"""Classes of random generators, by module."""
_STATES: tuple[type, ...] = (
    random.Random,
    itertools.count,
    itertools.cycle,
    type(iter([])),
    type(iter(())),
    type(iter(range(0))),
    contextvars.ContextVar,
    concurrent.futures.Executor,
    queue.Queue,
    queue.SimpleQueue,
    type(os.environ),
    weakref.ref,
    weakref.WeakKeyDictionary,
    weakref.WeakSet,
    weakref.WeakValueDictionary,
)
_ANY_NAME = frozenset({"globals", "eval", "exec"})
"""Built-ins through which a function may use any global of its module."""
_CODER_OPTIONS = (
    "strict",
    "dec_hook",
    "ext_hook",
    "float_hook",
    "enc_hook",
    "order",
    "decimal_format",
    "uuid_format",
)
_SPECIAL: dict[tuple[str, str], Callable[[_Walk, Any, Canon], None]] = {
    **{(f"msgspec.{form}", name): _Walk._coder for form in ("json", "msgpack") for name in ("Encoder", "Decoder")},
    ("msgspec", "Meta"): _Walk._constraint,
    ("pydantic._internal._validate_call", "ValidateCallWrapper"): _Walk._validated,
    ("collections", "defaultdict"): _Walk._table,
}
"""How to write objects of other libraries, by module and class."""
_IMPLICIT = frozenset(
    [
        "__call__",
        "__contains__",
        "__enter__",
        "__exit__",
        "__format__",
        "__getattr__",
        "__getattribute__",
        "__getitem__",
        "__iter__",
        "__len__",
        "__missing__",
        "__next__",
    ]
)
"""Methods that expressions call without their names."""
_ITEMS = (dict, list, set, deque, str, bytes, int, float)
"""Classes whose objects have content besides attributes."""
_ANY_ATTRIBUTE, _ITSELF = "any attribute", "the object itself"
"""What a method changes if it names no attribute."""
_EMPTY = (list, dict, set, int, float, str)
"""Classes whose empty object is what reading a missing key adds."""
_PYDANTIC_OPTIONS = (
    "default",
    "default_factory",
    "alias",
    "validation_alias",
    "serialization_alias",
    "discriminator",
    "exclude",
    "frozen",
    "validate_default",
    "init",
    "init_var",
    "kw_only",
)
_MSGSPEC_OPTIONS = (
    "array_like",
    "eq",
    "forbid_unknown_fields",
    "frozen",
    "kw_only",
    "omit_defaults",
    "order",
    "tag",
    "tag_field",
)


def _state_of(cls: type, called: Iterable[str]) -> set[str]:
    """Return the attributes that change during use: cached properties, and those that called methods assign.

    Attributes that other methods assign, such as `load` or `fit`, are part of the meaning of the object.
    """
    methods: dict[str, list[types.FunctionType]] = {}
    found: set[str] = set(_cached_properties(cls))
    for base in reversed(cls.__mro__[:-1]):
        for name, member in vars(base).items():
            if isinstance(member, functools.cached_property):
                found.add(name)
            if functions := list(_functions(member)):
                methods[name] = functions
    waiting, seen = list(called), set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for method in filter(_has_source, methods.get(name, ())):
            try:
                node = _definition(method)
            except Unhashable:
                continue
            owner = next(iter(_arguments(node)), "")
            found |= _changed_of(node, owner) | _changed_as_a_whole(node, owner)
            waiting += [chain[0] for chain in _chains(node).get(owner, ())]
    return found


def _changed_as_a_whole(node: ast.AST, owner: str) -> set[str]:
    """Return `_ANY_ATTRIBUTE` or `_ITSELF` if a method changes attributes without naming them, or its own items."""
    found = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Subscript) and not isinstance(part.ctx, ast.Load):
            if _is_name(part.value, owner):  # self[key] = 1
                found.add(_ITSELF)
            held = part.value.args[0] if _is_call(part.value, "vars") else getattr(part.value, "value", None)
            if _is_name(held, owner) and getattr(part.value, "attr", "__dict__") == "__dict__":
                found.add(_ANY_ATTRIBUTE)
        elif _is_call(part, "setattr") and _is_name(part.args[0], owner) and not isinstance(part.args[1], ast.Constant):
            found.add(_ANY_ATTRIBUTE)
        elif isinstance(part, ast.Attribute) and _is_changing(part.attr) and _is_name(part.value, owner):
            found.add(_ITSELF)  # self.append(1)
    return found


def _is_name(node: Any, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _is_call(node: ast.AST, name: str) -> TypeGuard[ast.Call]:
    return isinstance(node, ast.Call) and _is_name(node.func, name) and bool(node.args)


def _given_by_constructor(cls: type) -> set[str]:
    """Return the attributes that the constructor of a class assigns by name, and the fields of a dataclass."""
    found = set(getattr(cls, "__dataclass_fields__", ()))
    for base in cls.__mro__:
        method = vars(base).get("__init__")
        if isinstance(method, types.FunctionType) and _has_source(method):
            with contextlib.suppress(Unhashable):
                node = _definition(method)
                found |= _changed_of(node, next(iter(_arguments(node)), ""))
    return found


def _state_of_class(cls: type, called: Iterable[str]) -> set[str]:
    """Return the attributes of a class that change during use, such as a counter of its instances.

    Those count that its constructor and its called methods change: through the class, as in `type(self).count += 1`, or
    in place, as in `self.seen.append(1)`. `self.count += 1` leaves the attribute of the class as it is.
    """
    methods: dict[str, list[tuple[types.FunctionType, bool]]] = {}
    for base in cls.__mro__[:-1]:
        for name, member in vars(base).items():
            of_class = name == "__new__" or isinstance(member, classmethod)
            found = [(part, of_class) for part in _functions(member)]
            methods.setdefault(name, []).extend(found)
    state: set[str] = set()
    waiting, seen = ["__new__", "__init__", "__post_init__", *called], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for method, of_class in methods.get(name, ()):
            if not _has_source(method):
                continue
            try:
                node = _definition(method)
            except Unhashable:
                continue
            owner = next(iter(_arguments(node)), "")
            classes = {cls.__name__, *([owner] if of_class else ())}
            for part in ast.walk(node):  # an alias such as `cls = type(self)`
                if isinstance(part, ast.Assign) and _is_class(part.value, owner, classes):
                    classes.update(target.id for target in part.targets if isinstance(target, ast.Name))
            for changed in _changes(node):
                in_place = isinstance(changed.holder, ast.Name) and changed.holder.id == owner and not changed.assigned
                if in_place or _is_class(changed.holder, owner, classes):
                    state.add(changed.attribute)
            chains = _chains(node)
            waiting += [chain[0] for variable in (owner, *classes) for chain in chains.get(variable, ())]
    return state


def _is_class(node: ast.AST, owner: str, classes: Collection[str]) -> bool:
    """Return whether an expression is the class of a method: its name, `cls`, `type(self)` or `self.__class__`."""
    if isinstance(node, ast.Name):
        return node.id in classes
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "type":
        return len(node.args) == 1 and isinstance(node.args[0], ast.Name) and node.args[0].id == owner
    return isinstance(node, ast.Attribute) and node.attr == "__class__" and _is_class(node.value, owner, {owner})


def _defaults(function: types.FunctionType, changed: Collection[str]) -> list[Any]:
    """Return the defaults of a function. Of those that it changes, such as `seen=set()`, only the source counts."""

    def plain(name: str, default: Any) -> Any:
        # What is assigned to a parameter leaves a default as it is, unless that can change itself.
        return type(default) if name in changed and type(default).__hash__ is None else default

    positional, named, code = function.__defaults__, function.__kwdefaults__, function.__code__
    if positional is not None:
        names = code.co_varnames[code.co_argcount - len(positional) : code.co_argcount]
        positional = tuple(map(plain, names, positional))
    return [positional, named and {name: plain(name, default) for name, default in named.items()}]


def _content(value: Any) -> dict[str, Any] | None:
    """Return the attributes of an object by name. None if its class decides what they are."""
    cls: Any = type(value)
    content = getattr(value, "__dict__", None)
    if content is not None and type(content) is not dict:
        return None
    if private := getattr(cls, "__private_attributes__", None):
        held = getattr(value, "__pydantic_private__", None) or {}
        return {**(content or {}), **{name: held[name] for name in private if name in held}}
    known = (
        hasattr(cls, "__dataclass_fields__") or hasattr(cls, "__attrs_attrs__") or hasattr(cls, "__pydantic_fields__")
    )
    hooks = {"__reduce__", "__reduce_ex__", "__getstate__"}
    if not known and any(hooks & vars(base).keys() for base in cls.__mro__[:-1]):
        return None
    slots = {
        name: getattr(value, name)
        for base in cls.__mro__
        for name, member in vars(base).items()
        if isinstance(member, types.MemberDescriptorType) and name[:2] != "__" and hasattr(value, name)
    }
    return {**slots, **(content or {})}


def _is_empty(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - raises if there is none
    except ValueError:
        return True
    return False


def _can_be_found(function: Any) -> bool:
    """Return whether a function is the one in its module under its name, so that the module's version applies."""
    name = getattr(function, "__qualname__", None)
    if not isinstance(name, str):
        return False
    found: Any = sys.modules.get(getattr(function, "__module__", None) or "")
    for part in name.split("."):
        found = getattr(found, "__dict__", {}).get(part)
    return getattr(found, "__func__", found) is function


# --- origin --------------------------------------------------------------------------------------------


def _module_of(value: Any) -> str:
    if isinstance(value, types.ModuleType):
        return SCRIPT if value.__name__ in SCRIPT_MODULES else value.__name__
    while isinstance(value, partial):
        value = value.func
    return module_of(value) or module_of(type(value))


def _package(value: Any) -> str:
    return _module_of(value).partition(".")[0]


def _versioned(value: Any) -> str:
    module = _module_of(value)
    owner = getattr(value, "__objclass__", None)
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", type(value).__qualname__)
    return f"{owner.__qualname__ if owner else ''} {module}:{name} {_version_of(module) or ''}"


@functools.cache
def _version_of(module: str) -> str | None:
    """Return the version of a module's code, or None if the code can change without a new version."""
    root = module.partition(".")[0]
    if root == SCRIPT:
        return None
    if not root or root == "builtins" or root in sys.stdlib_module_names:
        return "Python"  # not its version: a new minor version is no reason to compute everything again
    found = sys.modules.get(root)
    if found is None:
        spec = _spec_of(root)
        file = (spec.origin or next(iter(spec.submodule_search_locations or ()), "")) if spec else ""
    else:
        file = getattr(found, "__file__", None) or next(iter(getattr(found, "__path__", ())), "")
    # This package counts as installed while somebody works on it, too: what stores a result does not change it.
    if root != _OURS and not any(os.path.abspath(file).startswith(folder + os.sep) for folder in _INSTALLED):
        return None
    try:
        return importlib.metadata.version(root)
    except importlib.metadata.PackageNotFoundError:
        return str(getattr(found, "__version__", "installed"))


def _spec_of(root: str) -> Any:
    """Return from where a package would be imported, without importing it."""
    try:
        return importlib.util.find_spec(root)
    except (ImportError, ValueError):
        return None


@functools.cache
def _is_from_folder(root: str) -> bool:
    """Return whether a package was installed from a folder (`pip install .`), so its code may change silently."""
    try:
        origin = importlib.metadata.distribution(root).read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return False
    return origin is not None and "dir_info" in origin


_OURS = __name__.partition(".")[0]
_INSTALLED = {os.path.abspath(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")}


# --- source ----------------------------------------------------------------------------------------------

Node = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_NODES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_REMEMBERED = 256
"""For how many functions is remembered what was found in their source: a job has tens, and is often started again."""


def _definition(function: types.FunctionType) -> Node:
    """Return the syntax tree of a function."""
    code = function.__code__
    lines = linecache.getlines(code.co_filename, function.__globals__)
    if not lines:
        linecache.checkcache(code.co_filename)
        lines = linecache.getlines(code.co_filename, function.__globals__)
    if not lines:
        raise Unhashable(f"the source of {label(function)} is not available")
    found = _find(code, _nodes("".join(lines)))
    if found is None:
        linecache.checkcache(code.co_filename)
        lines = linecache.getlines(code.co_filename, function.__globals__)
        found = _find(code, _nodes("".join(lines)))
    if found is None:
        raise Unhashable(f"the source of {label(function)} differs from the code that runs: it was edited or generated")
    return found


def _find(code: types.CodeType, nodes: dict[int, list[Node]]) -> Node | None:
    wanted = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    candidates = [
        node
        for node in nodes.get(code.co_firstlineno, ())
        if getattr(node, "name", "<lambda>") == code.co_name and _arguments(node) == wanted
    ]
    if len(candidates) <= 1:
        return candidates[0] if candidates else None
    # Of several lambdas on one line, choose the smallest one that spans all of the code.
    spots = [spot for spot in code.co_positions() if None not in spot and spot[3]]
    spanning = [
        node
        for node in candidates
        if spots
        and all((node.lineno, node.col_offset) <= (line, column) for line, _, column, _ in spots if line != 0)
        and all((end, column) <= (node.end_lineno, node.end_col_offset) for _, end, _, column in spots)
    ]
    return max(spanning, key=lambda node: (node.lineno, node.col_offset), default=None)


@functools.lru_cache(maxsize=64)
def _nodes(source: str) -> dict[int, list[Node]]:
    """Return all functions in a source by the line number of their code objects."""
    try:
        tree = _parse(source)
    except (SyntaxError, ValueError):
        return {}
    found: dict[int, list[Node]] = {}
    for node in ast.walk(tree):
        if isinstance(node, _NODES):
            first = min([node.lineno, *(mark.lineno for mark in getattr(node, "decorator_list", ()))])
            found.setdefault(first, []).append(node)
    return found


def _parse(source: str) -> ast.Module:
    """Parse a source with garbage collection turned off.

    Python 3.11 has one global counter for the depth of the syntax tree. If the collector runs code that parses, too, or
    lets another thread do so, the counter is wrong and a valid source is refused
    (https://github.com/python/cpython/issues/106905).
    """
    try:
        return ast.parse(source)
    except SystemError:
        collects = gc.isenabled()
        gc.disable()
        try:
            return ast.parse(source)
        finally:
            if collects:
                gc.enable()


def _arguments(node: Node) -> tuple[str, ...]:
    arguments = node.args
    return tuple(item.arg for item in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs))


@functools.lru_cache(maxsize=_REMEMBERED)
def _source_form(node: Node) -> str:
    """Return the syntax tree of a function as `_dump` does."""
    return _dump(node)


def _dump(node: ast.AST) -> str:
    """Return a syntax tree as a string without positions, docstrings and empty fields, which vary between Pythons."""
    parts = []
    for name, value in ast.iter_fields(node):
        if name in ("type_comment", "type_ignores", "ctx", "kind"):
            continue
        if name == "body" and isinstance(node, _SCOPES) and isinstance(value, list):
            value = _without_docstring(value)
        if isinstance(node, ast.JoinedStr):
            value = _joined(value)
        text = _dump_field(value)
        if text:
            parts.append(f"{name}={text}")
    return f"{type(node).__name__}({', '.join(parts)})"


def _joined(values: list[ast.expr]) -> list[ast.expr]:
    """Return the parts of an f-string with strings joined. Versions of Python split them in different places."""
    found: list[ast.expr] = []
    for value in values:
        if not isinstance(value, ast.Constant):
            found.append(value)
        elif found and isinstance(found[-1], ast.Constant):
            found[-1] = ast.Constant(f"{found[-1].value!s}{value.value!s}")
        elif value.value:
            found.append(value)
    return found


def _dump_field(value: Any) -> str:
    if isinstance(value, ast.AST):
        return _dump(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_dump_field, value))}]" if value else ""
    return "" if value is None else f"{type(value).__name__} {value!r}"


_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0] if body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return body[1:]
    return body


@functools.lru_cache(maxsize=_REMEMBERED)
def _global_names(code: types.CodeType) -> set[str]:
    """Return the globals that code uses, including inner functions."""
    found = {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            found |= _global_names(inner)
    return found


@functools.lru_cache(maxsize=_REMEMBERED)
def _chains(node: ast.AST) -> dict[str, set[tuple[str, ...]]]:
    """Return the attributes that code uses of each name: `a.b.c` gives `("b", "c")` for `a`."""
    found: dict[str, set[tuple[str, ...]]] = {}
    for part in ast.walk(node):
        chain: list[str] = []
        while isinstance(part, ast.Attribute):
            chain.append(part.attr)
            part = part.value
        if chain and isinstance(part, ast.Name):
            found.setdefault(part.id, set()).add(tuple(reversed(chain)))
    return found


_CHANGING = frozenset(
    [
        "append",
        "appendleft",
        "add",
        "update",
        "extend",
        "extendleft",
        "insert",
        "pop",
        "popleft",
        "popitem",
        "setdefault",
        "clear",
        "remove",
        "discard",
        "sort",
        "reverse",
        "put",
        "put_nowait",
        "set",
        "write",
        "fill",
        "resize",
        "subtract",
        "move_to_end",
    ]
)
_CHANGING_FIRST = frozenset(
    [
        "next",
        "setattr",
        "delattr",
        "heappush",
        "heappop",
        "heapify",
        "heapreplace",
        "heappushpop",
        "shuffle",
        "insort",
        "insort_left",
        "insort_right",
        "copyto",
        "fill_diagonal",
        "place",
        "putmask",
    ]
)
"""Functions that change their first argument."""


@functools.lru_cache(maxsize=_REMEMBERED)
def _changed_by(node: ast.AST) -> set[str]:
    """Return the names whose values a function changes."""
    found: set[str] = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Global | ast.Nonlocal):
            found.update(part.names)
        elif isinstance(part, ast.Subscript | ast.Attribute) and not isinstance(part.ctx, ast.Load):
            found.update(_base(part))
        elif isinstance(part, ast.Call):
            if isinstance(part.func, ast.Attribute) and _is_changing(part.func.attr):
                found.update(_base(part.func))
            called = part.func.attr if isinstance(part.func, ast.Attribute) else getattr(part.func, "id", "")
            if called in _CHANGING_FIRST and part.args:
                found.update(_base(part.args[0]))
            for keyword in part.keywords:
                if keyword.arg == "out":
                    found.update(_base(keyword.value))
        elif isinstance(part, ast.AugAssign):
            found.update(_base(part.target))
    aliases = _aliases(node)
    while more := {aliases[name] for name in found & aliases.keys()} - found:
        found |= more
    return found


def _is_changing(method: str) -> bool:
    """Return whether a method changes its object. Those of PyTorch have names such as `add_`."""
    return method in _CHANGING or (method[-1:] == "_" and method[:1] != "_")


def _aliases(node: ast.AST) -> dict[str, str]:
    """Return the variables that are other names of one object: `seen` for `seen = SEEN`, and nothing else."""
    bound = [part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)]
    return {
        part.targets[0].id: part.value.id
        for part in ast.walk(node)
        if isinstance(part, ast.Assign)
        and len(part.targets) == 1
        and isinstance(part.targets[0], ast.Name)
        and isinstance(part.value, ast.Name)
        and bound.count(part.targets[0].id) == 1
    }


@functools.lru_cache(maxsize=_REMEMBERED)
def _rebound(node: ast.AST) -> set[str]:
    """Return the globals that a function assigns."""
    return {name for part in ast.walk(node) if isinstance(part, ast.Global) for name in part.names}


@functools.lru_cache(maxsize=_REMEMBERED)
def _bare(node: ast.AST) -> set[str]:
    """Return the names that code uses otherwise than for an attribute: `helpers`, `package.helpers`."""
    owners = {id(part.value) for part in ast.walk(node) if isinstance(part, ast.Attribute)}
    found: set[str] = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Name | ast.Attribute) and isinstance(part.ctx, ast.Load) and id(part) not in owners:
            chain: list[str] = []
            below: ast.AST = part
            while isinstance(below, ast.Attribute):
                chain.append(below.attr)
                below = below.value
            if isinstance(below, ast.Name):
                found.add(".".join([below.id, *reversed(chain)]))
    return found


@functools.lru_cache(maxsize=_REMEMBERED)
def _changed_paths(node: ast.AST) -> dict[str, bool]:
    """Return what a function changes, such as `helpers.last` for `helpers.last = 1`, and whether it assigns it."""
    found: dict[str, bool] = {}
    for change in _changes(node):
        chain, holder = [change.attribute], change.holder
        while isinstance(holder, ast.Attribute):
            chain.append(holder.attr)
            holder = holder.value
        if isinstance(holder, ast.Name):
            path = ".".join([holder.id, *reversed(chain)])
            found[path] = found.get(path, False) or change.assigned
    return found


def _changed_by_itself(function: types.FunctionType) -> set[str]:
    """Return the attributes of a function that it changes, such as `calls` for `f.calls += 1`."""
    try:
        return _changed_of(_definition(function), function.__name__)
    except Unhashable:
        return set()


def _calls_with_names(node: ast.AST) -> Iterator[tuple[str, list[tuple[int | str, str]]]]:
    """Yield the functions that code calls, with the variables that it passes: their place or keyword, and name."""
    for part in ast.walk(node):
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Name):
            named: list[tuple[int | str | None, ast.expr]] = [*enumerate(part.args)]
            named += [(keyword.arg, keyword.value) for keyword in part.keywords]
            yield part.func.id, [(at, one.id) for at, one in named if at is not None and isinstance(one, ast.Name)]


def _parameter(node: Node, place: int | str) -> str:
    """Return the name of the parameter at a place. Empty if there is none."""
    if isinstance(place, str):
        return place
    names = [item.arg for item in (*node.args.posonlyargs, *node.args.args)]
    return names[place] if place < len(names) else ""


def _tree_of(module: types.ModuleType) -> ast.Module | None:
    """Return the syntax tree of a module without its docstring. None if it has no source."""
    lines = linecache.getlines(getattr(module, "__file__", None) or "", vars(module))
    try:
        tree = _parse("".join(lines))
    except (SyntaxError, ValueError):
        return None
    tree.body = _without_docstring(tree.body)
    return tree if lines else None


def _imported_names(tree: ast.AST) -> Iterator[str]:
    """Yield the modules that code may import. `from a import b` may import `a.b`, too."""
    for part in ast.walk(tree):
        if isinstance(part, ast.Import):
            yield from (one.name for one in part.names)
        elif isinstance(part, ast.ImportFrom):
            source = "." * part.level + (part.module or "")
            yield source
            yield from (f"{source}{'' if source.endswith('.') else '.'}{one.name}" for one in part.names)


@functools.lru_cache(maxsize=_REMEMBERED)
def _imported_by_call(node: ast.AST) -> list[str]:
    """Return the modules that code imports with `import_module` or `__import__`."""
    return [
        part.args[0].value
        for part in ast.walk(node)
        if isinstance(part, ast.Call)
        and (part.func.attr if isinstance(part.func, ast.Attribute) else getattr(part.func, "id", ""))
        in ("import_module", "__import__")
        and part.args
        and isinstance(part.args[0], ast.Constant)
        and isinstance(part.args[0].value, str)
    ]


class _Change(NamedTuple):
    """What an expression changes: `holder.attribute`. It is assigned, or something in it is changed in place."""

    holder: ast.AST
    attribute: str
    assigned: bool


def _changes(node: ast.AST) -> Iterator[_Change]:
    """Yield what a function changes: `self` and `a` for `self.a += 1`, `self.a[0] = 1` or `self.a.append(1)`."""
    for part in ast.walk(node):
        targets: list[ast.AST] = []
        if isinstance(part, ast.Subscript | ast.Attribute) and not isinstance(part.ctx, ast.Load):
            targets.append(part)
        elif isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute) and _is_changing(part.func.attr):
            targets.append(part.func.value)
        for target in targets:
            below: ast.AST = target
            while isinstance(below, ast.Attribute | ast.Subscript):
                if isinstance(below, ast.Attribute):
                    yield _Change(below.value, below.attr, not isinstance(below.ctx, ast.Load))
                below = below.value


def _changed_of(node: ast.AST, owner: str) -> set[str]:
    """Return the attributes of a variable that a function changes: `a` for `self.a += 1` or `self.a[0].append(1)`."""
    changes = [change for change in _changes(node) if isinstance(change.holder, ast.Name) and change.holder.id == owner]
    return {change.attribute for change in changes}


def _base(node: ast.AST) -> Iterator[str]:
    """Yield the variable at the root of an expression: `a` for `a.b[c].d`."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    if isinstance(node, ast.Name):
        yield node.id
