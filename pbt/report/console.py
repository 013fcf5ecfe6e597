"""A sweep in the terminal while it runs: a live table, or plain lines where nobody can see a table move.

`Progress` is fed with a ledger's rows as they come. It follows a running sweep and tells a finished one alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pbt.report import text
from pbt.report.tables import GenerationRow, MemberRow, Population, Row
from pbt.report.throughput import together

#: Lines of the live display that are not members: title, bar, table head and rules, footer, and one to spare.
_FRAME_LINES = 8
#: Seconds after which plain lines say how far training is, if there is nothing else to say.
_SIGN_OF_LIFE_S = 60.0
#: Plain lines of a search: one in so many of its training.
_TENTHS = 10
#: Share of the training that must be done before the rest is guessed at.
_GUESS_FROM = 0.02

#: Columns of members that make room for hyperparameters, the first of them first.
_SPARE = ("last exploit", "age")

_STYLES = {"failed": "red", "diverged": "yellow"}


class Progress:
    """Shows how a sweep is doing.

    Args:
        info: What `run.json` says.
        console: Where to print.
        clock: Seconds since the epoch.
    """

    def __init__(
        self, info: Mapping[str, Any], console: Console | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._info = info
        self._console = console or Console()
        self._clock = clock
        self._population = Population(info)
        self._told_generations = 0
        self._told_tenths = 0
        self._told: set[str] = set()
        self._failed: dict[int, Row] = {}
        self._said_at = clock()
        self._live: Live | None = None
        if self._console.is_terminal and not self._console.quiet:
            self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="crop")

    def __enter__(self) -> Progress:
        """Say what begins."""
        self._say(_opening(self._info))
        if self._live:
            self._live.start()
        return self

    def catch_up(self, rows: Iterable[tuple[str, Row]]) -> None:
        """Take in what happened before the sweep was taken up again, and say so in one line."""
        self._population.apply(rows)
        done = list(self._population.ended(after=0))
        self._told_generations = done[-1].generation if done else 0
        self._told_tenths = self._tenths
        self._failed = dict(self._population.failures)
        self._told.update(_tell(row) for row in self._population.incidents)
        self._say(f"Going on: {100 * self._population.trained:.0f}% was trained before.")

    @property
    def elapsed(self) -> float:
        """Seconds that the sweep has taken so far, without the pauses."""
        return self._population.elapsed

    def update(self, rows: Iterable[tuple[str, Row]]) -> None:
        """Take rows in and show what they change. Without rows, a live display moves its clock."""
        self._population.apply(rows)
        self._tell_news()
        if self._live:
            self._live.update(self._render(), refresh=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Say how it ended."""
        if self._live:
            self._live.update(self._render(), refresh=True)
            self._live.stop()
        if kind is KeyboardInterrupt:  # who only watched leaves; nothing has ended
            return
        self._say(_closing(self._info, self._population))

    def _say(self, line: str, style: str = "") -> None:
        """One line, however wide: plain output goes to logs, which must not be wrapped."""
        self._console.print(Text(line, style=style), soft_wrap=True)

    def _tell_news(self) -> None:
        """Failures and incidents in any case, generations where no table shows them, in the order they happened."""
        news = self._new_failures()
        # Once, though a host that is lost is an incident of each of its stacks.
        incidents = {_tell(row): row["at"] for row in reversed(self._population.incidents)}
        news += [(at, line, "yellow") for line, at in incidents.items() if line not in self._told]
        self._told.update(incidents)
        if not self._live and self._population.target_steps is not None:
            if self._told_tenths < self._tenths < _TENTHS:
                self._told_tenths = self._tenths
                news.append((self._population.last_at, self._search_line(), ""))
        elif not self._live:
            for row in self._population.ended(after=self._told_generations):
                self._told_generations = row.generation
                news.append((row.at, _line(row, self._population), ""))
        for _, line, style in sorted(news):
            self._say(line, style)
        if not self._live:
            self._give_sign_of_life(is_news=bool(news))

    def _new_failures(self) -> list[tuple[float, str, str]]:
        """Members that failed alike are told together: a mistake in the user's code may concern all of them."""
        alike: dict[tuple[Any, Any], dict[int, Row]] = {}
        for member, row in self._population.failures.items():
            if self._failed.get(member) is not row:
                alike.setdefault((row.get("consumed_end"), row.get("reason")), {})[member] = row
        self._failed = dict(self._population.failures)
        return [(min(row["at"] for row in rows.values()), _failure(rows), "red") for rows in alike.values()]

    @property
    def _tenths(self) -> int:
        return int(_TENTHS * self._population.trained)

    def _search_line(self) -> str:
        """How far a search is."""
        population, best = self._population, self._population.best
        said = [f"{100 * population.trained:.0f}% trained", _begun(population)]
        if best is not None:
            after = text.count(best.consumed, "step")
            said.append(f"best {text.score(best.score)} after {after} (member {best.member})")
        return "  ".join([*said, text.duration(population.elapsed_at(population.last_at))])

    def _give_sign_of_life(self, is_news: bool) -> None:
        """A log in which nothing happens for long is told how far training is."""
        now = self._clock()
        if is_news or self._population.finish:
            self._said_at = now
        elif now - self._said_at >= _SIGN_OF_LIFE_S:
            self._said_at = now
            self._say(f"{100 * self._population.share:.0f}% trained, {self._times()}")

    # ------------------------------------------------------------------------------------------------ drawing

    def _render(self) -> RenderableType:
        rows = self._population.ranked()
        speed = self._speed()
        room = max(3, self._console.height - _FRAME_LINES - bool(speed))
        shown = rows if len(rows) <= room else rows[: room - 1]
        best = self._population.best
        names = list(self._info.get("hparams", {}))
        table, left_out = fitting_table(self._console, shown, names, best.member if best else None)
        parts: list[RenderableType] = [self._bar(), table]
        if footer := _hidden(rows[len(shown) :], left_out):
            parts.append(Text(footer, style="dim"))
        if speed:
            parts.append(Text(speed, style="dim"))
        return Group(*parts)

    def _speed(self) -> str:
        """How fast it trains now; of a sweep that has ended, what `pbt show` says of the whole. Empty if not known."""
        throughput, is_over = self._population.throughput, self._population.finish is not None
        stacks = throughput.typical() if is_over else throughput.latest()
        rate = together(stacks, throughput.at_once(is_latest=not is_over))
        when = ", while training" if is_over else " in the latest segments"
        return text.speed(rate.tokens_per_s, rate.mfu) + when if rate else ""

    def _bar(self) -> RenderableType:
        population = self._population
        share = population.share
        grid = Table.grid(padding=(0, 1))
        generation = f"generation {min(population.generation, population.generations)}/{population.generations}"
        grid.add_row(
            generation if population.target_steps is None else _begun(population),
            ProgressBar(total=1.0, completed=share, width=max(10, min(40, self._console.width - 60))),
            f"{100 * share:3.0f}%",
            self._times(),
        )
        return grid

    def _times(self) -> str:
        """Time elapsed and, as soon as it can be guessed, time left."""
        population, share = self._population, self._population.share
        elapsed = population.elapsed if population.finish else population.elapsed_at(self._clock())
        words = f"{text.duration(elapsed)} elapsed"
        if not population.finish and share >= _GUESS_FROM:
            words += f", about {text.duration(elapsed * (1 - share) / share)} left"
        return words


def member_table(
    rows: Sequence[MemberRow], hparams: Sequence[str], best: int | None, without: Sequence[str] = ()
) -> Table:
    """Members as a table, in the order given; the best one is marked.

    Args:
        rows: The members.
        hparams: Hyperparameters to show.
        best: Who is best, if anybody is.
        without: Of the columns in `_SPARE`, those to leave out.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("", no_wrap=True)
    for heading in ("member", "age", "score"):
        if heading not in without:
            table.add_column(heading, justify="right", no_wrap=True)
    for name in hparams:
        table.add_column(Text(name), justify="right", overflow="fold")  # wrapped only where it stands alone
    for heading in ("status", "last exploit"):
        if heading not in without:
            table.add_column(heading, no_wrap=True)
    for row in rows:
        mark, style = ("*", "bold green") if row.member == best else ("", _STYLES.get(row.status, ""))
        cells = {"mark": mark, "member": str(row.member), "age": f"{row.age:,}", "score": text.score(row.score)}
        cells |= {f"hparams/{name}": text.hparam(row.hparams.get(name)) for name in hparams}
        cells |= {"status": row.status, "last exploit": row.last_exploit}
        table.add_row(*(Text(cell) for heading, cell in cells.items() if heading not in without), style=style)
    return table


def fitting_table(
    console: Console, rows: Sequence[MemberRow], hparams: Sequence[str], best: int | None
) -> tuple[Table, Sequence[str]]:
    """`member_table` with as much as the console is wide, and the names of columns left out.

    Hyperparameters are what a sweep is about: columns that tell less go first, then hyperparameters from the last on.
    One stays in any case; if it alone is too wide, its values take several lines.
    """
    for spared in range(len(_SPARE)):
        if is_within(console, table := member_table(rows, hparams, best, _SPARE[:spared])):
            return table, _SPARE[:spared]
    shown: list[str] = []
    for name in hparams:
        if is_within(console, member_table(rows, [*shown, name], best, _SPARE)):
            shown.append(name)
    left_out = [name for name in hparams if name not in (shown or hparams[:1])]
    return member_table(rows, shown or hparams[:1], best, _SPARE), [*left_out, *_SPARE]


def is_within(console: Console, table: Table) -> bool:
    """Whether the table is no wider than the console."""
    endless = console.options.update(max_width=10_000)
    return console.measure(table, options=endless).maximum <= console.width


def _hidden(rows: Sequence[MemberRow], names: Sequence[str]) -> str:
    """What there was no room for, in words."""
    said = []
    if rows:
        said.append(f"{text.count(len(rows), 'member')} more, with worse scores")
    if names:
        said.append(f"not shown: {', '.join(names)}")
    return "; ".join(said)


def _opening(info: Mapping[str, Any]) -> str:
    spec, objective = info["spec"], info["objective"]
    budget = spec["budget"]
    direction = "lower" if objective["mode"] == "min" else "higher"
    target = info.get("target_steps")
    search = "" if target is None else f", a run to the end takes {text.count(target, 'step')}"
    earlier = len(spec["strategy"].get("options", {}).get("earlier") or ())
    search += f", {text.count(earlier, 'earlier run')} known" if earlier else ""
    return (
        f"{info['run_id']}: {spec['trainable']['name']} under {spec['strategy']['name']}, "
        f"{text.count(budget['members'], 'member')} x {text.count(budget['generations'], 'generation')} "
        f"of {text.count(budget['steps'], 'step')}{search}; "
        f"{objective['split']} {objective['metric']}, {direction} is better"
    )


def _line(row: GenerationRow, population: Population) -> str:
    best = "no score" if row.best is None else f"best {text.score(row.best)} (member {row.best_member})"
    number = f"{row.generation:>{len(str(population.generations))}}"
    said = [f"generation {number}/{population.generations}", best, f"median {text.score(row.median)}"]
    # Decided on these scores; the copies begin the next generation, which is the one that tables name.
    said.append(("then " if row.num_exploits else "") + text.count(row.num_exploits, "exploit"))
    said += [f"{row.num_declined} considered and kept"] if row.num_declined else []
    said += [f"{row.num_diverged} diverged"] if row.num_diverged else []
    return "  ".join([*said, text.duration(population.elapsed_at(row.at))])


def _begun(population: Population) -> str:
    """Of a search: how many configurations, and how many of them to the end."""
    return f"{text.count(population.num_begun, 'configuration')}, {population.num_complete} trained to the end"


def _failure(rows: Mapping[int, Row]) -> str:
    """Members that failed at the same age and for the same reason."""
    row = next(iter(rows.values()))
    where = "" if row.get("consumed_end") is None else f" after {text.count(row['consumed_end'], 'step')}"
    return f"{text.members(rows)} failed{where}: {row.get('reason') or 'no reason given'}"


def _tell(incident: Row) -> str:
    message = text.headline(incident)
    return message[:1].upper() + message[1:]


def _closing(info: Mapping[str, Any], population: Population) -> str:
    took, best = text.duration(population.elapsed), population.best
    done = text.count(population.num_exploits, "exploit") if population.target_steps is None else _begun(population)
    if population.diverged:
        done += f", {len(population.diverged):,} diverged"
    done += f", {text.count(len(population.failures), 'failure')}"
    if population.finish is None:
        return f"{info['run_id']} is unfinished after {took}: {100 * population.share:.0f}% trained, {done}"
    if best is None:
        return f"{info['run_id']} finished after {took}: no member survived, {done}"
    score = f"{info['objective']['metric']} {text.score(best.score)}"
    early = f"; {population.budget_end}" if population.budget_end else ""
    return f"{info['run_id']} finished after {took}: best is member {best.member}, {score}; {done}{early}"
