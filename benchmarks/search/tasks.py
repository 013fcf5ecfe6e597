"""What is searched: tables of real training. Origins and licences: the README of the data.

Half of the tasks are for tuning (`TUNING`): whatever is chosen is chosen on these, and claims are made on the others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from pbt.member import Hparams
from pbt.search.policy import Ladder
from searchspaces import Float, Int, Simplex, Space


@dataclass(frozen=True, kw_only=True)
class Table:
    """Configurations, each with what it came to after so many steps.

    Attributes:
        name: Of the task.
        space: What they are points of.
        rows: Their hyperparameters.
        steps: Where there are values, ascending; the last is the target, `(steps,)`.
        values: Low is good; infinite from where it diverged on, `(rows, steps)`.
        costs: Of training to there from the beginning, `(rows, steps)`.
        resumable: Whether a run goes on from where it was; if not, going on costs all of it again.
        overhead: What going on costs besides.
    """

    name: str
    space: Space
    rows: Sequence[Hparams]
    steps: np.ndarray
    values: np.ndarray
    costs: np.ndarray
    resumable: bool = True
    overhead: float = 0.0

    def ladder(self, eta: float = 3.0) -> Ladder:
        """Rungs at which there are values, about `eta` times as far apart as the one before."""
        wanted = Ladder.between(self.steps[0], self.steps[-1], eta).rungs
        logs = np.log(self.steps)
        rungs = tuple(dict.fromkeys(float(self.steps[np.abs(logs - np.log(it)).argmin()]) for it in wanted))
        return Ladder(rungs, () if self.resumable else tuple(range(len(rungs))))

    @cached_property
    def cube(self) -> np.ndarray:
        """The rows in the unit cube."""
        return np.array([self.space.encode(row) for row in self.rows])

    def nearest(self, hparams: Hparams, begun: Collection[int]) -> tuple[int, Hparams]:
        """The row next to a point, of those that were not begun: a search is to find others, not the same again."""
        far = np.square(self.cube - self.space.encode(hparams)).sum(axis=1)
        far[list(begun)] = np.inf
        row = int(far.argmin())
        return row, self.rows[row]

    def badness(self, row: int, steps: float) -> float:
        """What a row came to."""
        return float(self.values[row, self._column(steps)])

    def cost(self, row: int, steps: float) -> float:
        """Of training a row to there from the beginning; nothing for no steps."""
        return float(self.costs[row, self._column(steps)]) if steps else 0.0

    def _column(self, steps: float) -> int:
        return int(np.searchsorted(self.steps, steps))

    @cached_property
    def complete_cost(self) -> float:
        """Of a run to the target, in the middle."""
        return float(np.median(self.costs[:, -1]))

    @cached_property
    def _ends(self) -> np.ndarray:
        ends = self.values[:, -1]
        return np.where(np.isfinite(ends), ends, ends[np.isfinite(ends)].max())

    def regret(self, row: int) -> float:
        """0 of the best row at the target, 1 of the one in the middle."""
        best = self._ends.min()
        return float((self._ends[row] - best) / (np.median(self._ends) - best))


def measured(data: Path) -> list[Table]:
    """All tables of real training, given the folder of the data."""
    search, laws = data / "search", data / "laws"
    return [
        *(task_set(path) for path in sorted(search.glob("taskset_*.parquet"))),
        *lcbench(search / "lcbench.parquet"),
        *(lr_and_batch(laws / "lr_batch_grid.parquet", *which) for which in LR_AND_BATCH),
        mixtures(search),
    ]


def task_set(path: Path) -> Table:
    """Adam with eight hyperparameters on a recurrent network; 51 points of the curve, of equal cost."""
    table = pq.read_table(path).to_pandas()
    names = list(table.columns[1:-2])
    columns = {name: np.maximum(_off_one(name, table[name].to_numpy(float)), 1e-12) for name in names}
    values = np.array(table.valid_loss.tolist(), dtype=float)
    values[np.maximum.accumulate(~np.isfinite(values), axis=1)] = np.inf
    steps = np.arange(1.0, values.shape[1] + 1.0)
    return Table(
        name=path.stem,
        space=Space({name: Float(it.min(), it.max(), log=True) for name, it in columns.items()}),
        rows=[{name: float(columns[name][row]) for name in names} for row in range(len(table))],
        steps=steps[1:],
        values=values[:, 1:],
        costs=np.tile(steps[1:], (len(table), 1)),
    )


def _off_one(name: str, column: np.ndarray) -> np.ndarray:
    """Decays of a mean are told apart by how far they are from 1."""
    return 1.0 - column if name.startswith("beta") else column


def lcbench(path: Path) -> list[Table]:
    """Networks on tabular data, seven hyperparameters, epochs of very different cost."""
    space = Space(
        {
            "batch_size": Int(16, 512, log=True),
            "learning_rate": Float(1e-4, 0.1, log=True),
            "momentum": Float(0.1, 0.99),
            "weight_decay": Float(1e-5, 0.1),
            "num_layers": Int(1, 5),
            "max_units": Int(64, 1024, log=True),
            "max_dropout": Float(0.0, 1.0),
        }
    )
    found = []
    for task, part in pq.read_table(path).to_pandas().groupby("task", sort=True):
        errors = 100.0 - np.array(part.val_accuracy.tolist(), dtype=float)
        found.append(
            Table(
                name=f"lcbench_{task}",
                space=space,
                rows=[_within(space, row) for row in part.to_dict("records")],
                steps=np.arange(2.0, 2.0 + errors.shape[1]),
                values=errors,
                costs=np.array(part.time.tolist(), dtype=float),
            )
        )
    return found


def _within(space: Space, row: Mapping[str, float]) -> Hparams:
    """A row's values of a space's numbers, at the bounds where they are beyond."""
    found: dict[str, float] = {}
    for name, it in space.items():
        assert isinstance(it, Float | Int)
        value = min(max(row[name], it.low), it.high)
        found[name] = round(value) if isinstance(it, Int) else float(value)
    return found


#: Parameters of the model, and tokens: the cheapest, those between, the target.
LR_AND_BATCH = (
    (214_663_680.0, (2e9, 8e9, 20e9, 100e9)),
    (429_260_800.0, (2e9, 8e9, 22.7e9, 50e9)),
)


def lr_and_batch(path: Path, parameters: float, tokens: Sequence[float]) -> Table:
    """A language model's learning rate and batch size. Decay ends with the tokens, so that nobody can go on.

    The grids of fewer tokens are others than that of the target: a row's value there is that of the nearest.
    """
    grid = pd.read_parquet(path)
    grid = grid[grid.params_non_embedding == parameters]
    parts = [grid[grid.tokens == it].drop_duplicates(["lr", "batch_sequences"]) for it in tokens]
    points = [np.log(part[["lr", "batch_sequences"]].to_numpy(float)) for part in parts]
    target = parts[-1]
    lr, batch = target.lr, target.batch_sequences
    space = Space(
        {"lr": Float(lr.min(), lr.max(), log=True), "batch": Float(batch.min(), batch.max(), log=True)},
    )
    scale = np.ptp(points[-1], axis=0)
    values = [
        part.loss.to_numpy()[[np.square((there - here) / scale).sum(axis=1).argmin() for here in points[-1]]]
        for part, there in zip(parts, points, strict=True)
    ]
    return Table(
        name=f"lr_batch_{parameters / 1e6:.0f}M",
        space=space,
        rows=[{"lr": float(one), "batch": float(other)} for one, other in zip(lr, batch, strict=True)],
        steps=np.array(tokens),
        values=np.column_stack(values),
        costs=np.tile(6.0 * parameters * np.array(tokens), (len(target), 1)),
        resumable=False,
    )


def mixtures(search: Path) -> Table:
    """Mixtures of 17 domains, judged by the loss on web pages; models of 1M parameters say what those of 60M will."""
    small, large = (pd.read_parquet(search / f"regmix_{size}.parquet") for size in ("1m", "60m"))
    names = [name for name in small.columns if name.startswith("mix/train_")]
    shares = small[names].to_numpy(float)
    shares = shares / shares.sum(axis=1, keepdims=True)
    parts = [name.removeprefix("mix/train_the_pile_") for name in names]
    loss = "loss/metric/the_pile_pile_cc_val_loss"
    sizes = np.array([1.0, 60.0])
    return Table(
        name="mixtures",
        space=Space({"mixture": Simplex(parts)}),
        rows=[{"mixture": dict(zip(parts, map(float, row), strict=True))} for row in shares],
        steps=sizes,
        values=np.column_stack([small[loss], large[loss]]),
        costs=np.tile(sizes, (len(small), 1)),
        resumable=False,
    )


#: Tasks that defaults are chosen on.
TUNING = frozenset(
    {
        "taskset_patch128_LSTM128_avg_bs64",
        "taskset_patch32_IRNN64_relu_avg_bs128",
        "taskset_patch32_LSTM128_bs128",
        "lcbench_167168",
        "lcbench_189873",
        "lr_batch_215M",
        "power_laws_0.5",
        "hartmann_good",
    }
)
