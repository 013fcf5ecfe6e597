"""What a convolution refuses; what it computes is in the table of layers."""

import pytest
import torch

from trainables import TrainableError
from trainables.core import ops


@pytest.mark.parametrize(("conv", "dims"), [(ops.conv1d, 4), (ops.conv2d, 5)])
def test_an_input_without_a_batch_is_refused(conv, dims):
    """Members and batch must both be there: torch's unbatched input would be read as members."""
    with pytest.raises(TrainableError, match=f"has {dims - 1} dimensions; give {dims}"):
        conv(torch.zeros((2,) * (dims - 1)), torch.zeros((2,) * dims))
