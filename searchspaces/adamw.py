"""AdamW's four hyperparameters, with their names in `trainables`.

The betas vary on the scale of `1 - beta`: their memory is `1 / (1 - beta)` steps, and it is ratios of memories that
matter (0.9 to 0.99 is as far as 0.99 to 0.999).

Source: Loshchilov and Hutter 2019, Decoupled Weight Decay Regularization, algorithm 2.
"""

from searchspaces.domains import Float
from searchspaces.space import Space

SPACE = Space(
    {
        "lr": Float(1e-5, 1e-1, log=True),  # step size
        "weight_decay": Float(1e-4, 1.0, log=True),  # decoupled: each step shrinks the weights by lr * weight_decay
        "beta1": Float(0.8, 0.99, log_complement=True),  # mean of the gradient: 5 to 100 steps
        "beta2": Float(0.9, 0.9999, log_complement=True),  # mean of its square: 10 to 10,000 steps
    }
)
