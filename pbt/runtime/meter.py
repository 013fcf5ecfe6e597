"""The energy of the device a stack works on.

Of an NVIDIA GPU: NVML (the optional package nvidia-ml-py, loaded when first needed) tells the GPU's own counter, or
where it has none (before Volta) its power, which is summed. The counter is brought up to date some ten times a second:
short turns are measured coarsely, their sum is right. Both count the whole board, waiting included.

Of a CPU: Linux's counters of its packages (RAPL, Intel and AMD), where they may be read; since 2020 that is the
administrator alone, unless they allow it. A counter counts its whole package, whoever works on it. A process takes the
share that it has of the time in which the processors were busy, so that several on one machine do not count the same
joules twice. Memory and the rest of the machine are not counted, nor is it known whose work was the dear one: good for
comparing runs on one machine, not for a bill.

Where energy cannot be told, the answer is None, never 0 and never a guess:

* without nvidia-ml-py or an NVIDIA driver;
* on a share of a GPU (MIG), whose counter counts the neighbours too;
* on a CPU whose counters are not there (virtual machines) or not readable, and on all other devices.

Limits on energy (`budget.joules`) are kept on GPUs only.
"""

from __future__ import annotations

import importlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

#: Seconds between two samples of a GPU's power.
_SAMPLE_S = 0.1
#: Seconds between two looks at the counters of processor packages. They begin again at 0 after some 65 kJ or more,
#: which takes a package of a kilowatt a minute.
_PACKAGE_S = 10.0
#: Where Linux has those counters, and says how long processors were busy.
POWERCAP, _STAT = Path("/sys/class/powercap"), Path("/proc/stat")


class Meter(Protocol):
    """Counts the energy of one device."""

    def joules(self) -> float | None:
        """Energy since the meter was made, never falling; None where it cannot be read."""


def meter_for(
    device: str, nvml: Any = None, uuid: Callable[[str], str] | None = None, powercap: Path = POWERCAP
) -> Meter:
    """The meter of a torch device; made by the process that trains on it, as it asks CUDA which GPU that is.

    Args:
        device: A torch device string.
        nvml: Stands in for the module `pynvml`, initialised; None loads it.
        uuid: Stands in for asking CUDA for a device's UUID.
        powercap: Folder of the counters of processor packages.
    """
    if device.partition(":")[0] == "cpu":
        return _meter_of_packages(powercap)
    nvml = (nvml or open_nvml()) if device.partition(":")[0] == "cuda" else None
    if nvml is None:
        return NoMeter()
    try:
        return _meter(nvml, nvml.nvmlDeviceGetHandleByUUID((uuid or _uuid)(device)))
    except nvml.NVMLError:
        return NoMeter()


def can_measure(nvml: Any = None) -> bool:
    """Whether the energy of every GPU of this machine can be read. Leaves CUDA alone.

    Args:
        nvml: Stands in for the module `pynvml`, initialised; None loads it.
    """
    nvml = nvml or open_nvml()
    if nvml is None:
        return False
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        return bool(handles) and all(_is_whole(nvml, handle) and _reading(nvml, handle) for handle in handles)
    except nvml.NVMLError:
        return False


def meters_of_machine(nvml: Any | None, powercap: Path = POWERCAP) -> dict[str, Meter]:
    """Meters of all that this machine has and that tells: `cpu` for all processors, whoever they work for, `gpu_0`, ...

    Args:
        nvml: The module `pynvml`, initialised; None where there is none.
        powercap: Folder of the counters of processor packages.
    """
    found = {"cpu": _meter_of_packages(powercap, own=_busy_s)}
    if nvml is not None:
        with suppress(nvml.NVMLError):
            for index in range(nvml.nvmlDeviceGetCount()):
                found[f"gpu_{index}"] = _meter(nvml, nvml.nvmlDeviceGetHandleByIndex(index))
    return {name: meter for name, meter in found.items() if meter.joules() is not None}


def open_nvml() -> Any | None:
    """The module `pynvml`, initialised; None without it or without a driver."""
    try:
        nvml = importlib.import_module("pynvml")
    except (ImportError, OSError):
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return nvml


class Gauge:
    """Joules since it was last asked, whoever asked: shared by the stacks on a device, so that none counts twice.

    Args:
        meter: The device's meter.
    """

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._lock = threading.Lock()
        self._last = meter.joules()

    def take(self) -> float | None:
        """Joules since the last time they could be read; None where they cannot be now."""
        with self._lock:
            now = self._meter.joules()
            if now is None:
                return None
            taken, self._last = now - (self._last or 0.0), now
            return taken


class NoMeter:
    """The meter of a device whose energy cannot be read."""

    def joules(self) -> None:
        """Never known."""
        return


class CounterMeter:
    """A GPU's own counter, in millijoules since its driver was loaded.

    Args:
        nvml: The module `pynvml`, initialised.
        handle: NVML's handle of the GPU.
    """

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        self._first: int = nvml.nvmlDeviceGetTotalEnergyConsumption(handle)

    def joules(self) -> float | None:
        """Energy since the meter was made."""
        try:
            now: int = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        except self._nvml.NVMLError:
            return None
        return (now - self._first) / 1000.0


class PowerMeter:
    """The integral of power samples by the trapezoidal rule; between samples power is taken to change evenly.

    Args:
        nvml: The module `pynvml`, initialised.
        handle: NVML's handle of the GPU.
        clock: Seconds.
    """

    def __init__(self, nvml: Any, handle: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self._nvml, self._handle, self._clock = nvml, handle, clock
        self._lock = threading.Lock()
        self._joules: float | None = 0.0
        self._at, self._watts = clock(), self._power()

    def start(self) -> PowerMeter:
        """Take samples from now on, as long as anybody holds the meter; a thread of its own does."""
        _start_sampling(weakref.ref(self), _SAMPLE_S)
        return self

    def joules(self) -> float | None:
        """Energy since the meter was made; None once a sample could not be taken, as the gap cannot be filled."""
        with self._lock:
            if self._joules is None:
                return None
            try:
                now, watts = self._clock(), self._power()
            except self._nvml.NVMLError:
                self._joules = None
                return None
            self._joules += (now - self._at) * (self._watts + watts) / 2.0
            self._at, self._watts = now, watts
            return self._joules

    def _power(self) -> float:
        milliwatts: int = self._nvml.nvmlDeviceGetPowerUsage(self._handle)
        return milliwatts / 1000.0


class PackageMeter:
    """What processor packages used, times this process's share of the time in which the processors were busy.

    Args:
        zones: Folders of the packages' counters.
        busy: Seconds in which the machine's processors were busy, summed over them.
        own: Seconds of these in which they worked for this process.

    Raises:
        OSError: A counter cannot be read.
    """

    def __init__(
        self, zones: Sequence[Path], busy: Callable[[], float], own: Callable[[], float] = time.process_time
    ) -> None:
        self._zones, self._busy, self._own = tuple(zones), busy, own
        self._ranges = [_microjoules(zone / "max_energy_range_uj") for zone in self._zones]
        self._lock = threading.Lock()
        self._joules: float | None = 0.0
        self._unshared = 0  # microjoules
        self._counts, self._own_s, self._busy_s = self._read()

    def start(self) -> PackageMeter:
        """Look at the counters from now on before they can begin again twice, as long as anybody holds the meter."""
        _start_sampling(weakref.ref(self), _PACKAGE_S)
        return self

    def joules(self) -> float | None:
        """Energy since the meter was made; None once a counter could not be read."""
        with self._lock:
            if self._joules is None:
                return None
            try:
                counts, own_s, busy_s = self._read()
            except (OSError, ValueError):
                self._joules = None
                return None
            steps = zip(self._counts, counts, self._ranges, strict=True)
            self._unshared += sum(now - last if now >= last else now - last + size for last, now, size in steps)
            self._counts = counts
            if busy_s > self._busy_s:  # it is counted in hundredths of a second; until the next, energy waits
                share = min(1.0, (own_s - self._own_s) / (busy_s - self._busy_s))
                self._joules += share * self._unshared / 1e6
                self._unshared, self._own_s, self._busy_s = 0, own_s, busy_s
            return self._joules

    def _read(self) -> tuple[list[int], float, float]:
        return [_microjoules(zone / "energy_uj") for zone in self._zones], self._own(), self._busy()


def _start_sampling(meter: weakref.ref[Any], every_s: float) -> None:
    threading.Thread(target=_keep_sampling, args=[meter, every_s], name="energy-meter", daemon=True).start()


def _keep_sampling(meter: weakref.ref[Any], every_s: float) -> None:
    """Until the meter is gone, or a sample is missing."""
    while (found := meter()) is not None and found.joules() is not None:
        del found
        time.sleep(every_s)


def _meter_of_packages(powercap: Path, own: Callable[[], float] = time.process_time) -> Meter:
    try:
        # Folders of parts of a package, of the whole machine (psys), and of the same counters by another way are left.
        zones = [zone for zone in sorted(powercap.glob("intel-rapl:*")) if _name(zone).startswith("package")]
        return PackageMeter(zones, _busy_s, own).start() if zones else NoMeter()
    except (OSError, ValueError):
        return NoMeter()


def _name(zone: Path) -> str:
    return (zone / "name").read_text().strip()


def _microjoules(counter: Path) -> int:
    return int(counter.read_text())


def _busy_s() -> float:
    """Seconds in which the machine's processors worked, for whomever: not idle, waiting for a disk, or lent out."""
    user, nice, system, _idle, _iowait, irq, softirq = map(int, _STAT.read_text().split(maxsplit=8)[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _meter(nvml: Any, handle: Any) -> Meter:
    reading = _reading(nvml, handle) if _is_whole(nvml, handle) else None
    if reading == "counter":
        return CounterMeter(nvml, handle)
    return PowerMeter(nvml, handle).start() if reading == "power" else NoMeter()


def _reading(nvml: Any, handle: Any) -> str | None:
    """What a GPU tells of its energy: `counter`, `power` or nothing."""
    for name, ask in (("counter", nvml.nvmlDeviceGetTotalEnergyConsumption), ("power", nvml.nvmlDeviceGetPowerUsage)):
        try:
            ask(handle)
        except nvml.NVMLError:
            continue
        return name
    return None


def _is_whole(nvml: Any, handle: Any) -> bool:
    """Whether a GPU is not divided among several users (MIG)."""
    try:
        current, _ = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:  # a GPU that cannot be divided
        return True
    return not current


def _uuid(device: str) -> str:
    """NVML's name of a torch device. CUDA's numbers are not NVML's: `CUDA_VISIBLE_DEVICES` and speed order them."""
    import torch

    found = str(torch.cuda.get_device_properties(torch.device(device)).uuid)
    return found if found.startswith(("GPU-", "MIG-")) else f"GPU-{found}"
