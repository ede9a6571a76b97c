"""Which packages are installed: `cmp`, `data_prep`, and the recipes in `configs/` as `cmp.configs`.

Everything else about the project is in pyproject.toml.
"""

from pathlib import Path

from setuptools import find_namespace_packages, setup

HERE = Path(__file__).parent
recipes = [folder.relative_to(HERE) for folder in (HERE / "configs").rglob("*") if any(folder.glob("*.py"))]
setup(
    packages=[
        *find_namespace_packages(str(HERE), include=["cmp", "cmp.*", "data_prep", "data_prep.*"]),
        "cmp.configs",
        *(".".join(("cmp", *folder.parts)) for folder in recipes),
    ],
    package_dir={"cmp.configs": "configs"},
)
