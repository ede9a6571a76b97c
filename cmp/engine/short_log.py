"""Leave out of a run's log what mmengine says at the start of every run: hundreds of lines that are in files anyway.

The config is in the work dir, with all its values; versions, commit, device and command are in `starts.jsonl`.
"""

import logging

# Beginnings of messages of mmengine 0.10.7: the environment, the config, the hooks, one line per parameter and option,
# batch norm, and two notes about its own code.
LEFT_OUT = (
    "\n" + "-" * 60 + "\nSystem environment:",
    "Config:\n",
    "Hooks will be executed in the following order:",
    "paramwise_options -- ",
    "Distributed training is not used, all SyncBatchNorm",
    '"FileClient" will be deprecated',
    '"HardDiskBackend" is the alias',
)


class ShortLog(logging.Filter):
    """Drop the records that begin with one of `LEFT_OUT`."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is kept."""
        return not str(record.msg).startswith(LEFT_OUT)


def shorten(logger: logging.Logger) -> None:
    """Add the filter to a logger that does not have it."""
    if not any(isinstance(known, ShortLog) for known in logger.filters):
        logger.addFilter(ShortLog())
