"""Every path that differs on a GPU, by one test for both devices: the CPU's runs by default, CUDA's with `-m gpu`.

The tests of the Triton kernels, of CUDA's own behavior (pinned memory, waiting for the device) and of compilation by
Triton run on CUDA only. Legend: B images, H W pixels.
"""

import copy
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.model import MMDistributedDataParallel
from torch import nn

from cmp.engine.config import read_config
from cmp.engine.step import AutocastOptimWrapper, set_memory_layout
from cmp.engine.trained_model import build_trained_model
from cmp.flow import FlowQuantizer
from cmp.guidance import local_maxima, motion_edges, watershed_map
from cmp.guidance.batched import batched_edge_map, batched_edges, batched_maxima, batched_squared_distances
from cmp.inference import MotionPropagator
from cmp.models import DeviceGuidance, DiscreteLoss

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ("cmp_alexnet_yfcc_16xb12_70k", "cmp_r50_yfcc_16xb10_42k")
STARTER = "cmp_r18_quickstart_1xb16_300"
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_cuda])])
def device(request):
    return request.param


def flows(count=3, size_hw=(150, 214)):
    """(B, H, W, 2) float32: smooth noise with a rectangle that moves differently; the last is still."""
    rng, made = np.random.default_rng(0), []
    for i in range(count):
        flow = cv2.GaussianBlur(rng.normal(0, 40, (*size_hw, 2)).astype(np.float32), (0, 0), 12)
        flow[20 + 5 * i : 90, 30:120] += (6, -4)
        made.append(flow)
    made[-1][:] = 0
    return np.stack(made)


def trained(config, device, **options):
    """A small version of a recipe's network on the device, from a fixed seed, and its config."""
    config = read_config(ROOT / "configs" / "pretrain" / f"{config}.py")
    if "out_channels" in config.model.image_encoder:
        config.model.image_encoder.out_channels = 8
    config.model.update(options)
    torch.manual_seed(0)
    return build_trained_model(config.model).to(device).train(), config


def batch_of(size, device, count=2):
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    flow = 5 * torch.randn(count, 2, size, size, generator=generator)
    mask = (torch.rand(count, 1, size, size, generator=generator) < 0.01).float()
    return {key: v.to(device) for key, v in dict(image=image, flow=flow, guidance=flow * mask, mask=mask).items()}


def without_dropout(model):
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    return model


def losses_of(model, wrapper, batch, steps=3):
    return [float(model.train_step(batch, wrapper)["loss"]) for _ in range(steps)]


def test_edges_distances_and_candidates_of_a_batch_are_those_of_numpy(device):
    drawn = flows()
    edges = batched_edges(torch.from_numpy(drawn).permute(0, 3, 1, 2).contiguous().to(device))
    squared = batched_squared_distances(batched_edge_map(edges))
    maxima = batched_maxima(squared, 21)
    for flow, edge, distance, maximum in zip(drawn, edges.cpu(), squared.cpu(), maxima.cpu()):
        np.testing.assert_array_equal(edge.numpy(), motion_edges(flow))
        expected = watershed_map(motion_edges(flow))
        if expected.any():  # without edges there is nothing to be far from
            np.testing.assert_array_equal(np.sqrt(distance.numpy().astype(np.float32)), expected)
        np.testing.assert_array_equal(np.argwhere(maximum.numpy()), local_maxima(expected, 21))


def test_points_chosen_on_the_device_are_inside_valid_pixels_and_follow_from_the_seed(device):
    flow = torch.from_numpy(flows()).permute(0, 3, 1, 2).contiguous().to(device)
    valid = torch.ones(flow.shape[0], 1, *flow.shape[2:], dtype=torch.bool, device=device)
    valid[:, :, :, :100] = False
    chooser = DeviceGuidance(grid_stride_px=40, nms_kernel=21, max_points=12)
    masks = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        guided = chooser(dict(flow=flow, valid=valid))
        assert torch.equal(guided["guidance"], flow * guided["mask"])
        masks.append(guided["mask"])
    assert torch.equal(masks[0], masks[2]) and not torch.equal(masks[0], masks[1])
    assert not (masks[0] * ~valid).any() and 1 <= masks[0].flatten(1).sum(dim=1).min()
    assert masks[0].flatten(1).sum(dim=1).max() <= 12


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("banded", (True, False))
def test_value_and_gradient_of_the_loss_are_those_of_float64_on_a_cpu(device, dtype, tolerance, banded):
    quantizer, generator = FlowQuantizer(11, 50.0), torch.Generator().manual_seed(0)
    logits = torch.randn(2, quantizer.num_logits, 5, 7, generator=generator).to(dtype)
    flow = 20 * torch.randn(2, 2, 40, 53, generator=generator)
    exact = logits.double().requires_grad_()
    expected = DiscreteLoss(quantizer, banded=False)(exact, flow)
    expected.backward()
    ours = logits.to(device).requires_grad_()
    value = DiscreteLoss(quantizer, banded=banded).to(device)(ours, flow.to(device))
    value.backward()
    torch.testing.assert_close(value.double().cpu(), expected.detach(), rtol=tolerance, atol=0)
    distance = (ours.grad.double().cpu() - exact.grad).norm() / exact.grad.norm()
    assert distance <= tolerance


@pytest.mark.parametrize("how", ("channels last", "fused"))
def test_layout_and_fused_optimizers_keep_the_losses_of_the_plain_step(device, how):
    batch, losses = batch_of(64, device), []
    for changed in (False, True):
        model, _ = trained(STARTER, device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=changed and how == "fused")
        set_memory_layout(model, optimizer, channels_last=changed and how == "channels last")
        losses.append(losses_of(without_dropout(model), AutocastOptimWrapper(optimizer), batch))
    assert losses[0][-1] != losses[0][0]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)


def test_a_bfloat16_step_is_near_the_float32_step_and_keeps_float32_weights(device):
    batch, losses = batch_of(64, device), []
    for precision in ("float32", "bfloat16"):
        model, _ = trained(STARTER, device)
        wrapper = AutocastOptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-3), precision)
        losses.append(losses_of(without_dropout(model), wrapper, batch, steps=2))
        assert all(p.dtype == torch.float32 for p in model.parameters())
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.02)


def test_a_run_resumed_from_its_state_has_the_losses_of_one_that_went_on(device):
    batch = batch_of(64, device)
    model, _ = trained(STARTER, device)
    wrapper = AutocastOptimWrapper(torch.optim.AdamW(without_dropout(model).parameters(), lr=1e-4))
    losses_of(model, wrapper, batch, steps=2)
    saved = copy.deepcopy((model.state_dict(), wrapper.state_dict()))
    whole = losses_of(model, wrapper, batch, steps=2)
    fresh, _ = trained(STARTER, device)
    again = AutocastOptimWrapper(torch.optim.AdamW(without_dropout(fresh).parameters(), lr=1e-4))
    fresh.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    # CUDA adds up some gradients in no fixed order.
    np.testing.assert_allclose(losses_of(fresh, again, batch, steps=2), whole, rtol=0 if device == "cpu" else 1e-4)


@pytest.mark.parametrize("recipe", [*(pytest.param(name, marks=pytest.mark.slow) for name in PUBLISHED), STARTER])
def test_the_forward_pass_and_the_loss_are_captured_in_one_graph_but_for_the_list_of_points(device, recipe):
    """The list's length depends on the values of the mask, which a graph cannot hold; only attention needs the list."""
    model, _ = trained(recipe, device)
    network = without_dropout(model).network
    batch = batch_of(64 if recipe == STARTER else 128, device)
    torch._dynamo.reset()
    captured = torch.compile(lambda **b: network(**b, mode="loss")["loss"], backend="eager", fullgraph=False)
    plain = network(**batch, mode="loss")["loss"]
    explained = torch._dynamo.explain(lambda **b: network(**b, mode="tensor"))(**batch)
    where = {reason.user_stack[-1].name for reason in explained.break_reasons}
    assert where <= ({"list_points"} if recipe == STARTER else set())
    torch.testing.assert_close(captured(**batch), plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 0.01), (torch.bfloat16, 0.5), (torch.float16, 0.2)])
def test_predictions_are_those_of_a_cpu_in_float32(device, dtype, tolerance):
    network = trained(STARTER, "cpu")[0].network.eval()
    for name, parameter in network.named_parameters():  # as published, the last layer is nearly zero
        if "decoder" in name and parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter, generator=torch.Generator().manual_seed(0))
    image = torch.randint(0, 256, (3, 70, 93), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    points, vectors = np.array([[20, 30], [60, 40]]), np.array([[8.0, -3.0], [0.0, 5.0]])
    exact = MotionPropagator(copy.deepcopy(network)).predict(image, points, vectors)
    network.image_encoder.to(dtype)  # as `load_propagator` does; what reads the points stays in float32
    network.decoder.to(dtype)
    ours = MotionPropagator(network).to(device).predict(image, points, vectors)
    assert exact.abs().max() > 1
    assert (ours.cpu().double() - exact.double()).abs().mean() <= tolerance * exact.abs().mean()


def gradients_of_half(rank, world, device):
    """Gradients of the starter for this process's share of 4 images."""
    model, _ = trained(STARTER, device)
    without_dropout(model)
    for module in model.modules():  # statistics over a batch would differ between one process and two
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    batch = {key: v[rank * 4 // world : (rank + 1) * 4 // world] for key, v in batch_of(64, device, 4).items()}
    if world > 1:
        wrapped = MMDistributedDataParallel(model, device_ids=None, broadcast_buffers=False, static_graph=True)
    else:
        wrapped = model
    wrapped(**batch, mode="loss")["loss"].backward()
    return {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}


def test_two_processes_on_one_device_have_the_gradients_of_one(device, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.run(
        [*command, str(tmp_path), device], env=environment, capture_output=True, text=True, timeout=280
    )
    assert process.returncode == 0, process.stderr[-3000:]
    alone = gradients_of_half(0, 1, device)
    for rank in range(2):
        seen = torch.load(tmp_path / f"{rank}.pth", weights_only=True)
        assert seen.keys() == alone.keys()
        for name, gradient in alone.items():
            torch.testing.assert_close(seen[name], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()) + 1e-9)


@pytest.mark.gpu
@needs_cuda
def test_the_compiled_triton_kernels_do_what_the_plain_loops_do():
    from cmp.guidance import batched, batched_kernels

    generator = torch.Generator().manual_seed(0)
    squared = torch.randint(0, 900, (2, 50, 210), generator=generator, dtype=torch.int32)
    nearest = batched_kernels.nearest_in_rows(squared.cuda())
    assert torch.equal(nearest.cpu(), batched._nearest_in_rows(squared))
    candidates = torch.rand(3, 9, 13, generator=generator) < 0.3
    positions = torch.full((3, 9 * 13), 7)
    for row, flat in zip(positions, candidates.flatten(1)):
        row[: flat.sum()] = flat.nonzero()[:, 0]
    counts = candidates.flatten(1).sum(dim=1).int()
    tails = torch.empty(positions.shape).geometric_(0.5, generator=generator).int() - 1
    ours = batched_kernels.thin(positions.cuda(), counts.cuda(), tails.cuda(), 13, 3.5)
    assert torch.equal(ours.cpu(), batched._thin(positions, counts, tails, 13, 3.5))


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("recipe", (*PUBLISHED, STARTER))
def test_a_compiled_step_has_the_losses_of_a_plain_one(recipe):
    batch, losses = batch_of(128, "cuda"), []
    for compiled in (False, True):
        model, _ = trained(recipe, "cuda")
        wrapper = AutocastOptimWrapper(torch.optim.SGD(without_dropout(model).parameters(), lr=1e-4))
        step = torch.compile(model.train_step) if compiled else model.train_step
        losses.append([float(step(batch, wrapper)["loss"]) for _ in range(3)])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)


@pytest.mark.gpu
@needs_cuda
def test_batches_of_a_loader_are_pinned_and_copied_without_waiting():
    data = torch.utils.data.TensorDataset(torch.arange(12.0).reshape(6, 2))
    loader = torch.utils.data.DataLoader(data, batch_size=3, num_workers=1, pin_memory=True)
    for (values,) in loader:
        assert values.is_pinned()
        torch.cuda.set_sync_debug_mode("error")
        try:
            moved = values.to("cuda", non_blocking=True)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert torch.equal(moved.cpu(), values)


if __name__ == "__main__":  # one of two processes
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    torch.save(gradients_of_half(rank, 2, sys.argv[2]), Path(sys.argv[1]) / f"{rank}.pth")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
