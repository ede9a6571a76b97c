"""Files of weights from strangers: damaged, lying, oversized, or something else under that name."""

import gzip
import io
import json
import os
import pickle
import resource
import socket
import subprocess
import sys
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from cmp.flow.bounded import read_npz
from cmp.weights import parse_json, read_weight_file, without_wrapper, without_wrappers

WEIGHTS = {"state_dict": {"a": torch.arange(50_000.0), "b": torch.ones(3, 5)}, "meta": {"iter": 3}}


@pytest.fixture
def whole(tmp_path):
    torch.save(WEIGHTS, tmp_path / "whole.pth")
    return tmp_path / "whole.pth"


def rewrite(path, out, change):
    """A torch file with other records: change maps {name: bytes} in place."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    change(records)
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    return out


def test_a_whole_file_is_read_as_plain_dicts(whole):
    content = read_weight_file(whole).content
    assert torch.equal(content["state_dict"]["a"], WEIGHTS["state_dict"]["a"]) and content["meta"] == {"iter": 3}
    torch.save(OrderedDict(a=torch.nn.Parameter(torch.ones(2))), whole)
    content = read_weight_file(whole).content
    assert type(content) is dict and type(content["a"]) is torch.Tensor and not content["a"].requires_grad


def test_a_tar_archive_is_refused_before_torch_sees_it(tmp_path, monkeypatch):
    """torch before 2.6 unpacks it and runs what is in it, also with weights_only (CVE-2025-32434)."""
    path = tmp_path / "of_2017.pth"
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            data = pickle.dumps(0)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    seen = []
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: seen.append(args))
    with pytest.raises(ValueError, match="of_2017.pth is a tar archive, not weights"):
        read_weight_file(path)
    header = bytearray(path.read_bytes())  # of the time before tar archives began with a magic
    header[257:265], header[148:156] = bytes(8), b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    path.write_bytes(header)
    with pytest.raises(ValueError, match="of_2017.pth is a tar archive, as torch wrote before"):
        read_weight_file(path)
    assert seen == []


def test_no_flipped_bit_of_the_weights_is_read(whole):
    data, rng = bytearray(whole.read_bytes()), np.random.default_rng(0)
    start = bytes(data).index(torch.arange(50_000.0).numpy().tobytes())
    for at in start + rng.integers(0, 200_000, 40):
        bit = 1 << int(rng.integers(8))
        data[at] ^= bit
        whole.write_bytes(data)
        with pytest.raises(ValueError, match="whole.pth is damaged: the checksum of .*data/0 is wrong"):
            read_weight_file(whole)
        data[at] ^= bit


def test_a_flipped_bit_anywhere_is_found_or_changes_nothing(whole):
    data, rng = bytearray(whole.read_bytes()), np.random.default_rng(1)
    inside = bytes(data).index(torch.arange(50_000.0).numpy().tobytes())
    outside = [*range(inside), *range(inside + 200_000, len(data))]
    for at in rng.choice(outside, 60):
        bit = 1 << int(rng.integers(8))
        data[at] ^= bit
        whole.write_bytes(data)
        try:
            content = read_weight_file(whole).content
        except ValueError as error:
            assert "whole.pth" in str(error)
        else:
            assert content["meta"] == {"iter": 3}
            assert all(torch.equal(value, WEIGHTS["state_dict"][key]) for key, value in content["state_dict"].items())
        data[at] ^= bit


def test_a_block_of_zeros_and_a_cut_are_found(whole):
    data = whole.read_bytes()
    whole.write_bytes(data[:100_000] + bytes(50_000) + data[150_000:])
    with pytest.raises(ValueError, match="is damaged"):
        read_weight_file(whole)
    whole.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="whole.pth"):
        read_weight_file(whole)


def limited(code, megabytes):
    """Run code in a process with so much more memory than torch needs; its last line of errors."""
    root = Path(__file__).resolve().parents[2]
    start = f"""import resource, torch
from cmp.weights import read_weight_file
used = int(open("/proc/self/statm").read().split()[0]) * {resource.getpagesize()}
resource.setrlimit(resource.RLIMIT_AS, (used + {megabytes << 20},) * 2)
"""
    done = subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, cwd=root)
    return done.stderr.strip().splitlines()[-1]


def test_a_zip_bomb_is_refused_before_memory_is_taken(tmp_path):
    bomb = tmp_path / "bomb.pth"
    numel = 10**8  # 400 MB of zeros in some 400 kB
    small = io.BytesIO()
    torch.save({"a": torch.zeros(2).as_strided((2,), (1,))}, small)
    with zipfile.ZipFile(small) as archive, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as out:
        for name in archive.namelist():
            data = archive.read(name)
            out.writestr(name, bytes(4 * numel) if name.endswith("data/0") else data)
    assert bomb.stat().st_size < 1 << 20
    line = limited(f"read_weight_file({str(bomb)!r})", 200)
    assert line.startswith("ValueError:") and "bomb.pth unpacks to 40" in line


def test_entries_that_share_their_bytes_count_each_time(tmp_path, whole):
    """A zip directory may point to one piece of the file a thousand times."""
    with zipfile.ZipFile(whole) as archive:
        entry = next(e for e in archive.infolist() if e.filename.endswith("data/0"))
        entries = archive.infolist()
    with zipfile.ZipFile(whole, "a") as archive:
        for i in range(1000):
            again = zipfile.ZipInfo(f"whole/data/{i + 7}")
            for field in ("header_offset", "file_size", "compress_size", "CRC"):
                setattr(again, field, getattr(entry, field))
            archive.filelist.append(again)
        archive._didModify = True
    assert len(zipfile.ZipFile(whole).infolist()) == len(entries) + 1000
    with pytest.raises(ValueError, match="unpacks to"):
        read_weight_file(whole)


def test_a_tensor_is_not_larger_than_its_bytes_in_the_file(tmp_path):
    path = tmp_path / "wide.pth"
    torch.save({"a": torch.zeros(1).expand(10**6, 10**6)}, path)
    with pytest.raises(ValueError, match="wide.pth contains tensors that are larger than the file"):
        read_weight_file(path)
    shared = torch.zeros(10**6)
    torch.save({str(i): shared for i in range(100)}, path)  # 400 MB from 4 MB
    with pytest.raises(ValueError, match="larger than the file"):
        read_weight_file(path)
    torch.save({str(i): shared for i in range(3)}, path)  # tied weights
    assert len(read_weight_file(path).content) == 3


def test_storages_that_claim_more_than_they_have_are_refused(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"a": torch.arange(8.0)}, path)

    def claim(records):
        name = next(n for n in records if n.endswith("data.pkl"))
        assert records[name].count(b"K\x08") == 2
        records[name] = records[name].replace(b"K\x08", b"K\xc8")

    with pytest.raises(ValueError, match="lie.pth"):
        read_weight_file(rewrite(path, tmp_path / "lie.pth", claim))


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def bushy(depth):
    """A list of 2**depth leaves that is stored in a few bytes."""
    value = [0]
    for _ in range(depth):
        value = [value, value]
    return value


def endless():
    value = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "content, message",
    (
        ({"meta": nested(80)}, "nested too deep"),
        ({"meta": bushy(60)}, "too many values"),
        ({"meta": endless()}, "nested too deep"),
        ({"a": torch.zeros(3).to_sparse()}, "weights never are"),
        ({"a": torch.zeros(3, dtype=torch.complex64)}, "weights never are"),
        ({"a": torch.zeros(3, device="meta")}, "weights never are"),
        ({"a": bytearray(5)}, "bytearray"),
        ([torch.zeros(1)], "must contain a dict, got list"),
    ),
    ids=("deep", "bushy", "endless", "sparse", "complex", "meta", "bytearray", "list"),
)
def test_values_that_no_checkpoint_has_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="x.pth") as refused:
        read_weight_file(tmp_path / "x.pth")
    assert message in str(refused.value)


@pytest.mark.parametrize("zipped", (True, False))
def test_keys_that_take_forever_to_hash_are_refused_at_once(tmp_path, zipped):
    doubled, nested = (1, 2), (1,)
    for _ in range(40):  # 2 ** 41 values for whoever walks them, 40 tuples in the file
        doubled = (doubled, doubled)
    for _ in range(100):
        nested = (nested,)
    for name, key in (("doubled", doubled), ("nested", nested)):
        path = tmp_path / f"{name}.pth"
        # torch.save would hash the key itself: the dict is put together by the pickle.
        torch.save({"state_dict": Pairs([(key, 1)])}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(ValueError, match="nested too deep or has too many values"):
            read_weight_file(path)


class Pairs:
    """Pickled as a dict of these pairs, which is not built here."""

    def __init__(self, pairs):
        self.pairs = pairs

    def __reduce__(self):
        return dict, (), None, None, iter(self.pairs)


def test_an_attribute_of_a_dict_does_not_replace_its_method(tmp_path):
    weights = OrderedDict(a=torch.ones(2))
    weights.keys = weights.values = weights.get = "text"  # a pickle can set them
    torch.save({"state_dict": weights}, tmp_path / "x.pth")
    assert list(read_weight_file(tmp_path / "x.pth").content["state_dict"].keys()) == ["a"]


class Network(torch.nn.Linear):
    """What somebody pickles as a whole."""


def test_each_thing_that_is_not_a_file_of_weights_is_named(tmp_path):
    torch.save(WEIGHTS, tmp_path / "torch.safetensors")
    safetensors.torch.save_file(WEIGHTS["state_dict"], tmp_path / "safe.pth")
    torch.save(WEIGHTS["state_dict"], tmp_path / "old.safetensors", _use_new_zipfile_serialization=False)
    torch.save(Network(2, 2), tmp_path / "model.pth")
    torch.save(Network(2, 2), tmp_path / "old_model.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "onnx.pth").write_bytes(b"\x08\x07\x12\x07pytorch\xff" + bytes(range(256)))
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(Path("x")))
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "script.pth")
    np.savez(tmp_path / "arrays.npz", a=np.zeros(3))
    os.replace(tmp_path / "arrays.npz", tmp_path / "arrays.pth")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    for suffix in ("pth", "safetensors"):
        (tmp_path / f"lfs.{suffix}").write_text(pointer)
        (tmp_path / f"page.{suffix}").write_text("\ufeff\n<!DOCTYPE html>\n<html><body>Sign in</body></html>")
        (tmp_path / f"empty.{suffix}").touch()
    (tmp_path / "xml.pth").write_text('<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>')
    (tmp_path / "packed.pth").write_bytes(gzip.compress(b"x" * 100))
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "dangling.pth").symlink_to(tmp_path / "gone.pth")
    for name, message in {
        "torch.safetensors": "is a torch file .* rename it to torch.pth",
        "old.safetensors": "is a torch file .* rename it to old.pth",
        "safe.pth": "is a safetensors file by its content: rename it to safe.safetensors",
        "model.pth": r"contains a pickled object .*save the model's state_dict\(\)",
        "old_model.pth": r"contains a pickled object .*save the model's state_dict\(\)",
        "pickle.pth": "cannot be read .*: it is a pickle that torch.save did not write",
        "onnx.pth": "cannot be read .*: it begins with other bytes .08 07 12 07 70 79 74 6f.; it is damaged",
        "script.pth": "is a TorchScript program",
        "arrays.pth": "is a zip archive, but not one that torch.save wrote",
        "lfs.pth": "is a Git LFS pointer .*git lfs pull",
        "lfs.safetensors": "is a Git LFS pointer .*git lfs pull",
        "page.pth": "is a web page",
        "page.safetensors": "is a web page",
        "xml.pth": "is a web page",
        "empty.pth": "is empty",
        "empty.safetensors": "is empty",
        "packed.pth": "is compressed with gzip",
    }.items():
        with pytest.raises(ValueError, match=f"{name} .*{message}|{name} {message}") as refused:
            read_weight_file(tmp_path / name)
        assert "\n" not in str(refused.value) and "weights_only" not in str(refused.value)
    for name, message in (("folder.pth", "a folder has this name"), ("dangling.pth", "a link to .*gone.pth")):
        with pytest.raises(FileNotFoundError, match=message):
            read_weight_file(tmp_path / name)


def tar_of(name, data):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def npy():
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((3, 4), np.float32))
    return buffer.getvalue()


OTHER_FILES = {  # what people have under the name of weights, and what the message says it is and to do about it
    "tar": (tar_of("weights.pth", b"x" * 2000), "a tar archive", "unpack it first"),
    "rar": (b"Rar!\x1a\x07\x01\x00" + bytes(range(256)), "a RAR archive", "unpack it first"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(range(256)), "a 7z archive", "unpack it first"),
    "gzip": (gzip.compress(b"x" * 100), "compressed with gzip", "unpack it first"),
    "npy": (npy(), r"a NumPy array \(.npy\)", "give the file"),
    "json": (b'{"weight_map": {"a": "model-1.safetensors"}}', "JSON", "give the file"),
    "json list": (b"[1, 2, 3]\n", "JSON", "give the file"),
    "title": (b"<title>Just a moment...</title>", "a web page", "download the file itself"),
    "comment": (b"\r\n<!-- saved from url -->\n<p>Sign in", "a web page", "download the file itself"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "a PNG image", "give the file"),
    "jpeg": (b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(range(256)), "a JPEG image", "give the file"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(range(256)), "an HDF5 file", "torch.save"),
    "text": (
        "Not Found — try later\n".encode() * 99,
        "a text that begins with 'Not Found — try later'",
        "give the file",
    ),
    "zeros": (bytes(9000), "nothing but zeros", "download it again"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n", "a Git LFS pointer", "git lfs pull"),
    "video": (b"\0\0\0\x20ftypisom" + bytes(range(256)), "a video", "give the file"),
}


@pytest.mark.parametrize("suffix", [".pth", ".pth.tar", ".safetensors", ".npz"])
@pytest.mark.parametrize("kind", OTHER_FILES)
def test_every_format_says_what_another_file_is_and_what_to_do(tmp_path, kind, suffix):
    content, name, advice = OTHER_FILES[kind]
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    read = (lambda path: read_npz(path, str(path))) if suffix == ".npz" else read_weight_file
    with pytest.raises(ValueError, match=f"x{suffix}.* is {name}.*: .*{advice}") as refused:
        read(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("suffix", [".pth", ".pth.tar", ".safetensors", ".npz"])
def test_every_format_says_what_a_name_is_that_is_not_a_file(tmp_path, suffix):
    read = (lambda path: read_npz(path, str(path))) if suffix == ".npz" else read_weight_file
    pipe, folder, link, open_socket = (tmp_path / f"{name}{suffix}" for name in ("pipe", "folder", "link", "socket"))
    os.mkfifo(pipe)
    folder.mkdir()
    link.symlink_to(tmp_path / "gone")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(open_socket))
    with pytest.raises(ValueError, match=r"is a pipe \(FIFO\), not a file: save"):
        read(pipe)
    with pytest.raises(ValueError, match="is a socket, not a file"):
        read(open_socket)
    with pytest.raises(ValueError, match="/dev/null is a device, not a file"):
        read("/dev/null")
    with pytest.raises(FileNotFoundError, match="a folder has this name"):
        read(folder)
    with pytest.raises(FileNotFoundError, match="a link to .*gone, which is not there"):
        read(link)


def test_a_torch_file_and_an_npz_under_each_others_names_are_named(tmp_path):
    torch.save(WEIGHTS, tmp_path / "torch.npz")
    np.savez(tmp_path / "arrays", flow=np.zeros(3))
    os.replace(tmp_path / "arrays.npz", tmp_path / "arrays.pth")
    with pytest.raises(ValueError, match="torch.npz: .*it is a torch file"):
        read_npz(tmp_path / "torch.npz", str(tmp_path / "torch.npz"))
    with pytest.raises(ValueError, match="arrays.pth .*an .npz file of NumPy arrays, not weights"):
        read_weight_file(tmp_path / "arrays.pth")


def header(entries, length=None, data=bytes(64)):
    text = json.dumps(entries).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


GOOD = {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}


@pytest.mark.parametrize(
    "content",
    (
        header({"a": GOOD}, length=2**63),
        header({"a": GOOD}, length=10**9),
        header({"a": GOOD | {"shape": [2**40, 2**40]}}),
        header({"a": GOOD | {"shape": [400, 400]}}),
        header({"a": GOOD | {"data_offsets": [0, 640]}}),
        header({"a": GOOD | {"data_offsets": [64, 0]}}),
        header({"a": GOOD | {"data_offsets": [-64, 0]}}),
        header({"a": GOOD, "b": GOOD}),
        header({"a": GOOD}, data=bytes(63)),
        header({"a": GOOD}, data=bytes(6400)),
        header({"a": GOOD | {"dtype": "F99"}}),
        header({"a": GOOD | {"shape": "4x4"}}),
        header({"a": [GOOD]}),
        header({"__metadata__": {"cmp": ["x"]}, "a": GOOD}),
        (2000).to_bytes(8, "little") + b"[" * 2000,
        (20).to_bytes(8, "little") + b"{" + b" " * 19,
    ),
    ids=range(16),
)
def test_a_lying_safetensors_header_is_refused_without_the_memory_it_asks_for(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="x.safetensors"):
        read_weight_file(tmp_path / "x.safetensors")


def test_json_of_any_depth_length_or_number_is_a_value_error():
    assert parse_json('{"a": [1]}', source="x") == {"a": [1]}
    for text in ("[" * 10**5, '{"a":' * 10**5, "1" * 10**5, "{", "nan", " " * (16 << 20) + "1"):
        with pytest.raises(ValueError, match="^x"):
            parse_json(text, source="x")


def test_wrappers_prefixes_are_left_out_where_all_keys_have_them():
    value = torch.zeros(1)
    for keys, expected in (
        (["module.a.w", "module.b"], ["a.w", "b"]),
        (["_orig_mod.a.w", "_orig_mod.b"], ["a.w", "b"]),
        (["model.a.w", "model.b"], ["a.w", "b"]),
        (["module._orig_mod.a.w", "module._orig_mod.b"], ["a.w", "b"]),
        (["model.module.a.w", "model.module.b"], ["a.w", "b"]),
        (["a._orig_mod.w", "b"], ["a.w", "b"]),
        (["module.a", "b"], ["module.a", "b"]),
        (["a", "_orig_mod.a"], ["a", "_orig_mod.a"]),
    ):
        assert list(without_wrappers(dict.fromkeys(keys, value))) == expected
        if keys[0] not in ("module.a", "a"):
            assert [without_wrapper(key) for key in keys] == expected
    named_so = dict.fromkeys(["model.a", "model.b"], value)  # the network's own part is called "model"
    assert list(without_wrappers(named_so, expected=["model.a", "model.b"])) == ["model.a", "model.b"]
    assert list(without_wrappers(named_so, expected=["a", "b"])) == ["a", "b"]
