"""Variational autoencoder of digits: 500 hidden units, 20 latent values per image, Bernoulli pixels."""

from cmp.baselines.vae import VAE

model = dict(
    type=VAE,
    image_shape=(1, 28, 28),
    latent=20,
    hidden=500,
    likelihood="bernoulli",
    init_std=0.1,
    importance_draws=50,
)
