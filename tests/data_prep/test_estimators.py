"""Estimators against pictures whose flow is known, and networks with weights that mean nothing."""

import sys
import types
from importlib import metadata

import cv2
import numpy as np
import pytest
import torch

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
    with pytest.raises(ValueError, match="takes no weights"):
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
    with pytest.raises(FileNotFoundError, match=r"raft_large_\S+\.pth is not there.*no route.*--estimator-weights"):
        create_estimator("raft-large")


def test_ptlflow_that_is_not_installed_is_a_clear_message(monkeypatch):
    monkeypatch.setitem(sys.modules, "ptlflow", None)  # importing it fails
    with pytest.raises(ModuleNotFoundError, match="environment of their own"):
        create_estimator("ptlflow:never_loaded_before")


class _ColourDifference(torch.nn.Module):
    """Speaks as ptlflow's models do: images (B, 2, 3, H, W) in BGR, 0 .. 1, to flows (B, 1, 2, H, W)."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, inputs):
        blue, _, red = inputs["images"].unbind(2)
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


def test_a_real_ptlflow_model_with_random_weights_works(tmp_path):
    try:
        metadata.version("ptlflow")
    except metadata.PackageNotFoundError:
        pytest.skip("ptlflow is not installed; it wants an environment of its own")
    import ptlflow

    model = ptlflow.get_model("liteflownet")
    torch.save({"state_dict": model.state_dict()}, tmp_path / "w.ckpt")
    estimator = create_estimator("ptlflow:liteflownet", weights=str(tmp_path / "w.ckpt"), device="cpu")
    first, second = shifted_pair(70, 90, 3, 1)
    images = torch.from_numpy(np.stack([first, second])[..., ::-1].copy()).permute(0, 3, 1, 2)[None] / 255
    with torch.no_grad():
        wanted = model.eval()({"images": images})["flows"][0, 0].permute(1, 2, 0).numpy()
    flow = estimator.estimate(first, second)
    assert flow.shape == (70, 90, 2) and np.allclose(flow, wanted, atol=1e-4)
    assert "ptlflow" in estimator.describe()["version"]


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
