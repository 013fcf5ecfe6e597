"""What the nodes of a sweep are doing: processors, memory, network, GPUs, power.

Every process that trains watches its whole node, whoever else is at work there, and says so with its reports; the brain
keeps one process's word for each node. So a node is told of once, however many hosts it has, and for as long as one of
them lives. Names and units of what is told are those of MLflow's system metrics, where it has them.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import Any

import psutil

from pbt.runtime.meter import POWERCAP, meters_of_machine, open_nvml
from pbt.runtime.orders import NodeReading

#: Seconds between two samples of what has no counter, and between two readings.
_SAMPLE_S, _READING_S = 2.0, 10.0
#: Seconds between two readings on record, of whatever node: so that a thousand nodes do not fill a ledger.
_RECORD_S = 1.0


class NodeMonitor:
    """Watches the node this process is on.

    Args:
        node: Tells it from other nodes; it is not recorded.
        nvml: Stands in for the module `pynvml`, initialised; None loads it where it is installed.
        powercap: Folder of the counters of processor packages.
        clock: Seconds.
    """

    def __init__(
        self,
        node: str,
        nvml: Any = None,
        powercap: Path = POWERCAP,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._node, self._clock, self._lock = node, clock, threading.Lock()
        self._nvml = nvml or open_nvml()
        self._gpus = _gpus(self._nvml)
        self._meters = meters_of_machine(self._nvml, powercap)
        self._samples: dict[str, list[float]] = defaultdict(list)
        self._counts, self._at = self._count(), clock()
        self._due = self._at

    def start(self) -> NodeMonitor:
        """Take samples from now on, as long as anybody holds the monitor; a thread of its own does."""
        threading.Thread(target=_keep_sampling, args=[weakref.ref(self)], name="node-monitor", daemon=True).start()
        return self

    def sample(self) -> None:
        """Look at what has no counter."""
        with self._lock:
            self._sample()

    def take(self) -> NodeReading | None:
        """What the node did since the last reading; None if that was a moment ago."""
        with self._lock:
            now = self._clock()
            seconds = now - self._at
            if now < self._due or seconds <= 0.0:
                return None
            self._sample()
            before, self._counts = self._counts, self._count()
            values = {name: fmean(samples) for name, samples in self._samples.items()}
            values |= _rates(before, self._counts, seconds)
            self._samples.clear()
            self._at, self._due = now, now + _READING_S
            return NodeReading(node=self._node, values=values)

    def _sample(self) -> None:
        memory = psutil.virtual_memory()
        used = memory.total - memory.available  # what is only cached is not in use
        self._samples["system_memory_usage_megabytes"].append(used / 1e6)
        self._samples["system_memory_usage_percentage"].append(100.0 * used / memory.total)
        for number, handle in enumerate(self._gpus):
            for name, value in _of_gpu(self._nvml, handle):
                self._samples[f"gpu_{number}_{name}"].append(value)

    def _count(self) -> dict[str, float | None]:
        """What only rises; None where it cannot be read now."""
        times = psutil.cpu_times()
        # The time of guests is in that of users already.
        total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        counts: dict[str, float | None] = {"total_s": total, "idle_s": times.idle + getattr(times, "iowait", 0.0)}
        if network := psutil.net_io_counters():
            counts |= {"network_receive": network.bytes_recv, "network_transmit": network.bytes_sent}
        return counts | {f"{name}_power_usage": meter.joules() for name, meter in self._meters.items()}


class Nodes:
    """What the brain makes of readings: numbers for nodes, and rows of the ledger's `nodes`.

    Args:
        session: The session that the rows are of.
    """

    def __init__(self, session: int) -> None:
        self._session = session
        self._numbers: dict[str, int] = {}
        self._told_s: dict[str, float] = {}
        self._joules: dict[str, float] = defaultdict(float)

    def rows(self, readings: Iterable[NodeReading], wall_s: float) -> Iterator[dict[str, Any]]:
        """Rows for the readings that are due; the others, of nodes that were told of a moment ago, are let go.

        Args:
            readings: Of any nodes.
            wall_s: Seconds that the session has run.
        """
        for reading in readings:
            last_s = self._told_s.get(reading.node)
            # A little less than the hosts', so that the same host may be heard each time.
            if last_s is not None and wall_s - last_s < max(0.9 * _READING_S, _RECORD_S * len(self._numbers)):
                continue
            number = self._numbers.setdefault(reading.node, len(self._numbers))
            self._told_s[reading.node] = wall_s
            values = dict(reading.values) | self._energy(reading, wall_s - (last_s or 0.0))
            for name, value in values.items():
                yield {"session": self._session, "node": number, "name": name, "value": value, "wall_s": wall_s}

    def _energy(self, reading: NodeReading, seconds: float) -> dict[str, float]:
        """Energy in this session. The reading's power is taken for that of all the time since the last one on record.

        Another host's reading may have begun earlier or later: what adds up is power, not its energy.
        """
        watts = [value for name, value in reading.values.items() if name.endswith("_power_usage_watts")]
        if not watts:
            return {}
        self._joules[reading.node] += sum(watts) * seconds
        return {"energy_joules": self._joules[reading.node]}


def _rates(before: Mapping[str, float | None], now: Mapping[str, float | None], seconds: float) -> dict[str, float]:
    """What the counters rose by; nothing for those that could not be read, or began anew."""
    pairs = {name: (then, count) for name, count in now.items() if (then := before.get(name)) is not None}
    rose = {name: count - then for name, (then, count) in pairs.items() if count is not None and count >= then}
    total_s, idle_s = rose.pop("total_s", 0.0), rose.pop("idle_s", None)
    found = {}
    if total_s and idle_s is not None:
        found["cpu_utilization_percentage"] = 100.0 * (1.0 - min(1.0, idle_s / total_s))
    for name, rise in rose.items():
        unit, size = ("watts", 1.0) if name.endswith("_power_usage") else ("megabytes_per_second", 1e6)
        found[f"{name}_{unit}"] = rise / size / seconds
    return found


def _keep_sampling(monitor: weakref.ref[NodeMonitor]) -> None:
    while (found := monitor()) is not None:
        found.sample()
        del found
        time.sleep(_SAMPLE_S)


def _gpus(nvml: Any | None) -> list[Any]:
    """NVML's handles of the GPUs of this node."""
    if nvml is None:
        return []
    try:
        return [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError:
        return []


def _of_gpu(nvml: Any, handle: Any) -> Iterator[tuple[str, float]]:
    """Use and memory of a GPU; what it does not tell is left out (the use of a GPU that is divided, for one)."""
    with suppress(nvml.NVMLError):
        yield "utilization_percentage", float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    with suppress(nvml.NVMLError):
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        yield "memory_usage_megabytes", memory.used / 1e6
        yield "memory_usage_percentage", 100.0 * memory.used / memory.total
