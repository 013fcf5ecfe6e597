"""What every stacked layer keeps: it is the plain layer, member by member, and members do not touch."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.examples import examples
from tests.trainables.core.ops.table import LAYERS, cases, drawn_cases
from trainables.core import ops
from trainables.core.ops.layout import fold

CASES = cases()
# torch's own, for `same` padding of even kernels.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")


def _outputs(value):
    return value if isinstance(value, tuple) else (value,)


def _run(function, tensors, leaves, cotangent_of):
    """Outputs and gradients of the leaves; `cotangent_of(output)` is what flows back."""
    own = {name: t.clone().requires_grad_(name in leaves) for name, t in tensors.items()}
    outputs = _outputs(function(**own))
    outputs[0].backward(cotangent_of(outputs[0]))
    grads = {name: own[name].grad for name in leaves}
    return [t.detach() for t in outputs], {n: torch.zeros_like(own[n]) if g is None else g for n, g in grads.items()}


def _stacked(case, tensors):
    return _run(case.stacked, tensors, case.leaves, lambda y: _cotangent(y[0]).expand_as(y))


def _plain(case, tensors, member):
    return _run(case.plain, {name: t[member] for name, t in tensors.items()}, case.leaves, _cotangent)


def _cotangent(y):
    """Of one member's output; no simple function of it, as norms have gradient 0 for those."""
    return torch.randn(y.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(y.dtype)


def _close(expected, actual, tolerance):
    """Within `tolerance` of the tensor's norm (or of 1, where all cancels)."""
    assert expected.shape == actual.shape
    if torch.isnan(expected).all():  # torch's answer where there is nothing, as a mean over no rows
        assert torch.isnan(actual).all()
        return
    expected, actual = expected.double(), actual.double()
    assert (expected - actual).norm() <= tolerance * max(1.0, expected.norm())


def _compare(case, num_members, dtype, tolerance):
    """Against torch in float64, from the same numbers."""
    tensors = case.tensors(num_members, dtype)
    outputs, grads = _stacked(case, tensors)
    exact = {name: t.double() if t.is_floating_point() else t for name, t in tensors.items()}
    for member in range(num_members):
        expected, expected_grads = _plain(case, exact, member)
        for a, b in zip(expected, outputs, strict=True):
            _close(a, b[member], tolerance)
        for name, grad in expected_grads.items():
            _close(grad, grads[name][member], tolerance)


@pytest.mark.parametrize("name", CASES)
def test_equals_the_plain_layer(name):
    """Values, running statistics and gradients of every member (float64, 1e-12), for K = 1, 2 and 5."""
    for num_members in (1, 2, 5):
        _compare(CASES[name], num_members, torch.float64, 1e-12)


@pytest.mark.parametrize("name", CASES)
def test_equals_the_plain_layer_in_float32(name):
    """To 1e-5 of the norm: 2**-24 a rounding, some hundred roundings that do not all cancel."""
    _compare(CASES[name], 3, torch.float32, 1e-5)


@examples(150)
@given(case=drawn_cases(), num_members=st.integers(1, 4))
def test_equals_the_plain_layer_at_any_shape(case, num_members):
    """The same over drawn shapes; 1e-11, as a variance that happens to be small magnifies roundings."""
    _compare(case, num_members, torch.float64, 1e-11)


@pytest.mark.parametrize("value", [torch.nan, torch.inf], ids=["nan", "inf"])
@pytest.mark.parametrize("name", CASES)
def test_nan_stays_with_its_member(name, value):
    """One member's inputs or weights NaN or infinite: all others' values and gradients are the same bits."""
    check_isolation(CASES[name], value)


def check_isolation(case, value, device="cpu"):
    others = [0, 2, 3]
    for dtype in (torch.float32, torch.float64):
        tensors = {name: t.to(device) for name, t in case.tensors(4, dtype).items()}
        outputs, grads = _stacked(case, tensors)
        for poisoned in case.leaves:
            wild = dict(tensors)
            wild[poisoned] = tensors[poisoned].clone()
            wild[poisoned][1] = value
            wild_outputs, wild_grads = _stacked(case, wild)
            for a, b in zip((*outputs, *grads.values()), (*wild_outputs, *wild_grads.values()), strict=True):
                assert torch.equal(a[others].nan_to_num(), b[others].nan_to_num())
                assert torch.equal(a[others].isnan(), b[others].isnan())


#: Layers whose kernels work on several members' numbers in one vector register or matrix block. Where a member's
#: numbers begin within it depends on the slot, and with it which of them are rounded by the vector path and which by
#: the remainder's; so a slot changes last bits.
SHARED_BLOCKS = {"linear", "conv1d", "conv2d", "batch_norm", "ghost_batch_norm"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", CASES)
def test_a_slot_does_not_matter(name, dtype):
    """Members in another order: each has the same values and gradients, bit for bit outside `SHARED_BLOCKS`."""
    case = CASES[name]
    tensors = case.tensors(5, dtype)
    order = [3, 0, 4, 1, 2]
    straight = _stacked(case, tensors)
    turned = _stacked(case, {n: t[order] for n, t in tensors.items()})
    exactly = name.split("-")[0] not in SHARED_BLOCKS
    for a, b in zip((*straight[0], *straight[1].values()), (*turned[0], *turned[1].values()), strict=True):
        if exactly:
            assert torch.equal(a[order].nan_to_num(), b.nan_to_num())
        else:
            _close(a[order], b, 1e-12 if dtype == torch.float64 else 1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("layer", LAYERS)
def test_nan_stays_with_its_member_on_cuda(layer):
    """A kernel that joined small groups into one block with zeros between would fail here."""
    for name, case in CASES.items():
        if name.split("-")[0] == layer:
            for value in (torch.nan, torch.inf):
                check_isolation(case, value, "cuda")


def test_every_layer_is_in_the_table():
    """A new public layer joins the table of plain counterparts, or is a helper named here."""
    elsewhere = {"Running", "causal_attention", "penalized", "rotary_angles", "rotate"}
    public = {name for name, value in vars(ops).items() if getattr(value, "__module__", "").startswith(ops.__name__)}
    assert public - elsewhere == set(LAYERS)


@pytest.mark.parametrize("name", ["conv2d-2", "batch_norm-4", "max_pool2d-1", "group_norm-2"])
def test_what_a_layer_over_channels_returns_folds_without_a_copy(name):
    """Between two such layers the members stay where they are in memory."""
    case = CASES[name]
    y = _outputs(case.stacked(**case.tensors(3, torch.float32)))[0]
    assert fold(y).data_ptr() == y.data_ptr()
