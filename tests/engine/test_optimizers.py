"""A run does not import transformers at its start, and the optimizer of that package can still be named."""

import importlib.util
import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys
import torch
from cmp.engine.optimizers import OPTIMIZERS

assert "transformers" not in sys.modules
weight = torch.nn.Parameter(torch.zeros(2))
assert type(OPTIMIZERS.build(dict(type="AdamW", params=[weight]))) is torch.optim.AdamW
built = OPTIMIZERS.build(dict(type="Adafactor", params=[weight]))
assert type(built).__module__.startswith("transformers.")
"""


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs the package transformers")
def test_transformers_is_imported_only_for_its_own_optimizer():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
