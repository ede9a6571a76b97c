"""DRAW with attention, small: 10 strokes of 10 latent values each, LSTMs of 128 units, windows of 5 x 5."""

from cmp.baselines.draw import DRAW

model = dict(type=DRAW, image_shape=(1, 28, 28), strokes=10, hidden=128, latent=10, read_size=5, write_size=5)
