import pytest
from torch import nn

from cmp.engine.config import read_config
from cmp.models.backbones.features import ImageFeatures
from tests.tools.test_train import pairs  # noqa: F401
from tools.benchmark import train_step

SMALL = {
    "train_dataloader.dataset.transforms.0.short_side_px": 140,
    "train_dataloader.dataset.transforms.0.size_px": 128,
    "model.decoder.width": 8,
}


class OneConvolution(nn.Module):
    """The least image encoder; an AlexNet takes minutes in bfloat16 on processors without instructions for it."""

    channels, strides = {"top": 8}, {"top": 32}

    def __init__(self, output_stride):
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, output_stride, output_stride)

    def forward(self, image):
        return ImageFeatures(self.convolution(image))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The recipe at 128 px with a small network, and small matrices."""

    def read_small(path):
        config = read_config(path, SMALL)
        config.model.image_encoder.type = OneConvolution
        return config

    monkeypatch.setattr(train_step, "read_config", read_small)
    monkeypatch.setitem(train_step.MATMUL_SIDE, "cpu", 32)


def test_it_prints_a_row_a_variant_and_trains_on_a_store(pairs, capsys, monkeypatch):  # noqa: F811
    taken = []

    def two_milliseconds(take):
        taken.append(take())
        return 0.002, 0.001

    monkeypatch.setattr(train_step, "seconds_of", two_milliseconds)
    monkeypatch.setattr(train_step, "peak_memory", lambda *_: (2.0, 1.0))  # in separate processes
    monkeypatch.setattr(train_step.Bench, "matmul_rate", lambda bench, variant: 3e9)
    monkeypatch.setattr(train_step.Bench, "count_flops", lambda bench: 12_000_000)
    arguments = ["--recipe", "alexnet", "--batch", "2", "--rounds", "1", "--threads", "1", "--workers", "0"]
    assert train_step.main([*arguments, "--data", str(pairs), "--data-steps", "2"]) == 0
    out = capsys.readouterr().out
    assert "alexnet, 128 px, batch 2" in out
    one = "1.00 (1.00-1.00)"
    for name in (*train_step.LOSSES, *train_step.VARIANTS[:-1]):
        (row,) = [line for line in out.splitlines() if line.startswith(f"| {name} |")]
        cells = row.strip("| ").split(" | ")
        assert cells[1:6] == ["2 (2-2)", one, one, "2", "1"]
        # 2 images and 12 million operations in 2 ms; 6 GFLOP/s are twice the rate of the matrix product
        assert cells[6:] == ([] if name in train_step.LOSSES else ["1000.00", "6", "3", "2.00 (2.00-2.00)"])
    (waiting,) = [line for line in out.splitlines() if line.endswith("% of the time waiting")]
    assert waiting.startswith("alexnet, + fused SGD, 0 workers on ") and " images/s, " in waiting
    assert len(taken) == 2 + 5 + 4  # losses, variants, and steps on the store of which two warm up


def test_seconds_operations_and_the_rate_of_a_matrix_product_are_measured():
    bench = train_step.Bench("alexnet", 2, "cpu")
    for variant in train_step.VARIANTS[:-1]:
        assert min(train_step.seconds_of(train_step.ready(bench, variant))) >= 0
        assert bench.wrapper.precision == ("bfloat16" if variant in ("+ bfloat16", "+ fused SGD") else "float32")
        assert bench.matmul_rate(variant) > 0
    # The convolution: 2 images, 4 x 4 cells, 8 channels of 3 x 32 x 32, forward and for its weights; the rest is more.
    assert bench.count_flops() > 2 * 2 * (2 * 4 * 4 * 8 * 3 * 32 * 32)


@pytest.mark.parametrize("name", ("+ banded loss", "banded loss"))
def test_memory_is_that_of_two_steps_of_a_process(name, capsys):
    assert train_step.main(["--recipe", "alexnet", "--batch", "2", "--threads", "1", "--memory-of", name]) == 0
    peak, before = map(float, capsys.readouterr().out.split())
    assert peak >= before > 0


@pytest.mark.parametrize("flag", ("--rounds", "--steps", "--batch"))
def test_nothing_to_measure_is_refused(flag, capsys):
    with pytest.raises(SystemExit) as exit_:
        train_step.main([flag, "0"])
    assert exit_.value.code == 2 and "must be at least 1" in capsys.readouterr().err.splitlines()[-1]
