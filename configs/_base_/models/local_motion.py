"""Local motion of MNIST digits of at most 3 px per frame, without labels, from four frames; the published size."""

from cmp.baselines.local_motion import LocalMotion

model = dict(
    type=LocalMotion,
    max_shift=3,
    image_channels=1,
    width=64,
    levels=5,
    supervised=False,
    two_sided=True,
    disappear="map",
)
