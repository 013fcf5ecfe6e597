"""Find a space by name."""

from importlib import import_module
from types import ModuleType

from searchspaces.errors import SpaceError, suggest
from searchspaces.space import Space

READY = ("adamw", "language", "vision")


def load(name: str) -> Space:
    """Returns a space by its name: a ready one (`adamw`, `language`, `vision`), or `module.path:ATTRIBUTE` of yours.

    Raises:
        SpaceError: There is no such space, module or attribute, or the attribute is not a Space.
    """
    if name in READY:
        name = f"searchspaces.{name}:SPACE"
    path, colon, attribute = name.partition(":")
    if not colon:
        raise SpaceError(f"space {name!r} is not a ready one: {suggest(name, READY)} (your own is 'module.path:SPACE')")
    space = _attribute(_module(path), attribute)
    if not isinstance(space, Space):
        raise SpaceError(f"{name} is {type(space).__name__}, not a Space: build it with searchspaces.Space")
    return space


def _module(path: str) -> ModuleType:
    if not path or path.startswith("."):
        raise SpaceError(f"module {path!r} has no absolute name: write 'package.module:SPACE'")
    try:
        return import_module(path)
    except ModuleNotFoundError as error:
        # A module that is there but lacks a dependency tells its own story.
        if not f"{path}.".startswith(f"{error.name}."):
            raise
        raise SpaceError(f"module {path!r} is not found: correct the path, or run where it can be imported") from None


def _attribute(module: ModuleType, attribute: str) -> object:
    if not hasattr(module, attribute):
        spaces = [name for name, value in vars(module).items() if isinstance(value, Space)]
        raise SpaceError(f"module {module.__name__!r} has no {attribute!r}: {suggest(attribute, spaces)}")
    return getattr(module, attribute)
