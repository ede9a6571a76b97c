"""Drawing for variational autoencoders: reconstructed inputs and samples of the prior."""

import numpy as np
import torch

from cmp.baselines.drawing.grid import image_grid


def draw_reconstructions(
    model: torch.nn.Module, images: torch.Tensor, encoder_input: torch.Tensor, *, num_samples: int
) -> dict[str, np.ndarray]:
    """Draw the inputs above their reconstructions, and images sampled from the prior.

    Args:
        model: has `encode` (images to mean and log variance), `decode` (latent vectors to images 0..1) and `latent`.
        images: (B, C, H, W), values 0..1, as they are shown.
        encoder_input: the same images as `encode` takes them.
        num_samples: images to sample.

    Returns:
        `reconstructions`: inputs in the first row; in the second the decoder's means for the encoder's means.
        `samples`: decoder's means for latent vectors drawn from the prior, always the same ones; 8 per row.
    """
    generator = torch.Generator(images.device).manual_seed(0)
    z = torch.randn((num_samples, model.latent), generator=generator, device=images.device)
    reconstructed = model.decode(model.encode(encoder_input)[0])
    return {
        "reconstructions": image_grid(torch.cat((images, reconstructed)), columns=len(images)),
        "samples": image_grid(model.decode(z), columns=8),
    }
