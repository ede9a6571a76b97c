import pytest
import torch

from cmp.models import AlexNetFCN, BareEncoder, ResNet, TimmEncoder, build_encoder
from cmp.models.backbones import ENCODERS, resnet_depth

IMAGE = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "name, stride, channels, reduction",
    (
        ("resnet18", 8, [64, 128, 256, 512], [4, 8, 8, 8]),
        ("resnet50", 16, [256, 512, 1024, 2048], [4, 8, 16, 16]),
        ("resnet18", None, [64, 128, 256, 512], [4, 8, 16, 32]),
        ("alexnet_fcn", 8, [4096], [8]),
        ("alexnet_fcn", None, [4096], [32]),
    ),
)
def test_the_maps_are_as_the_feature_info_states(name, stride, channels, reduction):
    encoder = BareEncoder(name, stride)
    info = encoder.feature_info
    assert (info.channels(), info.reduction()) == (channels, reduction)
    expected = ["fc7"] if name == "alexnet_fcn" else ["stage1", "stage2", "stage3", "stage4"]
    assert info.module_name() == expected
    with torch.no_grad():
        maps = encoder.eval()(IMAGE)
    assert isinstance(maps, list)
    assert [tuple(m.shape) for m in maps] == [(2, c, 64 // r, 96 // r) for c, r in zip(channels, reduction)]


def test_the_maps_are_those_of_the_whole_encoder_below_its_projection():
    for whole, maps_of in (
        (ResNet(18, output_stride=16), lambda f: [f.stage1, f.stage2, f.stage3, f.stage4]),
        (AlexNetFCN(8), None),
    ):
        whole.eval()
        bare = BareEncoder(whole.name, whole.strides["top"]).eval()
        weights = {k: v for k, v in whole.state_dict().items() if not k.startswith(whole.ABOVE)}
        bare.load_library_weights(weights, source="x")
        with torch.no_grad():
            expected = maps_of(whole(IMAGE)) if maps_of else [whole.features(IMAGE)]
            assert all(torch.equal(*pair) for pair in zip(bare(IMAGE), expected, strict=True))
        found = bare.library_weights()
        assert list(found) == list(weights) and all(torch.equal(found[key], weights[key]) for key in weights)


def test_the_contract_is_that_of_timms_features_only():
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("resnet18", features_only=True, out_indices=(1, 2, 3, 4)).eval()
    ours = BareEncoder("resnet18").eval()
    theirs.load_state_dict({k: v for k, v in ours.library_weights().items() if k in theirs.state_dict()})
    assert ours.feature_info.channels() == theirs.feature_info.channels()
    assert ours.feature_info.reduction() == theirs.feature_info.reduction()
    with torch.no_grad():
        for one, other in zip(ours(IMAGE), theirs(IMAGE), strict=True):
            torch.testing.assert_close(one, other)


def test_a_network_of_timm_has_its_own_maps_and_stride():
    pytest.importorskip("timm")
    encoder = BareEncoder("timm:convnext_atto").eval()
    assert isinstance(encoder.net, TimmEncoder)
    with torch.no_grad():
        maps = encoder(IMAGE)
    info = encoder.feature_info
    assert info.reduction() == [16, 32]
    assert [tuple(m.shape) for m in maps] == [(2, c, 64 // r, 96 // r) for c, r in zip(info.channels(), [16, 32])]
    with pytest.raises(ValueError, match="has stride 32 and is not dilated: output_stride cannot be 8"):
        BareEncoder("timm:convnext_atto", 8)


def test_every_name_is_built_and_any_other_is_refused():
    with torch.device("meta"):
        for name in ENCODERS:
            encoder = build_encoder(name, output_stride=8, out_channels=5)
            assert (encoder.name, encoder.channels["top"], encoder.strides["top"]) == (name, 5, 8)
    for name in ("vgg", "resnet", "resnet20", "resnet5 0", "resnet050", ""):
        with pytest.raises(ValueError, match=f"encoder must be .*got {name!r}"):
            build_encoder(name)
    with pytest.raises(ValueError, match="output_stride"):
        build_encoder("resnet18", output_stride=0)
    assert [resnet_depth(f"resnet{depth}") for depth in (18, 152)] == [18, 152]
    with pytest.raises(ValueError, match="got 'resnet19'"):
        resnet_depth("resnet19")


def test_weights_that_do_not_fit_or_are_not_finite_are_refused():
    bare = BareEncoder("resnet18")
    weights = bare.library_weights()
    with pytest.raises(ValueError, match=r"(?s)x.pth does not fit.*left over \(1\): conv5.bias"):
        bare.load_library_weights(weights | {"conv5.bias": torch.zeros(256)}, source="x.pth")
    with pytest.raises(ValueError, match="x.pth has weights that are not finite.*bn1.bias"):
        bare.load_library_weights(weights | {"bn1.bias": torch.full((64,), torch.nan)}, source="x.pth")
    pytest.importorskip("timm")
    bare = BareEncoder("timm:convnext_atto")
    weights = {key: value.clone() for key, value in bare.library_weights().items()}
    weights["stem.0.bias" if "stem.0.bias" in weights else "stem_0.bias"].fill_(torch.inf)
    with pytest.raises(ValueError, match="x.pth has weights that are not finite"):
        bare.load_library_weights(weights, source="x.pth")
