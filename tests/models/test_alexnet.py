import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from cmp.models import AlexNetFCN


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return AlexNetFCN(out_channels=7).eval()


def image():
    return torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def test_the_forward_pass_is_the_written_out_network(net):
    def conv(x, layer, padding, stride=1):
        weights, norm = layer[0], layer[1]
        x = F.conv2d(x, weights.weight, weights.bias, stride, padding)
        return F.relu(F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias))

    with torch.no_grad():
        x = F.max_pool2d(conv(image(), net.conv1, 5, 4), 3, 2, 1)  # 64x96 -> 16x24 -> 8x12
        x = F.max_pool2d(conv(x, net.conv2, 2), 3, 2, 1)  # 4x6
        x = conv(conv(conv(x, net.conv3, 1), net.conv4, 1), net.conv5, 1)
        x = F.max_pool2d(x, 3, 2, 1)  # 2x3
        x = conv(conv(x, net.fc6, 1), net.fc7, 0)
        expected = F.conv2d(x, net.conv8.weight, net.conv8.bias)
        torch.testing.assert_close(net(image()).top, expected)
    assert expected.shape == (1, 7, 2, 3)


def test_the_8x_variant_has_the_same_weights_and_a_finer_map(net):
    fine = AlexNetFCN(output_stride=8, out_channels=7).eval()
    fine.load_state_dict(net.state_dict())
    with torch.no_grad():
        features = fine(image())
    assert features.top.shape == (1, 7, 8, 12) and fine.strides == {"top": 8} and features.stage1 is None


def test_dropout_acts_in_training_only(net):
    with torch.no_grad():
        assert torch.equal(net(image()).top, net(image()).top)
        net.train()
        try:
            pair = torch.cat((image(), image()))
            first, second = net(pair).top
        finally:
            net.eval()
    assert not torch.equal(first, second)


def test_another_stride_is_refused():
    with pytest.raises(ValueError, match="output_stride must be one of"):
        AlexNetFCN(output_stride=16)


def test_fc7_as_a_matrix_product_is_the_convolution_in_value_gradients_and_layout():
    torch.manual_seed(0)
    layer = AlexNetFCN().fc7[0].double().to(memory_format=torch.channels_last)
    x = torch.randn(2, 4096, 2, 3, dtype=torch.float64).to(memory_format=torch.channels_last)
    products = []

    class Products(TorchFunctionMode):
        def __torch_function__(self, function, types, arguments=(), named=None):
            products.extend([1] if function is F.linear else [])
            return function(*arguments, **(named or {}))

    seen = []
    for training in (True, False):  # outside training it is a convolution
        layer.train(training).zero_grad()
        source = x.clone().requires_grad_()
        with Products():
            y = layer(source)
        y.square().sum().backward()
        assert y.is_contiguous(memory_format=torch.channels_last)
        seen.append((y.detach(), source.grad, layer.weight.grad.clone(), layer.bias.grad.clone()))
    assert len(products) == 1
    for product, convolution in zip(*seen):
        torch.testing.assert_close(product, convolution, rtol=1e-11, atol=1e-11)
