"""What the ledger costs: microseconds to append a row, seconds and memory to read ten million back.

Appending is measured as the brain does it: a stack of eight members reports, its metrics and outcomes are one commit,
the decisions that follow are another. The amortised cost includes sealing; closing, which merges the parts, is told
apart. Peers in the same run, with the same commits: a file of JSON lines that is synced after each commit, and MLflow
on SQLite (`log_batch`, one call for the metrics of each commit).

Reading is measured in a fresh process, before the parts are merged and after. Its peer is pyarrow on the same folder,
which checks nothing.

python -m benchmarks.ledger [--quick] [--json FILE]
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

import click

from pbt.record.ledger import Ledger, LedgerReader
from pbt.record.schema import canonical

Commit: TypeAlias = list[tuple[str, dict[str, Any]]]

MEMBERS = 8
HPARAMS = canonical({"lr": 0.0123456789, "weight_decay": 0.0987654321, "dropout": 0.123456789, "optimizer": "adamw"})
VALUES = ("bits_per_byte", "accuracy", "grad_norm", "update_ratio", "loss")


@click.command()
@click.option("--quick", is_flag=True, help="100,000 rows appended and 200,000 read, instead of 1 and 10 million.")
@click.option("--json", "output", type=click.Path(path_type=Path), help="Write the raw record here.")
def main(quick: bool, output: Path | None) -> None:
    """Measure, and tell."""
    record: dict[str, Any] = {"machine": {"cpus": os.cpu_count(), "load_before": os.getloadavg()[0]}}
    tell("machine", record["machine"])
    record["append"] = append(100_000 if quick else 1_000_000)
    tell("append", record["append"])
    record["peers"] = peers(2_000 if quick else 20_000)
    tell("peers", record["peers"])
    record["read_back"] = read_back(200_000 if quick else 10_000_000)
    tell("read back", record["read_back"])
    if output:
        packages = ("pbt", "pyarrow", "mlflow")
        record["versions"] = {"python": sys.version.split()[0]} | {name: metadata.version(name) for name in packages}
        output.write_text(json.dumps(record, indent=1) + "\n")


def tell(what: str, found: dict[str, Any], indent: str = "") -> None:
    """Print a record."""
    click.echo(f"{indent}{what}")
    for name, value in found.items():
        if isinstance(value, dict):
            tell(name, value, indent + "  ")
        else:
            click.echo(f"{indent}  {name:<28}{value:>14,.4g}")


# ---------------------------------------------------------------------------------------------------------- appending


def commits() -> Iterator[Commit]:
    """What a brain writes for ever: reports and decisions in turn."""
    segment = 0
    while True:
        yield [row for member in range(MEMBERS) for row in report(member, segment)]
        segment += 1
        yield [row for member in range(MEMBERS) for row in decision(member, segment)]


def report(member: int, segment: int) -> Commit:
    """Metrics and outcome of a segment."""
    where = {"member": member, "segment": segment, "age": 100 * segment, "consumed": 100 * segment}
    rows: Commit = [
        ("metrics", {**where, "split": "validation", "name": name, "value": 1.0 / (3 + segment + member)})
        for name in VALUES
    ]
    outcome = {
        "member": member,
        "segment": segment,
        "status": "ended",
        "hparams_in_effect": HPARAMS,
        "score": 0.1234567,
    }
    outcome |= {"age_end": 100 * segment, "consumed_end": 100 * segment, "wall_s": 2.345, "tokens": 51_200}
    return [*rows, ("outcomes", outcome)]


def decision(member: int, segment: int) -> Commit:
    """What follows from it: every fourth member takes over another, and all go on."""
    cause = f"report:{member}:{segment - 1}"
    copied = member % 4 == 0
    begun = {"member": member, "segment": segment, "generation": segment, "start": "copied" if copied else "own"}
    begun |= {"parent_member": (member + copied) % MEMBERS, "parent_segment": segment - 1, "hparams": HPARAMS}
    begun |= {"seed": 12345 + member, "bucket": "language", "stack": 0, "slot": member, "age_start": 100 * segment}
    begun |= {"consumed_start": 100 * segment, "until": 100 * segment + 100, "cause": cause}
    if not copied:
        return [("segments", begun)]
    why = {"member": member, "segment": segment, "cause": cause, "reason": "member 1 is better: 1.2345 against 1.3456"}
    return [("decisions", {"kind": "copy", "donor": member + 1, **why}), ("segments", begun)]


def append(num_rows: int) -> dict[str, Any]:
    """Append so many rows in commits as above."""
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder))

        def take(rows: Commit) -> None:
            for table, row in rows:
                ledger.append(table, **row)
            ledger.commit()

        found = timed(take, num_rows)
        begun = time.perf_counter()
        ledger.close(finished=True)
        found["close_s"] = time.perf_counter() - begun
        found["bytes_per_row"] = size(Path(folder)) / found["rows"]
    return found


def timed(take: Callable[[Commit], None], num_rows: int) -> dict[str, Any]:
    """Give `take` commits of so many rows in all, and time it."""
    rows, took = 0, []
    for commit in commits():
        begun = time.perf_counter()
        take(commit)
        took.append(time.perf_counter() - begun)
        rows += len(commit)
        if rows >= num_rows:
            return {
                "rows": rows,
                "commits": len(took),
                "us_per_row": 1e6 * sum(took) / rows,
                "commit_us_median": 1e6 * statistics.median(took),
                "commit_us_p99": 1e6 * statistics.quantiles(took, n=100)[98],
                "commit_ms_longest": 1e3 * max(took),
            }
    raise AssertionError("commits never end")


def size(folder: Path) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def peers(num_rows: int) -> dict[str, Any]:
    """The same commits by other means."""
    return {
        "json_lines_synced": json_lines(num_rows),
        "json_lines_never_synced": json_lines(num_rows, sync=False),
        "mlflow_sqlite_metrics_only": mlflow_sqlite(num_rows),
    }


def json_lines(num_rows: int, *, sync: bool = True) -> dict[str, Any]:
    """A line for each row in a file that is synced after each commit."""
    with tempfile.TemporaryDirectory() as folder, open(Path(folder) / "rows.jsonl", "ab", buffering=0) as file:

        def take(rows: Commit) -> None:
            lines = [json.dumps({"table": table, "at": time.time(), **row}) + "\n" for table, row in rows]
            file.write("".join(lines).encode())
            if sync:
                os.fsync(file.fileno())

        return timed(take, num_rows)


def mlflow_sqlite(num_rows: int) -> dict[str, Any]:
    """MLflow's `log_batch`, which takes the metrics of a commit at once; nothing else is recorded."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    logging.getLogger("mlflow").setLevel(logging.ERROR)  # it tells how it makes its database
    with tempfile.TemporaryDirectory() as folder:
        client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
        run = client.create_run(client.create_experiment("ledger")).info.run_id
        rows, took = 0, 0.0
        for commit in commits():
            metrics = [
                Metric(f"{row['member']}/{row['name']}", row["value"], int(time.time() * 1e3), row["consumed"])
                for table, row in commit
                if table == "metrics"
            ]
            if not metrics:
                continue
            begun = time.perf_counter()
            client.log_batch(run, metrics=metrics)
            took += time.perf_counter() - begun
            rows += len(metrics)
            if rows >= num_rows:
                return {"rows": rows, "us_per_row": 1e6 * took / rows}
    raise AssertionError("commits never end")


# ------------------------------------------------------------------------------------------------------------ reading


def read_back(num_rows: int) -> dict[str, Any]:
    """Write so many metrics, and read them in processes of their own."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        found: dict[str, Any] = {"rows": num_rows}
        ledger = Ledger(run)
        found["write_s"] = write_metrics(ledger, num_rows)
        ledger.close(finished=False)
        num_parts = len(LedgerReader(run).files("metrics"))
        found[f"from {num_parts} parts"] = elsewhere("read_ledger", run, num_rows)
        found["merge_s"] = merge(run)
        found["from 1 part"] = elsewhere("read_ledger", run, num_rows)
        found["pyarrow, unchecked"] = elsewhere("read_folder", run, num_rows)
        found["bytes_per_row"] = size(run) / num_rows
    return found


def write_metrics(ledger: Ledger, num_rows: int, commit: int = 1_000) -> float:
    """Seconds to write metrics of 64 members."""
    begun = time.perf_counter()
    for number in range(num_rows):
        segment, member = divmod(number // len(VALUES), 64)
        ledger.append(
            "metrics",
            member=member,
            segment=segment,
            split="validation",
            name=VALUES[number % len(VALUES)],
            value=1.0 / (1 + number),
            age=100 * segment,
            consumed=100 * segment,
        )
        if number % commit == commit - 1:
            ledger.commit()
    ledger.commit()
    return time.perf_counter() - begun


def merge(run: Path) -> float:
    """Seconds to take the ledger up again, which checks it, and to end it, which merges its parts."""
    begun = time.perf_counter()
    Ledger(run, existing=True).close(finished=True)
    return time.perf_counter() - begun


def elsewhere(function: str, run: Path, num_rows: int) -> dict[str, float]:
    """What a function of this module says of a run in a process of its own."""
    code = f"from benchmarks.ledger import measured, {function}; measured({function})"
    said = subprocess.run([sys.executable, "-c", code, str(run)], check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(said)
    if found.pop("rows") != num_rows:
        raise AssertionError(f"{function} found other rows than were written: {said}")
    return found


def measured(read: Callable[[Path], int]) -> None:
    """Print seconds and memory that reading the run named on the command line takes."""
    before = peak_gib()
    begun = time.perf_counter()
    rows = read(Path(sys.argv[1]))
    took = time.perf_counter() - begun
    click.echo(json.dumps({"rows": rows, "seconds": took, "peak_gib": peak_gib(), "peak_gib_before": before}))


def peak_gib() -> float:
    """The most memory this process ever had, on Linux (`ru_maxrss` would count its parent's)."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 2**20


def read_ledger(run: Path) -> int:
    """Through pbt: every byte checked."""
    return LedgerReader(run).table("metrics").num_rows


def read_folder(run: Path) -> int:
    """Through pyarrow: nothing checked."""
    import pyarrow.parquet as pq

    return pq.read_table(run / "ledger" / "metrics").num_rows


if __name__ == "__main__":
    main()
