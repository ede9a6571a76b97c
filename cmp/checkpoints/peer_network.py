"""The network that a file of Zhan et al. belongs to: their files do not describe it, but keys and shapes show it."""

from collections.abc import Mapping

import torch

from cmp.checkpoints.peer_keys import PROPAGATION
from cmp.flow import FlowQuantizer
from cmp.models import (
    CMP,
    DirectFlow,
    DiscreteLoss,
    MotionEncoder,
    PropagationDecoder,
    RegressionLoss,
    SkipPropagationDecoder,
)
from cmp.models.backbones import encoder_arguments, recognize_encoder
from cmp.models.description import MAX_BINS, MAX_NETS


def build_peer_network(
    state_dict: Mapping[str, torch.Tensor], *, source: str, alexnet_stride: int, max_flow_px: float
) -> CMP:
    """Build the network that weights of Zhan et al. belong to, with fresh weights.

    Args:
        state_dict: the weights, under our keys.
        source: the file's name, for errors.
        alexnet_stride: 32 or 8, px: the two variants of AlexNet have the same weights.
        max_flow_px: range of the bins, which the weights do not show; 50 in all published recipes.

    Raises:
        ValueError: the encoder is not recognized, or the keys name no propagation nets, too many of them, no head, or
            too many bins.
    """
    encoder = recognize_encoder(
        key.removeprefix("image_encoder.") for key in state_dict if key.startswith("image_encoder.")
    )
    strides = {key.split(".")[3] for key in state_dict if key.startswith(f"decoder.{PROPAGATION}")}
    has_skips = any(key.startswith("decoder.fuse_") for key in state_dict)
    head = state_dict.get("decoder.head.weight")
    if head is None or head.ndim == 0 or not strides or len(head) % 2:
        raise ValueError(
            f"{source} is not a network of Zhan et al.: no propagation nets, or no head of 2 x bins channels"
        )
    if len(strides) > MAX_NETS or any(len(stride) > 2 for stride in strides) or len(head) > 2 * MAX_BINS:
        raise ValueError(
            f"{source} has {len(strides)} propagation nets and {len(head)} logits: at most {MAX_NETS} nets of strides "
            f"below 100 and {2 * MAX_BINS} logits are built"
        )
    if len(head) == 2:
        quantizer: dict = dict(type=DirectFlow)
        loss: dict = dict(type=RegressionLoss)
    else:
        quantizer = dict(type=FlowQuantizer, num_bins=len(head) // 2, max_flow_px=max_flow_px)
        loss = dict(type=DiscreteLoss)
    return CMP(
        image_encoder=encoder_arguments(encoder, output_stride=alexnet_stride if encoder == "alexnet_fcn" else 8),
        motion_encoder=dict(type=MotionEncoder),
        decoder=dict(
            type=SkipPropagationDecoder if has_skips else PropagationDecoder, strides=sorted(map(int, strides))
        ),
        quantizer=quantizer,
        loss=loss,
        init="default",
    )
