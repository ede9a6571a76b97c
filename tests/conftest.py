"""What every test may ask for: the optional reference data beside the checkout."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Reference data (real videos, ground-truth flow, golden outputs) that lies beside some checkouts, or a skip."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "golden").is_dir():
        pytest.skip("no reference data: ../shared is not beside this checkout")
    return folder
