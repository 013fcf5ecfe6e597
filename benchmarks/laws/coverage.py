"""How often intervals of 95 % hold what was put in: 93 to 97 % of many made-up sweeps."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np

from benchmarks.laws.speed import TRUTH, made_up, true_loss
from pbt.laws.fit import Data, fit
from pbt.laws.forms import form_of
from pbt.laws.intervals import spread
from pbt.laws.optimum import Runs, fit_optimum, spread_optimum

#: Where predictions are asked for: ten times beyond what was fitted.
FAR = {"params": 1e11, "tokens": 2e12}
#: Of learning rate and batch size.
MOVES, BENDS = np.array([[0.7, -0.65, 0.28], [0.0, -0.05, 0.55]]), np.array([[0.0152, -0.0053], [-0.0053, 0.0138]])


def coverage(draws: int) -> list[dict[str, Any]]:
    """Rows of both laws."""
    with ProcessPoolExecutor() as pool:
        losses = list(pool.map(_loss, range(draws), chunksize=8))
        optima = list(pool.map(_optimum, range(draws), chunksize=8))
    return [_row("chinchilla", losses), _row("learning rate and batch size, bowls", optima)]


def _row(law: str, held: list[dict[str, bool]]) -> dict[str, Any]:
    shares = {name: float(np.mean([it[name] for it in held])) for name in held[0]}
    return {"law": law, "dataset": f"made up, {len(held)} draws", "coverage": shares}


def _loss(seed: int) -> dict[str, bool]:
    form = form_of("chinchilla")
    found = spread(fit(form, Data.of(form, *made_up(seed)), starts=256), draws=400, seed=seed)
    low, high = found.predict({name: np.array([it]) for name, it in FAR.items()})
    written = found.written()
    held = {name: written[name].low <= TRUTH[name] <= written[name].high for name in ("E", "alpha", "beta")}
    return {**held, "prediction": bool(low[0] <= true_loss(**FAR) <= high[0])}


def _optimum(seed: int) -> dict[str, bool]:
    found = spread_optimum(fit_optimum(_tried(seed)), draws=400, seed=seed)
    written, at = found.written(), found.at(FAR)
    best = np.exp(MOVES @ [1.0, *np.log(list(FAR.values()))])
    held = {}
    for number, name in enumerate(("lr", "batch")):
        for j, key in enumerate(("params", "tokens")):
            interval = written[name][key]
            held[f"{name}: {key}"] = bool(interval.low <= MOVES[number, j + 1] <= interval.high)
        held[f"{name}: prediction"] = bool(at[name].low <= best[number] <= at[name].high)
    return held


def _tried(seed: int, noise: float = 0.002) -> Runs:
    """20 cells of 8 learning rates by 6 batch sizes, around the best but not quite."""
    rng, rows = np.random.default_rng(seed), []
    for n in np.geomspace(6e7, 1e9, 5):
        for d in np.geomspace(2e9, 1e11, 4):
            lr, batch = np.exp(MOVES @ [1.0, np.log(n), np.log(d)] + rng.uniform(-0.4, 0.4, 2))
            rows += [(n, d, lr * u, batch * v) for u in np.geomspace(0.2, 5, 8) for v in np.geomspace(0.25, 4, 6)]
    n, d, lr, batch = np.array(rows).T
    far = np.log(np.column_stack([lr, batch])) - np.column_stack([np.ones(len(n)), np.log(n), np.log(d)]) @ MOVES.T
    lost = 0.5 * np.einsum("ri,ij,rj->r", far, BENDS, far) + noise * rng.normal(size=len(n))
    loss = (1.7 + 400 / n**0.34 + 2000 / d**0.37) * np.exp(lost)
    return Runs.of({"lr": lr, "batch": batch}, {"params": n, "tokens": d}, loss)
