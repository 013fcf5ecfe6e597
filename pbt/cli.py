"""The command line: `pbt run`, `pbt demo`, `pbt show`, `pbt list`, `pbt sync`.

Exit codes: 0 done; 1 the sweep stopped with an error; 2 the input is wrong and nothing was started; 130 interrupted.
Heavy modules are imported inside the commands, so that `pbt --help` answers at once.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

_STORAGE = click.option(
    "--storage",
    type=click.Path(path_type=Path),
    default=Path("pbt-runs"),
    show_default=True,
    help="Folder that holds the runs.",
)
_DEBUG = click.option("--debug", is_flag=True, help="Show the traceback of an error.")


def _explained(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn our errors into one line and an exit code."""

    @functools.wraps(command)
    def wrapper(*args: Any, debug: bool = False, **options: Any) -> None:
        from pbt.errors import HostError, PbtError
        from searchspaces import SpaceError
        from trainables.errors import TrainableError

        try:
            command(*args, **options)
        except (PbtError, SpaceError, TrainableError) as error:
            if debug:
                raise
            click.echo(f"pbt: {error}", err=True)
            sys.exit(1 if isinstance(error, HostError) else 2)
        except KeyboardInterrupt:
            if debug:
                raise
            click.echo("pbt: interrupted. What was recorded is kept; `pbt list` shows the runs.", err=True)
            sys.exit(130)

    return _DEBUG(wrapper)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pbt")
def main() -> None:
    """Train populations of neural networks.

    \b
    pbt demo                 a population of small language models, trained here, in two minutes
    pbt run SWEEP.yaml       your own sweep
    pbt show latest          what it found
    """  # noqa: D301 - click's mark for a paragraph not to be wrapped


def _make_importable(folder: Path) -> None:
    """Let a sweep name modules that lie beside it, here and in the hosts of a Ray started here."""
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))


@main.command()
@click.argument("sweep", type=click.Path(path_type=Path))
@click.option(
    "--data", type=click.Path(path_type=Path), help="Your own text: a file, a folder, or Parquet/Arrow tokens."
)
@click.option("--seed", type=int, help="Replaces the sweep's seed.")
@click.option("--storage", type=click.Path(path_type=Path), help="Replaces the sweep's storage folder.")
@click.option("--local", is_flag=True, help="Run in this process, without Ray.")
@click.option("--address", help="Ray cluster to join, for example auto.")
@_explained
def run(
    sweep: Path, data: Path | None, seed: int | None, storage: Path | None, local: bool, address: str | None
) -> None:
    """Run a sweep file to its end.

    \b
    pbt run examples/language.yaml
    pbt run examples/language.yaml --data my-corpus/ --seed 1
    """  # noqa: D301 - click's mark for a paragraph not to be wrapped
    overrides = {
        "trainable.options.data": str(data) if data else None,
        "seed": seed,
        "storage": str(storage) if storage else None,
        "hosts.kind": "local" if local else None,
        "hosts.address": address,
    }
    from pbt.config import read_sweep
    from pbt.errors import HostError

    spec = read_sweep(sweep, {key: value for key, value in overrides.items() if value is not None})
    from pbt.report.show import show
    from pbt.sweep import Sweep

    _make_importable(sweep.absolute().parent)
    result = Sweep.from_spec(spec).run()
    show(result, brief=True)
    if result.winner is None:
        raise HostError("no member survived: every one diverged or failed. Lower the upper end of the learning rate.")


@main.command()
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path("pbt-demo"),
    show_default=True,
    help="Everything the demo writes goes here.",
)
@click.option("--data", type=click.Path(path_type=Path), help="Your own text instead of Python's standard library.")
@click.option("--seed", type=int, default=0, show_default=True, help="Source of all randomness.")
@_explained
def demo(folder: Path, data: Path | None, seed: int) -> None:
    """Train a population of 16 small language models, and the same 16 with fixed hyperparameters beside it.

    The text is that of Python's standard library, unless --data names another. Nothing is downloaded.
    """
    from pbt.demo import run_demo

    run_demo(folder, data, seed)


@main.command()
@click.argument("run", metavar="RUN")
@_STORAGE
@click.option("--json", "as_json", is_flag=True, help="The same facts as JSON.")
@_explained
def show(run: str, storage: Path, as_json: bool) -> None:
    """Show what a run found. RUN is its name, the beginning of it, its folder, or `latest`."""
    from pbt.record.result import Result
    from pbt.record.runs import find_run
    from pbt.report import show as report

    result = Result(find_run(run, storage))
    if as_json:
        click.echo(report.as_json(result))
    else:
        report.show(result)


@main.command("list")
@_STORAGE
@click.option("--json", "as_json", is_flag=True, help="The same facts as JSON.")
@_explained
def list_(storage: Path, as_json: bool) -> None:
    """List the runs of a storage folder, newest first."""
    from pbt.record.runs import list_damaged, list_runs
    from pbt.report import show as report

    report.show_list(list_runs(storage), storage, as_json=as_json)
    for error in list_damaged(storage):
        click.echo(f"pbt: {error}", err=True)


@main.command()
@click.argument("run", metavar="RUN")
@_STORAGE
@_explained
def sync(run: str, storage: Path) -> None:
    """Bring MLflow up to date with a run's ledger, for example after the server was down."""
    from pbt.record.runs import find_run
    from pbt.report.watch import catch_up

    click.echo(catch_up(find_run(run, storage)))
