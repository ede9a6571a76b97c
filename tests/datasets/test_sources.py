import cv2
import numpy as np
import pytest

from cmp.datasets import PairList, open_pairs
from cmp.datasets.sources import JoinedPairs
from cmp.flow import write_flow


class Numbers:
    """A source whose pairs are their own numbers."""

    def __init__(self, first, count):
        self.first, self.count = first, count
        self.pair_videos = ["clip"] * count

    def __len__(self):
        return self.count

    def read_pair(self, index):
        assert 0 <= index < self.count
        return self.first + index


@pytest.fixture
def lists(tmp_path):
    for name, value in (("one", 1), ("two", 2)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((5, 7, 3), np.uint8))
        write_flow(tmp_path / f"{name}.flo", np.full((5, 7, 2), value, np.float32))
        (tmp_path / f"{name}.txt").write_text(f"{name}.png {name}.png {name}.flo\n")
    return tmp_path


def test_one_list_file_is_opened_as_it_is(lists):
    assert isinstance(open_pairs(str(lists / "one.txt")), PairList)
    assert isinstance(open_pairs([str(lists / "one.txt")]), PairList)


def test_several_are_joined_in_order_and_their_videos_stay_apart(lists):
    pairs = open_pairs([str(lists / "one.txt"), str(lists / "two.txt")])
    assert [np.asarray(pairs.read_pair(i)[1]).max() for i in range(len(pairs))] == [1, 2]
    assert len(set(pairs.pair_videos)) == 2


def test_positions_of_a_join_run_through_all_its_sources():
    joined = JoinedPairs([Numbers(0, 3), Numbers(10, 1), Numbers(20, 2)], ["a", "b", "c"])
    assert len(joined) == 6 and [joined.read_pair(i) for i in range(6)] == [0, 1, 2, 10, 20, 21]
    assert list(joined.pair_videos) == ["a:clip"] * 3 + ["b:clip"] + ["c:clip"] * 2
    for outside in (-1, 6):
        with pytest.raises(IndexError, match="0..5"):
            joined.read_pair(outside)


def test_what_is_not_a_source_of_pairs_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_pairs(str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=tmp_path.name):
        open_pairs(str(tmp_path))
    with pytest.raises(ValueError, match="at least one"):
        open_pairs([])
