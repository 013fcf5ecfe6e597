"""A search with two fidelities, steps and width, over small language models; as a script, a driver to be killed."""

from __future__ import annotations

import sys
from pathlib import Path

from pbt import MFMES, Budget, Hosts, Sweep
from searchspaces import Choice, Float
from trainables import Language


def search(storage: Path, kind: str, **hosts: object) -> Sweep:
    """Models a quarter and half as wide are tried before the one that is wanted."""
    return Sweep(
        name="toy",
        trainable=Language(depth=1, heads=2, context=16, batch=4, eval_bytes=1024, schedule="constant"),
        space={
            "lr": Float(1e-4, 1e-1, log=True),
            "weight_decay": Float(1e-3, 1.0, log=True),
            "width": Choice([8, 16, 32]),
        },
        objective="bits_per_byte",
        strategy=MFMES(fidelity="width", cost={"width": 1}, startup=4, target_generations=4),
        budget=Budget(members=4, generations=16, steps=10),
        hosts=Hosts(kind=kind, stacks=2, plan="off", **hosts),  # type: ignore[arg-type]
        storage=storage,
        tracking=False,
    )


if __name__ == "__main__":
    search(Path(sys.argv[1]), "ray", address=sys.argv[2]).run(progress=False)
