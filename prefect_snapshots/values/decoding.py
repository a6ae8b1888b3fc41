"""Decode bytes to values. See the package `values` for the vocabulary."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..errors import EnvironmentMismatch, InvalidArgument, LeafError, PickleRefused, StructureMismatch
from .arrays import (
    FORTRAN,
    ArraySpec,
    Buffer,
    as_sharding,
    cast_array,
    cast_spec,
    check_jax,
    empty,
    from_regions,
    is_castable,
    key_form,
    loaded_jax,
    regions_of,
    to_jax,
)
from .classes import Unavailable, find_class
from .grids import RegionReading, Rows
from .manifest import (
    ARRAY,
    BYTEARRAY,
    BYTES,
    JAX_ARRAY,
    JAX_KEYS,
    JAX_SHARDS,
    LONG_INTEGER,
    LONG_TEXT,
    PICKLE,
    TENSOR,
    StoredLeaf,
    array_spec_of,
    cuts_of_leaf,
    damaged,
    distrust,
    leaf_info,
    parse,
    tensor_spec_of,
)
from .paths import matcher
from .pickling import load, require_pickle
from .scalars import integer_of, no_class, plain_value, text_of
from .structure import (
    DATACLASS,
    DEFAULT_DICT,
    DEQUE,
    FACTORIES,
    NAMED_TUPLE,
    ORDERED_DICT,
    PLACEHOLDER,
    REGISTERED,
    Branch,
    Kind,
    Static,
    attributes_of,
    branches_of,
    build,
    leaf_paths,
    leaves_of,
    outline,
    path_of,
    prune,
    record_of,
    same_paths,
    select,
)
from .tensors import check_torch, is_castable_tensor, is_tensor_class, make, new_memory


class BodyReader(Protocol):
    """The source of the bytes of a body."""

    @property
    def body_size(self) -> int:
        """The length of the body in bytes."""

    def read_into(self, targets: Sequence[tuple[int, memoryview]]) -> None:
        """Fill each writable buffer with the verified bytes of the body from its offset on."""


class MemoryBody:
    """A body in memory, as the reader that `decode` takes.

    Args:
        data: The bytes of the body.
    """

    def __init__(self, data: Buffer) -> None:
        self._data = memoryview(data)

    @property
    def body_size(self) -> int:
        """The length of the body in bytes."""
        return len(self._data)

    def read_into(self, targets: Sequence[tuple[int, memoryview]]) -> None:
        """Copy the bytes from each offset on into its buffer."""
        for offset, view in targets:
            view[:] = self._data[offset : offset + len(view)]


class Loading(NamedTuple):
    """Which part of a value to load, and in which form: arguments of `decode`, which describes them."""

    leaves: str | Sequence[str] | None = None
    like: Any = None
    sharding: Any = None
    cast: bool = False
    strict: bool = True

    @property
    def is_whole(self) -> bool:
        """Whether it is all of a value, as it was stored."""
        return all(given is default for given, default in zip(self, WHOLE, strict=True))


WHOLE = Loading()
"""All of a value, as it was stored."""


def decode(
    manifest: bytes,
    body: BodyReader,
    *,
    leaves: str | Sequence[str] | None = None,
    like: Any = None,
    sharding: Any = None,
    cast: bool = False,
    strict: bool = True,
    allow_pickle: bool = True,
) -> Any:
    """Return the encoded value, or a part of it.

    Arrays are returned in new writable memory, and JAX arrays on JAX's default device. All bytes that are needed are
    read with one call.

    Args:
        manifest: The manifest of the value.
        body: The reader of its body.
        leaves: Patterns of paths (`encoder/**`, `**/bias`, see `paths.matcher`). Only matching leaves are read. Dicts
            and sets contain only what leads to a match. Other containers keep their shape, with `...` for other leaves,
            or the values that `like` has there. Default: all leaves.
        like: A value with the same paths. Its containers may have other types. It determines the types of the
            containers, the static fields of JAX, and for each array (or `jax.ShapeDtypeStruct`) whether to return NumPy
            or JAX, with which sharding. Shapes and dtypes must be equal. A stored Python number matches a JAX scalar,
            and stays a number. A leaf of `like` that is not an array matches anything. `...` skips a leaf, or all that
            is below: it is not read, and the result has `...` there. Default: as it was stored.
        sharding: The sharding of JAX arrays, instead of `like`: one for all, or a dict with one for each pattern of
            paths. In a run of several processes, each reads only the bytes that its devices need.
        cast: Whether to convert arrays to the dtypes in `like`. Complex numbers never become real, floats never become
            integers, and integers must fit.
        strict: Whether the value and `like` must have the same paths. If not, stored leaves that `like` lacks are not
            read, and leaves that are not stored keep the values of `like`.
        allow_pickle: Whether pickled leaves may be unpickled, and the modules of classes imported.

    Raises:
        IntegrityError: The manifest is damaged.
        UnsupportedFormat: A newer version wrote it.
        PickleRefused: A leaf that you selected was pickled, and `allow_pickle` is False.
        StructureMismatch: The value does not have the structure of `like`.
        InvalidArgument: You passed both `like` and `sharding`, `cast` or `strict` without `like`, or `sharding` has a
            pattern that matches no JAX array.
        LeafError: No leaf matches, or one cannot be made here, for example because its class or time zone is missing.
        MissingDependency: JAX is needed, but not installed.

    Example:
        >>> from prefect_snapshots.values import MemoryBody, encode
        >>> encoded = encode({"weights": np.arange(3, dtype=np.int8), "loss": 0.5})
        >>> body = MemoryBody(b"".join(encoded.buffers))
        >>> decode(encoded.manifest, body)
        {'weights': array([0, 1, 2], dtype=int8), 'loss': 0.5}
        >>> decode(encoded.manifest, body, leaves="loss")
        {'loss': 0.5}
    """
    decoder = _Decoder(manifest, body, allow_pickle)
    if like is None:
        if cast or not strict:
            raise InvalidArgument(f"{'cast=True' if cast else 'strict=False'} needs like=, a value to load it like.")
        return decoder.as_stored(leaves, sharding)
    if sharding is not None:
        raise InvalidArgument("Pass either like= or sharding=: the arrays in like= have shardings themselves.")
    return decoder.alike(like, leaves, cast, strict)


def decode_leaves(
    manifest: bytes, body: BodyReader, paths: Collection[str] | None = None, *, allow_pickle: bool = True
) -> dict[str, Any]:
    """Return leaves by path. No containers are built, so their classes need not exist here.

    Args:
        manifest: The manifest of the value.
        body: The reader of its body.
        paths: The paths of the leaves, as `describe` returns them. Unknown paths are ignored. Default: all leaves.
        allow_pickle: Whether pickled leaves may be unpickled, and the modules of enums imported.

    Raises:
        IntegrityError, UnsupportedFormat, PickleRefused, LeafError, MissingDependency: As for `decode`.
    """
    return _Decoder(manifest, body, allow_pickle).leaves(paths)


class _Target(NamedTuple):
    """The library and the devices for an array."""

    on_jax: bool
    sharding: Any = None
    """None for JAX's default device."""
    device: Any = None
    """Of a tensor; None for where tensors are put otherwise, the CPU."""
    dtype: Any = None
    """The dtype to convert to; None for the stored one."""


class _Reading(NamedTuple):
    """A leaf while it is read: the buffers for its bytes, and the function that makes the value from them."""

    views: list[memoryview]
    """Buffers for all of its bytes in order."""
    finish: Callable[[], Any]
    jax: tuple[ArraySpec, Any] | None = None
    """The description and sharding, for an array that becomes a JAX array after reading."""
    places: Sequence[tuple[int, memoryview]] = ()
    """Buffers for some of its bytes, each with its offset among them."""


_Wanted = tuple[Any, _Target | None]
"""A leaf, and the target for its array; None for the same library as before."""


def _other_fields(name: str, expected: tuple[Kind, tuple[str, ...]]) -> Unavailable:
    kind, fields = expected[0].name, ", ".join(expected[1])
    return Unavailable(f"Its class {name!r} is not a {kind} with the fields {fields} in this process.")


class _Decoder:
    def __init__(self, manifest: bytes, body: BodyReader, allow_pickle: bool) -> None:
        stored = parse(manifest)
        if stored.nbytes != body.body_size:
            raise damaged(f"it describes a body of {stored.nbytes} bytes, but the body has {body.body_size}")
        self._root = stored.root
        self._entries = stored.classes
        self._classes: dict[int, type] = {}
        self._body = body
        self._allow_pickle = allow_pickle

    def as_stored(self, leaves: str | Sequence[str] | None, sharding: Any = None) -> Any:
        with distrust():
            root = self._root if leaves is None else select(self._root, leaves)
            for branch in branches_of(root):
                self._resolve(branch)
            wanted = [(leaf, None) for leaf in leaves_of(root)] if sharding is None else _spread(root, sharding)
        found = self._restore(wanted)
        with distrust():
            return build(root, iter(found))

    def alike(self, like: Any, leaves: str | Sequence[str] | None, cast: bool, strict: bool) -> Any:
        shape = outline(like, static=True)
        with distrust():
            root = self._root if leaves is None else select(self._root, leaves)
            stored = {path: leaf for path, leaf in leaf_paths(root) if leaf is not PLACEHOLDER}
        if leaves is not None:
            shape = prune(shape, matcher(leaves), own=True)
        asked = [(path, Static(form) if form is ... else form) for path, form in leaf_paths(shape)]
        if strict:
            static = {path for path, form in asked if type(form) is Static and form is not PLACEHOLDER}
            below = tuple(f"{path}/" for path in static)
            stored = {path: leaf for path, leaf in stored.items() if path not in static and not path.startswith(below)}
            wanted_paths = dict.fromkeys(path for path, form in asked if type(form) is not Static)
            same_paths(stored, wanted_paths, "the stored value", "like=", _CHANGED)
        else:
            asked = [(path, form if path in stored else _kept(path, form)) for path, form in asked]
        wanted: list[_Wanted] = [
            (form, None) if type(form) is Static else (stored[path], _target(path, stored[path], form, cast))
            for path, form in asked
        ]
        return build(shape, iter(self._restore(wanted)))

    def leaves(self, paths: Collection[str] | None) -> dict[str, Any]:
        with distrust():
            wanted = {path: leaf for path, leaf in leaf_paths(self._root) if paths is None or path in paths}
        found = self._restore([(leaf, None) for leaf in wanted.values()])
        return dict(zip(wanted, found, strict=True))

    def _restore(self, wanted: Sequence[_Wanted]) -> list[Any]:
        """Return the values of leaves. All their bytes are read with one call."""
        found: list[Any] = [leaf.value if type(leaf) is Static else leaf for leaf, _ in wanted]
        readings: dict[int, _Reading] = {}
        tensors = _TensorReadings()
        targets: list[tuple[int, memoryview]] = []
        with distrust():
            for number, (leaf, target) in enumerate(wanted):
                if type(leaf) is StoredLeaf:
                    reading = readings[number] = self._open(leaf, target, tensors)
                    offset = leaf.offset
                    targets += [(offset + place, view) for place, view in reading.places]
                    for view in reading.views:
                        targets.append((offset, view))
                        offset += len(view)
        if any(len(view) for _, view in targets):
            self._body.read_into(targets)
        with distrust():
            for number, reading in readings.items():
                found[number] = self._finish(found[number], reading)
        to_place = [(number, reading.jax) for number, reading in readings.items() if reading.jax is not None]
        placed = to_jax([(found[number], *jax) for number, jax in to_place])
        for (number, _), array in zip(to_place, placed, strict=True):
            found[number] = array
        return found

    def _open(self, leaf: StoredLeaf, target: _Target | None, tensors: _TensorReadings) -> _Reading:
        code = leaf.node[0]
        if code in _OPENERS:
            return _OPENERS[code](leaf.sizes[0])
        if code == PICKLE:
            return self._open_pickle(leaf)
        try:
            if code == TENSOR:
                return tensors.open(leaf, target and target.device, target and target.dtype)
            if code in _ARRAYS or target is not None:
                return _open_array(leaf, target)
        except Unavailable as error:
            raise LeafError(path_of(self._root, leaf), str(error)) from error
        return _Reading([], partial(plain_value, leaf.node, self._find_enum))

    def _open_pickle(self, leaf: StoredLeaf) -> _Reading:
        if not self._allow_pickle:
            require_pickle(False, "It was", path_of(self._root, leaf))
        stream, *buffers = (np.empty(size, np.uint8) for size in leaf.sizes)
        views = [stream.data, *(buffer.data for buffer in buffers)]
        return _Reading(views, partial(self._unpickle, leaf, stream, buffers))

    def _unpickle(self, item: StoredLeaf | Branch, stream: Any, buffers: Sequence[Any] = ()) -> Any:
        try:
            return load(stream, buffers, allow_pickle=self._allow_pickle)
        except PickleRefused:
            raise
        except EnvironmentMismatch as error:
            raise EnvironmentMismatch(f"Leaf {path_of(self._root, item) or '(the value itself)'}: {error}") from None
        except Exception as error:  # code of the pickled objects runs here
            raise LeafError(path_of(self._root, item), f"It cannot be unpickled ({error!r}).") from error

    def _finish(self, leaf: StoredLeaf, reading: _Reading) -> Any:
        try:
            return reading.finish()
        except Unavailable as error:
            raise LeafError(path_of(self._root, leaf), str(error)) from error

    # --- branches

    def _resolve(self, branch: Branch) -> None:
        """Find the keys, the class and whatever else is needed to build the container of a stored branch."""
        try:
            if branch.keys is not None:
                branch.names = [plain_value(key, self._find_enum) for key in branch.keys]
            branch.maker = _RESOLVERS[branch.kind](self, branch) if branch.kind in _RESOLVERS else None
        except Unavailable as error:
            raise LeafError(
                path_of(self._root, branch), f"{error} Pass like=, or choose other leaves with leaves=."
            ) from error

    def _find_enum(self, name: str) -> type:
        return find_class(name, importing=self._allow_pickle)

    def _find_record(self, branch: Branch) -> type:
        """Return the class of a named tuple or dataclass, after checking that it has the stored fields."""
        number, expected = branch.maker, (branch.kind, tuple(branch.names))
        if type(number) is not int or number < 0:
            raise ValueError(f"{number!r} is not the number of a class")
        if number not in self._classes:
            entry = self._entries[number]
            name, by_value = (entry, None) if type(entry) is str else entry
            found = self._find_by_name(name, expected, by_value is None)
            self._classes[number] = found or self._find_by_value(branch, name, by_value)
        if (found_record := record_of(self._classes[number])) != expected:
            if found_record is not None and type(self._entries[number]) is not str:
                # It was stored by value, and the script that is running now has another class of its name.
                raise _other_fields(self._entries[number][0], expected)
            raise ValueError(f"class {number} is not a {branch.kind.name} with the fields {branch.names}")
        return self._classes[number]

    def _find_by_name(self, name: str, expected: tuple[Kind, tuple[str, ...]], required: bool) -> type | None:
        try:
            found = find_class(name, importing=self._allow_pickle and required)
            if record_of(found) == expected:
                return found
            raise _other_fields(name, expected)
        except Unavailable:
            if required:
                raise
            return None

    def _find_by_value(self, branch: Branch, name: str, pickled: Any) -> type:
        if not self._allow_pickle:
            require_pickle(False, f"Its class {name!r} was", path_of(self._root, branch))
        found = self._unpickle(branch, pickled)
        if not isinstance(found, type):
            raise ValueError(f"the object stored for {name!r} is not a class")
        return found

    def _refuse_registered(self, branch: Branch) -> Any:
        raise Unavailable(f"Its class {branch.maker} can only be built by JAX, from a value of the same structure.")


def _attributes(node: Any) -> dict[str, Any]:
    found = attributes_of(plain_value(node, no_class))
    if type(found) is not dict or not all(type(name) is str for name in found):
        raise ValueError("the attributes of an OrderedDict are not a dict of strings")
    return found


_RESOLVERS: dict[Kind, Callable[[_Decoder, Branch], Any]] = {
    DEQUE: lambda _, branch: branch.maker,
    ORDERED_DICT: lambda _, branch: None if branch.maker is None else _attributes(branch.maker),
    DEFAULT_DICT: lambda _, branch: None if branch.maker is None else FACTORIES[branch.maker],
    NAMED_TUPLE: _Decoder._find_record,
    DATACLASS: _Decoder._find_record,
    REGISTERED: _Decoder._refuse_registered,
}


# --- leaves -----------------------------------------------------------------------------------------------------------

_CHANGED = (
    " If this was added or removed since, pass strict=False: leaves that are not stored keep the values of like=, and "
    "leaves that like= lacks are not read."
)
_ON_JAX = (JAX_ARRAY, JAX_KEYS, JAX_SHARDS)
_ARRAYS = (ARRAY, *_ON_JAX)


def _open_array(leaf: StoredLeaf, target: _Target | None) -> _Reading:
    spec = array_spec_of(leaf)
    if spec is None:
        raise ValueError("the leaf is not an array")
    on_jax = leaf.node[0] != ARRAY if target is None else target.on_jax
    dtype = target and target.dtype
    made = spec if dtype is None else cast_spec(spec, dtype)
    if on_jax:
        check_jax(made)
    jax = (made, target and target.sharding) if on_jax else None
    sharding = target and target.sharding
    reading: _Reading
    if not leaf.sizes:
        reading = _Reading([], lambda: np.asarray(plain_value(leaf.node, no_class)), jax)
    elif sharding is not None and _is_for_several_processes(sharding, spec):
        return _open_regions(leaf, spec, made, sharding)
    elif leaf.node[0] == JAX_SHARDS:
        box = tuple(slice(0, size) for size in spec.shape)
        whole = RegionReading(box, spec.dtype, cuts_of_leaf(leaf), spec.shape)
        reading = _Reading([], whole.finish, jax, whole.targets)
    else:
        array, view = empty(spec, aligned=on_jax)
        reading = _Reading([view], lambda: array, jax)
    finish = reading.finish
    return reading if made is spec else reading._replace(finish=lambda: cast_array(finish(), made.dtype))


def _is_for_several_processes(sharding: Any, spec: ArraySpec) -> bool:
    """Whether a sharding puts an array on devices of other processes.

    Raises:
        Unavailable: The array cannot get this sharding.
    """
    shape = spec.shape
    if spec.implementation is not None:
        shape = shape[: len(shape) - len(key_form(spec.implementation)[1])]
    try:
        sharding.shard_shape(shape)
        return not sharding.is_fully_addressable
    except Exception as error:  # code of JAX, which says nothing about what is stored
        raise Unavailable(f"It cannot get this sharding ({error}).") from error


def _open_regions(leaf: StoredLeaf, spec: ArraySpec, made: ArraySpec, sharding: Any) -> _Reading:
    """Read only the regions that this process needs of an array that is put on the devices of several."""
    key_shape = () if spec.implementation is None else key_form(spec.implementation)[1]
    logical = spec.shape[: len(spec.shape) - len(key_shape)]
    raw = tuple(slice(0, size) for size in spec.shape[len(logical) :])
    order, shape = (slice(None, None, -1), spec.shape[::-1]) if spec.flags & FORTRAN else (slice(None), spec.shape)
    cuts = cuts_of_leaf(leaf)[order]
    boxes = [(*box, *raw) for box in regions_of(sharding, logical)]
    rows: Rows = {}
    regions = [(box, RegionReading(box[order], spec.dtype, cuts, shape, rows)) for box in boxes]

    def finish() -> Any:
        found = [(box, region.finish().T if spec.flags & FORTRAN else region.finish()) for box, region in regions]
        if made is not spec:
            found = [(box, cast_array(region, made.dtype)) for box, region in found]
        return from_regions(made, sharding, found)

    return _Reading([], finish, None, [target for _, region in regions for target in region.targets])


class _TensorReadings:
    """The tensors that are read together: which of them are one, and which use the same memory."""

    def __init__(self) -> None:
        self._memories: dict[tuple[int, int], list[Any]] = {}
        self._made: dict[tuple[int, Any, Any], Any] = {}

    def open(self, leaf: StoredLeaf, device: Any, dtype: Any = None) -> _Reading:
        spec = tensor_spec_of(leaf)
        check_torch(spec, leaf.sizes)
        views: list[memoryview] = []
        # Memory of no bytes has the offset of the next leaf: the number of bytes tells them apart.
        place = leaf.offset, sum(leaf.sizes)
        if place not in self._memories:
            pairs = [new_memory(size) for size in leaf.sizes]
            views = [view for _, view in pairs]
            self._memories[place] = [memory for memory, _ in pairs]
        memories = self._memories[place]

        def finish() -> Any:
            key = id(leaf.node), device, dtype
            if key not in self._made:
                self._made[key] = make(spec, memories, device, dtype)
            return self._made[key]

        return _Reading(views, finish)


def _open_memory(size: int, make: Callable[[bytearray], Any]) -> _Reading:
    memory = bytearray(size)
    return _Reading([memoryview(memory)], lambda: make(memory))


def _open_bytes(size: int) -> _Reading:
    stream = io.BytesIO(bytes(size))  # passes its memory on as bytes, without a copy
    return _Reading([stream.getbuffer()], stream.getvalue)


_OPENERS: dict[int, Callable[[int], _Reading]] = {
    LONG_TEXT: partial(_open_memory, make=text_of),
    LONG_INTEGER: partial(_open_memory, make=integer_of),
    BYTEARRAY: partial(_open_memory, make=lambda memory: memory),
    BYTES: _open_bytes,
}


def _spread(root: Any, sharding: Any) -> list[_Wanted]:
    """Return the leaves with the shardings that JAX arrays among them get."""
    by_pattern = sharding if isinstance(sharding, Mapping) else {"**": sharding}
    tests = [(pattern, matcher(pattern), as_sharding(each)) for pattern, each in by_pattern.items()]
    used = set()
    wanted: list[_Wanted] = []
    for path, leaf in leaf_paths(root):
        target = None
        if type(leaf) is StoredLeaf and leaf.node[0] in _ON_JAX:
            for pattern, matches, each in tests:
                if matches(path):
                    used.add(pattern)
                    target = _Target(True, each)
                    break
        wanted.append((leaf, target))
    if isinstance(sharding, Mapping) and (unused := set(by_pattern) - used):
        raise InvalidArgument(f"No JAX array matches {', '.join(sorted(unused))}, for which sharding= has an entry.")
    return wanted


_NUMBERS: dict[type, str] = {bool: "b", int: "iu", float: "f"}
"""The kinds of dtypes to which JAX converts each type of Python number."""


def _kept(path: str, form: Any) -> Static:
    """Return the leaf of `like` for a path where nothing is stored.

    Raises:
        StructureMismatch: It is only the description of an array.
    """
    jax = loaded_jax()
    if jax is not None and isinstance(form, jax.ShapeDtypeStruct):
        raise StructureMismatch(
            path, "It is not stored, and like= has only its shape. Pass a value, or ... to skip it."
        )
    return form if type(form) is Static else Static(form)


def _target(path: str, leaf: Any, form: Any, cast: bool) -> _Target | None:
    """Return the target that `like` gives for a leaf, or None for a leaf to return as it was stored.

    Raises:
        StructureMismatch: The stored leaf is not an array, has another shape, or has another dtype that it is not, or
            cannot be, cast to.
    """
    if is_tensor_class(type(form)):
        return _tensor_target(path, leaf, form, cast)
    asked = _array_form(form)
    if asked is None:
        if form is None and leaf is not None:
            raise StructureMismatch(path, f"like= has None, but {_text(path, leaf)} is stored.")
        return None
    dtype, shape, target = asked
    if target.on_jax and shape == () and getattr(dtype, "kind", None) in _NUMBERS.get(type(leaf), ()):
        return None
    with distrust():
        try:
            spec = array_spec_of(leaf)
            form_of_keys = key_form(spec.implementation) if spec and spec.implementation else None
        except Unavailable as error:
            raise LeafError(path, str(error)) from error
    if spec is not None:
        stored_dtype, key_shape = form_of_keys or (spec.dtype, ())
        stored_shape = spec.shape[: len(spec.shape) - len(key_shape)]
        if stored_shape == shape:
            if str(stored_dtype) == str(dtype):
                return target
            if cast and is_castable(stored_dtype, dtype):
                return target._replace(dtype=dtype)
    asked_text = f"{dtype}[{', '.join(map(str, shape))}]"
    raise StructureMismatch(path, f"like= has {asked_text}, but {_text(path, leaf)} is stored.")


def _tensor_target(path: str, leaf: Any, form: Any, cast: bool) -> _Target | None:
    with distrust():
        info = leaf_info(path, leaf)
    asked = str(form.dtype).removeprefix("torch."), tuple(form.shape)
    if cast and (info.kind, info.shape) == ("torch", asked[1]) and is_castable_tensor(str(info.dtype), form.dtype):
        return _Target(False, device=form.device, dtype=form.dtype)
    if info.kind != "pickle" and (info.kind, info.dtype, info.shape) != ("torch", *asked):
        shape = ", ".join(map(str, form.shape))
        raise StructureMismatch(path, f"like= has torch {asked[0]}[{shape}], but {_text(path, leaf)} is stored.")
    return _Target(False, device=form.device)


def _array_form(form: Any) -> tuple[Any, tuple[int, ...], _Target] | None:
    """Return the dtype, shape and target that a leaf of `like` requires, or None if it is not an array."""
    if isinstance(form, np.ndarray):
        return form.dtype, form.shape, _Target(on_jax=False)
    jax = loaded_jax()
    if jax is None or not isinstance(form, (jax.Array, jax.ShapeDtypeStruct)):
        return None
    chosen = isinstance(form, jax.ShapeDtypeStruct) or form.committed
    return form.dtype, form.shape, _Target(True, form.sharding if chosen else None)


def _text(path: str, leaf: Any) -> str:
    with distrust():
        try:
            info = leaf_info(path, leaf)
        except Unavailable as error:
            raise LeafError(path, str(error)) from error
    if info.shape is None:
        return info.kind
    return f"{'torch ' * (info.kind == 'torch')}{info.dtype}[{', '.join(map(str, info.shape))}]"
