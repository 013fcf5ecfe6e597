"""What may vary: domains of hyperparameters, spaces of them, and ready spaces by name.

space = Space({"lr": Float(1e-4, 1e-1, log=True), "layers": Int(1, 8)})
hparams = space.sample(np.random.default_rng(0))
neighbour = space.perturb(hparams, np.random.default_rng(1))
"""

from searchspaces._load import READY, load
from searchspaces.domains import Choice, Float, Int, Simplex
from searchspaces.errors import SpaceError
from searchspaces.space import Space

__all__ = ["READY", "Choice", "Float", "Int", "Simplex", "Space", "SpaceError", "load"]
