"""Estimators against pictures whose flow is known, and networks with weights that mean nothing."""

import sys
import types
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from cmp.datasets.pair_store import PairStore
from cmp.video import open_video, write_video
from data_prep.estimators import CLASSICAL, PrecomputedFlow, check_estimator, create_estimator


def shifted_pair(height, width, dx, dy, seed=0):
    """(first, second): what is at (x, y) in the first is at (x + dx, y + dy) in the second."""
    rng = np.random.default_rng(seed)
    big = cv2.resize(rng.integers(0, 255, (height // 4 + 8, width // 4 + 8, 3), np.uint8), (width + 16, height + 16))
    return big[8 : 8 + height, 8 : 8 + width].copy(), big[8 - dy : 8 - dy + height, 8 - dx : 8 - dx + width].copy()


@pytest.mark.parametrize("name", CLASSICAL)
def test_a_shift_is_found_in_pixels_x_before_y(name):
    flow = create_estimator(name).estimate(*shifted_pair(96, 128, 4, -2))
    assert flow.shape == (96, 128, 2) and flow.dtype == np.float32
    assert np.abs(np.median(flow[10:-10, 10:-10], axis=(0, 1)) - [4, -2]).max() < 0.1


@pytest.mark.parametrize("size_hw", [(48, 48), (16, 24), (8, 40), (5, 5), (1, 1)])
def test_tiny_frames_are_handled(size_hw):
    first, second = shifted_pair(*size_hw, 1, 0)
    flow = create_estimator("dis-medium").estimate(first, second)
    assert flow.shape == (*size_hw, 2) and flow.dtype == np.float32 and np.isfinite(flow).all()
    if min(size_hw) >= 16:
        assert np.abs(np.median(flow, axis=(0, 1)) - [1, 0]).max() < 0.2


def test_the_same_pair_gives_the_same_bits_whatever_came_before():
    pair, other = shifted_pair(60, 80, 3, 1), shifted_pair(60, 80, -5, 2, seed=1)
    fresh = create_estimator("dis-medium").estimate(*pair)
    used = create_estimator("dis-medium")
    used.estimate(*other)
    used.estimate(*shifted_pair(96, 128, 4, -2))
    assert (used.estimate(*pair) == fresh).all()


def test_descriptions_name_the_estimator_and_its_version():
    for name in CLASSICAL:
        about = create_estimator(name).describe()
        assert about["name"] == name and cv2.__version__ in about["version"] and isinstance(about["settings"], dict)


def test_unknown_names_and_wrong_frames_are_refused():
    with pytest.raises(ValueError, match="dis-medium"):
        create_estimator("raft")
    for name in ("ptlflow:", "files:", "farneback:x"):
        with pytest.raises(ValueError, match="estimator must be"):
            check_estimator(name)
    with pytest.raises(ValueError, match="does not take weights"):
        create_estimator("dis-fast", weights="w.pth")
    estimator = create_estimator()
    frame = np.zeros((40, 50, 3), np.uint8)
    for first, second in ((frame, frame[:-1]), (frame[..., 0], frame[..., 0]), (frame / 1.0, frame / 1.0)):
        with pytest.raises(ValueError, match="frames must be"):
            estimator.estimate(first, second)


def test_dis_is_close_to_the_ground_truth_of_middlebury(shared_dir):
    from cmp.flow.io import read_flow

    folder = shared_dir / "data" / "flow" / "middlebury" / "RubberWhale"
    frames = [cv2.imread(str(folder / f"frame{number}.png"))[..., ::-1] for number in (10, 11)]
    truth, valid = read_flow(folder / "flow10.flo", return_valid=True)
    flow = create_estimator().estimate(*map(np.ascontiguousarray, frames))
    assert np.hypot(*np.moveaxis(flow - truth, 2, 0))[valid].mean() < 0.4


@pytest.fixture(scope="module")
def raft_weights(tmp_path_factory):
    """Weights of the small RAFT as it is made, so nothing is learned: saved as users have them."""
    from torchvision.models.optical_flow import raft_small

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "raft.pth"
    torch.save({"state_dict": raft_small().state_dict()}, path)
    return path


def test_raft_gives_what_the_model_gives_for_the_padded_frames(raft_weights):
    from torchvision.models.optical_flow import raft_small

    model = raft_small().eval()
    model.load_state_dict(torch.load(raft_weights, weights_only=True)["state_dict"])
    first, second = shifted_pair(131, 150, 3, 1)
    padded = [np.pad(frame, ((0, 5), (0, 2), (0, 0)), mode="edge") for frame in (first, second)]  # to 136 x 152
    tensors = [torch.from_numpy(frame).permute(2, 0, 1)[None] / 255 * 2 - 1 for frame in padded]
    with torch.no_grad():
        wanted = model(*tensors, num_flow_updates=12)[-1][0, :, :131, :150].permute(1, 2, 0).numpy()
    flow = create_estimator("raft-small", weights=str(raft_weights), device="cpu").estimate(first, second)
    assert flow.shape == (131, 150, 2) and flow.dtype == np.float32 and flow.flags.c_contiguous
    assert np.abs(wanted).max() > 1e-3 and np.abs(flow - wanted).max() < 1e-3


def test_raft_takes_batches_that_do_not_fill_up_and_frames_below_its_least_size(raft_weights):
    from data_prep.estimators.raft import RaftEstimator

    estimator = RaftEstimator("raft-small", weights=str(raft_weights), device="cpu", batch_size=2)
    pairs = [shifted_pair(40, 56, dx, 1, seed=dx) for dx in (1, 2, 3)]
    flows = estimator.estimate_batch(*zip(*pairs))
    assert len(flows) == 3 and estimator.estimate_batch([], []) == []
    for flow, pair in zip(flows, pairs):
        assert flow.shape == (40, 56, 2) and np.abs(flow - estimator.estimate(*pair)).max() < 1e-3
    about = estimator.describe()
    assert about["name"] == "raft-small" and about["settings"]["weights"].startswith("sha256 ")
    assert about["settings"]["device"] == "cpu"


def test_weights_that_are_missing_broken_or_of_another_model_are_named(raft_weights, tmp_path):
    (tmp_path / "text.pth").write_text("no weights")
    torch.save([1, 2], tmp_path / "list.pth")
    cases = {"absent.pth": FileNotFoundError, "text.pth": ValueError, "list.pth": ValueError}
    for name, error in cases.items():
        with pytest.raises(error, match=name):
            create_estimator("raft-small", weights=str(tmp_path / name))
    with pytest.raises(ValueError, match="raft.pth: not weights of torchvision's raft-large"):
        create_estimator("raft-large", weights=str(raft_weights))
    with pytest.raises(ValueError, match="device must be"):
        create_estimator("raft-small", weights=str(raft_weights), device="toaster")


def test_raft_without_weights_and_network_says_which_file_to_fetch(monkeypatch):
    from urllib.error import URLError

    def offline(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(FileNotFoundError, match=r"raft_large_\S+\.pth does not exist.*no route.*--estimator-weights"):
        create_estimator("raft-large")


def test_ptlflow_that_is_not_installed_is_a_clear_message(monkeypatch):
    monkeypatch.setitem(sys.modules, "ptlflow", None)  # importing it fails
    with pytest.raises(ModuleNotFoundError, match="separate virtual environment"):
        create_estimator("ptlflow:never_loaded_before")


class _ColourDifference(torch.nn.Module):
    """Speaks as ptlflow's models do: images (B, 2, 3, H, W) in BGR, 0 .. 1, to flows (B, 1, 2, H, W)."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, inputs):
        images = inputs["images"]
        images = images.view(-1, *images.shape[-3:]).view(images.shape)  # as the real models do to pad
        blue, _, red = images.unbind(2)
        return {"flows": self.scale * torch.stack([red[:, 1] - red[:, 0], blue[:, 1] - blue[:, 0]], 1)[:, None]}


def test_ptlflow_models_are_given_pairs_in_their_channel_order(monkeypatch, tmp_path):
    fake = types.ModuleType("ptlflow")  # the real one needs an environment of its own: see the test below
    fake.get_model_names = lambda: ["difference"]
    fake.get_model_reference = lambda name: _ColourDifference
    fake.get_model = lambda name, ckpt_path=None: _ColourDifference()
    monkeypatch.setitem(sys.modules, "ptlflow", fake)
    monkeypatch.setattr("data_prep.estimators.ptlflow_models.version", lambda name: "0")
    torch.save({"scale": torch.tensor([510.0])}, tmp_path / "w.ckpt")
    first = np.zeros((5, 7, 3), np.uint8)
    second = first.copy()
    second[..., 0], second[..., 2] = 10, 4  # RGB: red by 10, blue by 4
    estimator = create_estimator("ptlflow:difference", weights=str(tmp_path / "w.ckpt"), device="cpu")
    flow = estimator.estimate(first, second)
    assert flow.shape == (5, 7, 2) and np.allclose(flow, [20, 8], atol=1e-4)
    with pytest.raises(ValueError, match="no weights for difference"):
        create_estimator("ptlflow:difference")
    with pytest.raises(ValueError, match="no model 'other'"):
        create_estimator("ptlflow:other")


@pytest.mark.parametrize("name, sizes", [("liteflownet", [1, 1, 1]), ("liteflownet3", [1, 1, 1]), ("other", [3])])
def test_liteflownet_which_mixes_the_pairs_of_a_batch_gets_one_pair_at_a_time(name, sizes, monkeypatch, tmp_path):
    fake = types.ModuleType("ptlflow")
    fake.get_model_names = lambda: [name]
    fake.get_model_reference = lambda name: _ColourDifference
    fake.get_model = lambda name, ckpt_path=None: _ColourDifference()
    monkeypatch.setitem(sys.modules, "ptlflow", fake)
    monkeypatch.setattr("data_prep.estimators.ptlflow_models.version", lambda name: "0")
    torch.save({"scale": torch.tensor([510.0])}, tmp_path / "w.ckpt")
    estimator = create_estimator(f"ptlflow:{name}", weights=str(tmp_path / "w.ckpt"), device="cpu")
    seen = []
    estimator._model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0]["images"])))
    frames = [np.full((5, 7, 3), value, np.uint8) for value in (0, 10, 30, 60)]
    flows = estimator.estimate_batch(frames[:3], frames[1:])
    assert seen == sizes
    assert [float(flow[0, 0, 0]) for flow in flows] == pytest.approx([20, 40, 60], abs=1e-3)


def ptlflow_model(name, path):
    """A model of the real package with random weights, which are written to a file; skips where it is not installed."""
    try:
        metadata.version("ptlflow")
    except metadata.PackageNotFoundError:
        pytest.skip("ptlflow is not installed; it needs a separate environment")
    import ptlflow

    torch.manual_seed(0)
    model = ptlflow.get_model(name)
    torch.save({"state_dict": model.state_dict()}, path)
    return model.eval()


def own_call(model, first, second):
    """The flow as the package's documentation computes it: images as OpenCV reads them, through its adapter."""
    from ptlflow.utils.io_adapter import IOAdapter

    images = [np.ascontiguousarray(frame[..., ::-1]) for frame in (first, second)]  # BGR
    adapter = IOAdapter(output_stride=model.output_stride, input_size=first.shape[:2])
    with torch.no_grad():
        return model(adapter.prepare_inputs(images))["flows"][0, 0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("name", ["liteflownet", "raft_small", "raft"])
def test_a_real_ptlflow_model_gives_what_the_packages_own_call_gives(name, tmp_path):
    model = ptlflow_model(name, tmp_path / "w.ckpt")
    estimator = create_estimator(f"ptlflow:{name}", weights=str(tmp_path / "w.ckpt"), device="cpu")
    first, second = shifted_pair(136, 150, 3, 1)
    flow, wanted = estimator.estimate(first, second), own_call(model, first, second)
    assert flow.shape == (136, 150, 2) and np.abs(wanted).max() > 1e-3
    np.testing.assert_allclose(flow, wanted, atol=1e-4, rtol=1e-4)
    for each in estimator.estimate_batch([first, first, first], [second, second, second]):
        np.testing.assert_allclose(each, wanted, atol=1e-2, rtol=1e-2)  # the last bits depend on the size of a batch
    assert "ptlflow" in estimator.describe()["version"] and estimator.describe()["name"] == f"ptlflow:{name}"
    (tmp_path / "other.ckpt").write_bytes((tmp_path / "w.ckpt").read_bytes())
    with pytest.raises(ValueError, match="other.ckpt: not weights of ptlflow's liteflownet2"):
        create_estimator("ptlflow:liteflownet2", weights=str(tmp_path / "other.ckpt"), device="cpu")


@pytest.mark.parametrize("name", ["liteflownet", "raft_small"])
def test_a_folder_is_prepared_with_a_real_ptlflow_model(name, tmp_path):
    model = ptlflow_model(name, tmp_path / "w.ckpt")
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
    import prepare_flow

    first, second = shifted_pair(136, 150, 3, 1)
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "a.mp4", np.stack([first, second, first, second]), 25)
    lenient = "--max-flow 10000 --max-unexplained 2 --max-appearance-jump 1 --max-uneven-light 1"
    lenient += " --max-duplicate-change 0 --min-moving-share 0 --max-beyond-share 1 --max-inconsistent 1000000"
    arguments = [str(tmp_path / "videos"), str(tmp_path / "store"), "--interval-frames", "1", "--pairs-per-video", "2"]
    arguments += ["--estimator", f"ptlflow:{name}", "--estimator-weights", str(tmp_path / "w.ckpt"), "--workers", "1"]
    arguments += ["--codec", "float32", "--estimator-device", "cpu", "--quiet", *lenient.split()]
    assert prepare_flow.main(arguments) == 0
    store = PairStore(tmp_path / "store")
    assert len(store) == 2
    with open_video(tmp_path / "videos" / "a.mp4") as reader:
        frames = [frame.image for frame in reader.read(range(4))]
    wanted = [own_call(model, one, other) for one, other in zip(frames, frames[1:])]
    for position in range(2):
        flow = np.asarray(store.read_pair(position)[1])
        assert min(np.abs(flow - each).max() for each in wanted) < 1e-3


def test_precomputed_flow_is_found_by_video_and_frames_and_brought_to_the_stored_size(tmp_path):
    from cmp.flow.io import write_flow

    folder = tmp_path / "sub" / "clip"
    folder.mkdir(parents=True)
    write_flow(folder / "00000003_00000008.flo", np.full((20, 40, 2), (8, 2), np.float32))
    files = PrecomputedFlow(tmp_path, "sub/clip.mp4")
    assert (files.read((3, 8), (20, 40)) == [8, 2]).all()
    assert np.allclose(files.read((3, 8), (10, 10)), [2, 1])
    with pytest.raises(FileNotFoundError, match="clip/3_9.flo"):
        files.read((3, 9), (20, 40))
    with pytest.raises(FileNotFoundError, match="other"):
        PrecomputedFlow(tmp_path, "sub/other.mp4")
    write_flow(folder / "4_9.flo", np.ones((20, 40, 2), np.float32))
    (folder / "4_9.flo").rename(folder / "4_9.FLO")
    (folder / "٤_٩.flo").write_bytes(b"Arabic digits are no numbers of frames")
    assert (PrecomputedFlow(tmp_path, "sub/clip.mp4").read((4, 9), (20, 40)) == 1).all()
    write_flow(folder / "3_8.npz", np.zeros((20, 40, 2), np.float32))
    with pytest.raises(ValueError, match=r"3_8\.npz and 00000003_00000008\.flo: are flow of the same pair"):
        PrecomputedFlow(tmp_path, "sub/clip.mp4")
