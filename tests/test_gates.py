"""The checks before the tests are the same in tools/test.sh, in pre-commit and in continuous integration."""

import re
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TOOLS = {"ruff", "mypy", "codespell", "pre-commit"}  # they check the code; the package does not use them


def checks_of_the_test_script() -> set[str]:
    """The commands after `"$python" -m`, without paths: {"ruff check", "mypy", ...}; pytest is not a check."""
    lines = re.findall(r'^"\$python" -m (.+)$', (ROOT / "tools/test.sh").read_text(), flags=re.M)
    return {line.removesuffix(" .") for line in lines}


def test_pre_commit_runs_the_checks_of_the_test_script():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert {hook["entry"].removeprefix(".venv/bin/python -m ") for hook in hooks} == checks_of_the_test_script()
    assert checks_of_the_test_script() == {"ruff check", "ruff format --check", "mypy", "codespell_lib"}


def test_every_job_of_continuous_integration_calls_the_test_script():
    workflow = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())
    assert set(workflow["jobs"]) == {"tests", "oldest-dependencies", "macos-import"}
    for job in workflow["jobs"].values():
        commands = [step["run"] for step in job["steps"] if "run" in step]
        assert len(commands) == 1 and commands[0].startswith("bash tools/test.sh")
    assert workflow["jobs"]["tests"]["strategy"]["matrix"]["python"] == ["3.10", "3.11", "3.12", "3.13"]
    macos = workflow["jobs"]["macos-import"]["steps"][-1]["run"].split()[-1]
    assert (ROOT / macos).is_file()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
def test_the_oldest_dependencies_are_the_lower_bounds_of_the_project():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = {}
    for requirement in project["dependencies"] + project["optional-dependencies"]["test"]:
        if found := re.match(r"([\w.-]+)>=([\d.]+)", requirement):
            bounds[found[1]] = found[2]
    lines = [line for line in (ROOT / ".github/oldest.txt").read_text().splitlines() if not line.startswith("#")]
    assert dict(line.removesuffix(".*").split("==") for line in lines) == {
        name: bound for name, bound in bounds.items() if name not in TOOLS
    }
    assert TOOLS <= set(bounds)


@pytest.mark.parametrize("package", ["cmp", "data_prep"])
def test_a_package_ships_the_mark_of_its_type_annotations(package):
    assert (ROOT / package / "py.typed").read_text() == ""
    if sys.version_info >= (3, 11):
        import tomllib

        setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
        assert "py.typed" in setuptools["package-data"][package]
