from math import log

import numpy as np
import pytest

from cmp.baselines.pixel_frequencies import PixelFrequencies, around


def sequences(count=6, seed=0):
    return (np.random.default_rng(seed).random((count, 4, 3, 5)) < 0.3).astype(np.float32)


def by_loop(train, test, given, offsets, by_place):
    """Count and look up, pixel by pixel."""

    def key(sequence, t, y, x):
        height, width = sequence.shape[1:]
        seen = []
        for back, dy, dx in offsets:
            inside = 0 <= y + dy < height and 0 <= x + dx < width
            seen.append(sequence[t - back, y + dy, x + dx] if inside else 0)
        return (y, x) * by_place, tuple(seen)

    places = [(t, y, x) for t in range(given, 4) for y in range(3) for x in range(5)]
    ones, seen = {}, {}
    for sequence in train:
        for place in places:
            k = key(sequence, *place)
            ones[k] = ones.get(k, 0) + sequence[place]
            seen[k] = seen.get(k, 0) + 1
    nats = np.zeros((len(test), 4 - given))
    for number, sequence in enumerate(test):
        for place in places:
            k = key(sequence, *place)
            p = (ones.get(k, 0) + 0.5) / (seen.get(k, 0) + 1)
            nats[number, place[0] - given] -= log(p if sequence[place] else 1 - p)
    return nats


@pytest.mark.parametrize("by_place", [False, True])
@pytest.mark.parametrize("offsets", [[], [(1, 0, 0)], around(1, 1), [(2, -2, 1), (1, 0, -1)]])
def test_it_equals_counting_pixel_by_pixel(offsets, by_place):
    train, test = sequences(), sequences(2, seed=1)
    found = PixelFrequencies(offsets, by_place=by_place).fit(train, 2).nats(test, 2)
    np.testing.assert_allclose(found, by_loop(train, test, 2, offsets, by_place))


def test_static_sequences_cost_nothing_once_the_last_frame_is_known():
    still = np.repeat(sequences(200)[:, :1], 4, axis=1)
    known, unknown = (PixelFrequencies(offsets).fit(still, 1).nats(still, 1).mean() for offsets in ([(1, 0, 0)], []))
    assert known < 0.05 and unknown == pytest.approx(15 * 0.611, rel=0.05)  # the entropy of 0.3


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="each at least one frame back"):
        PixelFrequencies([(0, 0, -1)])
    with pytest.raises(ValueError, match="at most 20"):
        PixelFrequencies(around(1, 2))
    with pytest.raises(ValueError, match="2 <= given < T, got .* and 1"):
        PixelFrequencies([(2, 0, 0)]).fit(sequences(), 1)
