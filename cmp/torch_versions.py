"""What this package uses of torch that older versions lack: inference works from torch 2.0.1, training from 2.9."""

from collections.abc import Callable

import torch


def is_exporting() -> bool:
    """Whether torch is making an exported graph of what runs now; False before torch 2.7, which cannot tell."""
    compiler = getattr(torch, "compiler", None)  # from 2.1
    tell = getattr(compiler, "is_exporting", None)
    return tell is not None and tell()


def never_compile(function: Callable) -> Callable:
    """Mark a function that torch.compile must leave as it is; before torch 2.1 return it without a mark."""
    compiler = getattr(torch, "compiler", None)
    return function if compiler is None else compiler.disable(function)
