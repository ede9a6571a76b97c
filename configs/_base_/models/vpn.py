"""Video pixel network for gray or binary videos, small."""

from cmp.baselines.video_pixel_network import VideoPixelNetwork

model = dict(
    type=VideoPixelNetwork,
    colors=1,
    levels=2,
    given=4,
    channels=16,
    encoder_dilations=(1, 2, 4),
    decoder_blocks=4,
    memory=32,
    memory_kernel=3,
    sampled=4,
)
