"""What is in a file of weights, and conversion between our layout and Zhan et al.'s."""

from cmp.checkpoints.checkpoint import Checkpoint, read_checkpoint, read_network_checkpoint, read_peer_checkpoint
from cmp.checkpoints.convert import convert_checkpoint, write_peer_checkpoint

__all__ = [
    "Checkpoint",
    "convert_checkpoint",
    "read_checkpoint",
    "read_network_checkpoint",
    "read_peer_checkpoint",
    "write_peer_checkpoint",
]
