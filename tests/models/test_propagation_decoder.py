import pytest
import torch
import torch.nn.functional as F

from cmp.models import ImageFeatures, PropagationDecoder, SkipPropagationDecoder

CHANNELS = {"top": 6, "stage1": 5, "stem": 4}


def features(batch=2):
    generator = torch.Generator().manual_seed(0)
    draw = lambda channels, h, w: torch.randn(batch, channels, h, w, generator=generator)  # noqa: E731
    image = ImageFeatures(top=draw(6, 8, 12), stem=draw(4, 32, 48), stage1=draw(5, 16, 24))
    return image, draw(3, 8, 12)


def conv(x, layers):
    """3x3 convolutions with batch norm and ReLU, written out over a Sequential's layers."""
    for weights, norm in zip(layers[::3], layers[1::3]):
        x = F.conv2d(x, weights.weight, weights.bias, padding=1)
        x = F.relu(F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias))
    return x


def up(x, size):
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


def propagated(decoder, image, motion, strides):
    x = torch.cat((image.top, motion), dim=1)
    return torch.cat([up(conv(F.max_pool2d(x, s), decoder.propagation.nets[str(s)]), (8, 12)) for s in strides], dim=1)


def test_the_plain_decoder_is_the_written_out_one():
    torch.manual_seed(0)
    decoder = PropagationDecoder(CHANNELS, 3, num_logits=10).eval()
    image, motion = features()
    with torch.no_grad():
        x = propagated(decoder, image, motion, (1, 2, 4))
        expected = F.conv2d(x, decoder.head.weight, decoder.head.bias)
        torch.testing.assert_close(decoder(image, motion), expected)
    assert x.shape[1] == 3 * 128 and expected.shape == (2, 10, 8, 12)
    assert all(len(net) == 6 for net in decoder.propagation.nets.values())


def test_a_shortcut_gives_the_encoded_guidance_to_the_last_convolution_too():
    torch.manual_seed(0)
    decoder = PropagationDecoder(CHANNELS, 3, num_logits=10, strides=(1, 2), width=16, shortcut=True).eval()
    image, motion = features()
    with torch.no_grad():
        x = torch.cat((propagated(decoder, image, motion, (1, 2)), motion), dim=1)
        expected = F.conv2d(x, decoder.head.weight, decoder.head.bias)
        torch.testing.assert_close(decoder(image, motion), expected)
        # With the nets' share of the head gone the guidance still arrives, cell by cell.
        decoder.head.weight[:, :32] = 0
        expected = F.conv2d(motion, decoder.head.weight[:, 32:], decoder.head.bias)
        torch.testing.assert_close(decoder(image, motion), expected)
    assert x.shape[1] == 2 * 16 + 3 and expected.any()


def test_without_a_shortcut_the_layers_are_the_published_ones():
    shapes = {k: v.shape for k, v in PropagationDecoder(CHANNELS, 3, num_logits=10).state_dict().items()}
    assert shapes["head.weight"] == (10, 3 * 128, 1, 1)


def test_the_skip_decoder_is_the_written_out_one():
    torch.manual_seed(0)
    decoder = SkipPropagationDecoder(CHANNELS, 3, num_logits=10).eval()
    image, motion = features()
    with torch.no_grad():
        x = conv(propagated(decoder, image, motion, (1, 2, 4, 8)), decoder.fuse_top)
        x = conv(torch.cat((up(x, (16, 24)), conv(image.stage1, decoder.skip_stage1)), 1), decoder.fuse_stage1)
        x = conv(torch.cat((up(x, (32, 48)), conv(image.stem, decoder.skip_stem)), 1), decoder.fuse_stem)
        expected = F.conv2d(x, decoder.head.weight, decoder.head.bias)
        torch.testing.assert_close(decoder(image, motion), expected)
    assert expected.shape == (2, 10, 32, 48)
    assert all(len(net) == 9 for net in decoder.propagation.nets.values())


def test_a_skip_decoder_on_an_encoder_without_fine_maps_is_refused():
    with pytest.raises(ValueError, match="stage1 and stem"):
        SkipPropagationDecoder({"top": 6}, 3, num_logits=10)


@pytest.mark.parametrize("strides", ((), (1, 1), (0, 2)))
def test_wrong_strides_are_refused(strides):
    with pytest.raises(ValueError, match="strides"):
        PropagationDecoder(CHANNELS, 3, num_logits=10, strides=strides)


def test_a_map_too_small_to_pool_is_refused_by_name():
    image, motion = features()
    with pytest.raises(ValueError, match="too few to pool by 16"):
        PropagationDecoder(CHANNELS, 3, num_logits=10, strides=(1, 16))(image, motion)


def test_the_skip_decoder_is_convolutions_over_maps_side_by_side_and_prepares_one_image_for_many_sets():
    torch.manual_seed(0)
    decoder = SkipPropagationDecoder({"top": 8, "stage1": 6, "stem": 4}, 5, 10, strides=(1, 2), width=16).eval()
    image = ImageFeatures(torch.randn(1, 8, 6, 8), torch.randn(1, 4, 24, 32), torch.randn(1, 6, 12, 16))
    motion = torch.randn(3, 5, 6, 8)

    def up(x, like):
        return torch.nn.functional.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=True)

    with torch.no_grad():
        top, stem, stage1 = (f.repeat(3, 1, 1, 1) for f in (image.top, image.stem, image.stage1))
        x = decoder.fuse_top(decoder.propagation(torch.cat((top, motion), dim=1)))
        x = decoder.fuse_stage1(torch.cat((up(x, stage1), decoder.skip_stage1(stage1)), dim=1))
        x = decoder.fuse_stem(torch.cat((up(x, stem), decoder.skip_stem(stem)), dim=1))
        expected = decoder.head(x)
        for logits in (decoder(image, motion), decoder(decoder.prepare(image), motion, prepared=True)):
            torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
