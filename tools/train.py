r"""Pretrain by Conditional Motion Propagation, or train one of the baselines (configs/baselines).

Example:
    python tools/train.py configs/pretrain/cmp_r50_yfcc_16xb10_42k.py --data my_pairs --work-dir work_dirs/r50 \
        --cfg-options train_dataloader.batch_size=8

Several processes: bash tools/dist_train.sh CONFIG NUM_PROCS [the same arguments]; under Slurm: tools/slurm_train.sh.

SIGTERM and SIGUSR1 finish the step, save a checkpoint and exit with status 75: start again with --resume. Other
statuses: 0 trained to the end, 2 anything wrong, named in the last line.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout's own packages, installed or not

from cmp.engine.stop_signals import STOPPED_STATUS, exit_at_stop_signals

if __name__ == "__main__":
    exit_at_stop_signals()  # the imports below take seconds

import torch
from mmengine.config import Config
from mmengine.dist import init_dist

from cmp.datasets import open_pairs
from cmp.engine.checkpoint import newest_checkpoint, read_checkpoint
from cmp.engine.config import KeyValues, check_training_config, read_config
from cmp.engine.processes import any_process, leave_together
from cmp.engine.provenance import last_origin, record_start
from cmp.engine.runner import PairRunner


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("config", help="a config file (configs/pretrain/*.py, configs/baselines/*.py)")
    parser.add_argument("--work-dir", help="folder for log, checkpoints and pictures (default: work_dirs/CONFIG)")
    parser.add_argument(
        "--data",
        nargs="+",
        metavar="PATH",
        help="what to train and validate on, instead of the config's: pair stores (folders) or the authors' list "
        "files; for a baseline what its config says: videos, or a folder with the digits",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="PATH",
        help="go on from a checkpoint: the newest in the work dir, or PATH where the folder has none newer",
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=KeyValues,
        metavar="KEY=VALUE",
        help="change values of the config, such as train_dataloader.batch_size=4; a key it does not have is refused",
    )
    return parser.parse_args(argv)


def put_data(config: Config, paths: list[str]) -> None:
    """Train and validate on these paths.

    Raises:
        FileNotFoundError, ValueError: a path is not there, or one of pairs cannot be opened.
    """
    # A wrong path is better answered now than after the log's first hundred lines.
    missing = [path for path in paths if not Path(path).exists()]
    if missing:
        raise FileNotFoundError(f"--data: {', '.join(missing)}: no such file or folder")
    for loader in (config.train_dataloader, config.get("val_dataloader")):
        if loader is None:
            continue
        if "source" not in loader.dataset:
            loader.dataset.paths = paths
            continue
        open_pairs(paths)
        loader.dataset.source.paths = paths


def checkpoint_to_resume(asked: str | None, work_dir: str, *, restarted: bool = False) -> str | None:
    """The checkpoint to go on from: the one asked for, or with "auto" the newest whole one; None to start anew.

    Where torchrun has started the processes again, they go on from the folder's newest, whatever was asked for. A run
    that has saved none yet goes on from what it began with: the one asked for or, with "auto", the last start's.

    Raises:
        FileNotFoundError, ValueError: the one asked for is missing or broken, or the folder has checkpoints of another
            run or branch, which a later --resume would take for this run's.
    """
    if asked is None and not restarted:
        earlier = sorted(Path(work_dir).glob("iter_*.pth"))
        if earlier:
            raise ValueError(f"{earlier[0]} is of an earlier run: --resume goes on, another --work-dir starts anew")
        return None
    newest, broken = newest_checkpoint(work_dir)
    for reason in broken:
        print(f"train.py: passed over: {reason}", file=sys.stderr)
    if newest and asked not in (None, "auto") and not restarted and newest.resolve() != Path(asked).resolve():
        raise ValueError(
            f"{work_dir} has {newest.name}, from which a later --resume would go on, and not from what followed "
            f"{asked}: --resume without a path goes on from {newest.name}, another --work-dir branches off"
        )
    if newest:
        print(f"going on from {newest}")
        return os.path.abspath(newest)
    origin = last_origin(work_dir) if asked == "auto" else asked
    if origin is None:
        print(f"no checkpoint in {work_dir} yet: starting anew")
        return None
    read_checkpoint(origin)
    print(f"going on from {origin}")
    return os.path.abspath(origin)


def join_processes(config: Config) -> None:
    """Meet the other processes that torchrun or srun started, through whatever device they are to talk over."""
    config.launcher = "pytorch"
    if torch.cuda.is_available():
        init_dist("pytorch", **config.env_cfg.dist_cfg)
        return
    torch.distributed.init_process_group("gloo")
    # By name: mmengine writes this into the config's text, where a class would not parse.
    config.model_wrapper_cfg = dict(type="MMDistributedDataParallel", device_ids=None, broadcast_buffers=False)


def torchrun_started_again() -> bool:
    """Whether torchrun has started this run's processes before, in any process's knowledge.

    It counts restarts for each machine and only those that a death on that machine led to; the processes of the others
    are started again with the same count. So each machine's first process leaves a mark where tools/dist_train.sh says,
    and all are asked.
    """
    before = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
    if "CMP_STATUS_FILE" in os.environ and int(os.environ.get("LOCAL_RANK", 0)) == 0:
        mark = Path(os.environ["CMP_STATUS_FILE"] + ".started")
        before = before or mark.exists()
        mark.touch()
    return any_process(before)


def final_status(status: int = 0) -> int:
    """Note a status that no restart would change, for the launcher and for the processes that torchrun starts again.

    Args:
        status: to be noted; 0 asks for what was.

    Returns:
        The status; 0 if none was noted. Nothing is noted unless tools/dist_train.sh says where.
    """
    file = Path(os.environ.get("CMP_STATUS_FILE", os.devnull))
    if status:
        file.write_text(str(status))
        return status
    return int(file.read_text() or 0) if file.exists() else 0


def in_words(error: Exception) -> str:
    """What an error says, and its type where that tells more; of a loader's worker what its own traceback ends with."""
    text = str(error).strip()
    if text.startswith("Caught "):
        return text.splitlines()[-1]
    return text if isinstance(error, (OSError, ValueError, FloatingPointError)) else f"{type(error).__name__}: {text}"


def main(argv: list[str] | None = None) -> int:
    """Train; returns the exit status."""
    args = parse_args(argv)
    if final_status():
        return final_status()
    try:
        config = read_config(args.config, args.cfg_options)
        check_training_config(config)
        if args.data:
            put_data(config, args.data)
        config.work_dir = args.work_dir or str(Path("work_dirs") / Path(args.config).stem)
        if config.get("sync_bn") and not torch.cuda.is_available():
            raise ValueError("sync_bn needs GPUs: torch's SyncBatchNorm does not run on CPUs")
        if "RANK" in os.environ:  # started by torchrun or srun
            join_processes(config)
        elif config.get("sync_bn"):
            raise ValueError(
                "sync_bn needs processes that share batches: start it by tools/dist_train.sh, if but of one"
            )
        checkpoint = checkpoint_to_resume(args.resume, config.work_dir, restarted=torchrun_started_again())
        if checkpoint:
            config.load_from, config.resume = checkpoint, True
    except (OSError, ValueError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return final_status(2)
    try:
        runner = PairRunner.from_cfg(config)
        if runner.rank == 0:
            record_start(runner.work_dir, resumed_from=checkpoint, num_processes=runner.world_size)
        runner.train()
    except RuntimeError as error:
        from_compiler = type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))
        if os.environ.get("CMP_TRACEBACK") or not from_compiler:
            raise
        print(
            f"train.py: torch.compile failed: {str(error).splitlines()[0]} (on a CPU it needs a C++ compiler, g++ or "
            "what CXX names; compile=False does without; CMP_TRACEBACK=1 shows where)",
            file=sys.stderr,
        )
        return final_status(2)
    except Exception as error:  # mmengine builds what the config says: whatever its parts raise, up to the first steps
        if os.environ.get("CMP_TRACEBACK"):
            raise
        print(f"train.py: {in_words(error)} (CMP_TRACEBACK=1 shows where)", file=sys.stderr)
        return final_status(2) if isinstance(error, FloatingPointError) else 2
    stopped_by = runner.train_loop.stopped_by
    if runner.rank == 0:
        newest = Path(config.work_dir) / "last_checkpoint"
        checkpoint = newest.read_text().strip() if newest.is_file() else "none was due"
        done = f"stopped by {stopped_by} at" if stopped_by else "trained to"
        print(f"{done} step {runner.iter} of {runner.max_iters}; checkpoint: {checkpoint}; log: {runner.log_dir}")
    leave_together()
    return final_status(STOPPED_STATUS) if stopped_by else 0


if __name__ == "__main__":
    sys.exit(main())
