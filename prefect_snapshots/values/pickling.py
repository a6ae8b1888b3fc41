"""Pickle and unpickle values: the only module that calls pickle, cloudpickle, joblib or `torch.load`.

Unpickling runs code that the writer of the bytes chose. So every function here that reads takes `allow_pickle` and, if
it is False, raises `PickleRefused` before it reads the bytes. No other module of the package may import these
libraries, and a test verifies this.
"""

from __future__ import annotations

import functools
import importlib
import io
import operator
import pickle
import platform
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from enum import EnumMeta
from functools import partial
from typing import Any

import cloudpickle
import cloudpickle.cloudpickle as _by_value
import numpy as np
from numpy.typing import NDArray

from ..errors import EnvironmentMismatch, MissingDependency, PickleRefused
from .arrays import Buffer
from .classes import SCRIPT_MODULES, look_up, reference_of_function
from .tensors import UsedMemory, loaded_torch, used_memory

_PROTOCOL = 5
"""The first protocol that passes on large buffers without a copy. Every supported version of Python reads it."""


_CODE = b"prefect-snapshots: code of Python "
_OPENING = bytes([0x80, _PROTOCOL]) + pickle.SHORT_BINUNICODE
"""The beginning of a pickle with a short string."""


def _made_in(version: str) -> bytes:
    text = _CODE + version.encode()
    return _OPENING + bytes([len(text)]) + text + pickle.POP


_VERSION = ".".join(platform.python_version_tuple()[:2])
_MADE_HERE = _made_in(_VERSION)
"""What precedes a pickle with code: a string that every unpickler reads and drops. Code of another minor version of
Python does not fail when it is loaded, but ends the process when it runs."""


class NotReadable(Exception):
    """A value can be pickled, but the pickle cannot be unpickled."""


def require_pickle(allow_pickle: bool, what: str, path: str = "") -> None:
    """Raise unless unpickling is permitted.

    Args:
        allow_pickle: Whether the user permits it.
        what: What needs pickle, as the beginning of the message.
        path: The leaf that needs it. Default: the value itself.

    Raises:
        PickleRefused: `allow_pickle` is False.
    """
    if not allow_pickle:
        raise PickleRefused(
            path,
            f"{what} stored with pickle, and allow_pickle is False. Unpickling runs code of whoever wrote the data. "
            "If you trust them, pass allow_pickle=True.",
        )


def dump(value: Any, *, out_of_band: bool = True, tensors: list[Any] | None = None) -> list[Buffer]:
    """Return a value as a pickle stream, followed by its large buffers, after verifying that it can be unpickled.

    Classes and functions of the running script are pickled by value, so that other programs can read them. Everything
    that another process can import is pickled by name.

    Args:
        value: Any object.
        out_of_band: Whether large buffers may follow the stream, without a copy. If not, the stream holds everything.
        tensors: The tensors of PyTorch that it contains are added to this list. Of their memory, only what they use is
            stored.

    Raises:
        Exception: The value cannot be pickled, or the pickle cannot be unpickled. It may be any type, because code of
            the pickled objects runs.
    """
    if (worker := sys.modules.get("__mp_main__")) is not None:
        # In a multiprocessing worker the script has this module name, which exists in no other program.
        cloudpickle.register_pickle_by_value(worker)
    found: list[Any] = []
    parts = _dumped(value, out_of_band, found, {})
    if used := used_memory(found):
        parts = _dumped(value, out_of_band, [], used)
    if tensors is not None:
        tensors += found
    try:
        load(parts[0], parts[1:], allow_pickle=True)
    except Exception as error:
        raise NotReadable(f"It can be pickled, but not unpickled: {error!r}.") from error
    return parts


def _dumped(value: Any, out_of_band: bool, tensors: list[Any], used: Mapping[int, UsedMemory]) -> list[Buffer]:
    buffers: list[pickle.PickleBuffer] = []
    stream = io.BytesIO()
    pickler = _Pickler(stream, _PROTOCOL, buffer_callback=buffers.append if out_of_band else None)
    pickler.tensors, pickler.used = tensors, used
    pickler.dump(value)
    return [(_MADE_HERE if pickler.has_code else b"") + stream.getvalue(), *(buffer.raw() for buffer in buffers)]


def load(stream: Any, buffers: Sequence[Any] = (), *, allow_pickle: bool, what: str = "It was", path: str = "") -> Any:
    """Return the value that `dump` pickled. If a class of the running script still exists, it is used unchanged.

    Args:
        stream: The pickle stream.
        buffers: Its large buffers. Arrays of the value use this memory.
        allow_pickle: Whether the user permits unpickling.
        what: What needs pickle, as the beginning of the message of a refusal.
        path: The leaf that needs it.

    Raises:
        PickleRefused: `allow_pickle` is False.
        EnvironmentMismatch: It contains code of another minor version of Python.
        Exception: The value cannot be unpickled here. It may be any type, because code of the pickled objects runs.
    """
    require_pickle(allow_pickle, what, path)
    _refuse_other_code(bytes(memoryview(stream)[: len(_MADE_HERE) + 8]))
    return _Unpickler(io.BytesIO(stream), buffers=buffers).load()


def _refuse_other_code(head: bytes) -> None:
    start = len(_OPENING) + 1
    if not (head.startswith(_OPENING) and head[start:].startswith(_CODE)):
        return
    made = head[start + len(_CODE) : start + head[start - 1]].decode("ascii", "replace")
    if made != _VERSION:
        raise EnvironmentMismatch(
            f"It contains functions or classes that were stored as code of Python {made}, which Python {_VERSION} "
            f"cannot run. Nothing of it was run. Load it with Python {made}, or load other leaves with leaves=. To "
            "store functions that every Python can load, define them in a module that can be imported."
        )


def dump_joblib(value: Any, **options: Any) -> bytes:
    """Return the bytes of a joblib file with a value, after verifying that it can be read.

    Args:
        value: Any object.
        options: The options of `joblib.dump`.

    Raises:
        NotReadable: It refers to the running script, which other programs cannot import, or cannot be unpickled.
    """
    joblib = _import("joblib", "joblib")
    file = io.BytesIO()
    joblib.dump(value, file, **options)
    finder = _Finder()
    finder.dump(value)
    if finder.script:
        raise NotReadable(
            f"It refers to {finder.script} of the running script, which other programs cannot import. Move "
            f"{finder.script} to a module, or use the handler 'pickle', which stores it by value."
        )
    if finder.changed:
        raise NotReadable(f"joblib would bring back {finder.changed}. Use the handler 'pickle', which keeps it.")
    file.seek(0)
    try:
        joblib.load(file)
    except Exception as error:
        raise NotReadable(
            f"joblib could not read what it wrote: {error!r}. Use the handler 'pickle' or 'pytree'."
        ) from error
    return file.getvalue()


class _Finder(pickle.Pickler):
    """Finds what joblib would not keep: classes and functions of the running script, and what it converts or copies."""

    script = ""
    changed = ""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), _PROTOCOL, buffer_callback=lambda _: None)
        self._memories: dict[int, Any] = {}
        """The storages of tensors, each as the object that stands for it in the pickle of one tensor."""

    def persistent_id(self, obj: Any) -> None:
        if isinstance(obj, type | types.FunctionType) and obj.__module__ in SCRIPT_MODULES:
            self.script = obj.__qualname__
        elif type(obj) is np.matrix:
            self.changed = "a matrix as an array"
        elif isinstance(obj, np.ma.MaskedArray) and obj.hardmask:
            self.changed = "a hard mask as a soft one"
        elif isinstance(obj, BaseException) and (obj.__cause__ or obj.__context__):
            self.changed = "an exception without its cause and context"
        elif (torch := loaded_torch()) and isinstance(obj, torch.nn.Parameter) and _loses_its_class(torch, obj):
            self.changed = f"a {type(obj).__name__} as a plain parameter"
        elif torch and type(obj) is torch.storage.TypedStorage:
            if self._memories.setdefault(obj._untyped_storage._cdata, obj) is not obj:
                self.changed = "tensors that share memory, such as tied weights, as copies"
        elif type(obj) is np.ndarray and obj.dtype.byteorder not in "=|" and not obj.dtype.isnative:
            self.changed = f"an array of {obj.dtype} in the byte order of this machine"


def load_joblib(data: Buffer, *, allow_pickle: bool) -> Any:
    """Return the value in a joblib file, which is a pickle."""
    require_pickle(allow_pickle, "This file of joblib was")
    return _import("joblib", "joblib").load(io.BytesIO(data))


def load_numpy(data: Buffer, *, allow_pickle: bool) -> NDArray[Any]:
    """Return the array in a NumPy file. Only arrays of objects need pickle."""
    # Not `np.load`, which takes all other bytes for a pickle: nobody should allow pickles to read a damaged file.
    try:
        found: NDArray[Any] = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except ValueError as error:
        if "Object arrays" not in str(error):
            raise
        require_pickle(allow_pickle, "The elements of this array were")
        found = np.lib.format.read_array(io.BytesIO(data), allow_pickle=True)
    return found


def load_torch(path: Any, *, device: Any, weights_only: bool, allow_pickle: bool) -> Any:
    """Return the content of a torch file, which is a pickle.

    Args:
        path: The file.
        device: The device for tensors.
        weights_only: Whether torch loads only tensors and plain values.
        allow_pickle: Whether the user permits unpickling.
    """
    require_pickle(allow_pickle, "This file of torch was")
    return _import("torch", "prefect-snapshots[torch]").load(path, map_location=device, weights_only=weights_only)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    has_code = False
    """Whether it has pickled a function by value."""
    tensors: list[Any]
    """Where the tensors go that it has pickled."""
    used: Mapping[int, UsedMemory]
    """The storages of which it pickles only a part."""

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is types.CodeType:
            self.has_code = True
        # Without this, library callables that are not plain functions, such as jitted ones, would be pickled by value.
        if not isinstance(obj, type) and callable(obj) and (name := reference_of_function(obj)) is not None:
            return name.partition(":")[2]
        if isinstance(obj, type) and (made_of := getattr(obj, "__pydantic_generic_metadata__", {})).get("origin"):
            # A generic model with its types, such as Box[int], has no name in its module.
            arguments = made_of["args"]
            return operator.getitem, (made_of["origin"], arguments[0] if len(arguments) == 1 else arguments)
        if type(obj) is functools.cached_property:
            # In Python 3.11 it has a lock, which cannot be pickled.
            return functools.cached_property, (obj.func,), {"attrname": obj.attrname, "__doc__": obj.__doc__}
        if isinstance(obj, io.TextIOWrapper) and obj not in (sys.stdin, sys.stdout, sys.stderr):
            # cloudpickle would bring back its text, as a file in memory.
            raise TypeError("cannot pickle an open file")
        if isinstance(obj, BaseException):
            return _reduce_exception(obj) or super().reducer_override(obj)
        if isinstance(obj, np.ma.MaskedArray) and obj.hardmask:  # NumPy would bring back a soft one
            soft = obj.view()
            soft.soften_mask()
            return operator.methodcaller("harden_mask"), (soft,)
        if type(obj) is memoryview:  # cloudpickle would bring back bytes
            if obj.format == "B" and obj.ndim == 1:
                return memoryview, (obj.tobytes(),)
            return operator.methodcaller("cast", obj.format, obj.shape), (memoryview(obj.tobytes()),)
        if (torch := loaded_torch()) and isinstance(obj, torch.Tensor):
            self.tensors.append(obj)
        return _reduce_torch(obj, self.used) or super().reducer_override(obj)


def _reduce_exception(error: BaseException) -> Any:
    """Return how to pickle an exception with its cause and context, which Python leaves out; None if it has none."""
    causes = {"__context__": error.__context__, "__cause__": error.__cause__}
    if not any(causes.values()) or type(error).__setstate__ is not BaseException.__setstate__:
        return None
    reduced = error.__reduce_ex__(_PROTOCOL)
    if not isinstance(reduced, tuple) or len(reduced) > 3:
        return None
    make, arguments, *state = reduced
    # Setting the cause also sets the last one.
    suppressed = {"__suppress_context__": error.__suppress_context__}
    return make, arguments, {**(state[0] if state and state[0] else {}), **causes, **suppressed}


def _reduce_torch(value: Any, used: Mapping[int, UsedMemory]) -> Any:
    """Return how to pickle a tensor, or the memory of one on the CPU; None for anything else.

    PyTorch pickles memory as an archive of its own: equal tensors have different bytes, which are copied twice, and
    tensors of newer dtypes cannot be unpickled. This form refers to PyTorch only, so any program can unpickle it.
    """
    torch = loaded_torch()
    if torch is None:
        return None
    if isinstance(value, torch.nn.Parameter) and _loses_its_class(torch, value):
        return torch.Tensor._make_subclass, (type(value), value.detach(), value.requires_grad)
    if isinstance(value, torch.Tensor):
        return _typed(torch, value.__reduce_ex__(_PROTOCOL), value, used)
    if type(value) is torch.storage.TypedStorage and value._untyped_storage.device.type == "cpu":
        # Its public attributes warn that it is deprecated.
        options = {"wrap_storage": value._untyped_storage, "dtype": value.dtype, "_internal": True}
        typed: Callable[..., Any] = torch.storage.TypedStorage
        return partial(typed, **options), ()
    if type(value) is not torch.UntypedStorage or value.device.type != "cpu":
        return None
    if not value.nbytes():
        return torch.UntypedStorage, (0,)
    return torch.Tensor.untyped_storage, (_TensorBytes(torch.empty(0, dtype=torch.uint8).set_(value).numpy()),)


def _loses_its_class(torch: Any, value: Any) -> bool:
    """Whether PyTorch would bring back an object of a class derived from `Parameter` as a plain parameter."""
    cls = type(value)
    derived = cls not in (torch.nn.Parameter, torch.nn.UninitializedParameter) and not vars(value)
    return derived and cls.__reduce_ex__ is torch.nn.Parameter.__reduce_ex__


def _typed(torch: Any, part: Any, tensor: Any, used: Mapping[int, UsedMemory]) -> Any:
    """Return how PyTorch pickles a tensor, with the part of its memory that is used, and a type for each storage."""
    if type(part) is not tuple:
        return part
    if part and type(part[0]) in (torch.UntypedStorage, torch.storage.TypedStorage):
        storage, offset, *others = part
        # For newer dtypes, PyTorch pickles a storage without a type, and expects one with a type.
        dtype = torch.uint8 if type(storage) is torch.UntypedStorage else storage.dtype
        untyped = storage if type(storage) is torch.UntypedStorage else storage._untyped_storage
        if untyped._cdata in used:
            untyped, start = used[untyped._cdata]
            offset -= start // tensor.element_size()
        return torch.storage.TypedStorage(wrap_storage=untyped, dtype=dtype, _internal=True), offset, *others
    return tuple(_typed(torch, one, tensor, used) for one in part)


class _TensorBytes:
    """Memory that is pickled as a tensor of bytes."""

    def __init__(self, memory: Any) -> None:
        self._memory = memory

    def __reduce__(self) -> Any:
        torch = sys.modules["torch"]
        return partial(torch.frombuffer, dtype=torch.uint8), (pickle.PickleBuffer(self._memory),)


class _Unpickler(pickle.Unpickler):
    """An unpickler that does not change the classes of the running program.

    cloudpickle would write the stored methods into an existing class with the same identity. So loading an old value
    would return a class of the program to its state at the time of the save.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._live: set[type] = set()

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        if found is _by_value._make_skeleton_class:
            return self._skeleton
        if found is _by_value._make_skeleton_enum:
            return self._enum_skeleton
        return self._set_state if found is _by_value._class_setstate else found

    def _skeleton(self, kind: Any, name: str, bases: Any, options: dict[str, Any], tracked: str, extra: Any) -> type:
        live = _by_value._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracked)
        if live is None and options.get("__module__") in SCRIPT_MODULES:
            live = look_up(f"__main__:{name}")
        if isinstance(live, type):
            self._live.add(live)
            return live
        made: type = _by_value._make_skeleton_class(kind, name, bases, options, tracked, extra)
        return made

    def _enum_skeleton(
        self, bases: Any, name: str, qualname: str, members: dict[str, Any], module: str, tracked: str, extra: Any
    ) -> type:
        live = _by_value._DYNAMIC_CLASS_TRACKER_BY_ID.get(tracked)
        if live is None and module in SCRIPT_MODULES:
            found = look_up(f"__main__:{qualname}")
            here = {each: one.value for each, one in getattr(found, "__members__", {}).items()}
            live = found if all(each in here and here[each] == value for each, value in members.items()) else None
        if isinstance(live, EnumMeta):
            self._live.add(live)
            return live
        made: type = _by_value._make_skeleton_enum(bases, name, qualname, members, module, tracked, extra)
        return made

    def _set_state(self, cls: type, state: Any) -> type:
        return cls if cls in self._live else _by_value._class_setstate(cls, state)


def _import(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependency(
            f'This value needs {module}, which is not installed. Run `pip install "{package}"`.', name=module
        ) from error
