"""Learning rates and batch sizes as others have found them, each with what it counts, and where it was found.

They disagree, and mostly since they are about different things: the best learning rate at the best batch size, or at
one that is given; the peak of a cosine, or a constant; of a model as it is, or of one parametrized by its width. Each
says what it is of, and none is compared with another without that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from pbt.errors import SpecError, nearest
from pbt.laws.form import times_beyond
from pbt.laws.units import Size


@dataclass(frozen=True, kw_only=True)
class Published:
    """A law that was published.

    Attributes:
        name: As it is asked for.
        source: Where it is from.
        lr: The learning rate for a size; None if it has no law of it.
        batch: The batch size in tokens; None likewise.
        formula: As it is written, with what its letters count.
        rate: What its learning rate is: of which schedule, parametrization and optimizer.
        ranges: From where to where it was fitted, by what is counted.
    """

    name: str
    source: str
    lr: Callable[[Size], float] | None = None
    batch: Callable[[Size], float] | None = None
    formula: str
    rate: str
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def beyond(self, size: Size) -> dict[str, float]:
        """How many times a size is further than what the law was fitted to, by what is counted."""
        known = {"params": size.params, "tokens": size.tokens, "flops": size.flops}
        far = {name: times_beyond(np.log(own), np.log(known[name])) for name, own in self.ranges.items()}
        return {name: times for name, times in far.items() if times > 1.0}


def _power_scheduler(size: Size) -> float:
    return 4.6 * size.need("batch") / size.need("sequence") * size.tokens**-0.51


_LAWS = (
    Published(
        name="step_law",
        source='Li et al. 2025, "Predictable Scale: Part I, Step Law" (arXiv 2503.04715), equation 1',
        lr=lambda size: 1.79 * size.params**-0.713 * size.tokens**0.307,
        batch=lambda size: 0.58 * size.tokens**0.571,
        formula="lr = 1.79 N^-0.713 D^0.307, B = 0.58 D^0.571; N without embeddings, D and B in tokens",
        rate="peak of a cosine to 1e-5 after 2,000 steps of warm-up, AdamW, at the best batch size",
        ranges={"params": (6e7, 1e9), "tokens": (2e9, 1e11)},
    ),
    Published(
        name="deepseek",
        source='Bi et al. 2024, "DeepSeek LLM" (arXiv 2401.02954), equation 1',
        lr=lambda size: 0.3118 * size.flops_by_layers**-0.1250,
        batch=lambda size: 0.2920 * size.flops_by_layers**0.3271,
        formula="lr = 0.3118 C^-0.1250, B = 0.2920 C^0.3271; C = (72 layers d^2 + 12 layers d l) D, B in tokens",
        rate="peak of a schedule of steps (to 31.6 % after 80 %, 10 % after 90 %), AdamW, at the best batch size",
        ranges={"flops": (1e17, 1e20)},
    ),
    Published(
        name="minicpm",
        source='Hu et al. 2024, "MiniCPM" (arXiv 2404.06395), sections 3.2 and 3.3',
        lr=lambda size: 0.01,
        batch=lambda size: 1.21e9 / size.need("loss") ** 6.24,
        formula="lr = 0.01, B = 1.21e9 / L^6.24; B in tokens, L in nats per token of C4",
        rate="base rate of a model parametrized by width and depth (muP), cosine to 10 %; B takes the fewest tokens",
        ranges={"params": (9e6, 5e8)},
    ),
    Published(
        name="power",
        source='Shen et al. 2024, "Power Scheduler" (arXiv 2408.13359), equation 8',
        lr=_power_scheduler,
        formula="lr = 4.6 b D^-0.51; b in sequences of 4,096 tokens, D in tokens",
        rate="stable rate of a warm-up, stable, decay schedule, muP (matrices are divided by their width again)",
        ranges={"params": (1.2e7, 1.21e8), "tokens": (2e9, 2.56e11)},
    ),
    Published(
        name="bjorck",
        source='Bjorck et al. 2024, "Scaling Optimal LR Across Token Horizons" (arXiv 2409.19913), section 4',
        lr=lambda size: 1.55e-3 * (size.params / 1e9) ** -0.23 * (size.tokens / 1e9) ** -0.32,
        formula="lr = 1.55e-3 N^-0.23 D^-0.32; N and D in billions",
        rate="peak of a cosine, AdamW, batches of half a million tokens; D has other exponents at other sizes",
        ranges={"params": (7.6e8, 2.7e9)},
    ),
    Published(
        name="moonlight",
        source='Liu et al. 2025, "Muon is Scalable for LLM Training" (arXiv 2502.16982), table 9',
        lr=lambda size: 0.0127339 * size.flops**-0.0574752,
        batch=lambda size: 0.0065202 * size.flops**0.4137915,
        formula="lr = 0.0127339 C^-0.0574752, B = 0.0065202 C^0.4137915; C = 6 N D, N without embeddings, B in tokens",
        rate="AdamW, for models and data that are best for their compute only",
        ranges={"params": (3.99e8, 1.5e9), "flops": (1e20, 1.1e21)},
    ),
    Published(
        name="porian",
        source='Porian et al. 2024, "Resolving Discrepancies in Compute-Optimal Scaling" (arXiv 2406.19146)',
        lr=lambda size: 3.7 * size.count("with the head") ** -0.36,
        batch=lambda size: 0.7576 * size.count("with the head") ** 0.703,
        formula="lr = 3.7 N^-0.36, B = 0.7576 N^0.703; N with the head, B in tokens, D = 20 N",
        rate="constant after a short warm-up, AdamW with beta2 tuned, at the best batch size",
        ranges={"params": (2.5e7, 1.1e8)},
    ),
    Published(
        name="kaplan",
        source='Kaplan et al. 2020, "Scaling Laws for Neural Language Models" (arXiv 2001.08361), D.1 and 5.3',
        lr=lambda size: 0.003239 - 0.0001395 * math.log(size.params),
        batch=lambda size: 2.1e8 / size.need("loss") ** (1.0 / 0.21),
        formula="lr = 0.003239 - 0.0001395 ln N, B = 2.1e8 / L^4.76; N without embeddings, B in tokens, L in nats",
        rate="what does not diverge with Adam and a cosine to 0, not a best one; B is the critical batch size",
        ranges={"params": (768, 1e10)},
    ),
    Published(
        name="zhang",
        source='Zhang et al. 2024, "How Does Critical Batch Size Scale in Pre-training?" (arXiv 2410.21676)',
        batch=lambda size: 93.20 * (size.params / 1e6) ** 0.47 * 512,
        formula="B = 93.20 N^0.47 sequences of 512 tokens; N in millions",
        rate="the batch size that takes 20 % more tokens than one of 256 sequences does; 20 tokens for each parameter",
        ranges={"params": (8.5e7, 1.2e9)},
    ),
)

#: By name.
PUBLISHED: Mapping[str, Published] = {law.name: law for law in _LAWS}


def published(name: str) -> Published:
    """The law of this name.

    Raises:
        SpecError: There is none.
    """
    if name not in PUBLISHED:
        raise SpecError("law", f"{name!r} is unknown", nearest(name, PUBLISHED))
    return PUBLISHED[name]


def weight_decay(size: Size, lr: float) -> float:
    """The best weight decay of AdamW at a learning rate: averages go over as long as is best for tokens per parameter.

    With `tau = B / (lr lambda D)`, `tau = 1.084 (D / N)^-0.527`; the size needs `batch`.

    Source: Bergsma et al. 2025, "Power Lines" (arXiv 2505.13738), figure 1; muP, linear decay to 0, 111M to 3.3B
    parameters, 20 to 1,280 tokens for each.
    """
    tau = 1.084 * (size.tokens / size.params) ** -0.527
    return size.need("batch") / (tau * lr * size.tokens)


def for_batch(lr: float, batch: float, other: float, optimizer: str = "adam") -> float:
    """A learning rate at another batch size: by the root of its size with Adam, in proportion with SGD.

    Both hold below the critical batch size only.

    Sources: Malladi et al. 2022, "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms" (arXiv 2205.10287);
    Goyal et al. 2017, "Accurate, Large Minibatch SGD" (arXiv 1706.02677), section 2.1.

    Raises:
        SpecError: The rule of this optimizer is not known.
    """
    rules = {"adam": 0.5, "adamw": 0.5, "sgd": 1.0}
    if optimizer not in rules:
        raise SpecError("optimizer", f"{optimizer!r} has no rule", nearest(optimizer, rules))
    return float(lr * (other / batch) ** rules[optimizer])
