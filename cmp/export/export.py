"""Write a backbone for another library, after that library has loaded it."""

from os import PathLike
from pathlib import Path
from typing import NamedTuple

from cmp.export.backbone import Backbone, read_backbone
from cmp.export.formats import check_suffix, export_content
from cmp.export.load_back import LoadBack, load_back
from cmp.files import check_paths, files_in, move_into_place, staging_folder, write_file


class ExportReport(NamedTuple):
    """What an export did."""

    path: Path
    beside: tuple[Path, ...]  # metadata where the file itself cannot contain it, and the model card
    written: bool  # False: the same was there already
    backbone: Backbone
    load_back: LoadBack


def export_backbone(
    checkpoint: str | PathLike,
    out: str | PathLike,
    format: str = "torchvision",
    *,
    overwrite: bool = False,
    ema: bool = False,
) -> ExportReport:
    """Write the image encoder of a checkpoint for another library, after proving that the library loads it.

    Args:
        checkpoint: ours or Zhan et al.'s.
        out: file to write; a folder for "huggingface". For torchvision and timm, a name that ends in .safetensors gives
            that container with the metadata inside, any other a torch file with the metadata next to it in `out`.json.
            The model card is `out`.md, in the folder README.md.
        format: one of `FORMATS`.
        overwrite: replace existing files that differ. Identical ones are left alone either way.
        ema: write the moving average of the weights; the metadata states this.

    Returns:
        What was written and what loading it back showed. Where the library is not installed, nothing was checked.

    Raises:
        FileNotFoundError: the checkpoint, or the folder to write in, does not exist.
        FileExistsError: out exists and differs.
        ValueError: out, or a file written next to it, is the checkpoint; out has a suffix of another format.
        ValueError: the checkpoint cannot be exported to this format, or loading back fails; nothing is written then.
    """
    out = Path(out)
    check_suffix(format, out.suffix)
    if format == "huggingface":
        written = files_in(out, ("model.safetensors", "config.json", "README.md"))
        check_paths(reads={"CHECKPOINT": checkpoint}, writes={"OUT": written}, folders={"OUT": out})
        out.parent.mkdir(parents=True, exist_ok=True)
    else:
        written = [Path(f"{out}{end}") for end in ("", ".json", ".md")]
        check_paths(reads={"CHECKPOINT": checkpoint}, writes={"OUT": written})
    backbone = read_backbone(checkpoint, ema=ema)
    files = {Path(f"{out}{end}"): data for end, data in export_content(backbone, format, out.suffix).items()}

    differing = [path for path in files if path.exists() and not (path.is_file() and path.read_bytes() == files[path])]
    if differing and not overwrite:
        raise FileExistsError(f"{differing[0]} exists and differs from what would be written")
    with staging_folder(out) as folder:
        temporary = {path: folder / path.relative_to(out.parent) for path in files}
        for path, place in temporary.items():
            place.parent.mkdir(exist_ok=True)
            write_file(place, files[path])
        proof = load_back(folder / out.name, format, backbone)
        changes = not all(path.exists() and path not in differing for path in files)
        if changes:
            for path in files:  # the weights last: where they are, the other files are too
                path.parent.mkdir(exist_ok=True)
                move_into_place(temporary[path], path)
    beside = tuple(path for path in files if path != out and out not in path.parents)
    return ExportReport(out, beside, changes, backbone, proof)
