"""Conditional Motion Propagation: self-supervised pretraining from video.

The names below are looked up on first use, so that `import cmp` does not import torch:

    prepare          videos to a pair store
    pretrain         a pair store to a checkpoint
    evaluate         numbers of a network or a backbone
    export_backbone  a checkpoint to another library's file
    load_propagator  a checkpoint to a module that predicts flow
    flow_to_color    flow to an image
    draw_arrows      arrows onto an image
"""

from importlib import import_module

from cmp.version import __version__

_LATE = {
    "draw_arrows": "cmp.flow.draw",
    "evaluate": "cmp.jobs",
    "export_backbone": "cmp.export",
    "flow_to_color": "cmp.flow.draw",
    "load_propagator": "cmp.inference",
    "prepare": "cmp.jobs",
    "pretrain": "cmp.jobs",
}

__all__ = [
    "__version__",
    "draw_arrows",
    "evaluate",
    "export_backbone",
    "flow_to_color",
    "load_propagator",
    "prepare",
    "pretrain",
]


def __getattr__(name: str):
    if name in _LATE:
        return getattr(import_module(_LATE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
