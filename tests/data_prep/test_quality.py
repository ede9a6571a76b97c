"""Scores of pairs, by pictures whose scores can be worked out."""

import cv2
import numpy as np

from data_prep.quality import Thresholds, drop_reasons, score_pair

HEIGHT, WIDTH = 40, 64


def texture(seed):
    small = np.random.default_rng(seed).integers(0, 255, (12, 18, 3), np.uint8)
    return cv2.resize(small, (WIDTH + 16, HEIGHT), interpolation=cv2.INTER_CUBIC)


def test_the_true_flow_of_a_shift_leaves_no_residual():
    wide = texture(0)
    first, second = wide[:, 6 : WIDTH + 6], wide[:, 2 : WIDTH + 2]  # what was at x is at x + 4
    flow = np.zeros((HEIGHT, WIDTH, 2), np.float32)
    flow[..., 0] = 4
    scores = score_pair(first, second, flow)
    assert scores["residual_after"] == 0 and scores["unexplained"] == 0 and scores["residual_before"] > 10
    assert (scores["mean_flow_px"], scores["moving_share"], scores["beyond_share"]) == (4, 1, 0)
    assert drop_reasons(scores, Thresholds()) == []
    wrong = score_pair(first, second, -flow)
    assert wrong["residual_after"] > scores["residual_before"]


def test_shares_count_pixels():
    frame = texture(1)[:, :WIDTH]
    flow = np.zeros((HEIGHT, WIDTH, 2), np.float32)
    flow[:10, :, 1] = 3  # a quarter moves
    flow[:5, :, 0] = -60  # an eighth is beyond the bins
    scores = score_pair(frame, frame, flow)
    assert (scores["moving_share"], scores["beyond_share"], scores["histogram_jump"]) == (0.25, 0.125, 0)
    assert score_pair(frame, frame, flow, max_flow_px=70)["beyond_share"] == 0


def test_a_still_pair_a_cut_and_a_fast_pair_are_dropped_for_their_reason():
    zero = np.zeros((HEIGHT, WIDTH, 2), np.float32)
    first = texture(2)[:, :WIDTH]
    assert drop_reasons(score_pair(first, first, zero), Thresholds()) == ["still"]
    other = 255 - texture(3)[:, :WIDTH] // 2
    noise = np.random.default_rng(0).uniform(-9, 9, zero.shape).astype(np.float32)
    scores = score_pair(first // 2, other, noise)
    assert scores["histogram_jump"] > 0.7 and scores["unexplained"] > 0.92
    assert drop_reasons(scores, Thresholds()) == ["cut"]
    black = np.zeros_like(first)
    assert score_pair(black, black + 255, zero)["histogram_jump"] == 1
    fast = drop_reasons(score_pair(first, first, zero + 80), Thresholds())
    assert "too_fast" in fast and score_pair(first, first, zero + 80)["residual_after"] == 255


def test_a_cut_between_scenes_of_the_same_colours_is_caught_by_what_the_flow_cannot_explain():
    frame = texture(4)[:, :WIDTH]
    turned = np.ascontiguousarray(frame[::-1, ::-1])  # another scene, pixel for pixel in the same colours
    flow = np.full((HEIGHT, WIDTH, 2), 2, np.float32)
    scores = score_pair(frame, turned, flow)
    assert scores["histogram_jump"] == 0 and drop_reasons(scores, Thresholds()) == ["cut"]
