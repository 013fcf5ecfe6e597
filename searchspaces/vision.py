"""What may vary in the `vision` trainable: AdamW, regularisation, augmentation and the learning-rate schedule.

The ranges suit small networks on images of 8 to 32 pixels, trained for a few hundred to some thousands of steps. Left
out is what only some of them know or bear: `bn_momentum` (no running statistics, no momentum) and `flip` (a mirrored 3
is no 3). The schedule follows the age of the weights: a linear warm-up, then a cosine to `final_lr_ratio`.
"""

from searchspaces.domains import Float, Int
from searchspaces.space import Space

SPACE = Space(
    {
        "lr": Float(3e-4, 3e-2, log=True),  # peak step size, reached at the end of the warm-up
        "weight_decay": Float(1e-3, 1.0, log=True),  # decoupled: each step shrinks the weights by lr * weight_decay
        "beta1": Float(0.8, 0.98, log_complement=True),  # mean of the gradient: 5 to 50 steps
        "beta2": Float(0.9, 0.999, log_complement=True),  # mean of its square: 10 to 1,000 steps
        "label_smoothing": Float(0.0, 0.2),  # share of a label spread over all classes
        "dropout": Float(0.0, 0.3),  # share of activations set to zero; 0 stays 0 unless resampled
        "shift": Int(0, 3),  # largest shift in pixels
        "cutout": Int(0, 4),  # side in pixels of the square that is covered
        "warmup_steps": Int(1, 500, log=True),  # steps of linear warm-up from lr / warmup_steps; 1 is none
        "decay_steps": Int(100, 20_000, log=True),  # steps of cosine decay after the warm-up
        "final_lr_ratio": Float(0.01, 1.0, log=True),  # lr after the decay, as a share of lr; 1 is no decay
    }
)
