"""What people keep in checkpoints, nested as they please, as tensors by name and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables.errors import TrainableError

#: How a tree stands in JSON: numbers and text as they are, all else as a mapping of one key, which says what it is.
_TENSOR, _ARRAY, _DICT, _LIST, _TUPLE = "tensor", "array", "dict", "list", "tuple"


def taken_apart(tree: Any, name: str) -> tuple[Any, dict[str, Tensor]]:
    """Tensors, and the form of what they stood in.

    Args:
        tree: Mappings, lists and tuples of tensors, arrays, numbers, text and None.
        name: How names of tensors begin, and the one that errors tell.

    Returns:
        Something for JSON, and the tensors by name, not copied.

    Raises:
        TrainableError: Something else is in it.
    """
    tensors: dict[str, Tensor] = {}
    return _form(tree, name, tensors), tensors


def put_together(form: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The tree of a form, with copies of the tensors."""
    if not isinstance(form, dict):
        return form
    ((kind, inner),) = form.items()
    if kind == _TENSOR:
        return tensors[inner].clone()
    if kind == _ARRAY:
        return tensors[inner].cpu().numpy().copy()
    if kind == _DICT:
        return {key: put_together(value, tensors) for key, value in inner}
    items = [put_together(value, tensors) for value in inner]
    return tuple(items) if kind == _TUPLE else items


def _form(tree: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(tree, np.generic):
        tree = tree.item()
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    if isinstance(tree, Tensor):
        tensors[name] = tree.detach()
        return {_TENSOR: name}
    if isinstance(tree, np.ndarray) and tree.dtype.kind in "biuf":
        tensors[name] = torch.from_numpy(np.ascontiguousarray(tree))
        return {_ARRAY: name}
    if isinstance(tree, Mapping) and all(isinstance(key, str | int) for key in tree):
        return {_DICT: [[key, _form(value, f"{name}.{key}", tensors)] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        items = [_form(value, f"{name}.{index}", tensors) for index, value in enumerate(tree)]
        return {_LIST if isinstance(tree, list) else _TUPLE: items}
    kind = type(tree).__name__
    raise TrainableError(f"{name} is a {kind}, which is not kept; give tensors, numbers, text, lists and mappings")
