"""Batches mixed from several domains of text, in proportions that every member has of its own.

The proportions are a live hyperparameter: they say how many windows of a batch come from each domain. Which windows
these are is a matter of the domain alone, in which a member has a *cursor*: how many windows of it its weights have
seen. So whatever the proportions do meanwhile, every window of a domain comes exactly once in an epoch of that domain.

All of it is arithmetic on the device that comes out the same for any number of members, eager or compiled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainables.base import DataError, HparamSpec, Split
from trainables.core.batch_size import BATCH_SIZE
from trainables.core.data import TokenFeed, windows
from trainables.core.model import NO_HPARAMS, Buffers
from trainables.core.order import Sizes, epoch_key, permute
from trainables.core.rng import Draws, below, site

#: Name of the hyperparameter.
MIXTURE = "mixture"
#: Name of the buffer: windows of each domain that went into the weights, `[K, domains]`.
CURSOR = "cursor"

_SHARES, _ROWS = site("data.mixture.shares"), site("data.mixture.rows")
_BITS = 31  # of the one draw behind the shares: with the number of a window before them they fit a float64


@dataclass(frozen=True, eq=False)
class MixtureFeed:
    """Windows of the domains of a text, mixed by the hyperparameter `mixture`.

    In an epoch a domain's windows follow each other without a gap: no token is predicted twice. Where the first begins
    is drawn anew for each epoch, so that no token is always at a window's edge. What is left over at both ends of the
    domain, less than two windows together, has its turn in other epochs. Evaluation is not mixed.

    Attributes:
        text: The tokens, the shape of a batch, and the evaluation.
        spans: First and past-the-last training token of every domain, by name.
    """

    text: TokenFeed
    spans: Mapping[str, tuple[int, int]]
    _first: Tensor = field(init=False)
    _sites: Tensor = field(init=False)
    _sizes: Sizes = field(init=False)
    _rooms: Tensor = field(init=False)
    _orders: Sizes = field(init=False)

    def __post_init__(self) -> None:
        """Bring what is known of the domains to the device.

        Raises:
            DataError: There are fewer than two domains, or one is too small.
        """
        if len(self.spans) < 2:
            raise DataError(f"mixture of {', '.join(self.spans) or 'nothing'}; give text of at least two domains")
        device = self.text.tokens["train"].device if self.text.tokens else torch.device("cpu")
        counts = [self._num_windows(domain) for domain in self.spans]
        rooms = [last - first - n * self._stride for n, (first, last) in zip(counts, self.spans.values(), strict=True)]
        for name, value in {
            "_first": torch.tensor([first for first, _ in self.spans.values()], device=device),
            "_sites": torch.tensor([site(f"data.domain.{domain}") for domain in self.spans], device=device),
            "_sizes": Sizes.of(counts, device),
            "_rooms": torch.tensor(rooms, device=device),
            "_orders": Sizes.of(range(1, self.text.batch_size + 1), device),
        }.items():
            object.__setattr__(self, name, value)

    @property
    def hparams(self) -> Mapping[str, HparamSpec]:
        """The proportions; unless told otherwise, those that the text has."""
        lengths = {domain: last - first for domain, (first, last) in self.spans.items()}
        total = sum(lengths.values())
        shares = {domain: length / total for domain, length in lengths.items()}
        doc = "shares of the domains in a batch"
        return {MIXTURE: HparamSpec(kind="live", default=shares, parts=tuple(self.spans), doc=doc)}

    def buffers(self) -> Mapping[str, Tensor]:
        """The cursors, which begin at 0."""
        return {CURSOR: torch.zeros(len(self.spans), dtype=torch.int64)}

    def batch(self, draws: Draws, hparams: Mapping[str, Tensor] = NO_HPARAMS, buffers: Buffers | None = None) -> Tensor:
        """The members' next batches: `[K, batch_size, window]` int64; moves the cursors."""
        assert buffers is not None, "a mixture needs its cursors"
        number = torch.arange(self.text.batch_size, device=draws.seed.device)
        size = self._batch_sizes(draws, hparams)[:, None]
        domain = self._domains(hparams[MIXTURE], size, draws)
        counts = number < size
        taken = ((domain[..., None] == torch.arange(len(self.spans), device=number.device)) & counts[..., None]).sum(1)
        before = taken.cumsum(1) - taken  # windows of the batch from the domains before
        place = (buffers[CURSOR] - before).gather(1, domain) + number
        buffers[CURSOR] = buffers[CURSOR] + taken
        # By domain as they are, micro-batches would each be of other domains.
        rows = permute(torch.minimum(number, size - 1), draws.key(_ROWS)[:, None], self._orders.at(size - 1))
        starts = self._starts(draws.seed[:, None], domain, place).gather(1, torch.where(counts, rows, number))
        return windows(self.text.tokens["train"], starts, self.text.window)

    def evaluation(self, split: Split) -> Iterator[tuple[Tensor, int]]:
        """Fixed windows of a whole split, the same whatever the proportions."""
        return self.text.evaluation(split)

    def _batch_sizes(self, draws: Draws, hparams: Mapping[str, Tensor]) -> Tensor:
        """How many rows of its batch each member trains on, `(K,)` int64: all, or the first ones."""
        rows = self.text.batch_size
        if BATCH_SIZE not in hparams:
            return torch.full_like(draws.seed, rows)
        return hparams[BATCH_SIZE].long().clamp(1, rows)  # a slot without a member may have any

    def _domains(self, weights: Tensor, size: Tensor, draws: Draws) -> Tensor:
        """The domain of each window, ascending: `[K, rows]` for weights `[K, domains]` and batch sizes `[K, 1]`.

        Systematic resampling: points that are 1 apart, all moved by one draw, fall on a line on which each domain has
        as much room as windows are due to it. So it gets that number, rounded up or down, and on average exactly that.

        Source: Douc, Cappe, Moulines 2005 (arXiv cs/0507025), "Comparison of resampling schemes for particle
        filtering", where the systematic scheme is described.
        """
        # One by one: a scan may add in another order elsewhere. Over their sum, as weights need not be 1 to the bit.
        sums = [weights[:, 0]]
        for column in weights.unbind(1)[1:]:
            sums.append(sums[-1] + column)
        ends = torch.stack(sums, dim=1) / sums[-1][:, None] * size
        moved = below(draws.key(_SHARES), 1, 1 << _BITS).to(torch.float64) * 2.0**-_BITS
        number = torch.arange(self.text.batch_size, device=weights.device)
        points = torch.minimum(number, size - 1) + moved  # rows that do not count are of the last one's domain
        return (ends[:, None, :] <= points[:, :, None]).sum(2)

    def _starts(self, seed: Tensor, domain: Tensor, place: Tensor) -> Tensor:
        """First tokens of windows, by their places in their domain's endless sequence of epochs."""
        sizes = self._sizes.at(domain)
        epoch = torch.div(place, sizes.size, rounding_mode="floor")
        key = epoch_key(seed, self._sites[domain], epoch)
        number = permute(place - epoch * sizes.size, key, sizes)
        shift = below(key.flatten(), 1, self._rooms[domain].flatten()).view_as(key)
        return self._first[domain] + shift + number * self._stride

    @property
    def _stride(self) -> int:
        """Tokens that a window predicts: all but its first."""
        return self.text.window - 1

    def _num_windows(self, domain: str) -> int:
        """Windows of an epoch; one less than there is room for, so that the first can begin anywhere."""
        first, last = self.spans[domain]
        count = (last - first) // self._stride - 1
        if count < 1:
            raise DataError(
                f"domain {domain!r} has {last - first} bytes of training text; "
                f"for a mixture give it at least {2 * self._stride}, or leave it out of domains"
            )
        return count
