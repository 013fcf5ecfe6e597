"""Forms of laws: a file each, which has a `FORM`. A new one is a new file here, and is found by its name."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from pbt.errors import SpecError, nearest
from pbt.laws.form import Form


@cache
def forms() -> dict[str, Form]:
    """All forms by name."""
    modules = (import_module(f"{__name__}.{it.name}") for it in iter_modules(__path__))
    found = (module.FORM for module in modules)
    return {form.name: form for form in found}


def form_of(name: str) -> Form:
    """The form of this name.

    Raises:
        SpecError: There is none.
    """
    if name not in forms():
        raise SpecError("law", f"{name!r} is unknown", nearest(name, forms()))
    return forms()[name]
