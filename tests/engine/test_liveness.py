import pytest
from mmengine.config import Config

from cmp.engine.liveness import Liveness
from cmp.engine.processes import timeout_s


@pytest.fixture
def three(tmp_path):
    """Three processes' watches that look when told to, 10 looks a time-out; closed at the end."""
    watches = [Liveness(tmp_path, rank, 3, timeout_s=50.0) for rank in range(3)]
    yield watches
    for watch in watches:
        watch.stop()
    assert list(tmp_path.iterdir()) == []


def test_all_that_beat_are_well(three):
    for _ in range(30):
        assert [watch.look() for watch in three] == [None] * 3


def test_the_first_names_a_process_that_stops_beating_once_the_time_is_over(three):
    for _ in range(5):
        assert [watch.look() for watch in three] == [None] * 3
    said = [(three[0].look(), three[1].look()) for _ in range(11)]
    assert said[:10] == [(None, None)] * 10
    assert said[10][0].startswith("rank 2 (host ") and said[10][0].endswith(" has not answered for 50 s")
    assert said[10][1] is None  # watches the first alone


def test_the_others_name_the_first(three):
    said = [(three[1].look(), three[2].look()) for _ in range(12)]
    assert said[9] == (None, None)
    assert all(line.startswith("rank 0 (host ") for line in said[11])


def test_a_process_that_beats_and_does_not_come_on_is_stuck_if_others_wait_for_it(three):
    for watch in three:
        watch.progress = 7
    for _ in range(30):  # a long step of all is no fault of one
        assert [watch.look() for watch in three] == [None] * 3
    three[0].progress = three[1].progress = 8
    said = [[watch.look() for watch in three] for _ in range(12)]
    assert [line for looks in said[:9] for line in looks if line] == []
    assert said[11][0].startswith("rank 2 (host ") and "the others have waited for it for 50 s" in said[11][0]
    assert said[11][1:] == [None, None]


def test_a_job_that_is_suspended_as_a_whole_goes_on(three):
    """Looks are counted, not seconds: after a pause of any length each first sees the others beat."""
    for _ in range(3):
        assert [watch.look() for watch in three] == [None] * 3


def test_a_folder_that_is_not_shared_and_a_file_that_is_cut_judge_nobody(tmp_path):
    alone = Liveness(tmp_path, 0, 3, timeout_s=1.0)
    (tmp_path / ".alive" / "1").write_text("0000")
    assert [alone.look() for _ in range(50)] == [None] * 50
    (tmp_path / ".alive" / "1").unlink()
    alone.stop()


@pytest.mark.parametrize("timeout", (0, -1, float("nan")))
def test_a_time_out_is_above_0(tmp_path, timeout):
    with pytest.raises(ValueError, match="timeout must be above 0"):
        Liveness(tmp_path, 0, 2, timeout)


def test_a_file_of_another_kind_judges_nobody_and_the_others_are_still_watched(three):
    watch, _, _ = three
    (watch.folder / "1").write_text("x y host 5\n")  # three fields that are not numbers
    found = [watch.look() for _ in range(12)]
    assert any(line and line.startswith("rank 2 (host ") for line in found)


def test_a_link_in_the_place_of_a_file_is_not_followed(tmp_path):
    target = tmp_path / "precious"
    target.write_text("kept")
    (tmp_path / "run" / ".alive").mkdir(parents=True)
    (tmp_path / "run" / ".alive" / "0").symlink_to(target)
    with pytest.raises(OSError):
        Liveness(tmp_path / "run", 0, 2, timeout_s=5.0)
    assert target.read_text() == "kept"


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), 1e300, 10**400, True, "10", None])
def test_a_time_out_that_cannot_be_waited_for_is_refused(timeout):
    config = Config(dict(env_cfg=dict(dist_cfg=dict(timeout=timeout))))
    with pytest.raises(
        ValueError, match="env_cfg.dist_cfg.timeout must be a number of seconds above 0, at most 2592000"
    ):
        timeout_s(config)
