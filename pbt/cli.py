"""The command line: `pbt run`, `resume`, `extend`, `stop`, `demo`; `watch`, `show`, `list`, `report`, `sync`; `replay`
and `export` of what was found; what asks the record: `lineage`, `why`, `ancestors`, `descendants`, `schedule`, `diff`;
and `coordinates`, a check of a parametrization.

Exit codes: 0 done; 1 the sweep stopped with an error; 2 the input is wrong and nothing was started; 130 interrupted.
Heavy modules are imported inside the commands, so that `pbt --help` answers at once.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pbt import completion

if TYPE_CHECKING:
    from pbt.member import SegmentKey
    from pbt.record.result import Result
    from pbt.record.runs import Run

_STORAGE = click.option(
    "--storage",
    type=click.Path(path_type=Path),
    default=Path("pbt-runs"),
    show_default=True,
    help="Folder that holds the runs.",
)
_RUN = click.argument("run", metavar="RUN", shell_complete=completion.runs)
_AS_JSON = click.option("--json", "as_json", is_flag=True, help="The same facts as JSON.")
_CLUSTER = click.option(
    "--address",
    metavar="URL",
    help="Dashboard of a Ray cluster, such as http://HEAD:8265: RUN is then a job that `pbt submit` gave to it.",
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
        except KeyboardInterrupt as interrupt:
            if debug:
                raise
            click.echo(f"pbt: {_how_it_stopped(interrupt)}", err=True)
            _leave(130)

    return _DEBUG(wrapper)


def _leave(code: int) -> None:
    """Leave, also while threads still train: Python would end them in the midst of C++, which aborts."""
    if any(thread.name.startswith("stack-") for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _how_it_stopped(interrupt: KeyboardInterrupt) -> str:
    told = "interrupted. What was recorded is kept; `pbt list` shows the runs, `pbt resume RUN` goes on."
    return str(interrupt.args[0]) if interrupt.args else told


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="pbt")
def main() -> None:
    """Train populations of neural networks.

    \b
    pbt demo                 a population of small language models, trained here, in two minutes
    pbt run SWEEP.yaml       your own sweep
    pbt show latest          what it found
    pbt resume latest        go on with it after Ctrl-C, a crash or a power failure

    \b
    Exit codes: 0 done; 1 it stopped with an error, or no member survived; 2 the input
    is wrong and nothing was started; 130 stopped (Ctrl-C, SIGTERM or `pbt stop`).
    """  # noqa: D301 - click's mark for a paragraph not to be wrapped


def _make_importable(folder: Path) -> None:
    """Let a sweep name modules that lie beside it, here and in the hosts of a Ray started here."""
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))


@main.command()
@click.argument("sweep", type=click.Path(path_type=Path))
@click.option(
    "--data", type=click.Path(path_type=Path), help="Your own data: text or images, a file or a folder; see the guide."
)
@click.option("--seed", type=int, help="Replaces the sweep's seed.")
@click.option("--storage", type=click.Path(path_type=Path), help="Replaces the sweep's storage folder.")
@click.option("--local", is_flag=True, help="Run in this process, without Ray.")
@click.option("--address", help="Ray cluster to join, for example auto.")
@click.option("--as-job", is_flag=True, hidden=True)
@_explained
def run(
    sweep: Path,
    data: Path | None,
    seed: int | None,
    storage: Path | None,
    local: bool,
    address: str | None,
    as_job: bool,
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

    chosen: dict[str, Any] = {key: value for key, value in overrides.items() if value is not None}
    if local and address is None:
        chosen["hosts.address"] = None  # the file's is of no use here
    spec = read_sweep(sweep, chosen)
    from pbt.sweep import Sweep

    folder = sweep.absolute().parent
    _make_importable(folder)
    made = Sweep.from_spec(spec)
    if as_job:  # another node of this machine may make the job's folder anew, which is then gone under our feet
        Path(spec.storage).mkdir(parents=True, exist_ok=True)
        os.chdir(spec.storage)
    result = made.run(imports=folder)
    _show_end(result)


def _show_end(result: Result) -> None:
    from pbt.errors import HostError
    from pbt.report.show import show

    show(result, brief=True)
    if result.winner is None:
        raise HostError("no member survived: every one diverged or failed. Lower the upper end of the learning rate.")


def _hosts_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say where a run that is there already goes on."""
    command = click.option("--device", help="Go on with another device than it was begun on.")(command)
    command = click.option("--ranks", type=int, help="Processes that share a member from now on.")(command)
    command = click.option("--address", help="Ray cluster to join, for example auto.")(command)
    return click.option("--local", is_flag=True, help="Go on in this process, without Ray.")(command)


def _find(
    run: str, storage: Path, local: bool, address: str | None, ranks: int | None, device: str | None
) -> tuple[Run, dict[str, Any]]:
    """A run to be taken up again, and where."""
    from pbt.errors import SpecError
    from pbt.record.runs import find_run

    if local and (address is not None or ranks not in (None, 1)):
        raise SpecError("--local", "goes on in this process alone", "Leave it out, or --address and --ranks")
    found = find_run(run, storage)
    if found.info.get("imports"):
        _make_importable(Path(found.info["imports"]))
    hosts = {"kind": "local" if local else None, "address": address, "ranks": ranks, "device": device}
    return found, {name: value for name, value in hosts.items() if value is not None}


@main.command()
@_RUN
@_STORAGE
@_hosts_options
@_explained
def resume(run: str, storage: Path, local: bool, address: str | None, ranks: int | None, device: str | None) -> None:
    """Go on with a run that was stopped or killed. RUN is its name, the beginning of it, its folder, or `latest`.

    It ends as it would have without the interruption. What was not saved is trained again.
    """
    found, hosts = _find(run, storage, local, address, ranks, device)
    from pbt.control import resume as go_on

    _show_end(go_on(found, hosts=hosts))


@main.command()
@_RUN
@click.option("--members", type=int, help="Members, in all. New ones first train as long as the others have.")
@click.option("--generations", type=int, help="Generations, in all.")
@click.option("--tokens", type=int, help="Limit on tokens, in all.")
@click.option("--wall-minutes", type=float, help="Limit on the time it runs, in all.")
@click.option("--gpu-hours", type=float, help="Limit on GPU time, in all.")
@click.option("--joules", type=float, help="Limit on the GPUs' energy, in all.")
@click.option("--space", help="A wider space: a ready space's name, or a YAML file that holds one.")
@click.option("--target-generations", type=int, help="Of a search: generations of a run to the end.")
@_STORAGE
@_hosts_options
@_explained
def extend(
    run: str,
    storage: Path,
    space: str | None,
    target_generations: int | None,
    local: bool,
    address: str | None,
    ranks: int | None,
    device: str | None,
    **budget: float | None,
) -> None:
    """Go on with a run beyond its end: more members or generations, a larger budget, a wider space.

    \b
    pbt extend latest --generations 12
    pbt extend latest --members 32 --space wider.yaml
    pbt extend latest --generations 72 --target-generations 27
    """  # noqa: D301 - click's mark for a paragraph not to be wrapped
    found, hosts = _find(run, storage, local, address, ranks, device)
    from pbt.config import read_space
    from pbt.control import extend as go_on

    wider: Any = space
    if space and (Path(space).is_file() or space.endswith((".yaml", ".yml", ".json"))):
        wider = read_space(Path(space))
    _show_end(go_on(found, space=wider, target_generations=target_generations, hosts=hosts, **budget))  # type: ignore[arg-type]


@main.command()
@_RUN
@click.option("--no-wait", is_flag=True, help="Return at once.")
@_STORAGE
@_CLUSTER
@_explained
def stop(run: str, no_wait: bool, storage: Path, address: str | None) -> None:
    """Ask a running run to finish the segments under way, save every member, and stop."""
    if address is not None:
        return _stop_job(address, run, no_wait)
    from rich.console import Console

    from pbt.control import stop as ask
    from pbt.record.runs import find_run

    found = find_run(run, storage)
    with Console().status("Waiting for the segments under way ..."):
        ask(found, wait=not no_wait)
    click.echo(f"{found.id} {'was asked to stop' if no_wait else 'has stopped'}. `pbt resume {found.path}` goes on.")
    return None


def _stop_job(address: str, job: str, no_wait: bool) -> None:
    from pbt.runtime import jobs

    client = jobs.connect(address)
    jobs.stop(client, job)
    if no_wait:
        click.echo(f"{job} was asked to stop.")
    else:
        jobs.follow(client, job, lambda text: None)
        click.echo(f"{job} has stopped.")


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


@main.command("completion")
@click.argument("shell", type=click.Choice(completion.SHELLS))
def completion_(shell: str) -> None:
    """Print what SHELL has to read so that Tab completes commands, options and runs.

    \b
    bash:  eval "$(pbt completion bash)"      in ~/.bashrc
    zsh:   eval "$(pbt completion zsh)"       in ~/.zshrc
    fish:  pbt completion fish | source       in ~/.config/fish/config.fish
    """  # noqa: D301 - click's mark for a paragraph not to be wrapped
    click.echo(completion.script(main, shell))


@main.command()
@_STORAGE
@click.option("--address", help="Ray cluster to join, for example auto.  [default: start Ray here]")
@_AS_JSON
@_explained
def doctor(storage: Path, address: str | None, as_json: bool) -> None:
    """Try everything that training needs, and say what is amiss and how to mend it.

    Exit code 0 where training can go on, 1 where it cannot.
    """
    from pbt import doctor as room

    findings = room.examine(storage, address)
    if as_json:
        told, can_train = room.as_json(findings)
        click.echo(told)
    else:
        can_train = room.show(findings)
    sys.exit(0 if can_train else 1)


def _opened(run: str, storage: Path) -> Result:
    from pbt.record.result import Result
    from pbt.record.runs import find_run

    return Result(find_run(run, storage))


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Nothing is looked through for garbage: where all that is read is kept to the end, that takes a third longer."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@main.command()
@_RUN
@_STORAGE
@_AS_JSON
@_explained
def show(run: str, storage: Path, as_json: bool) -> None:
    """Show what a run found. RUN is its name, the beginning of it, its folder, or `latest`."""
    from pbt.report import show as report

    result = _opened(run, storage)
    if as_json:
        click.echo(report.as_json(result))
    else:
        report.show(result)


def _watch_job(address: str, job: str) -> int:
    """Pass on what a job prints; its exit code."""
    from pbt.runtime import jobs

    client = jobs.connect(address)
    try:
        return jobs.follow(client, job, functools.partial(click.echo, nl=False))
    except KeyboardInterrupt:
        again = f"`pbt watch {job} --address {address}` looks again, `pbt stop {job} --address {address}` stops it."
        raise KeyboardInterrupt(f"no longer watching {job}, which goes on. {again}") from None


@main.command()
@click.argument("sweep", type=click.Path(path_type=Path))
@click.option(
    "--address",
    metavar="URL",
    envvar="RAY_API_SERVER_ADDRESS",
    default="http://127.0.0.1:8265",
    show_default=True,
    help="Dashboard of the Ray cluster; auto is the cluster this machine belongs to.",
)
@click.option("--storage", metavar="PATH", help="Replaces the sweep's storage folder: one that all nodes see.")
@click.option("--data", metavar="PATH", help="Your own data, where the cluster's nodes find it.")
@click.option("--seed", type=int, help="Replaces the sweep's seed.")
@click.option(
    "--python",
    metavar="PATH",
    default=sys.executable,
    help="The cluster's Python that pbt is installed in.  [default: this one's path]",
)
@click.option("--no-wait", is_flag=True, help="Return once the cluster has taken it.")
@_explained
def submit(
    sweep: Path, address: str, storage: str | None, data: str | None, seed: int | None, python: str, no_wait: bool
) -> None:
    """Give a sweep to a Ray cluster as a job, and follow it; Ctrl-C leaves, and the job goes on.

    The folder of the sweep file travels to the cluster, with the modules beside it. The cluster's token is read from
    RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token.

    \b
    ray dashboard cluster.yaml                               # forwards the dashboard's port
    pbt submit sweep.yaml --storage /mnt/shared/pbt-runs
    pbt watch JOB --address http://127.0.0.1:8265            # again, from anywhere
    """  # noqa: D301 - click's mark for a paragraph not to be wrapped
    from pbt.config import read_sweep
    from pbt.errors import SpecError

    given = {"storage": storage, "trainable.options.data": data, "seed": seed}
    chosen: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    spec = read_sweep(sweep, chosen)
    if not Path(spec.storage).is_absolute():
        problem = f"{spec.storage} would lie in the job's own folder, and be lost with it"
        raise SpecError("storage", problem, "Name a folder that all nodes see: --storage /SHARED/pbt-runs")
    from pbt.runtime import jobs

    options = {"--storage": spec.storage, "--data": data, "--seed": seed}
    arguments = [word for name, value in options.items() if value is not None for word in (name, str(value))]
    client = jobs.connect(address)
    folder = sweep.absolute().parent
    job = jobs.submit(
        client, spec.name, folder, ["run", sweep.name, "--as-job", "--address", "auto", *arguments], python
    )
    click.echo(f"{job} was given to the cluster. `pbt watch {job} --address {address}` follows it from anywhere.")
    if not no_wait:
        sys.exit(_watch_job(address, job))


@main.command("list")
@_STORAGE
@_AS_JSON
@_explained
def list_(storage: Path, as_json: bool) -> None:
    """List the runs of a storage folder, newest first."""
    from pbt.record.runs import list_damaged, list_runs
    from pbt.report import show as report

    runs, damaged = list_runs(storage), list_damaged(storage)
    if runs or as_json or not damaged:
        report.show_list(runs, storage, as_json=as_json)
    for error in damaged:
        click.echo(f"pbt: {error}", err=True)


#: Of a run that ended so; 1 of all others.
_EXIT_CODES = {"finished": 0, "stopped": 130}


@main.command()
@_RUN
@_STORAGE
@_CLUSTER
@click.option("--json", "as_json", is_flag=True, help="A line of JSON for every event, as it happens.")
@_explained
def watch(run: str, storage: Path, address: str | None, as_json: bool) -> None:
    """Follow a run until it ends, from any terminal; Ctrl-C leaves, and the run goes on.

    Of a run that has ended, the end is shown at once. Exit codes are those of the run: 0 finished, 1 failed or killed,
    130 stopped.
    """
    if address is not None:
        from pbt.errors import PbtError

        if as_json:
            raise PbtError("--json and --address are both given. Leave one out: of a job, what it prints is shown.")
        sys.exit(_watch_job(address, run))
    from pbt.record.runs import find_run
    from pbt.report.follow import watch as follow

    sys.exit(_EXIT_CODES.get(follow(find_run(run, storage), as_json=as_json), 1))


@main.command()
@_RUN
@_STORAGE
@click.option(
    "--output", "-o", type=click.Path(path_type=Path, dir_okay=False), help="File to write.  [default: RUN/report.html]"
)
@click.option("--plots", is_flag=True, help="Also write all pictures as PNG files, to RUN/plots.")
@_explained
def report(run: str, storage: Path, output: Path | None, plots: bool) -> None:
    """Write a run's report: one HTML file with everything in it, to be read anywhere and sent to anybody."""
    from pbt.report.report_page import write_report

    result = _opened(run, storage)
    with _uncollected():
        with _writing(output or result.path / "report.html", "-o") as file:
            write_report(result, file)
        click.echo(f"{file} is the report of {result.run.id}: one file, which needs nothing else.")
        if plots:
            from pbt.report.plots import write_plots

            files = write_plots(result, result.path / "plots")
            click.echo(f"{len(files)} pictures are in {result.path / 'plots'}.")


@contextlib.contextmanager
def _writing(file: Path, option: str) -> Iterator[Path]:
    """Write a file of the person's choice: folders are not made for it, and the mend is to name another.

    Raises:
        StorageError: It cannot be written.
    """
    from pbt.errors import StorageError

    folder = file.absolute().parent
    if not folder.is_dir():
        raise StorageError(
            f"cannot write {file}: there is no folder {folder}. Make it, or name another file: {option}."
        )
    try:
        yield file
    except StorageError as error:
        if (why := _forbidden(error)) is None:
            raise
        raise StorageError(f"cannot write {file}: {why}. Name another file: {option}.") from error


def _forbidden(error: BaseException) -> str | None:
    """Why nothing may be written there, if that is what an error says."""
    cause = error.__cause__
    forbids = isinstance(cause, OSError) and cause.errno in (errno.EROFS, errno.EACCES, errno.EPERM)
    return cause.strerror if isinstance(cause, OSError) and forbids else None


@main.command()
@_RUN
@_STORAGE
@click.option("--uri", help="Where MLflow is.  [default: what the sweep says]")
@click.option("--json", "as_json", is_flag=True, help="What it came to, as JSON.")
@_explained
def sync(run: str, storage: Path, uri: str | None, as_json: bool) -> None:
    """Bring MLflow up to date with a run's ledger, for example after the server was down."""
    import dataclasses
    import json

    from pbt.record.runs import find_run
    from pbt.report.watch import catch_up, tell_synced

    synced = catch_up(find_run(run, storage), uri)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(synced), indent=1))
    told = tell_synced(synced)
    if not as_json:
        click.echo(told)


# ----------------------------------------------------------------------------------------------- what was found

_MEMBER = click.option(
    "--member", metavar="MEMBER", help="A number, best, or one segment (3:5).  [default: the winner]"
)


@main.command("replay")
@_RUN
@_STORAGE
@_MEMBER
@click.option("--seeds", type=int, help="With how many seeds each is trained.  [default: 5]")
@click.option("--baseline", metavar="RUN", help="A run of the strategy fixed.  [default: one is trained]")
@click.option("--stacks", type=int, help="Stacks of the replay.  [default: one per core or GPU]")
@click.option("--json", "as_json", is_flag=True, help="What it came to, as JSON.")
@_hosts_options
@_explained
def replay_(
    run: str,
    storage: Path,
    member: str | None,
    seeds: int | None,
    baseline: str | None,
    stacks: int | None,
    as_json: bool,
    local: bool,
    address: str | None,
    ranks: int | None,
    device: str | None,
) -> None:
    """Train a schedule anew from scratch, to see whether it is worth it.

    It is compared with the best fixed configuration of the same population and with random search, all trained as long
    and with the same seeds. Of a RUN that is a replay already, the comparison is shown; one that was stopped goes on.

    \b
    pbt replay latest
    pbt replay RUN --seeds 10 --member 3:5
    """  # noqa: D301 - click's mark for a paragraph not to be wrapped
    found, hosts = _find(run, storage, local, address, ranks, device)
    from pbt.errors import HostError
    from pbt.evidence import replay
    from pbt.record.result import Result
    from pbt.report import comparison as report

    known = None if baseline is None else _opened(baseline, storage)
    given: dict[str, Any] = {"member": member, "seeds": seeds, "baseline": known, "stacks": stacks, "hosts": hosts}
    compared = replay(Result(found), progress=not as_json, **given)
    if as_json:
        click.echo(report.as_json(compared))
    else:
        report.show(compared)
    if compared.result.winner is None:
        raise HostError("no member survived: every one diverged or failed.")


@main.command("export")
@_RUN
@_STORAGE
@_MEMBER
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), required=True, help="Folder to make; there must be none yet."
)
@_explained
def export_(run: str, storage: Path, member: str | None, output: Path) -> None:
    """Hand over what was found: weights, how they came about, and a script that trains the like from scratch."""
    from pbt.handover import export

    for file in sorted(export(_opened(run, storage), output, member=member).iterdir()):
        click.echo(str(file))


# --------------------------------------------------------------------------------------------------- provenance

_ALL = click.option("--all", "everything", is_flag=True, help="All lines of descent, however many.")


@main.command()
@_RUN
@_STORAGE
@click.option("--member", metavar="MEMBER", help="Only what this member descends from, and what descends from it.")
@click.option("--open", "in_browser", is_flag=True, help="As a page in the browser: RUN's lineage.html, written anew.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write that page to this file.")
@_ALL
@_AS_JSON
@_explained
def lineage(
    run: str,
    storage: Path,
    member: str | None,
    in_browser: bool,
    html: Path | None,
    everything: bool,
    as_json: bool,
) -> None:
    """Show who descended from whom, and since when.

    A line of descent is a member training on in its own weights; below it stand those that took them over.

    \b
    pbt lineage latest --open                 browse it: one file, which needs no network
    pbt lineage latest --html lineage.html    a copy to send to somebody
    """  # noqa: D301 - click's mark for a paragraph not to be wrapped
    if as_json and (in_browser or html):
        raise click.UsageError("--json prints, --open and --html write a page: choose one.")
    from pbt.report import provenance

    result = _opened(run, storage)
    chosen = None if member is None else provenance.named(result, member)
    if in_browser or html:
        _show_page(result, html, result.lineage.find(chosen).key if chosen is not None else None, in_browser)
    elif as_json:
        click.echo(provenance.lineage_json(result, chosen))
    else:
        provenance.show_lineage(result, member=chosen, everything=everything)


def _show_page(result: Result, file: Path | None, at: SegmentKey | None, in_browser: bool) -> None:
    from pbt.errors import StorageError
    from pbt.report.lineage_page import write_lineage_page

    page = file or result.path / "lineage.html"
    try:
        with _writing(page, "--html"):
            write_lineage_page(result, page)
        click.echo(f"The lineage of {result.run.id} is in {page}")
    except StorageError as error:
        if file is not None or _forbidden(error.__cause__ or error) is None or not page.exists():
            raise
        written = time.strftime("%Y-%m-%d %H:%M", time.gmtime(page.stat().st_mtime))
        click.echo(
            f"The lineage of {result.run.id} is in {page}, as of {written} UTC: nothing may be written there now"
        )
    if in_browser:
        import webbrowser

        place = "" if at is None else f"#{at.member}:{at.index}"
        if not webbrowser.open(page.absolute().as_uri() + place):
            click.echo("No browser was found here; copy the file to where there is one.", err=True)


@main.command()
@_RUN
@click.argument("member", metavar="MEMBER")
@_STORAGE
@click.option("--times", is_flag=True, help="Also when each was recorded (UTC).")
@_AS_JSON
@_explained
def why(run: str, member: str, storage: Path, times: bool, as_json: bool) -> None:
    """Tell the story of a member's decisions, with the reasons. MEMBER is a number, `best`, or one segment (3:5)."""
    from pbt.report import provenance

    result = _opened(run, storage)
    chosen = provenance.named(result, member)
    if as_json:
        click.echo(provenance.why_json(result, chosen))
    else:
        provenance.show_why(result, chosen, times=times)


@main.command()
@_RUN
@click.argument("member", metavar="MEMBER")
@_STORAGE
@_AS_JSON
@_explained
def ancestors(run: str, member: str, storage: Path, as_json: bool) -> None:
    """Show the segments that made a member's weights. MEMBER is a number, `best`, or one segment (3:5)."""
    from pbt.report import provenance

    result = _opened(run, storage)
    chosen = provenance.named(result, member)
    if as_json:
        click.echo(provenance.segments_json(result.ancestors(chosen)))
    else:
        provenance.show_ancestors(result, chosen)


@main.command()
@_RUN
@click.argument("member", metavar="MEMBER")
@_STORAGE
@_ALL
@_AS_JSON
@_explained
def descendants(run: str, member: str, storage: Path, everything: bool, as_json: bool) -> None:
    """Show whose weights came from a member. MEMBER is a number, `best`, or one segment (3:5)."""
    from pbt.report import provenance

    result = _opened(run, storage)
    chosen = provenance.named(result, member)
    if as_json:
        click.echo(provenance.segments_json(result.descendants(chosen)))
    else:
        provenance.show_descendants(result, chosen, everything=everything)


@main.command()
@_RUN
@click.argument("member", metavar="MEMBER")
@_STORAGE
@_AS_JSON
@_explained
def schedule(run: str, member: str, storage: Path, as_json: bool) -> None:
    """Show what a member's weights were trained with. MEMBER is a number, `best`, or one segment (3:5)."""
    from pbt.report import provenance

    result = _opened(run, storage)
    chosen = provenance.named(result, member)
    if as_json:
        click.echo(provenance.schedule_json(result, chosen))
    else:
        provenance.show_schedule(result, chosen)


@main.command()
@_RUN
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@_STORAGE
@_AS_JSON
@_explained
def diff(run: str, a: str, b: str, storage: Path, as_json: bool) -> None:
    """Show how two members differ, and since when. A and B are numbers, `best`, or segments (3:5)."""
    from pbt.report import provenance

    result = _opened(run, storage)
    one, other = provenance.named(result, a), provenance.named(result, b)
    if as_json:
        click.echo(provenance.diff_json(result, one, other))
    else:
        provenance.show_diff(result, one, other)


# ------------------------------------------------------------------------------------------------------- coordinates


def _named(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, Any]:
    """`NAME=VALUE` options as a mapping; values are read as in a sweep file."""
    from pbt.config import read_value
    from pbt.errors import SpecError

    found = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not (name and equals):
            raise click.BadParameter(f"{one!r} is not NAME=VALUE.")
        try:
            found[name] = read_value(value)
        except SpecError as error:
            raise click.BadParameter(str(error)) from error
    return found


def _sizes(context: click.Context, parameter: click.Parameter, given: str | None) -> tuple[int, ...]:
    """`64,128` as numbers."""
    try:
        found = tuple(int(size) for size in (given or "").split(",") if size)
    except ValueError:
        found = (0,)
    if any(size < 1 for size in found):
        raise click.BadParameter(f"{given!r} is not a list of whole numbers such as 64,128,256.")
    return found


@main.group()
def space() -> None:
    """Search spaces: show one, or take one over from another tool."""


@space.command("show")
@click.argument("named", metavar="SPACE")
@_AS_JSON
@_explained
def show_space(named: str, as_json: bool) -> None:
    """Show a search space, and where draws from it fall.

    SPACE is a sweep file, a YAML file of domains, the name of a ready space, or module.path:NAME.

    \b
    pbt space show adamw
    pbt space show examples/language.yaml
    """  # noqa: D301 - click's mark for a paragraph not to be wrapped
    from pbt.config import read_space
    from pbt.launch import load_space
    from pbt.report import space as report

    _make_importable(Path.cwd())
    found = load_space(read_space(Path(named)) if _is_file(named) else named)
    if as_json:
        click.echo(report.as_json(found))
    else:
        report.show(found)


@space.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@_explained
def import_space(file: Path) -> None:
    """Print a space of another tool as it stands in a sweep file.

    FILE is a Weights & Biases sweep (YAML), or Optuna's distributions by name, as JSON of what
    `optuna.distributions.distribution_to_json` writes.

    \b
    pbt space import wandb-sweep.yaml
    """  # noqa: D301 - click's mark for a paragraph not to be wrapped
    from pbt.config import imported_space

    click.echo(imported_space(file), nl=False)


def _is_file(named: str) -> bool:
    """Whether a file is meant, there or not."""
    return named.endswith((".yaml", ".yml")) or Path(named).is_file()


@main.command()
def schema() -> None:
    """Print the JSON Schema of sweep files, for editors that complete and check while you type.

    \b
    pbt schema > sweep.schema.json
    # and as the first line of a sweep file, for editors with the YAML language server:
    # yaml-language-server: $schema=sweep.schema.json
    """  # noqa: D301 - click's mark for a paragraph not to be wrapped
    import json

    from pbt.sweep_schema import sweep_schema

    click.echo(json.dumps(sweep_schema(), indent=1))


@main.command("coordinates")
@click.argument("trainable", metavar="[TRAINABLE]", default="language")
@click.option(
    "--option",
    "options",
    metavar="NAME=VALUE",
    multiple=True,
    callback=_named,
    help="An option of the trainable, as in a sweep file. Repeat it for more.",
)
@click.option("--parametrization", help="Short for --option parametrization=..., for example mup.")
@click.option("--widths", callback=_sizes, help="Widths to compare.  [default: 64,128,256]")
@click.option("--depths", callback=_sizes, help="Depths to compare instead of widths.")
@click.option(
    "--hparam",
    "hparams",
    metavar="NAME=VALUE",
    multiple=True,
    callback=_named,
    help="A hyperparameter to train with, for example lr=0.01. Repeat it for more.",
)
@click.option("--steps", type=click.IntRange(1), default=4, show_default=True, help="Training steps.")
@click.option("--seeds", type=click.IntRange(1), default=2, show_default=True, help="Seeds to average over.")
@click.option(
    "--tolerance",
    type=click.FloatRange(0, min_open=True),
    default=0.2,
    show_default=True,
    help="By which share a change may grow with each doubling.",
)
@click.option("--device", default="cpu", show_default=True, help="Where to train: cpu, cuda or auto.")
@click.option(
    "--plot", type=click.Path(path_type=Path, dir_okay=False), help="Also draw it: a .png, .svg or .pdf file."
)
@_AS_JSON
@_explained
def coordinates_(
    trainable: str,
    options: dict[str, Any],
    parametrization: str | None,
    widths: tuple[int, ...],
    depths: tuple[int, ...],
    hparams: dict[str, Any],
    device: str,
    plot: Path | None,
    as_json: bool,
    **numbers: Any,
) -> None:
    """Check a parametrization: do activations move alike at all sizes?

    Trains a few steps at each size, to see how far that moves every activation. Where it is as far in a wide model as
    in a narrow one, hyperparameters tuned on the narrow one hold for the wide one. TRAINABLE is `language`, `vision` or
    module.path:Class.

    \b
    pbt coordinates
    pbt coordinates --parametrization mup
    pbt coordinates --parametrization completep --depths 2,4,8,16 --hparam lr=0.01
    """  # noqa: D301 - click's mark for a paragraph not to be wrapped
    from pbt.errors import PbtError
    from pbt.launch import find_place
    from pbt.report import coordinates as report
    from pbt.spec import Hosts

    if widths and depths:
        raise PbtError("--widths and --depths are both given. Give one of them: one thing varies at a time.")
    if parametrization is not None:
        options = options | {"parametrization": parametrization}
    if plot is not None:
        report.check_plot(plot)
    _make_importable(Path.cwd())
    setup = report.Setup(
        trainable=trainable,
        options=options,
        varied="depth" if depths else "width",
        sizes=depths or widths or (64, 128, 256),
        hparams=hparams,
        place=find_place(Hosts(kind="local", device=device, compile="never")),
        **numbers,
    )
    found = report.check(setup)
    if plot is not None:
        report.plot(found, plot)
    if as_json:
        click.echo(report.as_json(found))
    else:
        report.show(found)
