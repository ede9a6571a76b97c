"""Batched guidance against the numpy functions: bit for bit up to the candidates, in distribution from there on."""

import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from scipy.stats import chi2_contingency

from cmp.guidance import (
    STRATEGIES,
    guidance_tensors,
    local_maxima,
    motion_edges,
    sample_guidance,
    thin_points,
    watershed_map,
)
from cmp.guidance.batched import (
    batched_edge_map,
    batched_edges,
    batched_gradient_maxima,
    batched_guidance,
    batched_maxima,
    batched_squared_distances,
    batched_thinning,
)
from cmp.guidance.strategies import gradient_points

LEAST_P = 0.001  # of the two-sample chi-squared tests below; the seeds are fixed, so they pass or fail for good
SIZES = ((1, 1), (1, 7), (5, 1), (37, 41), (48, 64), (61, 33))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def to_batch(*flows):
    return torch.from_numpy(np.stack(flows).transpose(0, 3, 1, 2).copy())


def flows_of(height, width):
    """Noise, a moving rectangle, smooth motion, and one without any edge."""
    rng = np.random.default_rng(height * width)
    noise = rng.normal(0, 5, (height, width, 2)).astype(np.float32)
    rectangle = np.zeros((height, width, 2), np.float32)
    rectangle[height // 4 : height // 2, width // 3 : -1] = 12, -7
    smooth = cv2.GaussianBlur(noise, (0, 0), 5).reshape(noise.shape) * 10
    return [noise, rectangle, smooth, np.full_like(noise, 3)]


@pytest.mark.parametrize("size_hw", [*SIZES, (3, 100), (2, 427)])
def test_edges_equal_the_numpy_ones_in_every_bit(size_hw):
    flows = flows_of(*size_hw)
    edges = batched_edges(to_batch(*flows)).numpy()
    for found, flow in zip(edges, flows):
        np.testing.assert_array_equal(found, motion_edges(flow))


@pytest.mark.parametrize("normalizer", ["max", "percentile"])
@pytest.mark.parametrize("size_hw", SIZES)
def test_squared_distances_and_candidates_equal_the_numpy_ones(size_hw, normalizer):
    flows = flows_of(*size_hw)
    is_edge = batched_edge_map(batched_edges(to_batch(*flows)), normalizer=normalizer)
    squared = batched_squared_distances(is_edge)
    assert squared.dtype == torch.int32
    for i, flow in enumerate(flows):
        distances = watershed_map(motion_edges(flow), normalizer=normalizer)
        np.testing.assert_array_equal(squared[i].numpy().astype(np.float32) ** np.float32(0.5), distances)
        for kernel in (1, 3, 15, 41):
            for keep_border in (False, True):
                found = batched_maxima(squared[i : i + 1], kernel, keep_border=keep_border)[0].numpy()
                expected = local_maxima(distances, kernel, keep_border=keep_border)
                np.testing.assert_array_equal(np.argwhere(found), expected)


def test_squared_distances_equal_a_search_over_all_edges():
    is_edge = torch.rand(5, 9, 14, generator=seeded()) < torch.tensor([0.0, 0.01, 0.03, 0.2, 1.0])[:, None, None]
    is_edge[1], is_edge[1, 8, 0] = False, True  # one edge, in a corner
    y, x = np.mgrid[:9, :14]
    for edges, found in zip(is_edge.numpy(), batched_squared_distances(is_edge).numpy()):
        at = np.argwhere(edges)
        every = [(y - j) ** 2 + (x - i) ** 2 for j, i in at]
        np.testing.assert_array_equal(found, np.min(every, axis=0) if len(at) else 0)


@pytest.mark.parametrize("number", ["00", "02", "04", "09"])
def test_edges_distances_and_candidates_equal_zhan_et_als(shared_dir, number):
    with np.load(shared_dir / "golden" / "guidance.npz") as golden:
        flow = golden[f"{number}_flow"].astype(np.float32)
        step = max(1, max(flow.shape[:2]) // 400)
        edges = batched_edges(to_batch(flow[::step, ::step]))
        np.testing.assert_array_equal(edges[0].numpy(), motion_edges(flow[::step, ::step]))
        is_edge = batched_edge_map(edges)
        expected = np.unpackbits(golden[f"{number}_thr"])[: is_edge.numel()].reshape(is_edge.shape)
        np.testing.assert_array_equal(is_edge.numpy(), expected)
        squared = batched_squared_distances(is_edge)
        np.testing.assert_array_equal(squared[0].numpy(), golden[f"{number}_edt_sq"])
        for kernel in (41, 81):
            candidates = batched_maxima(squared, kernel)[0].numpy()
            np.testing.assert_array_equal(np.argwhere(candidates), golden[f"{number}_cand{kernel}"])


@pytest.mark.parametrize("number", ["00", "02", "04", "09"])
def test_as_many_points_are_chosen_as_in_zhan_et_als_code_whatever_the_seed(shared_dir, number):
    with np.load(shared_dir / "golden" / "guidance.npz") as golden:
        flow = golden[f"{number}_flow"].astype(np.float32)
        chosen = dict(grid_stride_px=80, nms_kernel=41)
        _, mask = batched_guidance(to_batch(*[flow] * 4), generator=seeded(), **chosen)
        expected = {tuple(point) for point in golden[f"{number}_finalA_seed0"].tolist()}
        assert mask.flatten(1).sum(dim=1).tolist() == [len(expected)] * 4


def ridge(num_points=40):
    """Tied candidates, more than two windows of them, on two rows: what collapses by chance."""
    candidates = np.zeros((6, num_points + 30), bool)
    candidates[2:4, 5 : 5 + num_points] = True
    return candidates


def scattered():
    return np.random.default_rng(3).random((40, 52)) < 0.08


@pytest.mark.parametrize("candidates, d", [(ridge(), 10), (scattered(), 6), (scattered(), 12)])
def test_thinning_leaves_as_many_points_as_the_numpy_rule_and_each_as_often(candidates, d):
    # Two samples of 700 runs each: the distributions of how many points stay, and of which.
    runs = 700
    points_yx = np.argwhere(candidates)
    rng = np.random.default_rng(0)
    slow = [thin_points(points_yx, d, rng=rng) for _ in range(runs)]
    positions, stays = batched_thinning(torch.from_numpy(candidates).expand(runs, -1, -1), d, generator=seeded())
    counts = np.array([[len(points) for points in slow], stays.sum(dim=1).numpy()])
    assert len(np.unique(counts[0])) > 1
    assert equal_in_distribution(*counts)
    width = candidates.shape[1]
    assert equal_in_distribution(np.concatenate(slow) @ [width, 1], positions[stays].numpy())


@pytest.mark.parametrize("candidates, d", [(ridge(), 10), (scattered(), 6), (scattered(), 4.5)])
def test_maximal_thinning_has_the_distribution_of_the_numpy_rule(candidates, d):
    runs = 700
    points_yx = np.argwhere(candidates)
    rng = np.random.default_rng(0)
    slow = [thin_points(points_yx, d, rng=rng, rule="maximal") for _ in range(runs)]
    batch = torch.from_numpy(candidates).expand(runs, -1, -1)
    positions, stays = batched_thinning(batch, d, generator=seeded(), rule="maximal")
    counts = np.array([[len(points) for points in slow], stays.sum(dim=1).numpy()])
    assert len(np.unique(counts[0])) > 1 and equal_in_distribution(*counts)
    width = candidates.shape[1]
    assert equal_in_distribution(np.concatenate(slow) @ [width, 1], positions[stays].numpy())


def test_maximal_thinning_leaves_no_neighbors_and_drops_only_neighbors():
    candidates, d = scattered(), 6.5
    positions, stays = batched_thinning(torch.from_numpy(candidates)[None], d, generator=seeded(), rule="maximal")
    kept = np.stack(np.divmod(positions[stays].numpy(), candidates.shape[1]), axis=1)
    assert candidates[kept[:, 0], kept[:, 1]].all()
    apart = np.abs(kept[:, None] - kept).max(axis=2)
    assert (apart[~np.eye(len(kept), dtype=bool)] >= d).all()
    dropped = np.argwhere(candidates)
    assert (np.abs(dropped[:, None] - kept).max(axis=2).min(axis=1) < d).all()
    for distance in (0, 1):  # no two pixels are nearer than that
        assert (
            batched_thinning(torch.from_numpy(candidates)[None], distance, generator=seeded(), rule="maximal")[1].sum()
            == candidates.sum()
        )


@pytest.mark.parametrize("size_hw", [*SIZES, (7, 130), (120, 163)])
def test_gradient_maxima_equal_the_numpy_ones(size_hw):
    flows = flows_of(*size_hw)
    edges = batched_edges(to_batch(*flows))
    found_any = False
    for kernel in (3, 15):
        found = batched_gradient_maxima(edges, kernel).numpy()
        for points, flow in zip(found, flows):
            expected = gradient_points(motion_edges(flow), kernel)
            np.testing.assert_array_equal(np.argwhere(points), expected)
            found_any |= len(expected) > 0
    assert found_any or size_hw[1] < 40  # below 40 px both windows are one pixel


@pytest.mark.parametrize("name", ["grid", "gradnms", "specified", "full"])
def test_strategies_without_chance_choose_what_the_numpy_function_chooses(name):
    flows = flows_of(130, 810)  # edges on every second pixel
    points_yx = np.array([[0, 809], [129, 3], [5, 6], [5, 6]])
    chosen = dict(strategies=[name], grid_stride_px=31, nms_kernel=15, specified_yx=points_yx)
    sparse, mask = batched_guidance(to_batch(*flows), generator=seeded(), **chosen)
    for i, flow in enumerate(flows):
        expected = guidance_tensors(flow, sample_guidance(flow, rng=np.random.default_rng(0), **chosen))
        np.testing.assert_array_equal(sparse[i].numpy(), expected[0])
        np.testing.assert_array_equal(mask[i].numpy(), expected[1])


def test_every_strategy_works_in_batches():
    flow = flows_of(48, 64)[0]
    for name in STRATEGIES:
        chosen = dict(strategies=[name], grid_stride_px=8, nms_kernel=9, specified_yx=np.array([[3, 4]]))
        assert batched_guidance(to_batch(flow), generator=seeded(), thinning="maximal", **chosen)[1].any(), name


def equal_in_distribution(first, second):
    """Chi-squared over the values that the two samples hold at least ten times, the rest taken together."""
    values, together = np.unique(np.concatenate([first, second]), return_counts=True)
    table = np.array([[(sample == value).sum() for value in values] for sample in (first, second)])
    rare = together < 10
    table = np.column_stack([table[:, ~rare], table[:, rare].sum(axis=1)])
    return chi2_contingency(table[:, table.any(axis=0)]).pvalue > LEAST_P


def test_thinning_keeps_candidates_only_and_none_closer_than_d():
    candidates = torch.from_numpy(np.stack([scattered(), np.zeros((40, 52), bool)]))
    positions, stays = batched_thinning(candidates, 7.5, generator=seeded())
    assert not stays[1].any()
    points_yx = np.stack(np.divmod(positions[0][stays[0]].numpy(), 52), axis=1)
    assert candidates[0].numpy()[points_yx[:, 0], points_yx[:, 1]].all()
    near = (np.abs(points_yx[:, None] - points_yx) < 7.5).all(axis=2)
    assert near.sum() == len(points_yx) > 1


@pytest.mark.parametrize("height, width", [(97, 120), (205, 803)])
def test_points_are_the_grid_and_candidates_with_the_flow_that_is_there(height, width):
    flow = flows_of(height, width)[1]
    chosen = dict(grid_stride_px=37, nms_kernel=21)
    sparse, mask = batched_guidance(to_batch(flow), generator=seeded(), **chosen)
    assert sparse.shape == (1, 2, height, width) and mask.shape == (1, 1, height, width)
    assert sparse.dtype == mask.dtype == torch.float32
    step = max(1, width // 400)
    candidates = step * local_maxima(watershed_map(motion_edges(flow[::step, ::step])), 21)
    grid = sample_guidance(flow, rng=np.random.default_rng(), strategies=["grid"], grid_stride_px=37)
    allowed = {tuple(point) for point in np.concatenate([candidates, grid]).tolist()}
    found = {tuple(point) for point in np.argwhere(mask[0, 0].numpy()).tolist()}
    assert {tuple(point) for point in grid.tolist()} < found <= allowed
    np.testing.assert_array_equal(sparse[0].numpy(), np.where(mask[0].numpy() > 0, flow.transpose(2, 0, 1), 0))


def test_a_cap_holds_for_every_image_and_keeps_each_point_equally_often():
    flow = np.zeros((40, 60, 2), np.float32)
    batch = to_batch(*[flow] * 2000)
    _, mask = batched_guidance(batch, generator=seeded(), strategies=["grid"], grid_stride_px=20, max_points=2)
    assert set(mask.flatten(1).sum(dim=1).tolist()) == {2}
    kept = mask.sum(dim=0)[0].numpy()
    kept = kept[kept > 0]
    assert len(kept) == 6 and np.abs(kept / 2000 - 1 / 3).max() < 0.05
    _, none = batched_guidance(batch[:3], generator=seeded(), strategies=["grid"], grid_stride_px=20, max_points=0)
    assert not none.any()


def test_no_point_lies_where_the_flow_is_not_valid():
    flow = flows_of(48, 64)[1]
    valid = torch.ones(2, 1, 48, 64, dtype=torch.bool)
    valid[1, :, :, 30:] = False
    chosen = dict(grid_stride_px=9, nms_kernel=5)
    _, mask = batched_guidance(to_batch(flow, flow), valid, generator=seeded(), **chosen)
    assert mask[0, :, :, 30:].any() and mask[1, :, :, :30].any() and not mask[1, :, :, 30:].any()


def test_full_is_every_pixel_single_one_that_moves_and_uniform_as_many_as_asked():
    flow = np.zeros((6, 9, 2), np.float32)
    flow[1:3, 4:6] = 0, 2
    batch = to_batch(*[flow] * 300, np.zeros_like(flow))
    assert batched_guidance(batch, generator=seeded(), strategies=["full"])[1].all()
    _, single = batched_guidance(batch, generator=seeded(), strategies=["single"])
    assert single[:-1].flatten(1).sum(dim=1).tolist() == [1] * 300 and not single[-1].any()
    assert torch.equal(single.sum(dim=(0, 1)) > 0, batch[0].any(dim=0))
    _, uniform = batched_guidance(batch, generator=seeded(), strategies=["uniform"], num_uniform=3)
    counts = uniform.flatten(1).sum(dim=1)
    assert counts.max() == 3 and uniform.any(dim=0).all()
    _, uniform = batched_guidance(batch, generator=seeded(), strategies=["uniform"], grid_stride_px=3)
    assert uniform.flatten(1).sum(dim=1).max() == 6  # 54 pixels over 3^2, drawn with replacement


def test_the_same_state_gives_the_same_points_and_leaves_the_global_generator_and_the_flow_alone():
    batch = to_batch(*flows_of(48, 64))
    before, state = batch.clone(), torch.get_rng_state()
    chosen = dict(strategies=["watershed", "uniform"], nms_kernel=9, num_uniform=5, max_points=20)
    first, second, other = (batched_guidance(batch, generator=seeded(seed), **chosen)[1] for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert torch.equal(batch, before) and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(strategies=["gradient"]), "different names"),
        (dict(strategies=["specified"]), "specified_yx is needed"),
        (dict(strategies=["specified"], specified_yx=np.array([[8, 0]])), "outside"),
        (dict(thinning="fair"), "rule must be"),
        (dict(strategies=["grid", "grid"]), "different names"),
        (dict(strategies="grid"), "sequence of names"),
        (dict(grid_stride_px=None), "grid_stride_px is needed"),
        (dict(nms_kernel=None), "nms_kernel is needed"),
        (dict(nms_kernel=4), "odd"),
        (dict(max_points=-1), "max_points"),
        (dict(normalizer="mean"), "normalizer"),
        (dict(strategies=["uniform"], num_uniform=-1), "num_uniform"),
        (dict(flow=torch.zeros(2, 8, 8)), "B, 2, H, W"),
        (dict(flow=torch.zeros(1, 2, 8, 8, dtype=torch.float64)), "float32"),
    ],
)
def test_a_wrong_argument_is_named(change, message):
    arguments = dict(flow=torch.zeros(1, 2, 8, 8), generator=seeded(), grid_stride_px=4, nms_kernel=3) | change
    with pytest.raises(ValueError, match=message):
        batched_guidance(arguments.pop("flow"), **arguments)


# Both kernels where no GPU is: Triton interprets them. In a process of its own, because the choice is made on import.
INTERPRETED = """
import torch
from cmp.guidance import batched, batched_kernels

generator = torch.Generator().manual_seed(0)
squared = torch.randint(0, 900, (2, 5, 21), generator=generator, dtype=torch.int32)
assert torch.equal(batched_kernels.nearest_in_rows(squared), batched._nearest_in_rows(squared))

batched_kernels.NEIGHBORS_AT_ONCE = 8  # so that neighbors span several rounds
for share, d in ((0.1, 9), (0.3, 3.5)):
    candidates = torch.rand(3, 9, 13, generator=generator) < share
    candidates[2] = False
    positions = torch.full((3, 9 * 13), 7)
    for row, flat in zip(positions, candidates.flatten(1)):
        row[: flat.sum()] = flat.nonzero()[:, 0]
    counts = candidates.flatten(1).sum(dim=1).int()
    tails = torch.empty(positions.shape).geometric_(0.5, generator=generator).int() - 1
    plain = batched._thin(positions, counts, tails, 13, d)
    assert torch.equal(batched_kernels.thin(positions, counts, tails, 13, d), plain)
    assert plain[2].sum() == 0 and 0 < plain.sum() <= counts.sum()
"""


def test_the_cuda_kernels_do_what_the_plain_forms_do():
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", INTERPRETED], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_cuda_device_gives_the_same_candidates_without_waiting_for_it():
    flows = flows_of(150, 214)
    batch = to_batch(*flows).cuda()
    generator = torch.Generator("cuda").manual_seed(0)
    chosen = dict(grid_stride_px=40, nms_kernel=21, max_points=50)
    batched_guidance(batch, generator=generator, **chosen)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        _, mask = batched_guidance(batch, generator=generator, **chosen)
        edges = batched_edges(batch)
        squared = batched_squared_distances(batched_edge_map(edges))
        candidates = batched_maxima(squared, 21)
        positions, stays = batched_thinning(candidates, 10, generator=generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    on_cpu = batched_edges(batch.cpu())
    assert torch.equal(edges.cpu(), on_cpu)
    assert torch.equal(squared.cpu(), batched_squared_distances(batched_edge_map(on_cpu)))
    assert torch.equal(candidates.cpu(), batched_maxima(squared.cpu(), 21))
    assert mask.flatten(1).sum(dim=1).max() <= 50
    rng = np.random.default_rng(0)
    for i in (1, 3):  # few candidates, and none: their number hardly varies
        plain = thin_points(np.argwhere(candidates[i].cpu().numpy()), 10, rng=rng)
        assert abs(int(stays[i].sum()) - len(plain)) <= 1
