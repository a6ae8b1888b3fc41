"""Classes by name.

A class is stored as a *reference*, `module:qualname`. A reference is looked up in the dictionaries of modules and never
evaluated. The caller checks the type of the object that it finds before using it.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

SCRIPT = "__main__"
SCRIPT_MODULES = (SCRIPT, "__mp_main__")
"""The module names of the running script. In a worker of `multiprocessing`, the script of the parent has the second."""


def module_of(value: Any) -> str:
    """Return the module of a class or function, with one name for the running script. Empty if it names none."""
    found = getattr(value, "__module__", "")
    if not isinstance(found, str):
        return ""
    return SCRIPT if found in SCRIPT_MODULES else found


class Unavailable(Exception):
    """A class, member, time zone or dtype of a manifest does not exist here. The message names it."""


def reference(cls: Any) -> str | None:
    """Return the reference of a class, or None if another process could not find the class by it.

    It could not if the class is defined in the running script or notebook (`__main__`) or inside a function, or if its
    name now refers to something else.
    """
    module, name = getattr(cls, "__module__", None), getattr(cls, "__qualname__", None)
    if type(module) is not str or type(name) is not str or module in SCRIPT_MODULES:
        return None
    return f"{module}:{name}" if look_up(f"{module}:{name}") is cls else None


def reference_of_function(function: Any) -> str | None:
    """Return the reference of a function under any name that its module has for it, or None.

    A lambda or decorated function of a library, such as an activation, has no name that leads to it. It is stored
    under the name of the module's variable, so that it comes back as the same object.
    """
    found = reference(function)
    module = getattr(function, "__module__", None)
    if found is not None or type(module) is not str or module in SCRIPT_MODULES:
        return found
    names = getattr(sys.modules.get(module), "__dict__", {})
    return next((f"{module}:{name}" for name, value in list(names.items()) if value is function), None)


def find_class(name: str, *, importing: bool) -> type:
    """Return the class that a reference names.

    Args:
        name: The reference.
        importing: Whether its module may be imported. If not, only modules that are already imported are searched.

    Raises:
        Unavailable: There is no such class.
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
    """Return the object that a reference names in an imported module, or None. Runs no code, not even a module's
    `__getattr__`."""
    module, _, qualname = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, "__dict__", {}).get(part)
    return found
