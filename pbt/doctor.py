"""Is everything here that training needs? Things are tried, not only looked for; what is amiss comes with its mend.

What may be missing is imported where it is tried.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from rich.console import Console
from rich.text import Text

from pbt.errors import first_line
from pbt.record.runs import prepare_storage
from pbt.report import text

#: Bytes that there should be room for: in the storage folder, and in the shared memory that weights travel through.
_STORAGE_BYTES, _SHARED_BYTES = 2e9, 1e9
_SHARED_MEMORY = Path("/dev/shm")
_OLDEST_PYTHON = (3, 11)
#: What torch.compile asks of a compiler on a CPU: C++ with OpenMP, as a library.
_PROGRAM = "#include <omp.h>\nint threads() { return omp_get_max_threads(); }\n"
_COMPILER_S = 60.0
_STYLES = {"good": ("ok  ", "green"), "note": ("note", "yellow"), "bad": ("BAD ", "bold red")}


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one thing.

    Attributes:
        about: The thing.
        state: `good`; `note` where training goes on without it; `bad` where it does not.
        told: What was found.
        mend: What to do about it; empty where there is nothing to do.
    """

    about: str
    state: Literal["good", "note", "bad"]
    told: str
    mend: str = ""


def examine(storage: Path, address: str | None = None) -> Iterator[Finding]:
    """Try one thing after another.

    Args:
        storage: The folder that is to hold runs.
        address: The Ray cluster that is to be joined; None tries to start Ray here.
    """
    checks: dict[str, Callable[[str], Finding]] = {
        "Python": _python,
        "packages": _packages,
        "torch": _torch,
        "GPUs": _gpus,
        "compiler": _compiler,
        "storage": partial(_storage, folder=storage),
        "Ray": partial(_ray, address=address),
        "MLflow": _mlflow,
        "energy": _energy,
    }
    for about, check in checks.items():
        try:
            yield check(about)
        except Exception as error:  # whatever it is, it is what was to be found out
            yield Finding(about, "bad", first_line(error), "Mend that; --debug does not tell more")


def show(findings: Iterable[Finding], console: Console | None = None) -> bool:
    """Print findings as they come.

    Returns:
        Whether training can go on.
    """
    console = console or Console()
    found = []
    for it in findings:
        word, style = _STYLES[it.state]
        line = Text.assemble((word, style), f"  {it.about:<9} {it.told}")
        console.print(line, soft_wrap=True)
        if it.mend:
            console.print(Text(f"{'':16}{it.mend}.", style="dim"), soft_wrap=True)
        found.append(it)
    num_bad = sum(it.state == "bad" for it in found)
    last = f"{text.count(num_bad, 'thing')} to mend before training." if num_bad else "Ready to train: pbt demo"
    console.print(last, style="bold")
    return num_bad == 0


def as_json(findings: Iterable[Finding]) -> tuple[str, bool]:
    """Findings as JSON, and whether training can go on."""
    found = list(findings)
    can_train = all(it.state != "bad" for it in found)
    return json.dumps({"can_train": can_train, "findings": [asdict(it) for it in found]}, indent=1), can_train


# ---------------------------------------------------------------------------------------------------------- the checks


def _python(about: str) -> Finding:
    told = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info[:2] < _OLDEST_PYTHON:
        return Finding(about, "bad", told, "Make the virtual environment with Python 3.11 or newer")
    return Finding(about, "good", told)


def _packages(about: str) -> Finding:
    """Those that pbt needs, in versions that it needs."""
    wanted = [Requirement(it) for it in metadata.requires("pbt") or ()]
    needed = [it for it in wanted if it.marker is None or it.marker.evaluate({"extra": ""})]
    wrong = [problem for it in needed if (problem := _problem(it))]
    if wrong:
        mend = "Run scripts/setup, or `pip install -c constraints.txt -e .`"
        return Finding(about, "bad", "; ".join(wrong), mend)
    optional = {it.name for it in wanted if it.marker is not None and it.name in ("matplotlib", "plotly")}
    missing = sorted(name for name in optional if _version(name) is None)
    told = f"{len(needed)} as needed, pbt {metadata.version('pbt')}"
    if missing:
        return Finding(
            about, "note", f"{told}; no pictures without {' and '.join(missing)}", "pip install 'pbt[plots]'"
        )
    return Finding(about, "good", told)


def _problem(wanted: Requirement) -> str:
    found = _version(wanted.name)
    if found is None:
        return f"{wanted.name} is missing"
    return (
        ""
        if wanted.specifier.contains(found, prereleases=True)
        else f"{wanted.name} is {found}, not {wanted.specifier}"
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _torch(about: str) -> Finding:
    import torch

    from pbt.runtime.local import num_cores

    weight = torch.ones(8, 8, requires_grad=True)
    (weight @ weight).sum().backward()
    assert weight.grad is not None
    assert bool((weight.grad == 16).all()), "torch computes wrong gradients"
    return Finding(about, "good", f"{torch.__version__}, on {text.count(num_cores(), 'core')}")


def _gpus(about: str) -> Finding:
    import torch

    from pbt.runtime.machine import hardware, software

    names = [it["name"] for it in hardware()["gpus"]]
    versions = software()
    if not (names or torch.cuda.is_available()):
        return Finding(about, "good", "none; members train on the CPU")
    told = ", ".join(names) or "found by torch alone"
    if torch.version.cuda is None:
        mend = f"Install the CUDA build of torch {versions['torch'].partition('+')[0]}: see pytorch.org/get-started"
        return Finding(about, "bad", f"{told}; but torch {versions['torch']} is built without CUDA", mend)
    if not torch.cuda.is_available():
        driver = versions.get("driver", "unknown")
        mend = f"Update NVIDIA's driver to one for CUDA {torch.version.cuda}; in a container, start it with --gpus all"
        return Finding(about, "bad", f"{told}; but torch cannot use them (driver {driver})", mend)
    for index in range(torch.cuda.device_count()):
        one = torch.ones(64, 64, device=f"cuda:{index}")
        assert float((one @ one).sum()) == 64.0**3, f"GPU {index} computes wrong numbers"
    return Finding(about, "good", f"{told}; CUDA {torch.version.cuda}, driver {versions.get('driver', 'unknown')}")


def _compiler(about: str) -> Finding:
    from trainables.core.step import compiler

    path = compiler()
    mend = "Install g++ (Debian: apt-get install g++), or set CXX"
    if path is None:
        return Finding(about, "note", "none: training runs eagerly, which is slower on GPUs", mend)
    with tempfile.TemporaryDirectory(prefix="pbt-doctor-") as folder:
        source, library = Path(folder) / "try.cpp", Path(folder) / "try.so"
        source.write_text(_PROGRAM)
        command = [path, "-shared", "-fPIC", "-fopenmp", str(source), "-o", str(library)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILER_S, check=False)
    if done.returncode:
        problem = (done.stderr.strip().splitlines() or ["it says nothing"])[0]
        return Finding(about, "note", f"{path} cannot compile for torch: {problem}", mend)
    return Finding(about, "good", path)


def _storage(about: str, folder: Path) -> Finding:
    """Written, locked, synced and removed again: what a ledger does."""
    is_new = not folder.exists()
    prepare_storage(folder)
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            began = time.perf_counter()
            for _ in range(5):
                file.write(b"x" * 512)
                file.flush()
                os.fsync(file.fileno())
            sync_s = (time.perf_counter() - began) / 5
        free = shutil.disk_usage(folder).free
    finally:
        if is_new:
            folder.rmdir()
    told = f"{folder.absolute()}: {text.size(free)} free, a sync takes {1000 * sync_s:.1f} ms"
    if free < _STORAGE_BYTES:
        return Finding(about, "note", told, "Make room, or name another folder with --storage")
    return Finding(about, "good", told)


def _ray(about: str, address: str | None) -> Finding:
    from pbt.runtime.cluster import cluster, room

    address = address or os.environ.get("RAY_ADDRESS")
    began = time.perf_counter()
    with cluster(address):
        there = room()
    took = time.perf_counter() - began
    what = f"joined {address}" if address else "started here and stopped again"
    told = f"{_version('ray')}, {what} in {took:.0f} s; {there}"
    shared = shutil.disk_usage(_SHARED_MEMORY).total if _SHARED_MEMORY.exists() else 0
    if not address and shared < _SHARED_BYTES:
        problem = f"{told}; only {text.size(shared)} of shared memory, so weights travel by disk"
        return Finding(about, "note", problem, "In a container, start it with --shm-size=4g")
    return Finding(about, "good", told)


def _mlflow(about: str) -> Finding:
    """At the address from the environment; without one, in a new database, as a sweep would make it."""
    from pbt.record.mlflow_address import connect, is_server, quiet, without_password

    uri, version = os.environ.get("MLFLOW_TRACKING_URI"), _version("mlflow")
    if uri is None:
        with tempfile.TemporaryDirectory(prefix="pbt-doctor-") as folder, quiet():
            connect(f"sqlite:///{folder}/mlflow.db").search_experiments(max_results=1)
        return Finding(about, "good", f"{version}, in a SQLite file beside the runs (MLFLOW_TRACKING_URI is not set)")
    where = without_password(uri)
    try:
        with quiet():
            connect(uri).search_experiments(max_results=1)
    except Exception as error:  # MLflow raises what its transport raises
        what = "server" if is_server(uri) else "database"
        mend = f"Start that {what}, or unset MLFLOW_TRACKING_URI; until then sweeps train, and `pbt sync` catches up"
        kind = type(error).__name__  # of its message, which may hold the password, nothing is shown
        return Finding(about, "note", f"{version}, but {where} does not answer ({kind})", mend)
    return Finding(about, "good", f"{version}, {where} answers")


def _energy(about: str) -> Finding:
    from pbt.runtime.machine import hardware
    from pbt.runtime.meter import can_measure, meter_for

    if hardware()["gpus"]:
        if can_measure():
            return Finding(about, "good", "NVML tells what GPUs use")
        mend = "pip install nvidia-ml-py; shares of a GPU (MIG) and containers without NVML cannot tell"
        return Finding(about, "note", "NVML does not tell what GPUs use, so runs record no energy", mend)
    if meter_for("cpu").joules() is not None:
        return Finding(about, "good", "the processors' counters (RAPL) tell what they use")
    there = any(Path("/sys/class/powercap").glob("*/energy_uj"))
    mend = "Let your user read /sys/class/powercap/*/energy_uj" if there else ""
    return Finding(about, "note", "the processors' counters (RAPL) cannot be read, so runs record no energy", mend)
