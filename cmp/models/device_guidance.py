"""Guides chosen where the model is: batches arrive without, and leave for the network with guidance and mask."""

from collections.abc import Sequence

import torch
from mmengine.model import BaseDataPreprocessor

from cmp.guidance.batched import batched_guidance


class DeviceGuidance(BaseDataPreprocessor):
    """Move a batch to the model's device and choose its guides there, so that workers only decode, resize and crop.

    A batch of `PropagationDataset` samples made with strategies None has no `guidance` and `mask`; they are added. One
    that has them, such as a validation's with its guides fixed by seed and index, is only moved.

    Guides are drawn from a generator on the device. It is seeded for each batch by one draw from torch's own generator,
    which `PairTrainLoop` seeds for each step: the state to go on from is the step, and a resumed run has the guides it
    would have had.

    Args:
        strategies, grid_stride_px, nms_kernel, max_points, num_uniform, normalizer, scale_kernel: see
            `batched_guidance`.
        non_blocking: copy from pinned memory while the host goes on.
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
        scale_kernel: bool = False,
        non_blocking: bool = True,
    ) -> None:
        super().__init__(non_blocking=non_blocking)
        self.sampling = dict(
            strategies=tuple(strategies),
            grid_stride_px=grid_stride_px,
            nms_kernel=nms_kernel,
            max_points=max_points,
            num_uniform=num_uniform,
            normalizer=normalizer,
            scale_kernel=scale_kernel,
        )

    @torch.no_grad()
    def forward(self, data: dict, training: bool = False) -> dict:
        """The batch on the device, with `guidance` (B, 2, H, W) float32, px, and `mask` (B, 1, H, W) float32."""
        data = self.cast_data(data)
        if "guidance" in data:
            return data
        flow = data["flow"]
        seed = int(torch.randint(2**63 - 1, ()))  # drawn on the host, so that nothing waits for the device
        generator = torch.Generator(flow.device).manual_seed(seed)
        guidance, mask = batched_guidance(flow, data.get("valid"), generator=generator, **self.sampling)
        return {**data, "guidance": guidance, "mask": mask}
