"""Attention's kernels; test_triton.py runs this on the GPU or under Triton's interpreter."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from swin_backbone.ops import trial as trials
from swin_backbone.ops.backends import Problem
from swin_backbone.ops.trial import Setting
from swin_backbone.ops.window_attention import reference, triton
from swin_backbone.ops.window_attention.trial import TRIAL

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
# Largest error against float64, relative to the largest element (or to 1).
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 4e-3,
    torch.bfloat16: 3e-2,
}
DTYPES = [dtype for dtype in TOLERANCE if DEVICE == 'cpu' or dtype != torch.float64]


def draw(
    B: int, H: int, W: int, heads: int, head_dim: int, window: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """qkv, bias and padding. For 16-bit qkv, the other two are float32, as under autocast."""
    width = 3 * heads * head_dim
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    qkv = torch.randn(B, H, W, width).to(DEVICE, dtype)
    bias = torch.randn(heads, window**2, window**2, dtype=wide).to(DEVICE)
    return qkv, bias, torch.randn(width, dtype=wide).to(DEVICE)


def out_and_gradients(op, inputs: tuple, weight: Tensor, **options) -> list[Tensor]:
    """The output, and the gradients of qkv, bias and padding (if any)."""
    inputs = [x if x is None else x.detach().requires_grad_() for x in inputs]
    out = op(*inputs[:2], padding=inputs[2], **options)
    given = [x for x in inputs if x is not None]
    loss = (out * weight.to(out.dtype)).sum()
    gradients = torch.autograd.grad(loss, given, allow_unused=True)
    results = [
        torch.zeros_like(x) if g is None else g for g, x in zip(gradients, given, strict=True)
    ]
    return [out.detach(), *results]


def assert_agrees(inputs: tuple, tolerance: float | None = None, **options) -> None:
    """Compares output and gradients with the reference in float64 on the same inputs."""
    qkv = inputs[0]
    weight = torch.randn(*qkv.shape[:3], qkv.shape[3] // 3).to(DEVICE, qkv.dtype)
    ours = out_and_gradients(triton.shifted_window_attention, inputs, weight, **options)
    wide = tuple(x if x is None else x.double() for x in inputs)
    theirs = out_and_gradients(reference.shifted_window_attention, wide, weight.double(), **options)
    like = dict(out=qkv, qkv=qkv, bias=inputs[1], padding=inputs[2])
    for name, mine, other in zip(like, ours, theirs, strict=False):
        assert mine.dtype == like[name].dtype and mine.shape == other.shape, name
        if mine.numel():
            error = (mine.double() - other).abs().max() / max(1.0, other.abs().max().item())
            assert error <= (tolerance or TOLERANCE[qkv.dtype]), (name, error.item())


LAYOUTS = ['channels first', 'wider rows', 'cropped', 'misaligned']


PROBLEMS = given(
    B=st.integers(0, 2),
    heads=st.integers(1, 2),
    head_dim=st.sampled_from([4, 16, 24, 32, 48, 64]),
    window=st.sampled_from([1, 2, 3, 4, 7, 8, 9, 12]),
    dtype=st.sampled_from(DTYPES),
    padded=st.booleans(),
    scale=st.sampled_from([None, 0.3]),
    data=st.data(),
)


def agrees_with_the_reference(B, heads, head_dim, window, dtype, padded, scale, data):
    largest = min(20, 4 * window if window < 7 else window + 5)
    H, W = data.draw(st.integers(1, largest)), data.draw(st.integers(1, largest))
    shift = data.draw(st.integers(0, window - 1))
    qkv, bias, padding = draw(B, H, W, heads, head_dim, window, dtype)
    assert_agrees(
        (qkv, bias, padding if padded else None), window_size=window, shift_size=shift, scale=scale
    )


test_agrees_with_the_reference = settings(max_examples=12)(PROBLEMS(agrees_with_the_reference))
test_agrees_on_more_problems = pytest.mark.slow(
    settings(max_examples=50)(PROBLEMS(agrees_with_the_reference))
)


@pytest.mark.parametrize(
    'window, shift',
    [
        *[(7, 0), (7, 3), (8, 4), (12, 0), (12, 6)],
        pytest.param(16, 8, marks=pytest.mark.slow),
        pytest.param(24, 12, marks=pytest.mark.slow),
    ],
)
def test_every_window_of_the_field(window, shift):
    """One window and, except for the largest, one row of a second one that is mostly padding."""
    H = window + 1 if window < 24 else window - 1
    inputs = draw(1, H, window - 2, 1, 32, window, torch.float32)
    assert_agrees(inputs, window_size=window, shift_size=shift)


@pytest.mark.parametrize(
    'layout, window',
    [
        *[(layout, 4) for layout in LAYOUTS],
        ('cropped', 9),
        *[pytest.param(name, 9, marks=pytest.mark.slow) for name in LAYOUTS if name != 'cropped'],
    ],
)
def test_strided_input(layout, window):
    qkv, bias, padding = draw(2, 7, 6, 2, 16, window, torch.float32)
    if layout == 'channels first':
        strided = qkv.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    elif layout == 'wider rows':
        strided = torch.cat([qkv, qkv], -1)[..., :96]
    elif layout == 'cropped':
        strided = torch.cat([qkv, qkv], 2)[:, :, 6:]
    else:
        strided = torch.cat([qkv[..., :1], qkv], -1)[..., 1:]
    assert torch.equal(strided, qkv) and not strided.is_contiguous()
    options = dict(window_size=window, shift_size=2)
    assert_agrees((strided, bias, padding), **options)
    assert_agrees((qkv, bias.permute(0, 2, 1).contiguous().permute(0, 2, 1), padding), **options)


@pytest.mark.parametrize('window', [4, 9])
@pytest.mark.parametrize('apart', ['images', 'rows'])
def test_offsets_beyond_32_bits(window, apart):
    """Images are 2³¹ elements apart, or rows 2³⁰; the system allocates only accessed pages."""
    near, bias, _ = draw(2, 3, 4, 1, 16, window, torch.float16)
    _, _, *of_token = near.stride()
    strides = (2**31 + 64, near.stride(1)) if apart == 'images' else (192, 2**30 + 63)
    last = sum((n - 1) * s for n, s in zip(near.shape, (*strides, *of_token), strict=True))
    storage = torch.empty(last + 1, dtype=near.dtype, device=DEVICE)
    far = storage.as_strided(near.shape, (*strides, *of_token))
    far.copy_(near)
    index = triton._options(far, 1, window, 1, None, 0.0, None)['INDEX']
    assert str(index) == ('int32' if apart == 'images' else 'int64')
    grad = torch.randn(2, 3, 4, 16).to(DEVICE, near.dtype)
    options = dict(window_size=window, shift_size=1, scale=None)
    inputs = (bias, None)
    assert torch.equal(
        triton.forward(far, *inputs, **options), triton.forward(near, *inputs, **options)
    )
    ours, theirs = (triton.backward(grad, x, *inputs, **options)[:2] for x in (far, near))
    assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])


def test_maps_of_no_tokens():
    for shape in ((0, 5, 5), (2, 0, 5), (2, 5, 0)):
        assert_agrees(draw(*shape, 2, 16, 4, torch.float32), window_size=4, shift_size=2)


@pytest.mark.parametrize('window', [4, 9])
def test_large_scores_neither_overflow_nor_let_regions_mix(window):
    """With scores in the thousands, the finite mask hides nothing."""
    qkv, bias, padding = draw(1, 10, 9, 2, 16, window, torch.float32)
    inputs = (30 * qkv, 100 * bias, 30 * padding)
    assert_agrees(inputs, tolerance=5e-4, window_size=window, shift_size=window // 2)


@pytest.mark.parametrize('window', [4, 9])
def test_equal_bits_twice_and_the_same_sums_in_any_grid(window):
    qkv, bias, padding = draw(2, 9, 6, 2, 16, window, torch.float32)
    grad_out = torch.randn(2, 9, 6, 32).to(DEVICE)
    options = dict(window_size=window, shift_size=1)

    def everything(programs: int) -> list[Tensor]:
        tuning = triton.default_tuning(qkv, window, backward=False)._replace(programs=programs)
        inputs = (qkv, bias, padding, None)
        out, lse = triton.forward_kernel(*inputs, **options, tuning=tuning)
        gradients = triton.backward_kernel(grad_out, *inputs, out, lse, **options, tuning=tuning)
        return [out, *gradients]

    one, again, many = everything(1), everything(1), everything(100)
    for a, b, c in zip(one, again, many, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c, rtol=1e-4, atol=1e-4)
    assert torch.equal(one[0], many[0]) and torch.equal(one[1], many[1])


def dropped(
    seed: Tensor, shape: tuple[int, int, int], heads: int, window: int, **options
) -> Tensor:
    """Dropout factors of the weights of an unshifted map, (windows, heads, M², M²).

    With equal scores every weight is 1 / M² times its factor. With unit vectors as values, the
    output consists of the weights of 64 keys.
    """
    B, H, W = shape
    tokens = window**2
    bias = torch.zeros(heads, tokens, tokens, device=DEVICE)
    columns = []
    for start in range(0, tokens, 64):
        basis = torch.eye(tokens)[:, start : start + 64].to(DEVICE)
        width = basis.shape[1]
        windows = torch.zeros(B * H * W // tokens, tokens, 3, heads, width, device=DEVICE)
        windows[:, :, 2] = basis[:, None]
        qkv = reference.window_reverse(windows.flatten(2), window, shape)
        out, _ = triton.forward_kernel(qkv, bias, None, seed, window_size=window, **options)
        out = reference.window_partition(out, window).unflatten(-1, (heads, width))
        columns.append(out.transpose(1, 2) * tokens)
    return torch.cat(columns, -1)


def test_dropout_drops_its_share_everywhere_anew():
    seed, other = (triton.draw_seed(torch.device(DEVICE)) for _ in range(2))
    factors = dropped(seed, (2, 8, 16), 3, 8, dropout_p=0.3)
    assert factors.shape == (4, 3, 64, 64)
    kept = factors > 0
    torch.testing.assert_close(factors[kept], torch.full_like(factors[kept], 1 / 0.7))
    deviation = (0.3 * 0.7) ** 0.5
    # Five standard deviations of the mean: over all, and for each query, key, head and window.
    assert abs(kept.double().mean() - 0.7) < 5 * deviation / kept.numel() ** 0.5
    for axes in ([0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]):
        means = kept.double().mean(axes)
        assert (means - 0.7).abs().max() < 5 * deviation / (kept.numel() / len(means)) ** 0.5
    # Independent draws agree with probability 0.7² + 0.3²: windows, heads and seeds differ.
    for a, b in (
        (kept[0], kept[1]),
        (kept[:, 0], kept[:, 1]),
        (kept, dropped(other, (2, 8, 16), 3, 8, dropout_p=0.3) > 0),
        (kept, kept.transpose(2, 3)),
    ):
        assert abs((a == b).double().mean() - 0.58) < 0.02
    assert torch.equal(factors, dropped(seed, (2, 8, 16), 3, 8, dropout_p=0.3))


@pytest.mark.parametrize('window', [4, 9])
def test_backward_drops_what_forward_dropped(window, monkeypatch):
    """Compares with a reference whose dropout uses the factors of the seed."""
    shape, heads = (1, window, 2 * window), 2
    qkv, bias, _ = draw(*shape, heads, 16, window, torch.float32)
    weight = torch.randn(*shape, heads * 16).to(DEVICE)
    seed = triton.draw_seed(torch.device(DEVICE))
    factors = dropped(seed, shape, heads, window, dropout_p=0.5).round()
    options = dict(window_size=window, shift_size=window // 2, dropout_p=0.5)
    monkeypatch.setattr(triton, 'draw_seed', lambda device: seed)
    monkeypatch.setattr(reference.F, 'dropout', lambda x, p: x * factors)
    ours, theirs = (
        out_and_gradients(backend.shifted_window_attention, (qkv, bias, None), weight, **options)
        for backend in (triton, reference)
    )
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


def test_dropout_follows_the_generator_and_is_off_at_zero():
    qkv, bias, padding = draw(1, 5, 4, 1, 16, 4, torch.float32)

    def run(seed: int, p: float) -> Tensor:
        torch.manual_seed(seed)
        return triton.shifted_window_attention(
            qkv, bias, window_size=4, padding=padding, dropout_p=p
        )

    assert torch.equal(run(1, 0.4), run(1, 0.4)) and not torch.equal(run(1, 0.4), run(2, 0.4))
    assert torch.equal(run(1, 0.0), run(2, 0.0))


@pytest.mark.parametrize('window', [4, 9])
def test_gradients_from_the_inputs_alone(window):
    """``forward`` and ``backward`` agree with the autograd function."""
    inputs = draw(1, 5, 6, 2, 16, window, torch.float32)
    grad = torch.randn(1, 5, 6, 32).to(DEVICE)
    options = dict(window_size=window, shift_size=1, scale=0.2)
    out, *gradients = out_and_gradients(triton.shifted_window_attention, inputs, grad, **options)
    assert torch.equal(triton.forward(*inputs, **options), out)
    for mine, other in zip(triton.backward(grad, *inputs, **options), gradients, strict=True):
        assert torch.equal(mine, other)


def test_can_run_here_and_says_why_not():
    problem = Problem(torch.device(DEVICE), torch.float32, window_size=4, head_dim=16)
    assert triton.can_run(problem) is None
    assert 'no weight is kept' in triton.can_run(problem._replace(dropout_p=1.0))
    assert 'int64' in triton.can_run(problem._replace(dtype=torch.int64))
    assert '65 wide' in triton.can_run(problem._replace(head_dim=65))


@pytest.mark.parametrize(
    'dtype, window',
    [
        *[(dtype, 4) for dtype in trials.TOLERANCE],
        (torch.float16, 9),
        *[
            pytest.param(dtype, 9, marks=pytest.mark.slow)
            for dtype in trials.TOLERANCE
            if dtype != torch.float16
        ],
    ],
)
def test_trial_passes(dtype, window):
    before = torch.get_rng_state()
    for autocast in {None, None if dtype == torch.float32 else dtype}:
        with torch.inference_mode():
            setting = Setting(torch.device(DEVICE), dtype, autocast)
            assert TRIAL.fault(setting, window, 8) is None
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize('result', [0, 1, 2, 3])
def test_trial_finds_any_wrong_result(result, monkeypatch):
    name = 'backward_kernel' if result else 'forward_kernel'
    right = getattr(triton, name)

    def wrong(*args, **options):
        results = right(*args, **options)
        which = max(result - 1, 0)
        return tuple(r * 0.9 if i == which else r for i, r in enumerate(results))

    monkeypatch.setattr(triton, name, wrong)
    TRIAL.forget()
    with pytest.warns(UserWarning, match='does without triton: its kernels are wrong'):
        assert 'wrong' in TRIAL.fault(Setting(torch.device(DEVICE), torch.float32), 4, 8)
    TRIAL.forget()


def test_trial_survives_kernels_that_fail(monkeypatch):
    def fail(*args, **options):
        raise RuntimeError('out of registers')

    monkeypatch.setattr(triton, 'forward_kernel', fail)
    TRIAL.forget()
    with pytest.warns(UserWarning, match='out of registers'):
        assert 'RuntimeError' in TRIAL.fault(Setting(torch.device(DEVICE), torch.float32), 4, 8)
    TRIAL.forget()
