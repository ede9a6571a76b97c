"""The training and validation loops: mmengine's, with exact resuming and with the controls."""

import numpy as np
import torch
from mmengine.dist import broadcast, get_rank
from mmengine.model import is_model_wrapper
from mmengine.runner import IterBasedTrainLoop, ValLoop
from mmengine.runner.loops import _InfiniteDataloaderIterator

from cmp.engine.metrics import other_video
from cmp.engine.step import lay_out
from cmp.models import CMP


class PairTrainLoop(IterBasedTrainLoop):
    """Training by steps over a `PairSampler`; a resumed run goes on with the draws it would have had next.

    mmengine would read and throw away every batch before that, and forget the generator's state; the sampler is told
    where to start instead, and torch is seeded anew for each step.

    Args:
        channels_last: lay the weights out for convolutions (see `lay_out`).
        *args, **kwargs: of `IterBasedTrainLoop`: max_iters, val_begin, val_interval.
    """

    def __init__(self, *args, channels_last: bool = False, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.channels_last = channels_last

    def run(self) -> torch.nn.Module:
        """Train until max_iters."""
        lay_out(self.runner.model, self.runner.optim_wrapper.optimizer, self.channels_last)
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        if self._iter > 0:
            self.dataloader.sampler.start = self._iter * self.dataloader.batch_size
            self.dataloader_iterator = _InfiniteDataloaderIterator(self.dataloader)
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            # Dropout then follows from seed, process and step alone, so that a resumed run draws what it would have.
            rng = np.random.default_rng((self.runner.seed, get_rank(), self._iter))
            torch.manual_seed(int(rng.integers(2**63)))
            self.run_iter(next(self.dataloader_iterator))
            self._decide_current_val_interval()
            due = self._iter % self.val_interval == 0 or self._iter == self._max_iters
            if self.runner.val_loop is not None and self._iter >= self.val_begin and due:
                self.runner.val_loop.run()
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model


class PropagationValLoop(ValLoop):
    """Validation on the whole set, with two controls on the same images: guidance dropped, image of another video.

    All processes judge one network, the one that checkpoints hold: the first process's batch norm statistics, which
    each gathers on its own pairs, replace the others'.
    """

    def run(self) -> dict:
        """Validate; the metrics."""
        for buffer in self.runner.model.buffers():
            broadcast(buffer)
        return super().run()

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: dict) -> None:
        """Predict one batch and hand it to the metrics."""
        self.runner.call_hook("before_val_iter", batch_idx=idx, data_batch=data_batch)
        model = self.runner.model.module if is_model_wrapper(self.runner.model) else self.runner.model
        outputs = predict_with_controls(model, model.data_preprocessor(data_batch))
        self.evaluator.process(data_samples=outputs, data_batch=data_batch)
        self.runner.call_hook("after_val_iter", batch_idx=idx, data_batch=data_batch, outputs=outputs)


@torch.no_grad()
def predict_with_controls(model: CMP, batch: dict) -> list[dict]:
    """Predict a batch as it is, without guidance, and with the features of another video's image.

    If the second hardly hurts, the guides don't matter; if the third hardly does, the image doesn't, and the decoder
    merely interpolates. The image is encoded once for all three.

    Args:
        model: in eval mode.
        batch: of `PropagationDataset` samples, on the model's device.

    Returns:
        A dict a picture: `loss` (scalar, the batch's mean), and flows (2, H, W) float32, px: `flow`,
        `flow_no_guidance`, `flow_shuffled_image` (None where the batch holds no other video).
    """
    guidance, mask = batch["guidance"], batch["mask"]
    size_hw = guidance.shape[2:]
    features = model.encode_image(batch["image"])
    logits = model.propagate(features, guidance, mask)
    loss = model.loss(logits, batch["flow"], batch["valid"])
    flow = model.decode(logits, size_hw)
    unguided = model.propagate(features, torch.zeros_like(guidance), torch.zeros_like(mask))
    unguided = model.decode(unguided, size_hw)
    others = other_video(batch["video"])
    wrong = type(features)(*(None if f is None else f[others.to(f.device)] for f in features))
    shuffled = model.decode(model.propagate(wrong, guidance, mask), size_hw)
    return [
        dict(
            loss=loss,
            flow=flow[i],
            flow_no_guidance=unguided[i],
            flow_shuffled_image=shuffled[i] if others[i] >= 0 else None,
        )
        for i in range(len(flow))
    ]
