import torch

from cmp.engine.resume import newest_checkpoint


def test_the_newest_whole_checkpoint_is_found_past_one_that_was_being_written(tmp_path):
    assert newest_checkpoint(tmp_path) == (None, [])
    for step in (2, 9, 10):
        torch.save({"state_dict": {"w": torch.zeros(step)}, "meta": {"iter": step}}, tmp_path / f"iter_{step}.pth")
    whole = (tmp_path / "iter_10.pth").read_bytes()
    assert newest_checkpoint(tmp_path) == (tmp_path / "iter_10.pth", [])
    (tmp_path / "iter_10.pth").write_bytes(whole[: len(whole) // 2])
    path, broken = newest_checkpoint(tmp_path)
    assert path == tmp_path / "iter_9.pth" and len(broken) == 1 and "iter_10.pth" in broken[0]


def test_damaged_files_folders_and_dangling_links_are_passed_over_with_a_line_each(tmp_path):
    torch.save({"state_dict": {"w": torch.arange(50_000.0)}, "meta": {"iter": 2}}, tmp_path / "iter_2.pth")
    whole = bytearray((tmp_path / "iter_2.pth").read_bytes())
    flipped = whole.copy()
    flipped[100_000] ^= 4
    (tmp_path / "iter_9.pth").write_bytes(flipped)
    (tmp_path / "iter_8.pth").write_bytes(whole[:50_000] + bytes(100_000) + whole[150_000:])
    (tmp_path / "iter_7.pth").mkdir()
    (tmp_path / "iter_6.pth").symlink_to(tmp_path / "gone.pth")
    (tmp_path / "iter_5.pth").touch()
    path, lines = newest_checkpoint(tmp_path)
    assert path == tmp_path / "iter_2.pth" and len(lines) == 5
    reasons = ("iter_9.pth is damaged", "iter_8.pth is damaged", "a folder has this name", "a link to", "is empty")
    for line, step, reason in zip(lines, (9, 8, 7, 6, 5), reasons):
        assert f"iter_{step}.pth" in line and reason in line and "\n" not in line
