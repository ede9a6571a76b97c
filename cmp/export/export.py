"""Write a backbone for another library, and only what that library has been shown to load."""

import os
import tempfile
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from cmp.export.backbone import Backbone, read_backbone
from cmp.export.formats import export_content
from cmp.export.load_back import LoadBack, load_back


class ExportReport(NamedTuple):
    """What an export did."""

    path: Path
    beside: tuple[Path, ...]  # metadata where the file itself has no place for it, and the model card
    written: bool  # False: the same was there already
    backbone: Backbone
    load_back: LoadBack


def export_backbone(
    checkpoint: str | PathLike, out: str | PathLike, format: str, *, overwrite: bool = False, ema: bool = False
) -> ExportReport:
    """Write the image encoder of a checkpoint for another library, after proving that the library loads it.

    Args:
        checkpoint: ours or the authors'.
        out: file to write; a folder for "huggingface". For torchvision and timm, a name that ends in .safetensors gives
            that container with the metadata inside, any other a torch file with the metadata beside it in `out`.json.
            The model card is `out`.md, in the folder README.md.
        format: one of `FORMATS`.
        overwrite: replace existing files that differ. Identical ones are left alone either way.
        ema: write the moving average of the weights; the metadata says so.

    Returns:
        What was written and what loading it back showed. Where the library is not installed, nothing is claimed.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        FileExistsError: out exists and differs.
        ValueError: the checkpoint cannot be exported to this format, or loading back fails; nothing is written then.
    """
    out = Path(out)
    backbone = read_backbone(checkpoint, ema=ema)
    files = {Path(f"{out}{end}"): data for end, data in export_content(backbone, format, out.suffix).items()}

    differing = [path for path in files if path.exists() and not (path.is_file() and path.read_bytes() == files[path])]
    if differing and not overwrite:
        raise FileExistsError(f"{differing[0]} exists and differs from what would be written")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as folder:
        temporary = {path: Path(folder) / path.relative_to(out.parent) for path in files}
        for path, place in temporary.items():
            place.parent.mkdir(exist_ok=True)
            _write_synced(place, files[path])
        proof = load_back(Path(folder) / out.name, format, backbone)
        written = not all(path.exists() and path not in differing for path in files)
        if written:
            for path in files:  # the weights last: where they are, everything is
                path.parent.mkdir(exist_ok=True)
                os.replace(temporary[path], path)
    beside = tuple(path for path in files if path != out and out not in path.parents)
    return ExportReport(out, beside, written, backbone, proof)


def _write_synced(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
