"""What a size is counted in: laws that count differently must not be mixed.

Parameters are counted without embeddings, with the head, or all; batches in tokens or in sequences; compute as six for
each parameter and token, or by layers. A `Size` holds what each of them needs, and says what is missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pbt.errors import SpecError
from pbt.spec import require

#: How parameters are counted.
Count = Literal["without embeddings", "with the head", "all"]


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a run is.

    Attributes:
        params: Parameters without embeddings and head.
        tokens: Trained on.
        head: Parameters of the head, which maps to tokens; None is not known.
        embedding: Parameters of the embedding of tokens and places, without a head that shares them; None is not known.
        layers: Blocks of the transformer.
        width: Of the residual stream.
        sequence: Tokens of a sequence.
        batch: Tokens of a step, where that is given.
        loss: Nats per token that will be reached, where that is given.
    """

    params: float
    tokens: float
    head: float | None = None
    embedding: float | None = None
    layers: int | None = None
    width: int | None = None
    sequence: int | None = None
    batch: float | None = None
    loss: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be a size."""
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            mend = f"Write a positive number for {name}"
            require(
                value is None or value > 0 or (name in ("head", "embedding") and value == 0), name, f"is {value}", mend
            )

    def need(self, name: str) -> float:
        """What a law needs.

        Raises:
            SpecError: It is not known.
        """
        value = getattr(self, name)
        if value is None:
            raise SpecError(name, "is needed by this law, and not given", f"Give the size with {name}=...")
        return float(value)

    def count(self, which: Count) -> float:
        """Parameters, counted as a law counts them.

        Raises:
            SpecError: What would have to be added is not known.
        """
        added = {"without embeddings": (), "with the head": ("head",), "all": ("head", "embedding")}[which]
        return self.params + sum(self.need(name) for name in added)

    @property
    def flops(self) -> float:
        """Six for each parameter without embeddings, and token (Kaplan et al. 2020, section 2.1)."""
        return 6.0 * self.params * self.tokens

    @property
    def flops_by_layers(self) -> float:
        """With what attention takes: 72 layers width^2 + 12 layers width sequence for each token.

        Source: Bi et al. 2024, "DeepSeek LLM" (arXiv 2401.02954), section 3.2.
        """
        layers, width, sequence = (self.need(name) for name in ("layers", "width", "sequence"))
        return (72.0 * layers * width**2 + 12.0 * layers * width * sequence) * self.tokens
