"""`pbt space`: what may vary, and where draws from it fall."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pbt.report import text
from searchspaces import Choice, Float, Int, Simplex, Space
from searchspaces.domains import Domain

#: Configurations drawn; of a share of a half, the standard error is a half percent.
_DRAWS = 10_000
_BINS = 12
_BARS = " ▁▂▃▄▅▆▇█"
_QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True, slots=True, kw_only=True)
class Density:
    """Where the draws of a hyperparameter fall, or of one part of proportions.

    Attributes:
        name: The hyperparameter; of a part, `mixture[web]`.
        values: What it may be, in words.
        scale: `linear`, `log`, `log of 1 - x`, or `options`.
        active: Share of the configurations that have it.
        shares: Of those, how many fall into each bin, which are equally wide on the scale; or on each option.
        quantiles: 5 %, 50 % and 95 % of numbers; empty for options.
        condition: When it is active, in words; empty where it always is.
    """

    name: str
    values: str
    scale: str
    active: float
    shares: tuple[float, ...]
    quantiles: tuple[float, ...]
    condition: str


def densities(space: Space, draws: int = _DRAWS, seed: int = 0) -> list[Density]:
    """Where draws fall: of every hyperparameter, in the order of the space.

    Args:
        space: The space.
        draws: Configurations to draw.
        seed: Of the draws.
    """
    rng = np.random.default_rng(seed)
    drawn = [space.sample(rng) for _ in range(draws)]
    return [found for name, domain in space.items() for found in _of(name, domain, drawn)]


def show(space: Space, console: Console | None = None) -> None:
    """Print the densities as a table."""
    console = console or Console()
    found = densities(space)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("hyperparameter", overflow="fold")
    table.add_column("may be")
    table.add_column("draws fall", no_wrap=True)
    for heading in ("5%", "half", "95%"):
        table.add_column(heading, justify="right", no_wrap=True)
    for it in found:
        quantiles = [text.number(value) for value in it.quantiles] or ["", "", ""]
        words = it.values if it.scale in ("linear", "options") else f"{it.values}, {it.scale}"
        table.add_row(*map(Text, (it.name, words, _bars(it.shares), *quantiles)))
    console.print(table)
    for it in found:
        if it.condition:
            console.print(Text(f"{it.name} is active in {it.active:.0%} of the draws: where {it.condition}"))
    dims = text.count(space.num_dims, "dimension")
    console.print(Text(f"{dims} of the unit cube; {_DRAWS:,} draws; hash {space.hash[:12]}"))


def as_json(space: Space) -> str:
    """The space as a sweep file holds it, and its densities."""
    facts = {"space": space.to_json(), "num_dims": space.num_dims, "hash": space.hash}
    return json.dumps(facts | {"densities": [asdict(it) for it in densities(space)]}, indent=1)


def _of(name: str, domain: Domain, drawn: Sequence[Mapping[str, Any]]) -> Iterator[Density]:
    values = [hparams[name] for hparams in drawn if name in hparams]
    density = partial(Density, active=len(values) / len(drawn), condition=_condition(domain))
    if isinstance(domain, Choice):
        shares = tuple(sum(value == it for value in values) / max(1, len(values)) for it in domain.options)
        options = ", ".join(map(text.hparam, domain.options))
        yield density(name=name, values=options, scale="options", shares=shares, quantiles=())
    elif isinstance(domain, Simplex):
        told = "a weight, 0 to 1"
        for part in domain.parts:
            weights, full = [value[part] for value in values], f"{name}[{part}]"
            shares, quantiles = _shares(weights), _quantiles(weights)
            yield density(name=full, values=told, scale="linear", shares=shares, quantiles=quantiles)
    else:
        shares, quantiles = _shares([domain.encode(value)[0] for value in values]), _quantiles(values)
        yield density(name=name, values=_range(domain), scale=_scale(domain), shares=shares, quantiles=quantiles)


def _condition(domain: Domain) -> str:
    options = {name: it if isinstance(it, list | tuple) else (it,) for name, it in (domain.when or {}).items()}
    return " and ".join(f"{name} is {' or '.join(map(text.hparam, these))}" for name, these in options.items())


def _range(domain: Float | Int) -> str:
    kind = "whole, " if isinstance(domain, Int) else ""
    step = "" if domain.step is None or domain.step == 1 else f" by {domain.step:g}"
    return f"{kind}{domain.low:g} to {domain.high:g}{step}"


def _scale(domain: Float | Int) -> str:
    if isinstance(domain, Float) and domain.log_complement:
        return "log of 1 - x"
    return "log" if domain.log else "linear"


def _shares(places: Sequence[float]) -> tuple[float, ...]:
    counts, _ = np.histogram(places, bins=_BINS, range=(0.0, 1.0))
    return tuple((counts / max(1, len(places))).tolist())


def _quantiles(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(np.quantile(values, _QUANTILES, method="nearest").tolist()) if values else ()


def _bars(shares: Sequence[float]) -> str:
    """A bar for each share, the largest full."""
    largest = max(shares, default=0.0)
    if not largest:
        return ""
    return "".join(_BARS[round((len(_BARS) - 1) * share / largest)] for share in shares)
