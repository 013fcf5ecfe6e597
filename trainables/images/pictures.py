"""Encoded pictures (PNG, JPEG and whatever else Pillow reads)."""

from __future__ import annotations

import io
from collections.abc import Iterable
from types import ModuleType

import numpy as np

from trainables.base import DataError

# Pillow's modes of grey in 8 bits or one, transparent or not.
_GREY = frozenset({"L", "LA", "1"})
# Modes of more than 8 bits a channel, which uint8 cannot hold.
_DEEP = ("I", "F")


def decode(pictures: Iterable[tuple[str, bytes]]) -> np.ndarray:
    """Decode pictures of one size.

    Args:
        pictures: Name, for messages, and content of each; at least one.

    Returns:
        `[N, H, W, C]` uint8: one channel if all are grey, otherwise red, green and blue, without transparency.

    Raises:
        DataError: Pillow is missing, or a picture is unreadable, deeper than 8 bits, or of another size.
    """
    decoder = _pillow()
    found: list[np.ndarray] = []
    for name, content in pictures:
        pixels = _decoded(decoder, name, content)
        if found and pixels.shape[:2] != found[0].shape[:2]:
            sizes = [" x ".join(map(str, array.shape[:2])) for array in (pixels, found[0])]
            raise DataError(f"{name}: is {sizes[0]} pixels, but those before are {sizes[1]}; bring all to one size")
        found.append(pixels)
    channels = max(array.shape[2] for array in found)
    return np.stack([np.broadcast_to(array, (*array.shape[:2], channels)) for array in found])


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError:
        raise DataError("pictures need Pillow, which is not installed; pip install 'pbt[images]'") from None
    return Image


def _decoded(decoder: ModuleType, name: str, content: bytes) -> np.ndarray:
    """`[H, W, 1]` or `[H, W, 3]` uint8."""
    try:
        with decoder.open(io.BytesIO(content)) as picture:
            mode, pixels = picture.mode, np.asarray(picture.convert("L" if picture.mode in _GREY else "RGB"))
    except (OSError, SyntaxError, ValueError, EOFError, decoder.DecompressionBombError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{name}: is no readable picture ({reason}); replace or remove it") from None
    if mode.startswith(_DEEP):
        raise DataError(f"{name}: has more than 8 bits a channel (mode {mode}); save it with 8")
    return pixels.reshape(*pixels.shape[:2], -1)
