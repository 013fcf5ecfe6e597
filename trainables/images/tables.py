"""Tables of images and labels in Parquet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trainables.base import DataError, Split
from trainables.images import arrays, pictures
from trainables.images.examples import Part

_IMAGES = ("image", "images", "img", "pixels")
_LABELS = ("label", "labels", "class", "target")


def read_table(path: Path, split: Split | None) -> Part:
    """Read one Parquet file.

    The column `image` (or `images`, `img`, `pixels`) has encoded pictures, as bytes or as structs with a field `bytes`,
    or lists of pixels of one shape: nested as `[H][W]` or `[H][W][C]`, or flat where the image is square and grey. The
    column `label` (or `labels`, `class`, `target`) has whole numbers or names.

    Raises:
        DataError: The file is unreadable, lacks a column, has nulls, or its images differ in size.
    """
    try:
        # Read, not mapped: a file that is replaced while it is mapped would end the process.
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read ({str(error).splitlines()[0]}); write it again") from None
    image, label = _column(path, table, _IMAGES), _column(path, table, _LABELS)
    if not table.num_rows:
        return Part(source=str(path), images=np.empty((0, 1, 1, 1), np.uint8), labels=np.empty(0, int), split=split)
    return Part(source=str(path), images=_images(path, image), labels=_labels(path, label), split=split)


def _column(path: Path, table: pa.Table, names: tuple[str, ...]) -> pa.Array:
    chosen = next((name for name in names if name in table.column_names), None)
    if chosen is None:
        known = ", ".join(table.column_names) or "none"
        raise DataError(f"{path}: has columns {known}; name one {names[0]!r}")
    column = table.column(chosen).combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # of an empty table
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if column.null_count:
        raise DataError(f"{path}: column {chosen} has {column.null_count} nulls; fill them in or leave the rows out")
    return column


def _images(path: Path, column: pa.Array) -> np.ndarray:
    if isinstance(column, pa.StructArray) and column.type.get_field_index("bytes") >= 0:
        column = column.field("bytes")
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        if column.null_count:
            raise DataError(f"{path}: {column.null_count} images have no bytes; store the pictures in the table")
        contents = ((f"{path}, row {row}", value.as_py()) for row, value in enumerate(column))
        return pictures.decode(contents)
    return arrays.images(path, _pixels(path, column))


def _pixels(path: Path, column: pa.Array) -> np.ndarray:
    """`[N, H, W]` or `[N, H, W, C]`, of nested lists, a tensor column, or flat lists of square grey images."""
    if isinstance(column, pa.ExtensionArray) and hasattr(column, "to_numpy_ndarray"):
        return column.to_numpy_ndarray()
    kind, shape = column.type, [len(column)]
    while _is_list(column.type):
        lengths = pc.unique(pc.list_value_length(column)).to_pylist()
        if len(lengths) != 1:
            raise DataError(f"{path}: images have lists of {lengths[0]} and {lengths[1]} pixels; bring all to one size")
        shape.append(lengths[0])
        column = column.flatten()
    if len(shape) == 1 or not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise DataError(f"{path}: images are of type {kind}; give encoded pictures, or lists of pixels")
    if column.null_count:
        raise DataError(f"{path}: images have {column.null_count} nulls among their pixels; fill them in")
    if len(shape) == 2:
        side = round(shape[1] ** 0.5)
        if side * side != shape[1]:
            raise DataError(f"{path}: images are flat lists of {shape[1]} pixels; nest them as [H][W] or [H][W][C]")
        shape[1:] = [side, side]
    return column.to_numpy(zero_copy_only=False).reshape(shape)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _labels(path: Path, column: pa.Array) -> np.ndarray:
    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return np.array(column.to_pylist(), dtype=np.str_)
    if not pa.types.is_integer(column.type):
        raise DataError(f"{path}: labels are of type {column.type}; give whole numbers or names")
    return arrays.labels(path, column.to_numpy(zero_copy_only=False), len(column))
