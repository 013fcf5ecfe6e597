"""The default data set: 1,797 handwritten digits of 8 x 8 pixels and 17 grey levels, which come with scikit-learn."""

from __future__ import annotations

import numpy as np

from trainables.base import DataError
from trainables.images.examples import Part

SOURCE = "scikit-learn's digits"


def parts() -> list[Part]:
    """All digits in one part.

    Source: Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits (UCI Machine Learning Repository); the
    part that scikit-learn ships.

    Raises:
        DataError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError(f"{SOURCE}: scikit-learn is missing; pip install scikit-learn, or give data=PATH") from None
    found = load_digits()
    return [Part(source=SOURCE, images=found.images.astype(np.uint8)[..., None], labels=found.target)]
