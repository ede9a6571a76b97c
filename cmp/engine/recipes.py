"""Where the recipes are, and which one a name means. Imports nothing slow.

In a checkout they are in `configs/`, in an installed package in `cmp/configs/`.
"""

import difflib
import re
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
RECIPES = next((path for path in (_PACKAGE.parent / "configs", _PACKAGE / "configs") if path.is_dir()), Path("configs"))
KINDS = ("pretrain", "baselines", "downstream", "ablation")  # folders of the recipes
SIZE = r"\d+xb\d+_\w+"  # GPUs x batch and length, at the end of a name


def find_recipe(name: str | PathLike, folders: Sequence[str] = ("pretrain", "baselines")) -> Path:
    """The config file that a name means.

    A name is, in this order: a path of a file; a path inside the recipes (`pretrain/x.py`, `configs/pretrain/x.py`);
    the name of a recipe without `.py`; the same without the method `cmp_`, without the size at its end, or both
    (`r18_quickstart` is `cmp_r18_quickstart_1xb16_300`); the beginning of such a name; or fields in the middle of it.

    Args:
        name: what was given.
        folders: of the recipes, where names are looked for.

    Returns:
        The path of an existing file.

    Raises:
        FileNotFoundError: nothing fits.
        ValueError: several recipes fit equally well; they are named.
    """
    if Path(name).is_file():
        return Path(name)
    inside = RECIPES / str(name).removeprefix("configs/")
    if inside.suffix == ".py" and inside.is_file() and not Path(name).is_absolute():
        return inside
    word = str(name)
    known = {path.stem: path for folder in folders for path in sorted((RECIPES / folder).glob("*.py"))}
    if re.fullmatch(r"\w+", word):
        part = re.escape(word)
        for rule in (part, rf"(cmp_)?{part}_{SIZE}", rf"(cmp_)?{part}_.*", rf".*_{part}_.*"):
            found = [stem for stem in known if re.fullmatch(rule, stem)]
            if len(found) > 1:
                raise ValueError(f"several recipes are named {word!r}: {', '.join(found)}; give one of these names")
            if found:
                return known[found[0]]
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.3) if re.fullmatch(r"\w+", word) else []
    hint = f"; names of recipes are like {', '.join(near)}" if near else ""
    raise FileNotFoundError(f"no such config: {name}{hint}")
