"""With what a sweep was run: versions, hardware, and the commit of its folder.

For repeating it, and for reading its durations. Nothing here names a person or a machine: no host name, no user name,
no path, no serial number.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from pbt.runtime.local import num_cores
from pbt.runtime.meter import open_nvml

_PACKAGES = ("pbt", "ray", "torch", "optuna", "botorch", "mlflow", "pyarrow", "numpy")
#: Where Linux and NVIDIA's driver say what there is.
_CPU_INFO = Path("/proc/cpuinfo")
_MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")
_DRIVER = Path("/proc/driver/nvidia")
#: Git is not to lock, fetch, ask, or start what a repository's own settings name.
_GIT = ("--no-optional-locks", "-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}")
_GIT_ENVIRONMENT = {"GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1", "LC_ALL": "C"}


def software() -> dict[str, str]:
    """Versions by name: packages, python, and cuda, cudnn and driver where there are any."""
    import torch

    cuda: str | None = torch.version.cuda
    # torch.backends.cudnn.version() would start CUDA, which a process that only drives others must not.
    cudnn = _version(f"nvidia-cudnn-cu{cuda.partition('.')[0]}") if cuda else None
    found = {name: _version(name) for name in _PACKAGES}
    found |= {"python": platform.python_version(), "cuda": cuda, "cudnn": cudnn, "driver": _driver()}
    return {name: version for name, version in found.items() if version}


def hardware(nvml: Any = None) -> dict[str, Any]:
    """What this machine has, as JSON-able data. Does not start CUDA.

    Args:
        nvml: Stands in for the module `pynvml`, initialised; None loads it where it is installed.

    Returns:
        `cpu` (its model), `cores` and `memory_bytes` (what this process may use), `system`, and `gpus`: each with its
        `name` and `memory_bytes`, which is None where only the driver's list of names could be read.
    """
    return {
        "cpu": _cpu(),
        "cores": num_cores(),
        "memory_bytes": _memory(),
        "system": _system(),
        "gpus": _gpus(nvml or open_nvml()),
    }


def git_commit(folder: str | Path, timeout_s: float = 10.0) -> str | None:
    """The commit of the git work tree that holds a folder, with `+changes` if tracked files differ from it.

    Files git does not track count for nothing (runs may lie among them), nor do changes inside submodules.

    Args:
        folder: Any folder.
        timeout_s: Seconds after which git is given up.

    Returns:
        None without git, outside a work tree, before the first commit, or if git cannot say.
    """
    git = shutil.which("git")
    if git is None or not Path(git).is_absolute():  # a PATH with `.` in it would run what lies in the folder
        return None
    status = ("status", "--porcelain=v2", "--branch", "--untracked-files=no", "--ignore-submodules=dirty")
    # Without git's own variables: the folder says which repository is meant.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        said = subprocess.run(
            [git, *_GIT, "-C", str(folder), *status],
            check=True,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
            env=environment | _GIT_ENVIRONMENT,
        ).stdout
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    commit = re.search(r"^# branch\.oid ([0-9a-f]{40,64})$", said, re.MULTILINE)
    if commit is None:
        return None
    changed = any(line and not line.startswith("#") for line in said.splitlines())
    return commit[1] + ("+changes" if changed else "")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _read(path: Path) -> str:
    """A file's text; nothing where it cannot be read."""
    with suppress(OSError, ValueError):
        return path.read_text()
    return ""


def _driver() -> str | None:
    found = re.search(r"Kernel Module.*?\s(\d+(?:\.\d+)+)\s", _read(_DRIVER / "version"))
    return found[1] if found else None


def _cpu() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", _read(_CPU_INFO), re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def _memory() -> int | None:
    """Bytes this process may use, which in a container or a batch job are fewer than the machine has."""
    try:
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not everywhere
        return None
    with suppress(ValueError):  # `max`, or no such file
        there = min(there, int(_read(_MEMORY_LIMIT)))
    return there


def _system() -> str:
    """Kind and version of the operating system; of its release only the number, as people name their own builds."""
    release = re.match(r"[\d.]*\d", platform.release())
    library = " ".join(platform.libc_ver()).strip()
    words = (platform.system(), release[0] if release else "", platform.machine(), library)
    return " ".join(word for word in words if word)


def _gpus(nvml: Any | None) -> list[dict[str, Any]]:
    if nvml is not None:
        with suppress(nvml.NVMLError):
            handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
            return [
                {"name": nvml.nvmlDeviceGetName(handle), "memory_bytes": nvml.nvmlDeviceGetMemoryInfo(handle).total}
                for handle in handles
            ]
    return _started_gpus() or _named_gpus()


def _started_gpus() -> list[dict[str, Any]]:
    """What CUDA says, if it has been started already."""
    import torch

    if not torch.cuda.is_initialized():
        return []
    each = (torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count()))
    return [{"name": properties.name, "memory_bytes": properties.total_memory} for properties in each]


def _named_gpus() -> list[dict[str, Any]]:
    """What the driver says without NVML or CUDA: names alone."""
    told = [_read(path) for path in sorted(_DRIVER.glob("gpus/*/information"))]
    found = [re.search(r"^Model:\s*(.+)$", text, re.MULTILINE) for text in told]
    return [{"name": match[1].strip(), "memory_bytes": None} for match in found if match]
