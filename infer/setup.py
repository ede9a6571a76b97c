"""Leaves out the modules of the listed packages that need more than this install has."""

from setuptools import setup
from setuptools.command.build_py import build_py

# For the commands, video files, and exports by a newer torch.
LEFT_OUT = (
    "cmp.__main__",
    "cmp.checkpoint_check",
    "cmp.inference.animation",
    "cmp.inference.annotation",
    "cmp.inference.discovered_files",
    "cmp.inference.export",
    "cmp.jobs",
)


class BuildPy(build_py):
    """The build of the Python modules, without `LEFT_OUT`."""

    def find_package_modules(self, package, package_dir):
        found = super().find_package_modules(package, package_dir)
        return [module for module in found if f"{module[0]}.{module[1]}" not in LEFT_OUT]


setup(cmdclass={"build_py": BuildPy})
