"""Handlers: convert the value of an artifact to bytes, and back.

A handler has a name and is found through the entry-point group `prefect_snapshots.handlers`, so any package can add
one. The handlers in this module each write one file that other programs can read, too. `FileHandler` makes such a
handler from two functions. Optional packages are imported when a handler is used.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import itertools
import json
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, packages_distributions, version
from types import ModuleType
from typing import Any, Protocol

from ..errors import (
    EnvironmentMismatch,
    HandlerNotFound,
    InvalidArgument,
    MissingDependency,
    SnapshotsError,
    UnreadableValue,
    UnserialisableLeaf,
    UnserialisableValue,
)
from ..messages import hint
from ..repository.location import Buffer
from ..repository.names import check_name
from ..values import validate
from ..values.pickling import dump, dump_joblib, load, load_joblib, load_numpy, require_pickle
from .differences import Body, Difference, diff_files, read_body

GROUP = "prefect_snapshots.handlers"

_WHAT = "The value of this artifact is"

Written = tuple[bytes, Sequence[Buffer]]
"""The manifest of a value (empty if the body is enough to read it), and its body."""


class Handler(Protocol):
    """Writes and reads values of one format. To add one, see `prefect_snapshots.testing.HandlerContract`."""

    @property
    def suffix(self) -> str:
        """The suffix of the file that a value becomes when it is downloaded, without a dot."""

    def write(self, value: Any, *, allow_pickle: bool, **options: Any) -> Written:
        """Convert a value to bytes. Raise any exception if it cannot be written."""

    def read(self, manifest: bytes, body: Body, *, allow_pickle: bool, **options: Any) -> Any:
        """Return the value that was written."""

    def environment(self, value: Any) -> dict[str, str]:
        """Return the versions of `python` and of packages, by name, that are required to read the value."""

    def diff(self, old: tuple[bytes, Body], new: tuple[bytes, Body], *, allow_pickle: bool) -> Sequence[Difference]:
        """Compare two values without unpickling them."""


def _anywhere(_: Any) -> dict[str, str]:
    return {}


@dataclass(frozen=True)
class FileHandler:
    """A handler that writes each value as one file.

    Args:
        suffix: The suffix of the file, without a dot.
        dump: A function that takes a value, `allow_pickle=` and the options of the writer, and returns the bytes as a
            list of buffers.
        load: A function that takes the bytes in writable memory, `allow_pickle=` and the options of the reader, and
            returns the value.
        environment: A function that takes a value and returns the versions that are required to read it, such as
            `{"python": "3.12"}`. Default: no requirements.

    Example:
        >>> handler = FileHandler(
        ...     "csv",
        ...     dump=lambda rows, allow_pickle: ["\\n".join(",".join(row) for row in rows).encode()],
        ...     load=lambda data, allow_pickle: [line.split(",") for line in str(data, "utf-8").splitlines()],
        ... )
        >>> manifest, body = handler.write([["a", "b"], ["c", "d"]], allow_pickle=False)
        >>> body
        [b'a,b\\nc,d']

    To use it by name, call `register_handler`, or declare it as an entry point of your package in the group
    `prefect_snapshots.handlers`.
    """

    suffix: str
    dump: Callable[..., Sequence[Buffer]]
    load: Callable[..., Any]
    environment: Callable[[Any], dict[str, str]] = _anywhere

    def write(self, value: Any, *, allow_pickle: bool, **options: Any) -> Written:
        """See `Handler`."""
        return b"", self.dump(value, allow_pickle=allow_pickle, **options)

    def read(self, manifest: bytes, body: Body, *, allow_pickle: bool, **options: Any) -> Any:
        """See `Handler`."""
        return self.load(read_body(body), allow_pickle=allow_pickle, **options)

    def diff(self, old: tuple[bytes, Body], new: tuple[bytes, Body], *, allow_pickle: bool) -> Sequence[Difference]:
        """See `Handler`. Text is compared line by line."""
        return diff_files(f"value.{self.suffix}", old[1], new[1])


_registered: dict[str, Handler] = {}


def register_handler(name: str, handler: Handler) -> None:
    """Make a handler available by name in this process, for example one that you define in a notebook.

    To read the artifacts in another process, register it there, too. A package declares its handlers as entry points
    instead.

    Args:
        name: The name of the handler. If you have registered one under this name before, the new one replaces it.
        handler: The handler, such as a `FileHandler`.

    Raises:
        InvalidArgument: An installed package has a handler of this name.

    Example:
        >>> from prefect_snapshots import ArtifactRegistry
        >>> shouting = FileHandler(
        ...     "txt",
        ...     dump=lambda value, allow_pickle: [value.upper().encode()],
        ...     load=lambda data, allow_pickle: str(data, "utf-8"),
        ... )
        >>> register_handler("shouting", shouting)
        >>> registry = ArtifactRegistry("memory://example-register")
        >>> version = registry.log_artifact("greeting", "hello", "shouting")
        >>> registry.load_artifact("greeting")
        'HELLO'
    """
    check_name(name, "handler")
    if name in _entry_points():
        raise InvalidArgument(f"A package has installed a handler {name!r} already. Choose another name.")
    _registered[name] = handler


def find_handler(name: str) -> Handler:
    """Return the handler of a name.

    Raises:
        HandlerNotFound: No such handler is installed. The message lists the installed ones.
        MissingDependency: Its package cannot be imported.

    Example:
        >>> find_handler("json").suffix
        'json'
    """
    if name in _registered:
        return _registered[name]
    if name not in _entry_points():
        _entry_points.cache_clear()  # its package may have been installed since
    found = _entry_points().get(name)
    if found is None:
        raise HandlerNotFound(
            f"No handler {name!r} is installed or registered. {hint(name, list_handlers())} Install the package "
            "that has it, or call register_handler."
        )
    try:
        return _loaded(found)
    except ImportError as error:
        raise MissingDependency(f"The handler {name!r} cannot be imported: {error}") from error


def list_handlers() -> list[str]:
    """List the names of all installed and registered handlers, sorted.

    Example:
        >>> "json" in list_handlers()
        True
    """
    return sorted({*_entry_points(), *_registered})


def write_value(name: str, value: Any, *, allow_pickle: bool, options: Mapping[str, Any]) -> tuple[Handler, Written]:
    """Return the handler of a name, and a value as this handler writes it.

    Raises:
        UnserialisableValue: The handler cannot write the value.
        InvalidArgument: It does not take one of the options.
    """
    handler = find_handler(name)
    try:
        return handler, handler.write(value, allow_pickle=allow_pickle, **options)
    except SnapshotsError:
        raise
    except Exception as error:  # runs code of any class
        _refuse_option(name, options, error, " Nothing was saved.")
        where = _leaf_of(value) if allow_pickle and name in ("pickle", "joblib") else ""
        raise UnserialisableValue(
            f"The handler {name!r} cannot write this {type(value).__name__}, and nothing was saved: {where}{error}"
        ) from error


@contextlib.contextmanager
def reading(name: str, label: object, options: Mapping[str, Any]) -> Iterator[None]:
    """Name the version in errors of a handler that reads it. Whoever wrote the version chose what the handler reads.

    Args:
        name: The name of the handler.
        label: The version.
        options: The options of the handler.

    Raises:
        UnreadableValue: The handler cannot read the value.
        InvalidArgument: It does not take one of the options.
    """
    try:
        yield
    except SnapshotsError:
        raise
    except Exception as error:  # code of a library or of a pickled object, on any bytes
        _refuse_option(name, options, error)
        raise UnreadableValue(
            f"The handler {name!r} cannot read {label} ({type(error).__name__}: {error}). Its bytes are those that "
            "were stored. Install the packages that it needs, or use another version. download_artifact returns the "
            "bytes."
        ) from error


def _refuse_option(name: str, options: Mapping[str, Any], error: Exception, state: str = "") -> None:
    if options and isinstance(error, TypeError) and "unexpected keyword argument" in str(error):
        raise InvalidArgument(
            f"The handler {name!r} does not take an option that you passed ({', '.join(options)}): {error}.{state} "
            "Correct the option, or leave it out."
        ) from error


def _leaf_of(value: Any) -> str:
    """Return the path of the leaf of a value that cannot be pickled, for a message. Empty if each can."""
    try:
        validate(value)
    except UnserialisableLeaf as error:
        return f"At {error.path}: " if error.path else ""
    return ""


def check_environment(stored: Mapping[str, str], label: str) -> None:
    """Check that this environment has the versions of Python and of packages that a version requires.

    Raises:
        EnvironmentMismatch: They differ. The message says how.
    """
    here = {name: _python() if name == "python" else _version(name) for name in stored}
    differing = [
        f"{name} {wanted} (here: {here[name] or 'none'})" for name, wanted in stored.items() if wanted != here[name]
    ]
    if differing:
        raise EnvironmentMismatch(
            f"{label} was written with {', '.join(differing)}, and may load differently here. Install these "
            "versions, or pass validate=False to load it anyway."
        )


@functools.cache
def _entry_points() -> dict[str, EntryPoint]:
    return {found.name: found for found in entry_points(group=GROUP)}


@functools.cache
def _loaded(found: EntryPoint) -> Handler:
    handler: Handler = found.load()
    return handler


def _python() -> str:
    return ".".join(platform.python_version_tuple()[:2])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


_packages = functools.cache(packages_distributions)


def _class_of(value: Any) -> dict[str, str]:
    """Return the versions of Python and of the packages that define the class of a value."""
    module = type(value).__module__.partition(".")[0]
    return {
        "python": _python(),
        **{package: version(package) for package in dict.fromkeys(_packages().get(module, ()))},
    }


def require(module: str, handler: str) -> ModuleType:
    """Return a module that a handler needs.

    Raises:
        MissingDependency: It cannot be imported. The message says what to install.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingDependency(f"The handler {handler!r} needs {package}. Run `pip install {package}`.") from error


# --- the handlers of this package -------------------------------------------------------------------------------------


def _dump_json(value: Any, allow_pickle: bool, strict: bool = True, **options: Any) -> list[Buffer]:
    certain = not options and _is_json(value)
    if strict and not certain and not options.keys() & {"default", "cls"} and (path := _unlike_json(value)):
        raise TypeError(path)
    data = json.dumps(value, **options).encode()
    if not certain:
        back = json.loads(data)
        if strict and (path := _unlike(value, back)):
            raise TypeError(path)
    return [data]


_JSON_SCALARS = {type(None), bool, int, float, str}


def _is_json(value: Any) -> bool:
    """Return whether a value consists of exactly the types that JSON brings back, so that it need not be read back."""
    if type(value) is dict:
        parts: Iterable[Any] = value.values()
        if not {*map(type, value)} <= {str}:
            return False
    elif type(value) is list:
        parts = value
    else:
        return type(value) in _JSON_SCALARS
    return {*map(type, parts)} <= _JSON_SCALARS or all(map(_is_json, parts))


_ALLOW_JSON = "Use the handler 'pytree', or pass strict=False to store what JSON makes of it."


def _unlike_json(value: Any, path: str = "") -> str:
    """Return where a value is nothing that JSON can hold, as a sentence. Empty if it can hold all of it."""
    if type(value) is dict:
        parts: Iterable[tuple[Any, Any]] = value.items()
    elif type(value) in (list, tuple):
        parts = enumerate(value)
    else:
        # A NumPy float is a float, and comes back as one.
        of_numpy = isinstance(value, float) and type(value).__module__ == "numpy"
        known = value is None or of_numpy or type(value) in (str, int, float, bool)
        return "" if known else f"{_at(path)}JSON has no type {type(value).__qualname__}. Use the handler 'pytree'."
    return next((found for name, part in parts if (found := _unlike_json(part, f"{path}/{name}"))), "")


def _unlike(value: Any, back: Any, path: str = "") -> str:
    """Return where JSON has changed a value, as a sentence. Empty if it has not."""
    parts: Iterable[tuple[Any, Any, Any]] = ()
    if type(back) is dict and type(value) is dict:
        changed = value.keys() != back.keys() or {*map(type, value)} != {*map(type, back)}
        parts = [] if changed else [(name, part, back[name]) for name, part in value.items()]
    elif type(back) is list:
        changed = type(value) is not list or len(value) != len(back)
        parts = [] if changed else zip(itertools.count(), value, back)
    else:
        changed = not isinstance(value, type(back)) or (value != back and (value == value or back == back))
    if changed:
        same = type(value) is type(back) is dict
        how = "the keys of a dict into strings" if same else f"{type(value).__name__} into {type(back).__name__}"
        return f"{_at(path)}JSON turns {how}. {_ALLOW_JSON}"
    return next((found for name, one, two in parts if (found := _unlike(one, two, f"{path}/{name}"))), "")


def _at(path: str) -> str:
    return f"At {path[1:]}: " if path else ""


def _load_json(data: memoryview, allow_pickle: bool, **options: Any) -> Any:
    return json.loads(bytes(data), **options)


def _dump_text(value: Any, allow_pickle: bool) -> list[Buffer]:
    if type(value) is not str:
        raise TypeError("it is not a string")
    return [value.encode()]


def _load_text(data: memoryview, allow_pickle: bool) -> str:
    return str(data, "utf-8")


def _dump_pickle(value: Any, allow_pickle: bool) -> list[Buffer]:
    require_pickle(allow_pickle, _WHAT)
    return dump(value, out_of_band=False)


def _load_pickle(data: memoryview, allow_pickle: bool) -> Any:
    return load(data, allow_pickle=allow_pickle, what=_WHAT)


def _dump_joblib(value: Any, allow_pickle: bool, **options: Any) -> list[Buffer]:
    require_pickle(allow_pickle, _WHAT)
    return [dump_joblib(value, **options)]


def _load_joblib(data: memoryview, allow_pickle: bool) -> Any:
    return load_joblib(data, allow_pickle=allow_pickle)


def _dump_numpy(value: Any, allow_pickle: bool) -> list[Buffer]:
    import numpy as np

    if type(value) not in (np.ndarray, np.memmap):
        raise TypeError(
            "a NumPy file holds arrays only. Use the handler 'pytree', or pass numpy.asarray(value) to store what "
            "NumPy makes of it."
        )
    array = np.asarray(value)
    described = np.lib.format.header_data_from_array_1_0(array)
    if np.lib.format.descr_to_dtype(described["descr"]) != array.dtype:
        raise TypeError(f"a NumPy file cannot hold {array.dtype}. Use the handler 'pytree'.")
    head = io.BytesIO()
    if array.dtype.hasobject or array.dtype.names:
        if array.dtype.hasobject:
            require_pickle(allow_pickle, _WHAT)
        np.save(head, array)
        load_numpy(head.getbuffer(), allow_pickle=True)  # objects may be pickled that cannot be unpickled
        return [head.getvalue()]
    np.lib.format.write_array_header_1_0(head, described)
    flat = (array.T if described["fortran_order"] else np.ascontiguousarray(array)).reshape(-1)
    return [head.getvalue(), flat.view(np.uint8).data]


def _load_numpy(data: memoryview, allow_pickle: bool) -> Any:
    return load_numpy(data, allow_pickle=allow_pickle)


_LIBRARY = b"prefect_snapshots.library"
"""The key in the metadata of a Parquet file for the library of the table, where the file itself does not show it."""

_FREQUENCY = "prefect_snapshots.frequency"
"""The attribute of a frame for the frequency of its index."""


def _dump_parquet(value: Any, allow_pickle: bool, strict: bool = True, **options: Any) -> list[Buffer]:
    file = io.BytesIO()
    library = _library(value, "a Parquet file")
    if library == "polars" and options.pop("use_pyarrow", False):
        _write_arrow(value.to_arrow(), file, "polars", **options)
    elif library == "polars":
        value.write_parquet(file, **options)
    elif library == "pandas":
        _with_frequency(value).to_parquet(file, **options)
    else:
        _write_arrow(value, file, "pyarrow", **options)
    if strict:
        _check_table(value, library, "a Parquet file", lambda: _load_parquet(file.getbuffer(), False))
    return [file.getvalue()]


def _library(value: Any, what: str) -> str:
    """Return the library of a table."""
    library = type(value).__module__.partition(".")[0]
    if library not in ("pandas", "polars", "pyarrow") or type(value).__name__ not in ("DataFrame", "Table"):
        raise TypeError(
            f"{what} holds tables of pandas, polars or pyarrow, not {type(value).__name__}. Use the handler 'pytree'."
        )
    return library


def _dump_arrow(value: Any, allow_pickle: bool, strict: bool = True) -> list[Buffer]:
    ipc = require("pyarrow", "arrow").ipc
    library = _library(value, "an Arrow file")
    file = io.BytesIO()
    if library == "polars":
        value.write_ipc(file)
    else:
        table = _marked(value, library) if library == "pyarrow" else _arrow_of(value)
        with ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    if strict:
        _check_table(value, library, "an Arrow file", lambda: _load_arrow(file.getbuffer(), False))
    return [file.getbuffer()]


def _arrow_of(frame: Any) -> Any:
    return require("pyarrow", "arrow").Table.from_pandas(_with_frequency(frame))


def _load_arrow(data: memoryview, allow_pickle: bool, columns: Sequence[str] | None = None) -> Any:
    pyarrow = require("pyarrow", "arrow")

    def read() -> Any:
        return pyarrow.ipc.open_file(pyarrow.py_buffer(data)).read_all()

    table = _with_types(read(), read)
    marks = dict(table.schema.metadata or {})
    if marks.pop(_LIBRARY, b""):
        table = table.replace_schema_metadata(marks or None)
    elif table.schema.pandas_metadata is not None:
        index = [name for name in table.schema.pandas_metadata["index_columns"] if isinstance(name, str)]
        return _frame_of(table if columns is None else table.select([*columns, *index]))
    else:
        return require("polars", "arrow").read_ipc(io.BytesIO(data), columns=columns)
    return table if columns is None else table.select(columns)


def _with_frequency(frame: Any) -> Any:
    """Return a frame that notes the frequency of its index, which a Parquet file does not hold."""
    frequency = getattr(frame.index, "freqstr", None)
    if frequency is None:
        return frame
    noted = frame.copy(deep=False)
    noted.attrs = {**frame.attrs, _FREQUENCY: frequency}
    return noted


def _marked(table: Any, library: str) -> Any:
    """Return an Arrow table that notes the library it came from."""
    return table.replace_schema_metadata({**(table.schema.metadata or {}), _LIBRARY: library})


def _write_arrow(table: Any, file: io.BytesIO, library: str, **options: Any) -> None:
    marked = _marked(table, library)
    # Keeps the names of the elements of nested columns.
    require("pyarrow.parquet", "parquet").write_table(marked, file, **{"use_compliant_nested_type": False} | options)


def _check_table(value: Any, library: str, what: str, load: Callable[[], Any]) -> None:
    """Raise an exception if a file does not bring back a table."""
    try:
        back = load()
        if library == "pandas":
            testing = importlib.import_module("pandas.testing")
            testing.assert_frame_equal(value, back, check_exact=True)
            kept = all(map(_same_kinds, _objects(value), _objects(back))) and repr(value.attrs) == repr(back.attrs)
        elif library == "polars":
            kept = type(value) is type(back) and value.schema == back.schema and value.equals(back, null_equal=True)
        else:
            kept = value.schema.equals(back.schema, check_metadata=True)
            kept = kept and all(map(_same_column, value, back))
    except MissingDependency:
        raise
    except Exception:  # code of the library, which may fail to read what it wrote
        kept = False
    if not kept:
        raise TypeError(
            f"{what} would not bring back the same table: its types or values would change. Use the handler "
            "'pytree', convert the columns, or pass strict=False to store what the format makes of it."
        )


def _objects(frame: Any) -> list[Any]:
    return [column for _, column in frame.items() if column.dtype == object]


def _same_kinds(column: Any, back: Any) -> bool:
    """Return whether the objects of a column have the same types, such as a list that would become an array."""
    return all(type(one) is type(two) for one, two in zip(column, back, strict=True))


def _same_column(column: Any, back: Any) -> bool:
    # PyArrow says that NaN differs from NaN.
    return column.equals(back) or repr(column.to_pylist()) == repr(back.to_pylist())


def _load_parquet(data: memoryview, allow_pickle: bool, **options: Any) -> Any:
    parquet = require("pyarrow.parquet", "parquet")
    file = parquet.ParquetFile(io.BytesIO(data))
    table = _with_types(file.read(**options), lambda: parquet.ParquetFile(io.BytesIO(data)).read(**options))
    marks = dict(table.schema.metadata or {})
    library = marks.pop(_LIBRARY, b"")
    if library:
        table = table.replace_schema_metadata(marks or None)
    if library == b"polars" or (not library and file.metadata.created_by.startswith("Polars")):
        return require("polars", "parquet").from_arrow(table)
    if not library and table.schema.pandas_metadata is not None:
        return _frame_of(table)
    return table


def _with_types(table: Any, read_again: Callable[[], Any]) -> Any:
    """Return a table with its types of pandas, such as intervals, which Arrow knows once pandas has told it of them."""
    names = [(field.metadata or {}).get(b"ARROW:extension:name", b"") for field in table.schema]
    if not any(name.startswith(b"pandas.") for name in names):
        return table
    importlib.import_module("pandas.core.arrays.arrow.extension_types")
    return read_again()


def _frame_of(table: Any) -> Any:
    """Return an Arrow table as the pandas frame that it was."""
    frame = table.to_pandas()
    if (frequency := frame.attrs.pop(_FREQUENCY, None)) is not None and hasattr(frame.index, "freqstr"):
        frame.index.freq = frequency
    return frame


JSON = FileHandler("json", _dump_json, _load_json)
TEXT = FileHandler("txt", _dump_text, _load_text)
PICKLE = FileHandler("pickle", _dump_pickle, _load_pickle, _class_of)
JOBLIB = FileHandler("joblib", _dump_joblib, _load_joblib, _class_of)
NUMPY = FileHandler("npy", _dump_numpy, _load_numpy)
ARROW = FileHandler("arrow", _dump_arrow, _load_arrow)
PARQUET = FileHandler("parquet", _dump_parquet, _load_parquet)
