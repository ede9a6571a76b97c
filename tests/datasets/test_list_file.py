"""Lists that users write: read by one set of rules, and no line is passed over in silence."""

import pickle

import pytest

from cmp.datasets.list_file import ListFile, find_in_list, read_json_file

VIDEOS = ["/data/Archery/v 1.avi", "/data/Archery/v_2.avi", "/data/Bowling/v_2.avi", "/data/scene 2", "/data/scene"]


def write(tmp_path, content, name="list.txt"):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def found(tmp_path, content):
    named = find_in_list(write(tmp_path, content), [(video,) for video in VIDEOS])
    return [video.removeprefix("/data/") for video, is_named in zip(VIDEOS, named) if is_named]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_marks_line_ends_comments_and_blank_lines_are_accepted_alike(tmp_path, encoding, end):
    lines = ["# of March", "", "\tone ü ", "  ", "  # more", "#", "two#2"]
    read = ListFile(write(tmp_path, end.join(lines).encode(encoding)))
    assert [read[i].decode() for i in range(len(read))] == ["one ü", "two#2"]
    assert [read.where(i).rpartition(":")[2] for i in range(2)] == ["3", "7"]
    assert pickle.loads(pickle.dumps(read)).words(0) == ["one", "ü"]


@pytest.mark.parametrize(
    "odd", ["\u3000", "\u00a0", "\u202f", "\u0085", "\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\r"]
)
def test_only_spaces_and_tabs_separate_words_and_only_line_feeds_lines(tmp_path, odd):
    read = ListFile(write(tmp_path, f"a{odd}b \t {odd}c\nd{odd}\n"))
    assert len(read) == 2 and read.words(0) == [f"a{odd}b", f"{odd}c"]
    assert read.words(1) == ["d" if odd == "\r" else f"d{odd}"]  # a CR before the line feed belongs to it
    assert ListFile(write(tmp_path, f"1 \t a {odd}b")).words(0, maxsplit=1) == ["1", f"a {odd}b"]


def test_bytes_that_are_not_utf_8_are_parts_of_names(tmp_path):
    assert ListFile(write(tmp_path, b"a\xff.avi\xe3\x80 x\n")).words(0) == ["a\udcff.avi\udce3\udc80", "x"]


def test_what_is_not_text_is_refused_by_file_and_line(tmp_path):
    with pytest.raises(ValueError, match=r"list\.txt:2: contains a zero byte"):
        ListFile(write(tmp_path, b"a\nb\0c\n"))
    with pytest.raises(ValueError, match=r"list\.txt: begins as UTF-16 text and is broken"):
        ListFile(write(tmp_path, b"\xff\xfea\0b"))
    with pytest.raises(FileNotFoundError, match=r"no such list file: .*none\.txt"):
        ListFile(tmp_path / "none.txt")
    with pytest.raises(ValueError, match=r"list\.txt: names nothing"):
        found(tmp_path, "# nothing\n\n")


@pytest.mark.parametrize(
    "line, expected",
    [
        ("Archery/v_2.avi", ["Archery/v_2.avi"]),
        ("v_2.avi", ["Archery/v_2.avi", "Bowling/v_2.avi"]),
        ("./Archery//v_2.avi", ["Archery/v_2.avi"]),
        (".\\Archery\\v_2.avi", ["Archery/v_2.avi"]),
        ("Archery/v_2.avi 17", ["Archery/v_2.avi"]),
        ("Archery\\v 1.avi\t17", ["Archery/v 1.avi"]),
        ("/data/Archery/./v 1.avi", ["Archery/v 1.avi"]),
        ("scene 2", ["scene 2"]),  # the literal meaning first
        ("scene/ 2", ["scene"]),
        ("scene/", ["scene"]),
    ],
)
def test_a_line_names_what_ends_in_it(tmp_path, line, expected):
    assert found(tmp_path, line) == expected


@pytest.mark.parametrize(
    "line",
    ["Archery/v_2.avi,1", "/mnt/Archery/v_2.avi", "chery/v_2.avi", "Archery/v_3.avi", "Archery", "v_2", "/v_2.avi",
     "../Archery/v_2.avi", "Archery/v_2.avi\u30001", "\u3000Archery/v_2.avi", "C:\\data\\v_2.avi", "/"],
)  # fmt: skip
def test_a_line_that_names_nothing_is_an_error_with_its_number(tmp_path, line):
    with pytest.raises(
        ValueError, match=r"list\.txt:3: .*: does not match any of the 5 videos .*/data/Archery/v 1\.avi"
    ):
        found(tmp_path, f"v_2.avi\n\n{line}\n")


def test_many_lines_that_name_nothing_are_counted(tmp_path):
    with pytest.raises(ValueError, match=r"list\.txt: no line matches any of .*:1: '0'; .*:5: '4' and 3 more; write"):
        found(tmp_path, "\n".join(map(str, range(8))))


def test_json_is_read_with_a_mark_and_comments_and_its_faults_have_a_line(tmp_path):
    path = write(tmp_path, "\ufeff# tracks\r\n[[1,\r\n  # two\r\n 2]]\r\n")
    assert read_json_file(path) == [[1, 2]]
    for content, said in (("# a\n[1,\n2", ":3: is not valid JSON"), (b"[1,\n\xff]", ":2: is not UTF-8"),
                          ("[" * 100000, "is not valid JSON"), ("9" * 5000, "is not valid JSON")):  # fmt: skip
        with pytest.raises(ValueError, match=rf"list\.txt{said}" if said.startswith(":") else said):
            read_json_file(write(tmp_path, content))
