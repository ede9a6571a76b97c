"""CUDA kernels for the two slow loops of batched guidance; `cmp.guidance.batched` has both in plain torch.

They also run in Triton's interpreter on a CPU (TRITON_INTERPRET=1 in the environment); that is how the tests compare
them with plain torch.
"""

import torch
import triton
import triton.language as tl

NEIGHBORS_AT_ONCE = 256


@triton.jit
def _nearest_in_rows_kernel(squared, nearest, width, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * width
    x = tl.arange(0, block)
    best = tl.load(squared + row + x, mask=x < width, other=0)
    for start in range(0, width):
        offset = x - start
        best = tl.minimum(best, tl.load(squared + row + start) + offset * offset)
    tl.store(nearest + row + x, best, mask=x < width)


@triton.jit
def _thin_kernel(ys, xs, counts, tails, stays, num_slots, min_distance, block: tl.constexpr):
    image = tl.program_id(0).to(tl.int64)
    ys += image * num_slots
    xs += image * num_slots
    tails += image * num_slots
    stays += image * num_slots
    count = tl.load(counts + image)
    for i in range(0, count):
        if tl.load(stays + i) != 0:
            y, x, tail = tl.load(ys + i), tl.load(xs + i), tl.load(tails + i)
            met = 0  # neighbors so far
            start = i + 1
            more = start < count
            while more:
                j = start + tl.arange(0, block)
                there = j < count
                near_y = (tl.load(ys + j, mask=there, other=0) - y) < min_distance
                near_x = tl.abs(tl.load(xs + j, mask=there, other=0) - x) < min_distance
                near = there & near_y & near_x & (tl.load(stays + j, mask=there, other=0) != 0)
                rank = met + tl.cumsum(near.to(tl.int32), 0)
                tl.store(stays + j, tl.zeros_like(rank), mask=near & (rank <= tail))
                met += tl.sum(near.to(tl.int32), 0)
                start += block
                # Rows rise: after a block with a point that is not near in y, none is near. After heads none matters.
                more = (start < count) & (met <= tail) & (tl.sum((there & near_y).to(tl.int32), 0) == block)
            if met > tail:
                tl.store(stays + i, 0)
            tl.debug_barrier()  # the other threads of this program read next what these have stored


def nearest_in_rows(squared: torch.Tensor) -> torch.Tensor:
    """For each pixel the smallest squared[x'] + (x - x')^2 in its row: (B, H, W) int32 to the same."""
    squared = squared.contiguous()
    width = squared.shape[2]
    nearest = torch.empty_like(squared)
    if squared.numel():
        _nearest_in_rows_kernel[(squared.numel() // width,)](
            squared, nearest, width, block=triton.next_power_of_2(width)
        )
    return nearest


def thin(
    positions: torch.Tensor, counts: torch.Tensor, tails: torch.Tensor, width: int, min_distance_px: float
) -> torch.Tensor:
    """Find which of (B, N) positions stay. One program per image, which stops at the image's last candidate.

    Args:
        positions: (B, N) int64, y * width + x in rising order up to counts; the values behind are ignored.
        counts: (B,) int32. tails: (B, N) int32, how many neighbors each point may drop before it is dropped itself.
        width: of the map, px. min_distance_px: as `cmp.guidance.thin_points`.

    Returns:
        (B, N) bool.
    """
    size, num_slots = positions.shape
    ys = torch.div(positions, width, rounding_mode="floor")
    xs = (positions - ys * width).int()
    stays = (torch.arange(num_slots, device=positions.device) < counts[:, None]).int()
    if stays.numel():
        _thin_kernel[(size,)](
            ys.int().contiguous(),
            xs,
            counts.contiguous(),
            tails,
            stays,
            num_slots,
            float(min_distance_px),
            block=NEIGHBORS_AT_ONCE,
        )
    return stays.bool()
