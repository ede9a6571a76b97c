"""mmengine's registry of optimizers, without the packages that it would import for one name.

mmengine 0.10.7 imports the whole package transformers, if it is installed, to register its Adafactor. That takes a
second of processor time at the start of every run. Here transformers is imported when an Adafactor is built.
"""

import importlib
import importlib.util
import sys


def _import_without(missing: str, name: str) -> None:
    """Import a module while another seems not to be installed. What is imported already stays as it is."""
    if missing in sys.modules:
        importlib.import_module(name)
        return
    sys.modules[missing] = None  # type: ignore[assignment]  # makes importing it an ImportError, which mmengine expects
    try:
        importlib.import_module(name)
    finally:
        del sys.modules[missing]


_import_without("transformers", "mmengine.optim")

from mmengine.optim import OPTIMIZERS  # noqa: E402  # with its optimizers in it

__all__ = ["OPTIMIZERS"]


def _adafactor(*args, **kwargs):
    """Build the Adafactor of transformers."""
    from transformers import Adafactor

    return Adafactor(*args, **kwargs)


if "Adafactor" not in OPTIMIZERS and importlib.util.find_spec("transformers") is not None:
    OPTIMIZERS.register_module(name="Adafactor", module=_adafactor)
