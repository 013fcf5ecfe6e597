"""Member-steps per second: stacks against processes and against a compiled single member, on the same cores.

    python -m benchmarks.stack [--quick] [--json FILE] [--tasks mlp,lm] [--ks 1,4,16,64] [--device cuda]

On a CPU, four sides take turns on two cores, in two processes of one thread each:

* `processes`: one member after the other in plain torch, step by step with `torch.optim.AdamW`. This is what Ray Tune's
  population-based training runs, less its own costs.
* `processes_fused`: the same with AdamW fused, which torch does only when it is asked to.
* `compiled_single`: the same member with its whole step as one graph of torch.compile.
* `ours`: a stack in each process, of half the members, as the planner runs it (`compile="always"`).

With K = 1 there is nothing to share out: then every side is one process, and the other core rests. On a GPU, `eager` is
one process, `processes` are eight that share the GPU (both with torch's default AdamW), `compiled_single` is a graph of
torch.compile recorded as a CUDA graph, and `ours` is one stack.

All do the same work in a step (`plain`, `tasks`), and all rates are of rounds in which each side trains once. `vs_x` is
the median over rounds of our rate through that of `x`; intervals are 95 %, by bootstrap over rounds.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.rounds import Estimate, estimate, ratio, take_turns
from benchmarks.stack import promises
from benchmarks.stack.lanes import Job, Kind, Prepared, Side
from benchmarks.stack.tasks import TASKS
from pbt.runtime.machine import git_commit, hardware, software
from trainables.base import Precision

#: Processes that train at the same time on a CPU, and plain ones that share a GPU.
_CORES, _SHARING = 2, 8

#: What we aim at, at the best K, by task: medians of `vs_...`.
_AIMS: Mapping[str, Mapping[str, Mapping[str, float]]] = {
    "cpu": {
        "mlp": {"vs_processes": 5.0},
        "conv8": {"vs_processes": 7.0},
        "conv32": {"vs_processes": 1.4},
        "lm-small": {"vs_processes": 3.5},
        "lm": {"vs_processes": 1.15},
        "lm-b1": {"vs_processes": 1.8},
    },
    "cuda": {
        "lm": {"vs_compiled_single": 10.0, "vs_eager": 35.0, "vs_processes": 5.0},
        "lm-d128": {"vs_compiled_single": 4.5, "vs_eager": 12.0, "vs_processes": 1.6},
        "lm-d512": {"vs_compiled_single": 0.98},
        "lm-d1024": {"vs_compiled_single": 0.98},
    },
}
#: On a CPU, at every K: the lower end of the interval of `vs_compiled_single`.
_FLOOR = 0.97
#: K by task on a GPU, where it is not given.
_KS_ON_A_GPU = {"lm": [64], "lm-d128": [16], "lm-d512": [1], "lm-d1024": [1]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How much is measured, and where."""

    device: str
    precision: Precision
    rounds: int
    seconds: float

    @property
    def on_gpu(self) -> bool:
        """Whether the sides share a GPU."""
        return torch.device(self.device).type == "cuda"

    def sides(self) -> dict[str, tuple[Kind, int]]:
        """Kind and largest number of lanes of each side, by name."""
        if self.on_gpu:
            return {
                "eager": ("eager", 1),
                "processes": ("eager", _SHARING),
                "compiled_single": ("compiled", 1),
                "ours": ("stacked", 1),
            }
        return {
            "processes": ("eager", _CORES),
            "processes_fused": ("fused", _CORES),
            "compiled_single": ("compiled", _CORES),
            "ours": ("stacked", _CORES),
        }


@click.command()
@click.option("--quick", is_flag=True, help="Fewer and shorter rounds, K 1 and 16, three tasks.")
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write the raw record here.")
@click.option("--tasks", "names", help=f"Some of {', '.join(TASKS)}.")
@click.option("--ks", help="Members in all, such as 1,4,16,64; even, or 1.")
@click.option("--device", default="cpu", show_default=True, help="A torch device, such as cuda.")
@click.option("--precision", type=click.Choice(["fp32", "tf32", "bf16"]), help="fp32, or tf32 on a GPU, by default.")
def main(
    quick: bool, output: Path | None, names: str | None, ks: str | None, device: str, precision: Precision | None
) -> None:
    """Measure, and tell."""
    on_gpu = _checked(device)
    options = Options(
        device=device,
        precision=precision or ("tf32" if on_gpu else "fp32"),
        rounds=5 if quick else 15,
        seconds=0.3 if quick else 0.7,
    )
    tasks = _tasks(names, device, quick)
    numbers = _numbers(ks)
    record: dict[str, Any] = {
        "machine": {**hardware(), "load_before": os.getloadavg()[0]},
        "versions": software(),
        "commit": git_commit(Path(__file__).parent),
        "options": dataclasses.asdict(options),
        "rows": [],
    }
    click.echo("{cpu}, {cores} cores, load {load_before:.1f}".format(**record["machine"]))
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache  # compiling is to take what it takes the first time
        for task in tasks:
            for row in compare(task, numbers or _default_ks(task, on_gpu, quick), options):
                record["rows"].append(row)
        record["aims"] = [aim for task in tasks for aim in judged(task, record["rows"], on_gpu)]
        if not on_gpu:
            record["promises"] = promises.measure(options.rounds)
        for aim in [*record["aims"], *record.get("promises", [])]:
            click.echo("{what}: {found}, aim {aim}: {verdict}".format(**aim))
    if output:
        record["machine"]["load_after"] = os.getloadavg()[0]
        output.write_text(json.dumps(record, indent=1) + "\n")


def _checked(device: str) -> bool:
    """Whether the device is a GPU; an end with a sentence where it is not to be had."""
    if torch.device(device).type != "cuda":
        return False
    if not torch.cuda.is_available():
        raise click.UsageError(f"--device {device}: torch finds no CUDA device here; leave it out to run on the CPU")
    return True


def _tasks(names: str | None, device: str, quick: bool) -> list[str]:
    aims = list(_AIMS[torch.device(device).type])
    if names is None:
        return aims[:2] + aims[3:4] if quick and device == "cpu" else aims
    found = names.split(",")
    for name in found:
        if name not in TASKS:
            raise click.UsageError(f"--tasks names {name!r}; give some of {', '.join(TASKS)}")
    return found


def _numbers(ks: str | None) -> list[int]:
    try:
        found = [int(k) for k in ks.split(",")] if ks else []
    except ValueError:
        found = [0]
    if any(k < 1 or (k > 1 and k % _CORES) for k in found):
        raise click.UsageError(f"--ks is {ks!r}; give 1 or even numbers, such as 1,4,16,64")
    return found


def _default_ks(task: str, on_gpu: bool, quick: bool) -> list[int]:
    if on_gpu:
        return _KS_ON_A_GPU.get(task, [1, 16])
    return [1, 16] if quick else [1, 4, 16, 64]


# ---------------------------------------------------------------------------------------------------------- comparing


def compare(task: str, ks: Sequence[int], options: Options) -> list[dict[str, Any]]:
    """Rows of one task. Its processes live as long as it takes, so that graphs are compiled once."""
    rows = []
    with ExitStack() as closing:
        sides: dict[str, Side] = {}
        for name, (kind, lanes) in options.sides().items():
            job = Job(task=task, kind=kind, device=options.device, precision=options.precision)
            sides[name] = Side(job, lanes)
            closing.callback(sides[name].close)
        for k in ks:
            rows.append(one_row(task, k, sides, options))
            tell(rows[-1])
    return rows


def one_row(task: str, k: int, sides: Mapping[str, Side], options: Options) -> dict[str, Any]:
    """All sides at one K."""
    lanes = {name: most if options.on_gpu else min(most, k) for name, (_, most) in options.sides().items()}
    ready = {name: side.prepare(lanes[name], k // lanes["ours"], options.seconds) for name, side in sides.items()}
    rates = take_turns({name: side.rate for name, side in sides.items()}, options.rounds)
    plan = ready["ours"][0].plan
    row: dict[str, Any] = {"task": task, "k": k, "plan": plan and dataclasses.asdict(plan), "lanes": lanes}
    for name in sides:
        if name != "ours":
            row |= _named(f"vs_{name}", ratio(rates["ours"], rates[name]))
    row["rates"] = {name: dataclasses.asdict(estimate(found)) for name, found in rates.items()}
    row["rounds"] = rates
    row["ready_after_s"] = {name: found[0].seconds for name, found in ready.items()}
    row["bytes_per_member"] = ready["ours"][0].bytes_per_member
    row["peak_bytes"] = {name: _peak(found) for name, found in ready.items()}
    return row


def _named(name: str, found: Estimate) -> dict[str, Any]:
    return {name: found.median, f"{name}_interval": [found.low, found.high]}


def _peak(lanes: Sequence[Prepared]) -> int:
    return max(lane.peak_bytes for lane in lanes)


def tell(row: Mapping[str, Any]) -> None:
    """Print a row."""
    plan, ours = row["plan"], row["rates"]["ours"]
    way = f"{plan['chunk']} {'compiled' if plan['compiled'] else 'eager'}"
    said = [f"{row['task']:<9} K {row['k']:>3}  by {way:<12}{ours['median']:>10,.0f} member-steps/s"]
    for name in (name for name in row if name.startswith("vs_") and not name.endswith("_interval")):
        low, high = row[f"{name}_interval"]
        said.append(f"{name} {row[name]:.2f} [{low:.2f}, {high:.2f}]")
    click.echo("  ".join(said))


def judged(task: str, rows: Sequence[Mapping[str, Any]], on_gpu: bool) -> list[dict[str, Any]]:
    """What was aimed at beside what was found, by the best K; on a CPU also the floor, by the worst."""
    own = [row for row in rows if row["task"] == task]
    found = []
    for name, aim in _AIMS["cuda" if on_gpu else "cpu"].get(task, {}).items():
        best = max(own, key=lambda row: row[name])
        low, high = best[f"{name}_interval"]
        said = f"{best[name]:.2f} [{low:.2f}, {high:.2f}] at K = {best['k']}"
        found.append(verdict(f"{task} {name}", said, f">= {aim}", best[name] >= aim))
    if not on_gpu:
        worst = min(own, key=lambda row: row["vs_compiled_single_interval"][0])
        low = worst["vs_compiled_single_interval"][0]
        said = f"lower bound {low:.2f} at K = {worst['k']}, the worst"
        found.append(verdict(f"{task} vs_compiled_single", said, f">= {_FLOOR}", low >= _FLOOR))
    return found


def verdict(what: str, found: str, aim: str, met: bool) -> dict[str, Any]:
    """An aim and what became of it."""
    return {"what": what, "found": found, "aim": aim, "met": met, "verdict": "met" if met else "missed"}


if __name__ == "__main__":
    main()
