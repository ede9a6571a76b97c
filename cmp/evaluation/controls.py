"""Validation of propagation with two controls on the same pairs: without guidance, and with another video's image."""

import torch

from cmp.engine.loops import InterruptibleValLoop
from cmp.engine.trained_model import unwrapped, without_process_wrapper
from cmp.models import CMP
from cmp.models.backbones import ImageFeatures


class PropagationValLoop(InterruptibleValLoop):
    """Validation of a `CMP` network with two controls: guidance dropped, and the image of another video."""

    def __init__(self, *arguments, **named) -> None:
        super().__init__(*arguments, **named)
        if hasattr(self.dataloader.dataset, "bring_other_images"):
            self.dataloader.dataset.bring_other_images()  # before the first batch, so before any worker

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: dict) -> None:
        """Predict one batch and hand it to the metrics."""
        self.runner.call_hook("before_val_iter", batch_idx=idx, data_batch=data_batch)
        model = without_process_wrapper(self.runner.model)
        outputs = predict_with_controls(unwrapped(model), model.data_preprocessor(data_batch))
        self.evaluator.process(data_samples=outputs, data_batch=data_batch)
        self.runner.call_hook("after_val_iter", batch_idx=idx, data_batch=data_batch, outputs=outputs)


@torch.no_grad()
def encode_with_other(model: CMP, batch: dict) -> tuple[ImageFeatures, ImageFeatures | None]:
    """Features of a batch's images, and of the images of other videos (None without `other_image`)."""
    other = batch.get("other_image")
    return model.encode_image(batch["image"]), None if other is None else model.encode_image(other)


@torch.no_grad()
def predict_with_controls(
    model: CMP, batch: dict, features: tuple[ImageFeatures, ImageFeatures | None] | None = None
) -> list[dict]:
    """Predict a batch as it is, without guidance, and with the features of another video's image.

    If the prediction without guidance is hardly worse, the guidance does not matter. If the one with another image is
    hardly worse, the image does not matter, and the decoder only interpolates. Each image is encoded once.

    Args:
        model: in eval mode.
        batch: of `PropagationDataset` samples, on the model's device.
        features: from `encode_with_other`, where one batch is predicted with several sets of guidance.

    Returns:
        One dict per image: `loss` (scalar, the batch's mean), and flows (2, H, W) float32, px: `flow`,
        `flow_no_guidance`, `flow_shuffled_image` (None without `other_image`: all pairs are of one video).
    """
    guidance, mask = batch["guidance"], batch["mask"]
    own, wrong = encode_with_other(model, batch) if features is None else features
    logits = model.propagate(own, guidance, mask)
    loss = model.loss(logits, batch["flow"], batch["valid"])
    flow = model.decode(logits, guidance, mask)
    nothing = torch.zeros_like(guidance), torch.zeros_like(mask)
    unguided = model.decode(model.propagate(own, *nothing), *nothing)
    shuffled = [None] * len(flow)
    if wrong is not None:
        shuffled = model.decode(model.propagate(wrong, guidance, mask), guidance, mask)
    return [
        dict(
            loss=loss,
            flow=flow[i],
            flow_no_guidance=unguided[i],
            flow_shuffled_image=shuffled[i],
        )
        for i in range(len(flow))
    ]
