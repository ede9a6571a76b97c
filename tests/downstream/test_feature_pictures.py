import cv2
import numpy as np
import pytest
import torch

from cmp.downstream.feature_pictures import (
    choose_images,
    features_sheet,
    nearest,
    neighbors_sheet,
    pca_colors,
    read_squares,
)
from tools.inspect_backbone import main


def test_neighbors_are_the_nearest_by_cosine_without_the_query_itself():
    values = torch.tensor([[1.0, 0], [5, 0.5], [0, 2], [1, 1], [-3, 0]])
    cosines, found = nearest(values, [0, 2], 3)
    assert found.tolist() == [[1, 3, 2], [3, 1, 0]]
    assert cosines[0, 1].item() == pytest.approx(0.5**0.5) and cosines[1, 2].item() == pytest.approx(0)


def test_colors_are_principal_components_of_all_cells_together():
    rng = np.random.default_rng(0)
    sources = rng.uniform(-1, 1, (2, 3, 6, 9)) * np.array([9, 3, 1]).reshape(3, 1, 1)  # rising and falling variance
    turned, _ = np.linalg.qr(rng.normal(size=(7, 7)))
    features = np.einsum("cs,nshw->nchw", turned[:, :3], sources) + 5
    colors = pca_colors(torch.from_numpy(features))
    assert colors.shape == (2, 6, 9, 3) and colors.dtype == np.uint8
    for k in range(3):
        correlation = np.corrcoef(colors[..., k].ravel(), sources[:, k].ravel())[0, 1]
        assert abs(correlation) > 0.95


def test_equal_features_get_equal_colors_whatever_their_image():
    features = torch.randn(2, 5, 4, 6, generator=torch.Generator().manual_seed(0))
    features[1, :, 2, 3] = features[0, :, 1, 5]
    colors = pca_colors(features)
    assert (colors[1, 2, 3] == colors[0, 1, 5]).all()
    assert (pca_colors(torch.ones(1, 4, 2, 3)) == pca_colors(torch.ones(1, 4, 2, 3))).all()  # no variance at all


def test_a_sheet_shows_the_query_first_and_each_neighbour_in_its_place():
    images = np.stack([np.full((20, 20, 3), 40 * i, np.uint8) for i in range(4)])
    sheet = neighbors_sheet(images, [2], torch.tensor([[0.9, 0.1]]), torch.tensor([[3, 0]]))
    assert [int(sheet[10, x, 0]) for x in (10, 34, 58)] == [80, 120, 0]
    assert images[2].max() == 80  # the frame is not drawn into the input
    both = features_sheet(images[:3], np.stack([np.full((2, 2, 3), 10 + i, np.uint8) for i in range(3)]))
    assert [int(both[34, x, 0]) for x in (10, 34, 58)] == [10, 11, 12]


@pytest.fixture
def folder(tmp_path):
    """Six reddish and six bluish noises, of two shapes, in two folders."""
    rng = np.random.default_rng(0)
    for name, channel in (("blue", 0), ("red", 2)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(6):
            image = rng.integers(0, 100, (40 + 30 * (i % 2), 60, 3))
            image[..., channel] += 150
            cv2.imwrite(str(tmp_path / "photos" / name / f"{i}.png"), image.astype(np.uint8))
    return tmp_path / "photos"


def test_squares_are_the_images_centres_evenly_chosen(folder):
    paths = choose_images(folder, max_images=4)
    images = read_squares(paths, 32)
    assert images.shape == (4, 32, 32, 3) and [path.parent.name for path in paths] == ["blue"] * 2 + ["red"] * 2
    assert images[0][..., 2].mean() > 150 > images[0][..., 0].mean()


def test_the_command_writes_both_pictures_and_puts_like_beside_like(folder, tmp_path, capsys):
    arguments = [
        "random",
        str(folder),
        str(tmp_path / "out"),
        "--size",
        "64",
        "--map-size",
        "96",
        "--rows",
        "2",
        "--neighbours",
        "3",
    ]
    assert main([*arguments, "--device", "cpu"]) == 0
    sheet = cv2.imread(str(tmp_path / "out/neighbours.png"))
    assert sheet.shape == (2 * 80 + 4, 4 * 68 - 4, 3)
    cells = [sheet[84 * row + 30, 68 * k + 20 : 68 * k + 50] for row in (0, 1) for k in range(4)]
    assert [int(cell.mean(0).argmax()) for cell in cells] == [0] * 4 + [2] * 4
    assert cv2.imread(str(tmp_path / "out/features.png")).shape == (2 * 68 - 4, 2 * 68 - 4, 3)
    assert "resnet18 on 12 images" in capsys.readouterr().out
    assert main(["random", str(tmp_path / "nowhere"), str(tmp_path / "out")]) == 2
    assert "no such folder" in capsys.readouterr().err
