"""The laws on tables of real training, each beside what was published of the same data.

Origins and licences of the data: its README. A row has `law`, `dataset`, `params` (what was found), `ci` (95 %
intervals), `holdout_error` (a share, of what the fit has not seen), `published` and `seconds`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import curve_fit

from pbt.laws.critical_batch import power, tradeoff
from pbt.laws.curves import Curve, fit_curves
from pbt.laws.fit import Data, fit
from pbt.laws.forms import form_of
from pbt.laws.intervals import spread
from pbt.laws.optimum import Runs, best_of_cells, fit_optimum, spread_optimum

Row = dict[str, Any]

#: Tokens of a sequence of the grid of learning rates and batch sizes.
_SEQUENCE = 2048
#: Runs this close to the best of their cell are what Li et al. 2025 fit to (their code's `fit_tool.py`).
_NEAR = 0.0025


def measured(data: Path) -> Iterator[Row]:
    """All rows, given the folder of the data."""
    laws = data / "laws"
    yield from learning_rate_and_batch(pd.read_parquet(laws / "lr_batch_grid.parquet"))
    yield from sizes_and_tokens(pd.read_parquet(laws / "size_tokens_grid.parquet"))
    yield over_training(pd.read_parquet(laws / "overtraining_losses.parquet"))
    yield from schedules(pd.read_parquet(laws / "schedule_curves.parquet"))
    yield critical_batch(pd.read_parquet(laws / "critical_batch.parquet"))


# ------------------------------------------------------------------------------------------- learning rate and batch


def learning_rate_and_batch(grid: pd.DataFrame) -> Iterator[Row]:
    """StepLaw's grid: the exponents as its authors find them, and by bowls; what is lost on larger runs."""
    grid = grid.assign(
        batch=grid.batch_sequences * _SEQUENCE, flops=6 * grid.params_non_embedding * grid.tokens
    ).reset_index(drop=True)
    cells = grid.groupby(["params_non_embedding", "tokens"])
    grid["cell"] = cells.ngroup()
    grid["off"] = np.log(grid.loss) - cells.loss.transform(lambda it: np.log(it.min()))
    holdouts = [grid.flops > grid.groupby("cell").flops.first().quantile(share) for share in (0.5, 0.67, 0.8)]
    holdouts.append(grid.params_non_embedding > 6e8)
    methods: Mapping[str, Callable[[pd.DataFrame], Any]] = {"near the best": _near_the_best, "bowls": _bowls}
    published = {"lr": {"params": -0.713, "tokens": 0.307}, "batch": {"tokens": 0.571}}
    for name, method in methods.items():
        began = time.perf_counter()
        _, params, ci, refused = method(grid)
        seconds = time.perf_counter() - began
        lost = [np.mean(_lost(method(grid[~it])[0], grid, it)) for it in holdouts]
        yield {
            "law": f"learning rate and batch size, {name}",
            "dataset": "lr_batch_grid",
            "params": params,
            "ci": ci,
            "published": published,
            "holdout_error": float(max(lost)),
            "holdouts": dict(zip(("half", "third", "fifth", "1.07B"), map(float, lost), strict=True)),
            "refused_cells": refused,
            "seconds": seconds,
        }


def _near_the_best(grid: pd.DataFrame) -> tuple[Callable[[float, float], tuple[float, float]], dict, dict, list]:
    """As the authors' code does: a line through all runs within 0.25 % of the best, and rows drawn again."""
    near = grid[grid.off < _NEAR]
    n, d, lr, batch = (np.log(near[it].to_numpy()) for it in ("params_non_embedding", "tokens", "lr", "batch"))
    x = np.column_stack([np.ones(len(n)), n, d])

    def fitted(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        one = np.linalg.lstsq(x[rows], lr[rows], rcond=None)[0]
        return one, np.linalg.lstsq(x[rows][:, [0, 2]], batch[rows], rcond=None)[0]

    rate, size = fitted(np.arange(len(n)))
    rng = np.random.default_rng(0)
    drawn = [np.concatenate(fitted(rng.integers(len(n), size=len(n)))) for _ in range(1000)]
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    params = {"lr": {"params": rate[1], "tokens": rate[2]}, "batch": {"tokens": size[1]}}
    bounds = np.column_stack([low, high]).tolist()
    ci = {"lr": {"params": bounds[1], "tokens": bounds[2]}, "batch": {"tokens": bounds[4]}}

    def best(parameters: float, tokens: float) -> tuple[float, float]:
        at = np.array([1.0, np.log(parameters), np.log(tokens)])
        return float(at @ rate), float(at[[0, 2]] @ size)

    return best, params, ci, []


def _bowls(grid: pd.DataFrame) -> tuple[Callable[[float, float], tuple[float, float]], dict, dict, list]:
    varied = {"lr": grid.lr.to_numpy(), "batch": grid.batch.to_numpy()}
    inputs = {"params": grid.params_non_embedding.to_numpy(), "tokens": grid.tokens.to_numpy()}
    law = fit_optimum(Runs.of(varied, inputs, grid.loss.to_numpy()))

    def best(parameters: float, tokens: float) -> tuple[float, float]:
        at = law.at({"params": parameters, "tokens": tokens})
        return float(np.log(at["lr"])), float(np.log(at["batch"]))

    refused = [{**it.inputs, "why": it.refused} for it in best_of_cells(law) if it.refused]
    return best, law.written, spread_optimum(law).written(), refused


def _lost(best: Callable[[float, float], tuple[float, float]], grid: pd.DataFrame, held: pd.Series) -> list[float]:
    """What the law's choice gives away in each cell that was held out, by a cubic through what was measured there."""
    found = []
    for (parameters, tokens), cell in grid[held].groupby(["params_non_embedding", "tokens"]):
        surface, lowest = _surface(cell)
        found.append(float(surface(*best(parameters, tokens)) - lowest))
    return found


def _surface(cell: pd.DataFrame) -> tuple[Callable[[Any, Any], Any], float]:
    near = cell[cell.off < 0.03]
    u, v, y = (np.log(near[it].to_numpy()) for it in ("lr", "batch", "loss"))
    powers = [(i, j) for i in range(4) for j in range(4 - i)]

    def columns(a: Any, b: Any) -> np.ndarray:
        return np.column_stack([(np.ravel(a) - u.mean()) ** i * (np.ravel(b) - v.mean()) ** j for i, j in powers])

    theta = np.linalg.lstsq(columns(u, v), y, rcond=None)[0]
    everywhere = np.meshgrid(np.linspace(u.min(), u.max(), 60), np.linspace(v.min(), v.max(), 60))
    return lambda a, b: (columns(a, b) @ theta)[0], float((columns(*everywhere) @ theta).min())


# ---------------------------------------------------------------------------------------------------------- the others


def sizes_and_tokens(grid: pd.DataFrame) -> Iterator[Row]:
    """Farseer's grid: fitted to the smaller runs, asked of the larger ones."""
    flops = grid.params * grid.tokens
    holdouts = {
        "a quarter of the runs, by compute": flops > flops.quantile(0.75),
        "three largest sizes": grid.params >= np.sort(grid.params.unique())[-3],
        "most tokens": grid.tokens >= 1.3e11,
    }
    for name in ("chinchilla", "skaling", "farseer"):
        form, errors, seconds = form_of(name), {}, 0.0
        for what, held in holdouts.items():
            began = time.perf_counter()
            law = fit(form, _data(form, grid[~held]))
            seconds += time.perf_counter() - began
            told = law.predict({it: grid[held][it].to_numpy() for it in form.inputs})
            errors[what] = float(np.abs(told / grid[held].loss - 1.0).mean())
        whole = fit(form, _data(form, grid))
        sure = spread(whole, grid.params.to_numpy(), draws=300)
        yield {
            "law": name,
            "dataset": "size_tokens_grid",
            "params": whole.written,
            "ci": sure.written(),
            "holdout_error": errors["a quarter of the runs, by compute"],
            "holdouts": errors,
            "seconds": seconds,
        }


def _data(form: Any, table: pd.DataFrame) -> Data:
    return Data.of(form, {it: table[it].to_numpy() for it in form.inputs}, table.loss.to_numpy())


#: The five runs that Gadre et al. 2024 fit to, and the two that they predict.
_FIVE = ("d=96_l=8_h=4-1.0", "d=512_l=8_h=4-1.0", "d=576_l=24_h=8-1.0", "d=1024_l=24_h=8-1.0", "d=96_l=8_h=4-16.0")
_TWO = {"1.4B, over-trained 32 times": "open_lm_1b-32.0", "6.9B": "open_lm_7b-1.0"}


def over_training(losses: pd.DataFrame) -> Row:
    """RedPajama, loss on C4: by five runs, as the paper's code does (least squares), and by ours."""
    table = losses[(losses.dataset == "rpj") & (losses.eval_set == "c4_val")].set_index("name")
    five, two = (table.loc[[f"rpj-{it}" for it in names]] for names in (_FIVE, _TWO.values()))
    form = form_of("overtraining")
    began = time.perf_counter()
    law = fit(form, _data(form, five.assign(loss=five.eval_loss)))
    seconds = time.perf_counter() - began
    inputs = {it: two[it].to_numpy() for it in form.inputs}
    theirs = _least_squares(five)
    errors = {
        "ours": np.abs(law.predict(inputs) / two.eval_loss.to_numpy() - 1.0),
        "least squares": np.abs(theirs(inputs["params"], inputs["tokens"]) / two.eval_loss.to_numpy() - 1.0),
    }
    told = {method: dict(zip(_TWO, map(float, off), strict=True)) for method, off in errors.items()}
    return {
        "law": "overtraining",
        "dataset": "overtraining_losses, rpj, C4 validation",
        "params": law.written,
        "ci": None,  # five runs for four parameters
        "holdout_error": float(errors["ours"].max()),
        "holdouts": told,
        "published": dict(zip(_TWO, (0.0071, 0.0073), strict=True)),
        "seconds": seconds,
    }


def _least_squares(five: pd.DataFrame) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """The paper's own way: `curve_fit` of the loss, from its starts; the lowest residuals are kept."""

    def loss(x: Any, a: float, b: float, power_: float, e: float) -> Any:
        return a * x[0] ** power_ + b * 6.0 ** (power_ / 2) * x[1] ** power_ + e

    x, y = (five.params.to_numpy(), five.tokens.to_numpy()), five.eval_loss.to_numpy()
    found = []
    for start in [(a, b, c, e) for a in (1e2, 1e3) for b in (1e2, 1e3) for c in (-0.1, -0.3) for e in (0.0, 1.0, 2.0)]:
        try:
            theta = curve_fit(loss, x, y, p0=start, maxfev=10_000)[0]
        except RuntimeError:  # this start leads nowhere
            continue
        found.append((float(np.square(loss(x, *theta) - y).sum()), theta))
    best = min(found, key=lambda it: it[0])[1]
    return lambda params, tokens: loss((params, tokens), *best)


#: The schedules of Luo et al. 2025: warm-up, peak and end.
_WARMUP, _PEAK, _END = 2160, 3e-4, 3e-5
_SEEN = ("cosine_24000", "constant_24000", "wsdcon_9")


def schedules(table: pd.DataFrame) -> Iterator[Row]:
    """Curves of three schedules, asked of six others."""
    for size, published in ((25, 0.9988), (100, 0.9983)):
        curves = {name: _curve(str(name), rows) for name, rows in table[table.params_m == size].groupby("schedule")}
        began = time.perf_counter()
        law = fit_curves([curves[it] for it in _SEEN])
        seconds = time.perf_counter() - began
        explained, off = {}, []
        for name in sorted(set(curves) - set(_SEEN)):
            loss = curves[name].loss
            told = law.predict(curves[name].lr, curves[name].at)
            explained[name] = float(1.0 - np.square(told - loss).sum() / np.square(loss - loss.mean()).sum())
            off.append(np.abs(told / loss - 1.0).mean())
        yield {
            "law": "multi_power",
            "dataset": f"schedule_curves, {size}M",
            "params": law.written,
            "ci": None,
            "holdout_error": float(np.mean(off)),
            "r_squared": float(np.mean(list(explained.values()))),
            "holdouts": explained,
            "published": {"r_squared": published},
            "seconds": seconds,
        }


def _curve(name: str, rows: pd.DataFrame) -> Curve:
    rows, lr = rows.sort_values("step"), _schedule(name)
    rows = rows[rows.step < len(lr)]
    return Curve(lr, rows.step.to_numpy(), rows.loss.to_numpy())


def _schedule(name: str) -> np.ndarray:
    kind, *numbers = name.split("_")
    steps = 16_000 if kind == "wsdcon" else int(numbers[-1])
    lr = np.full(steps, _PEAK)
    after = np.arange(4_000) / 4_000
    if kind == "cosine":
        lr[_WARMUP:] = _END + 0.5 * (_PEAK - _END) * (
            1 + np.cos(np.pi * np.arange(steps - _WARMUP) / (steps - _WARMUP))
        )
    elif kind == "wsdcon":
        lr[8_000:] = int(numbers[0]) * 1e-5
    elif kind == "wsd":
        lr[20_000:] = _PEAK * (_END / _PEAK) ** after
    elif kind == "wsdld":
        lr[20_000:] = _PEAK - (_PEAK - _END) * after
    lr[:_WARMUP] = np.linspace(0.0, _PEAK, _WARMUP)
    return lr


def critical_batch(table: pd.DataFrame) -> Row:
    """Steps to a target at nine batch sizes, for five models; the power of their size."""
    sizes = [it for it in table.columns if it.isdigit()]
    began = time.perf_counter()
    critical = []
    for _, row in table.iterrows():
        known = [it for it in sizes if pd.notna(row[it])]
        law = tradeoff(np.array([float(it) for it in known]), np.array([float(row[it]) for it in known]))
        critical.append(law.critical_at(0.2, reference=256))
    found = power(table.model_M.to_numpy(float), np.array(critical))
    margin = 3.182 * found.deviation  # of Student's distribution with 3 degrees of freedom
    return {
        "law": "critical batch size",
        "dataset": "critical_batch",
        "params": {"coefficient": found.coefficient, "exponent": found.exponent},
        "ci": {"exponent": [found.exponent - margin, found.exponent + margin]},
        "holdout_error": None,
        "published": {"coefficient": 93.20, "exponent": 0.468},
        "seconds": time.perf_counter() - began,
    }
