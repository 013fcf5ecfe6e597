"""Whose code an exception came from, told from its traceback."""

import json
import traceback
from pathlib import Path

import numpy as np
import pytest

from pbt.runtime.frames import users_frame
from searchspaces import Float


def raised(what):
    try:
        what()
    except Exception as error:
        return "".join(traceback.format_exception(error))
    raise AssertionError("nothing was raised")


def mistaken():
    json.loads("{")


def of_numpy():
    np.zeros(3).reshape(2, 2)


def of_ours():
    Float(1.0, 0.0)


@pytest.mark.parametrize("what", [mistaken, of_numpy, of_ours])
def test_the_innermost_line_of_the_user_is_told(what):
    """Not that of the library which noticed."""
    line = what.__code__.co_firstlineno + 1
    assert users_frame(raised(what)) == f"{Path(__file__).name}, line {line}, in {what.__name__}"


@pytest.mark.parametrize(
    "path", ["<string>", "/home/me/.venv/lib/python3.11/site-packages/torch/nn/modules/linear.py", "<frozen runpy>"]
)
def test_other_code_is_not_the_users(path):
    """Of a host elsewhere, too."""
    text = f'Traceback (most recent call last):\n  File "{path}", line 1, in run\nValueError: no'
    assert users_frame(text) is None
    mine = f'  File "/home/me/mine.py", line 12, in loss\n    x\n  File "{path}", line 1, in run\n    y\n'
    assert users_frame(mine) == "mine.py, line 12, in loss"
