"""The two loops of batched guidance that are worth a CUDA kernel each; `cmp.guidance.batched` has both in plain torch.

They also run in Triton's interpreter on a CPU (TRITON_INTERPRET=1 in the environment), which is how the tests compare
them with the plain forms.
"""

import torch
import triton
import triton.language as tl

NEIGHBOURS_AT_ONCE = 256


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
def _thin_kernel(ys, xs, counts, tails, stays, room, min_distance, block: tl.constexpr):
    image = tl.program_id(0).to(tl.int64)
    ys += image * room
    xs += image * room
    tails += image * room
    stays += image * room
    count = tl.load(counts + image)
    for i in range(0, count):
        if tl.load(stays + i) != 0:
            y, x, tail = tl.load(ys + i), tl.load(xs + i), tl.load(tails + i)
            met = 0  # neighbours so far
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
                # Rows rise: when a whole block is not near in y nothing after it is; nor does it matter after heads.
                more = (start < count) & (met <= tail) & (tl.sum((there & near_y).to(tl.int32), 0) == block)
            if met > tail:
                tl.store(stays + i, 0)
            tl.debug_barrier()  # other threads of this program read next what these have stored


def nearest_in_rows(squared: torch.Tensor) -> torch.Tensor:
    """For each pixel the least of squared[x'] + (x - x')^2 in its row: (B, H, W) int32 to the same."""
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
    """Which of (B, N) positions stay: one program an image, which stops at its last candidate.

    Args:
        positions: (B, N) int64, y * width + x in rising order up to counts, anything behind.
        counts: (B,) int32. tails: (B, N) int32, how many neighbours each point may drop before it goes itself.
        width: of the map, px. min_distance_px: as `cmp.guidance.thin_points`.

    Returns:
        (B, N) bool.
    """
    size, room = positions.shape
    ys = torch.div(positions, width, rounding_mode="floor")
    xs = (positions - ys * width).int()
    stays = (torch.arange(room, device=positions.device) < counts[:, None]).int()
    if stays.numel():
        _thin_kernel[(size,)](
            ys.int().contiguous(),
            xs,
            counts.contiguous(),
            tails,
            stays,
            room,
            float(min_distance_px),
            block=NEIGHBOURS_AT_ONCE,
        )
    return stays.bool()
