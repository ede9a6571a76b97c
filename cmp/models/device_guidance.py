"""Guidance points chosen on the device of the network, for whole batches, instead of in the data loader's workers."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from cmp.guidance.batched import batched_guidance


class DeviceGuidance(nn.Module):
    """Add guidance and mask to a batch that is on its device, so that workers only decode, resize and crop.

    A batch of `PropagationDataset` samples made with strategies None has no `guidance` and `mask`; they are added. One
    that has them, such as a validation's with its points fixed by seed and index, is returned as it is.

    Points are drawn from a generator on the device. It is seeded for each batch by one draw from torch's own generator,
    which `ResumableTrainLoop` seeds for each step: the state to go on from is the step, and a resumed run has the
    points it would have had.

    Args:
        strategies, grid_stride_px, nms_kernel, max_points, num_uniform, normalizer, thinning, scale_kernel: see
            `batched_guidance`.
    """

    def __init__(
        self,
        *,
        strategies: Sequence[str] = ("grid", "watershed"),
        grid_stride_px: int | None = None,
        nms_kernel: int | None = None,
        max_points: int | None = None,
        num_uniform: int | None = None,
        normalizer: str = "max",
        thinning: str = "authors",
        scale_kernel: bool = False,
    ) -> None:
        super().__init__()
        self.sampling: dict[str, Any] = dict(
            strategies=tuple(strategies),
            grid_stride_px=grid_stride_px,
            nms_kernel=nms_kernel,
            max_points=max_points,
            num_uniform=num_uniform,
            normalizer=normalizer,
            thinning=thinning,
            scale_kernel=scale_kernel,
        )

    @torch.no_grad()
    def forward(self, batch: dict) -> dict:
        """The batch with `guidance` (B, 2, H, W) float32, px, and `mask` (B, 1, H, W) float32; not written to."""
        if "guidance" in batch:
            return batch
        flow = batch["flow"]
        seed = int(torch.randint(2**63 - 1, ()))  # drawn on the host, so that nothing waits for the device
        generator = torch.Generator(flow.device).manual_seed(seed)
        guidance, mask = batched_guidance(flow, batch.get("valid"), generator=generator, **self.sampling)
        return {**batch, "guidance": guidance, "mask": mask}
