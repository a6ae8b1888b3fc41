"""Classes by name.

A class is stored as a *reference*, `module:qualname`. A reference is data: it is looked up in the dictionaries of
modules, never evaluated, and what is found is used only after the caller has checked what it is.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

SCRIPT_MODULES = ("__main__", "__mp_main__")
"""The names of the running script. A worker of `multiprocessing` calls the script that started it by the second one."""


class Unavailable(Exception):
    """What a manifest names (a class, a member, a time zone, a dtype) does not exist here: see the message."""


def reference(cls: Any) -> str | None:
    """`module:qualname`, or None for a class that another process would not find by it.

    That is a class of the running script or notebook (`__main__`), one defined inside a function, and one whose name
    was given to something else since.
    """
    module, name = getattr(cls, "__module__", None), getattr(cls, "__qualname__", None)
    if type(module) is not str or type(name) is not str or module in SCRIPT_MODULES:
        return None
    return f"{module}:{name}" if look_up(f"{module}:{name}") is cls else None


def find_class(name: str, *, importing: bool) -> type:
    """The class that a reference names.

    Args:
        name: the reference.
        importing: whether its module may be imported. If not, it must have been imported already.

    Raises:
        Unavailable: there is none.
    """
    module = name.partition(":")[0]
    if importing and module not in sys.modules:
        if not all(part.isidentifier() for part in module.split(".")):
            raise Unavailable(f"{name!r} is not the name of a class.")
        try:
            importlib.import_module(module)
        except (Exception, SystemExit) as error:
            raise Unavailable(f"Its module {module!r} cannot be imported ({error}).") from error
    found = look_up(name)
    if isinstance(found, type):
        return found
    if module not in sys.modules:
        raise Unavailable(f"The module of its class {name!r} is not imported in this process.")
    raise Unavailable(f"Its class {name!r} does not exist in this process.")


def look_up(name: str) -> Any:
    """What a reference names among imported modules, or None. Runs no code: module `__getattr__` is not asked."""
    module, _, qualname = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, "__dict__", {}).get(part)
    return found
