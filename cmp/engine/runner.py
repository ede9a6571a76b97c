"""mmengine's runner, with checkpoints that are whole wherever they stand."""

import os
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.runner import Runner


class PairRunner(Runner):
    """A Runner whose checkpoints get their names when they are whole and on the disk."""

    def save_checkpoint(self, out_dir: str, filename: str, *args, **kwargs) -> None:
        """As mmengine's, by way of `FILENAME.partial`, which is never resumed from and overwritten by the next one."""
        partial = f"{filename}.partial"
        super().save_checkpoint(out_dir, partial, *args, **kwargs)
        if is_main_process():
            with open(Path(out_dir) / partial, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(Path(out_dir) / partial, Path(out_dir) / filename)
