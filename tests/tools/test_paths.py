"""Every command refuses to overwrite what it reads, answers wrong outputs before the work, and names addresses.

The inputs here are no valid files: that a command does not say so shows that it looked at its paths first.
"""

import importlib
import os

import pytest

# Command, its arguments with {input} and {output}, and the outputs that would destroy the input: it under other names.
FILES = {
    "animate, image": ("animate", "{input} {output} --checkpoint net.pth --arrow 1,1,2,2", "in.gif"),
    "animate, checkpoint": ("animate", "other {output} --checkpoint {input} --arrow 1,1,2,2", "in.mp4"),
    "animate, tracks": ("animate", "other {output} --checkpoint net.pth --tracks {input}", "in.gif"),
    "animate, uncovered": ("animate", "{input} o.gif --uncovered {output} --checkpoint n --arrow 1,1,2,2", "in.gif"),
    "annotate, image": ("annotate", "{input} {output} --checkpoint net.pth --click 1,1", "in.png"),
    "annotate, checkpoint": ("annotate", "other {output} --checkpoint {input} --click 1,1", "in.png"),
    "convert": ("convert_checkpoint", "{input} {output}", "in.pth"),
    "convert to a peer's": ("convert_checkpoint", "{input} {output} --to peer", "in.pth.tar"),
    "convert to a backbone": ("convert_checkpoint", "{input} {output} --to peer-backbone", "in.pth"),
    "export backbone": ("export_backbone", "{input} {output} --overwrite", "in.pth"),
    "export safetensors": ("export_backbone", "{input} {output} --overwrite --format safetensors", "in.safetensors"),
    "export propagator": ("export_propagator", "{input} {output} --overwrite --format torch_export", "in.pt2"),
    "browse": ("browse_pairs", "store {output}", "store/page.html"),
    "plot": ("plot_log", "run {output}", "run/1/vis_data/scalars.json"),
}


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.makedirs("store/shards")
    os.makedirs("run/1/vis_data")
    os.makedirs("sub")
    for name in ("other", "net.pth", "store/page.html", "run/1/vis_data/scalars.json"):
        (tmp_path / name).write_text("content")
    return tmp_path


def run(name, text, capsys):
    """Exit status and what was said."""
    status = importlib.import_module(f"tools.{name}").main(text.split())
    said = capsys.readouterr()
    assert not said.err or len(said.err.splitlines()) == 1, said.err
    return status, said.err


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("case", FILES)
def test_an_output_over_an_input_is_refused_by_whatever_name(inputs, capsys, case):
    command, text, name = FILES[case]
    original = inputs / name
    original.write_text("content")
    suffix = "".join(original.suffixes)
    if command == "plot_log":  # the log by a name that an image could have
        os.symlink(original, "soft.png")
        os.link(original, "hard.png")
        others = ["soft.png", "hard.png"]
    elif command == "browse_pairs":
        others = [name, f"./{name}", str(original), "store/new.html", "store/shards/new.html"]
    else:
        os.symlink(name, f"soft{suffix}")
        os.link(name, f"hard{suffix}")
        others = [name, f"./{name}", f"sub/../{name}", str(original), f"soft{suffix}", f"hard{suffix}"]
    before = content(inputs)
    for other in others:
        status, said = run(command, text.format(input=name, output=other), capsys)
        assert status in (1, 2) and "which is read" in said, (other, said)
        assert content(inputs) == before


def test_files_that_are_written_beside_an_output_are_looked_at_too(inputs, capsys):
    for text, name in (
        ("export_backbone net.json net --overwrite", "net.json"),
        ("export_backbone net.md net --overwrite", "net.md"),
        ("export_backbone hf/model.safetensors hf --overwrite --format huggingface", "hf/model.safetensors"),
        ("annotate a_overlay.png a.png --checkpoint net.pth --click 1,1", "a_overlay.png"),
        ("check_checkpoint checked/back.pth.tar checked", "checked/back.pth.tar"),
        ("inspect_backbone looked/features.png run looked", "looked/features.png"),
        ("evaluate propagation c.py looked/metrics.json --out looked", "looked/metrics.json"),
    ):
        (inputs / name).parent.mkdir(exist_ok=True)
        (inputs / name).write_text("content")
        command, _, arguments = text.partition(" ")
        status, said = run(command, arguments, capsys)
        assert status in (1, 2) and "which is read" in said and (inputs / name).read_text() == "content", (text, said)


@pytest.mark.parametrize("place", ["store", "alias", "store/new", "store/new/deep"])
def test_an_output_folder_that_is_or_lies_in_an_input_is_refused(inputs, capsys, place):
    os.symlink("store", "alias")
    before = content(inputs)
    for text in (
        "inspect_backbone net.pth store {}",
        "yolo_to_coco store {}",
        "evaluate propagation c.py net.pth --data store --out {}",
        "evaluate knn net.pth store --out {}",
        "evaluate linear net.pth store --out {}",
        "evaluate segmentation c.py net.pth store --work-dir {}",
        "evaluate detection c.py net.pth store --work-dir {}",
        "train c.py --data store --work-dir {}",
    ):
        command, _, arguments = text.format(place).partition(" ")
        status, said = run(command, arguments, capsys)
        assert status == 2 and "which is read" in said, (text, said)
        assert content(inputs) == before and not (inputs / "store" / "new").exists()


def test_videos_in_the_folder_of_the_store_are_refused(inputs, capsys):
    for videos in ("store", "store/shards", "store/./shards"):
        status, said = run("prepare_flow", f"{videos} store --quiet", capsys)
        assert status in (1, 2) and ("lies in store" in said or "is the folder of the videos" in said)
    assert (inputs / "store" / "page.html").is_file()


OUTPUTS = (
    "animate other {} --checkpoint net.pth --arrow 1,1,2,2|x.gif",
    "animate other a.gif --uncovered {} --checkpoint net.pth --arrow 1,1,2,2|x.gif",
    "annotate other {} --checkpoint net.pth --click 1,1|x.png",
    "convert_checkpoint net.pth {}|x.pth",
    "convert_checkpoint net.pth {} --to peer|x.pth.tar",
    "export_backbone net.pth {}|x.pth",
    "export_propagator net.pth {}|x.onnx",
    "browse_pairs store {}|x.html",
    "plot_log run {}|x.png",
)


@pytest.mark.parametrize("case", OUTPUTS)
def test_a_file_in_a_missing_folder_or_of_a_wrong_kind_is_answered_before_the_work(inputs, capsys, case):
    text, _, name = case.partition("|")
    command, _, arguments = text.partition(" ")
    before = content(inputs)
    status, said = run(command, arguments.format(f"none/{name}"), capsys)
    assert status in (1, 2) and f"none/{name}: no such folder: none" in said
    status, said = run(command, arguments.format("s3://bucket/" + name), capsys)
    assert status in (1, 2) and "must be a local path" in said or "no such folder" in said
    status, said = run(command, arguments.format("x.mp3.py"), capsys)
    assert status in (1, 2) and "x.mp3.py" in said and "end" in said or "suffix" in said
    assert content(inputs) == before and not (inputs / "none").exists()


@pytest.mark.parametrize(
    "text",
    (
        "animate {}/a.jpg a.gif --checkpoint net.pth --arrow 1,1,2,2",
        "animate other a.gif --checkpoint {}/net.pth --arrow 1,1,2,2",
        "annotate {}/a.jpg a.png --checkpoint net.pth --click 1,1",
        "convert_checkpoint {}/net.pth a.pth",
        "export_backbone {}/net.pth a.pth",
        "export_propagator {}/net.pth a.onnx",
        "browse_pairs {}/store a.html",
        "plot_log {}/run a.png",
        "inspect_backbone {}/net.pth store out",
        "inspect_backbone random {}/images out",
        "yolo_to_coco {}/set out",
        "evaluate propagation c.py {}/net.pth",
        "evaluate propagation c.py net.pth --data {}/store",
        "evaluate knn net.pth {}/set",
        "evaluate segmentation c.py {}/net.pth set",
        "train {}/c.py",
        "compare_predictions c.py {}/net.pth",
        "merge_stores {}/store",
        "verify_store {}/store --quiet",
        "check_checkpoint {}/net.pth checked",
        "sample_clips {}/clips",
        "ablate {}/grid.py out",
    ),
)
@pytest.mark.parametrize("scheme, advice", [("s3", "mount the bucket"), ("https", "download it first")])
def test_an_address_where_a_path_is_expected_says_what_to_do(inputs, capsys, text, scheme, advice):
    command, _, arguments = text.partition(" ")
    status, said = run(command, arguments.format(f"{scheme}://bucket"), capsys)
    assert status in (1, 2) and (advice in said or "copy the result" in said), said
    assert "got an address" in said
