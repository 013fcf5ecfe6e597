"""The same through Python: describe a sweep, run it, look at what it found.

python examples/python_api.py
"""

from __future__ import annotations

import pbt
from searchspaces import Float


def main(storage: str = "pbt-runs") -> pbt.Result:
    """Evolve the learning rate of eight copies of the paper's toy, in this process."""
    result = pbt.Sweep(
        name="toy",
        trainable="quadratic",
        space={"h0": Float(0.0, 1.0), "h1": Float(0.0, 1.0), "lr": Float(1e-3, 1e-1, log=True)},
        objective="Q",
        strategy=pbt.PBT(quantile=0.25),
        budget={"members": 8, "generations": 10, "steps": 10},
        hosts=pbt.Hosts(kind="local"),
        storage=storage,
        seed=0,
    ).run()
    print(f"member {result.best.member} reached {result.best.score:.4f} (1.2 is the best there is)")  # noqa: T201
    for step in result.best.schedule:
        print(f"steps {step.age_start:3d} to {step.age_end:3d}: lr {step.hparams['lr']:.4f}")  # noqa: T201
    return result


if __name__ == "__main__":
    main()
