"""What tracking costs: metrics a second into MLflow, beside Ray's own callback; training's share; the lineage page.

    python -m benchmarks.tracking [--quick] [--json FILE]

Metrics: a sweep of eight members is trained, untracked; then what its mirror shows is written to MLflow, by the mirror
and, value for value the same, by Ray Tune's `MLflowLoggerCallback`, into a fresh database each. Into SQLite, and into a
PostgreSQL that is started for it, where there is one. The mirror's time includes reading the ledger; runs are made
before the clock starts on Ray's side, and after it on ours.

Events: microseconds that a row of the ledger costs the driver until it is ready to be sent.

Training: the same kind of sweep, tracked into SQLite, in one process; CPU seconds of the thread that writes to MLflow,
over all other CPU seconds. Importing MLflow and making a new database, once for each sweep, is told apart.

Page: the lineage of 1,000 members in 200 generations in Debian's Chromium, without a screen: seconds to write it, until
it has been drawn, and for a frame while it is zoomed and moved.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import click

import pbt
from benchmarks.postgres import lacking, postgres
from pbt.record.ledger import LedgerReader, Tail
from pbt.record.mirrored import Story
from pbt.report.lineage_page import write_lineage_page

SPACE = {
    "lr": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
    "h0": {"type": "float", "low": 0.0, "high": 1.0},
    "h1": {"type": "float", "low": 0.0, "high": 1.0},
}


@click.command()
@click.option("--quick", is_flag=True, help="Shorter streams, 200 members in 40 generations, less training.")
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write the raw record here.")
def main(quick: bool, output: Path | None) -> None:
    """Measure, and tell."""
    warnings.simplefilter("ignore")
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    packages = ("pbt", "mlflow", "ray", "sqlalchemy")
    record: dict[str, Any] = {"machine": {"cpus": os.cpu_count(), "load_before": os.getloadavg()[0]}}
    record["versions"] = {"python": sys.version.split()[0]} | {name: metadata.version(name) for name in packages}

    def keep(what: str, found: Any) -> None:
        """One that is stopped leaves what it has."""
        record[what] = found
        if output:
            output.write_text(json.dumps(record, indent=1) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        stream = toy(Path(folder), members=8, generations=25 if quick else 100)
        keep("enqueue_us", enqueue_us(stream))
        click.echo(f"a row of the ledger costs the driver {record['enqueue_us']:.1f} us until it is ready to be sent")
        keep("sinks", [*into_sqlite(stream, Path(folder)), *into_postgres(stream)])
        keep("page", page(toy(Path(folder), *((200, 40) if quick else (1_000, 200)))))
        keep("training", tracked_training(Path(folder), generations=10 if quick else 30))


def toy(storage: Path, members: int, generations: int) -> Path:
    """A real, untracked sweep of a closed-form task."""
    sweep = pbt.Sweep(
        trainable="quadratic",
        space=SPACE,
        objective="Q",
        budget={"members": members, "generations": generations, "steps": 5},
        hosts={"kind": "local"},
        tracking={"enabled": False},
        checkpoints={"every_minutes": None},
        storage=str(storage),
    )
    return sweep.run(progress=False).path


def enqueue_us(run: Path) -> float:
    """Microseconds that reading a row and understanding it take."""
    info = json.loads((run / "run.json").read_bytes())
    story, tail = Story(info["objective"]["mode"], info["hparams"]), Tail(LedgerReader(run))
    begun = time.thread_time()
    rows = tail.poll()
    story.add(rows)
    return 1e6 * (time.thread_time() - begun) / len(rows)


# -------------------------------------------------------------------------------------------------------- metrics


def into_sqlite(run: Path, folder: Path) -> list[dict[str, Any]]:
    """Both into a file each."""

    def count(file: Path) -> int:
        with sqlite3.connect(file) as database:
            return int(database.execute("select count(*) from metrics").fetchone()[0])

    files = {impl: folder / f"{impl}.db" for impl in ("ours", "ray")}
    uris = {impl: f"sqlite:///{file}" for impl, file in files.items()}
    return compared("sqlite", run, uris, lambda impl: count(files[impl]))


def into_postgres(run: Path) -> list[dict[str, Any]]:
    """Both into a database each of a server that is started for it; nothing where there is none."""
    if why := lacking():
        click.echo(f"postgresql: not measured, {why}")
        return []
    with postgres() as server:
        for impl in ("ours", "ray"):
            server.ask("postgres", f"create database {impl}")
        uris = {impl: server.uri_of(impl) for impl in ("ours", "ray")}
        return compared("postgresql", run, uris, lambda impl: server.ask(impl, "select count(*) from metrics"))


def compared(sink: str, run: Path, uris: dict[str, str], count: Callable[[str], int]) -> list[dict[str, Any]]:
    """Metrics a second of the mirror and of Ray's callback."""
    found = []
    for impl, write in (("ours", by_mirror), ("ray", by_ray)):
        seconds = write(run, uris[impl])
        values = count(impl)
        found.append({"impl": impl, "sink": sink, "values": values, "seconds": seconds, "per_second": values / seconds})
    ours, ray = found
    # Ray's callback also writes the number of each result, as a metric.
    assert ours["values"] == ray["values"] - len(results_of(run)), "they were to write the same"
    ours["vs_ray_callback"] = ours["per_second"] / ray["per_second"]
    click.echo(
        f"{sink}: {ours['values']:,} values; ours {ours['per_second']:,.0f} a second, Ray's callback "
        f"{ray['per_second']:,.0f}: {ours['vs_ray_callback']:.1f} times"
    )
    return found


def by_mirror(run: Path, uri: str) -> float:
    """Seconds from an empty database with its tables to the last row."""
    from mlflow import MlflowClient

    from pbt.record.mlflow import Mirror

    MlflowClient(uri).search_experiments(max_results=1)  # its tables are made before the clock starts
    begun = time.perf_counter()
    mirror = Mirror(run, uri=uri, experiment="tracking")
    mirror.sync()
    seconds = time.perf_counter() - begun
    assert mirror.last_error is None, mirror.last_error
    assert mirror.behind == 0
    return seconds


@dataclass(eq=False)
class Trial:
    """As much of a trial of Ray Tune as its callback looks at."""

    member: int
    config: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """A name."""
        return f"member {self.member}"


def by_ray(run: Path, uri: str) -> float:
    """Seconds for the same values by Ray's callback, result by result, as Tune calls it."""
    from mlflow import MlflowClient
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    results = results_of(run)
    MlflowClient(uri).search_experiments(max_results=1)
    callback = MLflowLoggerCallback(tracking_uri=uri, experiment_name="tracking")
    callback.setup()
    trials = {member: Trial(member) for member, _, _ in results}
    for trial in trials.values():
        callback.log_trial_start(trial)
    begun = time.perf_counter()
    for number, (member, step, values) in enumerate(results):
        callback.log_trial_result(number, trials[member], {"training_iteration": step, **values})
    return time.perf_counter() - begun


def results_of(run: Path) -> list[tuple[int, int, dict[str, float]]]:
    """What the mirror writes, as results of trials: whose, at which step, which values."""
    info = json.loads((run / "run.json").read_bytes())
    story, rows = Story(info["objective"]["mode"], info["hparams"]), Tail(LedgerReader(run)).poll()
    story.add(rows)
    found: list[tuple[int, int, dict[str, float]]] = []
    for who, points in story.metrics(rows).items():
        open_: dict[int, dict[str, float]] = {}
        for point in points:
            # A hyperparameter that changes has two values at one step: two results.
            if point.key in open_.get(point.step, {point.key: 0.0}):
                open_[point.step] = {}
                found.append((-1 if who is None else who, point.step, open_[point.step]))
            open_[point.step][point.key] = point.value
    return sorted(found, key=lambda one: one[1])


# ------------------------------------------------------------------------------------------------------- training


def tracked_training(storage: Path, generations: int) -> dict[str, Any]:
    """CPU seconds of tracking over those of training, in a sweep of small language models."""
    sweep = pbt.Sweep(
        trainable="language",
        space={"lr": SPACE["lr"]},
        objective="bits_per_byte",
        budget={"members": 8, "generations": generations, "steps": 40},
        hosts={"kind": "local"},
        tracking={"uri": f"sqlite:///{storage / 'training.db'}"},
        storage=str(storage),
    )
    with watched() as spent:
        begun = cpu_s()
        sweep.run(progress=False)
        whole = cpu_s() - begun
    training = whole - sum(spent["sync"]) - spent["end"]
    found = {
        "training_cpu_s": training,
        "tracking_cpu_s": sum(spent["sync"][1:]),
        "first_sync_cpu_s": spent["sync"][0],
        "end_cpu_s": spent["end"],
        "syncs": len(spent["sync"]),
        "training_slowdown": sum(spent["sync"][1:]) / training,
    }
    click.echo(
        f"training: {training:.0f} CPU seconds, tracking {found['tracking_cpu_s']:.2f} "
        f"({100 * found['training_slowdown']:.2f}%) in {found['syncs']} turns; once for each sweep, MLflow and a new "
        f"database {found['first_sync_cpu_s']:.1f}, plots, page and the end {found['end_cpu_s']:.1f}"
    )
    return found


def cpu_s() -> float:
    """CPU seconds of this process and those it waited for."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


@contextmanager
def watched() -> Any:
    """Count what the driver's threads spend on MLflow: turn by turn, and at the end with plots and page."""
    from pbt.report.watch import Watch

    spent: dict[str, Any] = {"sync": [], "end": 0.0}
    sync, finish = Watch._sync, Watch.finish

    def timed_sync(self: Watch) -> None:
        begun = time.thread_time()
        sync(self)
        spent["sync"].append(time.thread_time() - begun)

    def timed_finish(self: Watch) -> None:
        begun, before = time.thread_time(), sum(spent["sync"])
        finish(self)
        spent["end"] = time.thread_time() - begun - (sum(spent["sync"]) - before)

    Watch._sync, Watch.finish = timed_sync, timed_finish  # type: ignore[method-assign]
    try:
        yield spent
    finally:
        Watch._sync, Watch.finish = sync, finish  # type: ignore[method-assign]


# ----------------------------------------------------------------------------------------------------------- page

#: Nothing that would look for a network.
_CHROMIUM = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--no-first-run")
#: Turns the wheel and drags, one event a frame; gives milliseconds between frames.
_MOVE = """async () => {
  const canvas = document.querySelector("#tree > canvas"), box = canvas.getBoundingClientRect(), took = [];
  const at = (x, y) => ({ clientX: box.left + x * box.width, clientY: box.top + y * box.height, bubbles: true });
  const frame = () => new Promise(requestAnimationFrame);
  canvas.dispatchEvent(new PointerEvent("pointerdown", { ...at(0.5, 0.5), pointerId: 1 }));
  await frame();
  let last = performance.now();
  for (let number = 0; number < 60; number++) {
    const turn = number < 30 ? -60 : 60;
    if (number % 2) canvas.dispatchEvent(new WheelEvent("wheel", { ...at(0.6, 0.4), deltaY: turn, cancelable: true }));
    else canvas.dispatchEvent(new PointerEvent("pointermove", { ...at(0.5 + (number % 9) / 40, 0.5), pointerId: 1 }));
    await frame();
    await frame();
    took.push((performance.now() - last) / 2);
    last = performance.now();
  }
  canvas.dispatchEvent(new PointerEvent("pointerup", { ...at(0.5, 0.5), pointerId: 1 }));
  return took;
}"""


def page(run: Path) -> dict[str, Any]:
    """How fast a large lineage is written, drawn and moved."""
    begun = time.perf_counter()
    file = write_lineage_page(pbt.load(run))
    found: dict[str, Any] = {"write_s": time.perf_counter() - begun, "size_mb": file.stat().st_size / 1e6}
    program = shutil.which("chromium")
    if program is None:
        click.echo("page: no Chromium on this machine: not measured")
        return found
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(_CHROMIUM))
        loads = []
        for _ in range(3):
            tab = browser.new_page(viewport={"width": 1400, "height": 900})
            begun = time.perf_counter()
            tab.goto(file.as_uri())
            tab.wait_for_selector("html[data-ready=true]", timeout=120_000)
            loads.append(time.perf_counter() - begun)
            frames = tab.evaluate(_MOVE)
            tab.close()
        browser.close()
    found |= {
        "render_s": statistics.median(loads),
        "frame_ms": statistics.median(frames),
        "frame_ms_worst": max(frames),
    }
    click.echo(
        f"page: {found['size_mb']:.1f} MB written in {found['write_s']:.1f} s, drawn in {found['render_s']:.1f} s; "
        f"a frame while moving {found['frame_ms']:.0f} ms, at most {found['frame_ms_worst']:.0f}"
    )
    return found


if __name__ == "__main__":
    main()
