import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import cmp.models.upsampled_cross_entropy as module
from cmp.flow import FlowQuantizer, JointFlowQuantizer, PolarFlowQuantizer
from cmp.models import DiscreteLoss
from cmp.models.upsampled_cross_entropy import banded_cross_entropy, plain_cross_entropy

ROOT = Path(__file__).resolve().parents[2]
QUANTIZER = FlowQuantizer(11, 50.0)


def drawn(cells, pixels, batch=2, quantizer=QUANTIZER, dtype=torch.float64, seed=0, spread=2.0):
    """Logits at `cells` (h, w) that want a gradient, and flow at `pixels` (H, W)."""
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(batch, quantizer.num_logits, *cells, generator=generator, dtype=torch.float64)
    flow = 20 * torch.randn(batch, 2, *pixels, generator=generator)
    return logits.to(dtype).requires_grad_(), flow


def value_and_gradient(loss, logits, *arguments):
    """The loss and its gradient in a fresh copy of the logits."""
    logits = logits.detach().clone().requires_grad_()
    value = loss(logits, *arguments)
    value.backward()
    return value.detach(), logits.grad


@pytest.fixture(params=(1, 150, 10**9), ids=("bands_of_a_row", "bands_of_rows", "one_band"))
def band(request, monkeypatch):
    monkeypatch.setitem(module.BAND_NUMBERS, "cpu", 22 * 2 * request.param)


@pytest.mark.parametrize(
    "cells, pixels",
    (((3, 4), (25, 33)), ((5, 7), (5, 7)), ((9, 8), (4, 5)), ((1, 1), (6, 5)), ((1, 3), (1, 7)), ((4, 2), (1, 3))),
)
def test_value_and_gradient_are_the_plain_forms(band, cells, pixels):
    logits, flow = drawn(cells, pixels)
    value, gradient = value_and_gradient(DiscreteLoss(QUANTIZER), logits, flow)
    expected, expected_gradient = value_and_gradient(DiscreteLoss(QUANTIZER, banded=False), logits, flow)
    assert value.dtype == gradient.dtype == torch.float64
    torch.testing.assert_close(value, expected, rtol=1e-13, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("quantizer", (FlowQuantizer(7), JointFlowQuantizer(5), PolarFlowQuantizer(6, 4)))
def test_groups_weights_and_unknown_pixels_act_as_in_the_plain_form(band, quantizer):
    logits, flow = drawn((3, 4), (13, 18), quantizer=quantizer)
    generator = torch.Generator().manual_seed(1)
    valid = (torch.rand(2, 1, 13, 18, generator=generator) < 0.6).float()
    flow = torch.where(valid > 0, flow, torch.nan)
    weights = dict(
        group_weights=[0.3, 2.0][: len(quantizer.groups)],
        bin_weights=[torch.rand(size, generator=generator).tolist() for size in quantizer.groups],
        ignore_invalid=True,
    )
    value, gradient = value_and_gradient(DiscreteLoss(quantizer, **weights), logits, flow, valid)
    expected = value_and_gradient(DiscreteLoss(quantizer, banded=False, **weights), logits, flow, valid)
    torch.testing.assert_close(value, expected[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, expected[1], rtol=1e-10, atol=1e-15)


def test_the_gradient_is_the_slope(band):
    logits, flow = drawn((2, 3), (5, 7), batch=1)
    assert torch.autograd.gradcheck(lambda x: DiscreteLoss(QUANTIZER)(x, flow), logits)


@pytest.mark.parametrize("cells, pixels", ((12, 384), (40, 320)))
def test_in_float32_it_is_the_plain_form_to_rounding(cells, pixels):
    quantizer = FlowQuantizer()
    logits, flow = drawn((cells, cells), (pixels, pixels), batch=1, quantizer=quantizer)
    banded, plain = (DiscreteLoss(quantizer, banded=banded) for banded in (True, False))
    exact, exact_gradient = value_and_gradient(banded, logits, flow)
    value, gradient = value_and_gradient(banded, logits.float(), flow)
    expected, expected_gradient = value_and_gradient(plain, logits.float(), flow)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    assert value.item() == pytest.approx(exact.item(), rel=1e-6)

    def apart(a, b):
        return ((a.double() - b.double()).norm() / exact_gradient.norm()).item()

    # The plain form's own gradient, summed pixel by pixel, is further from the exact one than ours is.
    plain_error = apart(expected_gradient, exact_gradient)
    assert apart(gradient, exact_gradient) <= max(plain_error, 5e-7)
    assert apart(gradient, expected_gradient) <= plain_error + 5e-7 < 3e-6


def test_large_logits_neither_overflow_nor_vanish():
    logits, flow = drawn((3, 4), (13, 18), dtype=torch.float32, spread=3000.0)
    value, gradient = value_and_gradient(DiscreteLoss(QUANTIZER), logits, flow)
    expected, expected_gradient = value_and_gradient(DiscreteLoss(QUANTIZER, banded=False), logits, flow)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)
    # Where two bins are equally likely, softmax turns rounding of logits of some thousand into per cents.
    assert (gradient - expected_gradient).abs().max() < 1e-3 * expected_gradient.abs().max()


class Largest(TorchDispatchMode):
    """Records how many numbers the largest tensor had that any operation put out."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
                self.numbers = max(self.numbers, leaf.numel())
        return out


def test_no_tensor_is_larger_than_a_band_whatever_the_height(monkeypatch):
    monkeypatch.setitem(module.BAND_NUMBERS, "cpu", 22 * 2 * 40 * 3)
    largest = {}
    for banded in (True, False):
        for height in (30, 90):
            logits, flow = drawn((3, 4), (height, 40), dtype=torch.float32)
            loss = DiscreteLoss(QUANTIZER, banded=banded)
            with Largest() as seen:
                loss(logits, flow).backward()
            largest[banded, height] = seen.numbers
    assert largest[True, 30] == largest[True, 90] == 22 * 2 * 40 * 3
    assert largest[False, 90] == 2 * 11 * 90 * 40


def test_autocast_and_half_precision_logits_change_neither_the_arithmetic_nor_its_type():
    loss = DiscreteLoss(QUANTIZER)
    logits, flow = drawn((3, 4), (25, 33), dtype=torch.bfloat16)
    expected, expected_gradient = value_and_gradient(loss, logits.float(), flow)
    with torch.autocast("cpu", torch.bfloat16):
        value, gradient = value_and_gradient(loss, logits, flow)
        same, same_gradient = value_and_gradient(loss, logits.float(), flow)
    assert value.dtype == torch.float32 and gradient.dtype == torch.bfloat16
    assert value == same == expected and torch.equal(same_gradient, expected_gradient)
    assert torch.equal(gradient, expected_gradient.bfloat16())


class Spying(FlowQuantizer):
    """Notes the precision of matrix products at the time that it is asked for bins."""

    def quantize(self, flow):
        settings.append((torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision))
        return super().quantize(flow)


settings = []


def test_short_cuts_of_matrix_products_are_off_inside_and_as_before_outside():
    logits, flow = drawn((3, 4), (5, 7), dtype=torch.float32)
    try:
        torch.set_float32_matmul_precision("medium")
        before = torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision
        settings.clear()
        DiscreteLoss(Spying(11))(logits, flow).backward()
        assert before == ("tf32", "bf16") and set(settings) == {("ieee", "ieee")}
        assert (torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision) == before
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


class Operations(TorchDispatchMode):
    """Records the names of all operations."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_without_gradient_the_value_is_the_same_and_no_gradient_is_worked_out():
    logits, flow = drawn((3, 4), (25, 33))
    value = DiscreteLoss(QUANTIZER)(logits, flow)
    with Operations() as seen:
        banded_cross_entropy(logits, flow, None, QUANTIZER, [torch.ones(11)] * 2)
    assert "scatter_add_" in seen.names  # which takes the target's 1 off the softmax
    with Operations() as seen:
        entropies, weights = banded_cross_entropy(logits.detach(), flow, None, QUANTIZER, [torch.ones(11)] * 2)
    assert "gather" in seen.names and "scatter_add_" not in seen.names
    assert not entropies.requires_grad and torch.equal((entropies / weights).sum(), value)
    # The plain form's sums are the same pair.
    expected = plain_cross_entropy(logits.detach(), flow, None, QUANTIZER, [torch.ones(11)] * 2)
    torch.testing.assert_close((entropies, weights), expected)


def test_an_empty_batch_costs_nothing():
    logits, flow = drawn((3, 4), (5, 7), batch=0)
    value, gradient = value_and_gradient(DiscreteLoss(QUANTIZER), logits, flow)
    assert value == 0 and gradient.shape == (0, 22, 3, 4)


def test_the_layout_of_the_logits_does_not_matter_and_no_input_is_written_to():
    logits, flow = drawn((1, 4), (25, 33))
    for layout in (torch.contiguous_format, torch.channels_last):
        given = logits.detach().to(memory_format=layout).requires_grad_()
        copies = given.detach().clone(), flow.clone()
        value, gradient = value_and_gradient(DiscreteLoss(QUANTIZER), given, flow)
        assert torch.equal(given, copies[0]) and torch.equal(flow, copies[1])
        expected = value_and_gradient(DiscreteLoss(QUANTIZER, banded=False), logits, flow)
        torch.testing.assert_close((value, gradient), expected)


class TinyNetwork(nn.Module):
    """A convolution and the loss on top of it."""

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(3, 22, 1)
        self.loss = DiscreteLoss(QUANTIZER)

    def forward(self, image, flow):
        return self.loss(self.head(image), flow)


def test_a_compiled_network_trains_with_the_same_numbers():
    torch.manual_seed(0)
    network = TinyNetwork()
    image, flow = torch.randn(2, 3, 4, 5), 20 * torch.randn(2, 2, 16, 20)
    gradients = []
    for call in (network, torch.compile(network, backend="aot_eager")):
        network.zero_grad()
        loss = call(image, flow)
        loss.backward()
        gradients.append((loss.detach(), network.head.weight.grad.clone()))
    torch.testing.assert_close(gradients[1], gradients[0])


def gradient_of_two_processes(meeting, rank):
    """The gradient that a process gets with half a batch, and that of the whole batch alone."""
    torch.manual_seed(0)
    network = TinyNetwork()
    image, flow = torch.randn(4, 3, 4, 5), 20 * torch.randn(4, 2, 16, 20)
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=2, timeout=timedelta(seconds=120)
    )
    try:
        mine = slice(2 * rank, 2 * rank + 2)
        parallel = DistributedDataParallel(network)
        parallel(image[mine], flow[mine]).backward()
    finally:
        dist.destroy_process_group()
    shared = network.head.weight.grad.clone()
    network.zero_grad()
    network(image, flow).backward()
    return shared, network.head.weight.grad


def test_two_processes_average_to_the_gradient_of_one_with_both_batches(tmp_path):
    # This file runs as a program too: the other process.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, __file__, str(tmp_path / "meeting")], env=environment) as other:
        shared, alone = gradient_of_two_processes(tmp_path / "meeting", rank=0)
        assert other.wait(timeout=120) == 0
    torch.testing.assert_close(shared, alone)


if __name__ == "__main__":
    torch.testing.assert_close(*gradient_of_two_processes(sys.argv[1], rank=1))


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_a_band_of_rows_looks_at_every_cell_that_torch_gives_it_weight_from(dtype):
    # Rounded positions reach cells to either side of where whole numbers would end.
    for cells, pixels in ((1, 5), (2, 7), (12, 384), (40, 320), (37, 289), (48, 377), (63, 429), (14, 376), (192, 384)):
        along_y = module._upsampling(cells, pixels, torch.empty(0, dtype=dtype))
        for rows in (1, 2, 5, 17):
            for top in range(0, pixels, rows):
                band = slice(top, min(top + rows, pixels))
                near = module._cells_of_rows(band, cells, pixels)
                assert not along_y[band, : near.start].any() and not along_y[band, near.stop :].any()
