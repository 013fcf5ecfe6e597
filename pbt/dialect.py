"""The YAML of sweep files: numbers as in YAML 1.2 (`1e-4` is a number, not a word), and no key written twice."""

from __future__ import annotations

import re
from typing import Any

import yaml


class Loader(yaml.SafeLoader):
    """Reads plain data."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping; a key that is there twice is a mistake."""
        pairs = node.value if isinstance(node, yaml.MappingNode) else []  # the base class refuses other nodes
        merge = "tag:yaml.org,2002:merge"
        keys = [self.construct_object(key, deep=True) for key, _ in pairs if key.tag != merge]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is written twice", node.start_mark)
        return super().construct_mapping(node, deep)


class Dumper(yaml.SafeDumper):
    """Quotes the words that `Loader` would read as numbers."""


for _kind in (Loader, Dumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"),
        list("-+0123456789."),
    )
    # Whole numbers come first again: the resolver above would take them for floats.
    for _first in "-+0123456789":
        _kind.yaml_implicit_resolvers[_first].sort(key=lambda entry: entry[0].endswith("float"))


def write(data: Any) -> str:
    """Plain data as YAML, in its own order; `Loader` reads it back, equal."""
    return yaml.dump(data, Dumper=Dumper, sort_keys=False)
