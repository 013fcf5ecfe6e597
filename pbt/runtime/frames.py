"""Where in the user's own code an exception came from."""

from __future__ import annotations

import re
import sysconfig
from pathlib import Path

_FRAME = re.compile(r'^ *File "([^"]+)", line (\d+), in (.+)$', re.MULTILINE)
_ROOT = Path(__file__).parents[2]
#: Code that is not the user's: Python's and ours; what is installed beside it has a telling folder.
_OTHERS = (Path(sysconfig.get_path("stdlib")), *(_ROOT / name for name in ("pbt", "searchspaces", "trainables")))


def users_frame(traceback: str) -> str | None:
    """`mine.py, line 12, in loss`.

    Args:
        traceback: As text, of this process or another.

    Returns:
        The innermost frame that is the user's; None without any.
    """
    for path, line, name in reversed(_FRAME.findall(traceback)):
        if not (path.startswith("<") or "-packages" in path or any(map(Path(path).is_relative_to, _OTHERS))):
            return f"{Path(path).name}, line {line}, in {name}"
    return None
