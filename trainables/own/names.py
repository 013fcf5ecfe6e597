"""Functions of people's own modules, by name: what is recorded is a name, and hosts import it again."""

from __future__ import annotations

import inspect
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainables.errors import TrainableError, nearest


def function(what: str, name: str) -> Callable[..., Any]:
    """The function of a name, `package.module:function`.

    Args:
        what: Which one, for people.
        name: Its name.

    Raises:
        TrainableError: It names nothing that can be called.
    """
    try:
        found = pkgutil.resolve_name(name)
    except Exception as error:  # the user's file may raise what it likes
        problem = f"{what} is {name!r}, which cannot be imported ({type(error).__name__}: {error})"
        raise TrainableError(f"{problem}; {_mend(error)}") from error
    if not callable(found):
        raise TrainableError(f"{what} is {name!r}, a {type(found).__name__}; give package.module:function")
    made: Callable[..., Any] = found
    return made


def name_of(found: Callable[..., Any]) -> str:
    """The name by which a host finds a function.

    Raises:
        TrainableError: It has none, being made inside another.
    """
    module, name = getattr(found, "__module__", ""), getattr(found, "__qualname__", "")
    if module == "__main__" and (file := getattr(sys.modules["__main__"], "__file__", None)):
        module = Path(file).stem  # a host imports the script; what is under `if __name__ == "__main__"` does not run
    if not module or not name or "<" in name:
        told = f"{name or found!r} is not found by its name"
        raise TrainableError(f"{told}; define the function at the top of a module, and give it or its name")
    return f"{module}:{name}"


def _mend(error: Exception) -> str:
    if isinstance(error, AttributeError) and inspect.ismodule(error.obj):
        return nearest(str(error.name), (name for name, found in vars(error.obj).items() if callable(found)))
    if isinstance(error, ModuleNotFoundError):
        return "give package.module:function, of a file beside the sweep file or of a package that is installed"
    return "give package.module:function"
