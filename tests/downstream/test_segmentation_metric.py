import numpy as np
import pytest
import torch

from cmp.downstream.segmentation_metric import SegmentationMetric, confusion_matrix, scores, scores_table


def test_scores_of_a_hand_example():
    truth = torch.tensor([[0, 0, 0, 1], [1, 1, 255, 255]])
    predicted = torch.tensor([[0, 0, 1, 1], [1, 0, 2, 0]])
    matrix = confusion_matrix(truth, predicted, 4)
    assert matrix.tolist() == [[2, 1, 0, 0], [1, 2, 0, 0], [0] * 4, [0] * 4]
    result = scores(matrix, "abcd")
    assert result["iou/a"] == result["iou/b"] == result["miou"] == pytest.approx(50)  # 2 of 2 + 1 + 1
    assert result["pixel_accuracy"] == pytest.approx(100 * 4 / 6)
    assert np.isnan(result["iou/c"]) and np.isnan(result["iou/d"])


def test_a_class_that_is_only_predicted_counts_as_zero():
    result = scores(np.array([[3, 1], [0, 0]]), "ab")
    assert result["iou/b"] == 0 and result["miou"] == pytest.approx(75 / 2)


def test_nothing_counted_gives_no_number():
    result = scores(np.zeros((2, 2), int), "ab")
    assert np.isnan(result["miou"]) and np.isnan(result["pixel_accuracy"])
    assert scores_table(result).splitlines()[-2].split() == ["mean", "IoU", "-"]


def test_scores_of_a_set_are_of_all_its_pixels_together_not_means_over_images():
    rng = np.random.default_rng(0)
    pairs = [(rng.integers(0, 3, size), rng.integers(0, 3, size)) for size in ((4, 7), (11, 5), (2, 3))]
    metric = SegmentationMetric("abc")
    for truth, predicted in pairs:
        batch = dict(label=torch.from_numpy(truth)[None])
        metric.process(batch, [torch.from_numpy(predicted)])
    result = metric.evaluate(3)
    for number, name in enumerate("abc"):  # the definition, pixel by pixel
        both = either = 0
        for truth, predicted in pairs:
            for t, p in zip(truth.flat, predicted.flat):
                both += t == number and p == number
                either += t == number or p == number
        assert result[f"iou/{name}"] == pytest.approx(100 * both / either)
    assert result["images"] == 3 and result["pixels"] == 28 + 55 + 6
