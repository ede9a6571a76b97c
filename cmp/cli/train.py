"""Pretrain by Conditional Motion Propagation, or train one of the baselines (configs/baselines).

Example:
    cmp-motion train r18_quickstart --data my_pairs --work-dir work_dirs/mine
    cmp-motion train r50_yfcc --data my_pairs --batch-size 8 --steps 20000
    cmp-motion train r18_clips --data my_pairs --start-from starter --steps 4000
    cmp-motion train my_config.py --cfg-options model.decoder.shortcut=true

CONFIG is a file, or the name of a recipe: r18_quickstart is configs/pretrain/cmp_r18_quickstart_1xb16_300.py.
Several processes: bash tools/dist_train.sh CONFIG NUM_PROCS [the same arguments]; under Slurm: tools/slurm_train.sh.

Exit status: 0 trained to the end; 2 wrong usage, config, path or data; 1 training failed, such as by steps that are not
finite; the last line says what is wrong. 75 stopped by SIGTERM, SIGUSR1 or Ctrl-C, after the step was finished and a
checkpoint saved: start again with --resume. 130 ended at once by Ctrl-C, the second one or one before the first step.
"""

import argparse
import os
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from cmp.addresses import names_shards
from cmp.cli.arguments import Parser, say
from cmp.cli.choices import PRECISIONS, TRACKERS
from cmp.engine.errors import REFUSED_STATUS, describe_error, error_status, is_compiler_error
from cmp.engine.options import KeyValues
from cmp.engine.recipes import find_recipe
from cmp.engine.restarts import note_status, noted_status, torchrun_started_again
from cmp.engine.stop_signals import STOPPED_STATUS, exit_at_stop_signals
from cmp.files import check_paths
from cmp.folder_lock import FolderInUse
from cmp.interrupts import imports_can_be_interrupted, runs_a_command
from cmp.starter import STARTER


def parse_args(argv: Sequence[str] | None, prog: str) -> argparse.Namespace:
    """Parse the arguments."""
    parser = Parser(prog=prog, description=__doc__)
    parser.add_argument("config", help="a config file, or the name of a recipe")
    parser.add_argument("--work-dir", help="folder for log, checkpoints and pictures (default: work_dirs/CONFIG)")
    parser.add_argument(
        "--data",
        nargs="+",
        metavar="PATH",
        help="what to train and validate on, instead of the config's: pair stores (folders) or list files of "
        "Zhan et al.; shards to stream and only train on: tar files, or a store's address; for a baseline what its "
        "config says: videos, or a folder with the digits",
    )
    parser.add_argument(
        "--val-data",
        nargs="+",
        metavar="PATH",
        help="pair stores to validate on; all of --data is then trained on",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="PATH",
        help="go on from a checkpoint: without PATH from the newest in the work dir; with PATH from that one, in a "
        "work dir without newer ones",
    )
    parser.add_argument(
        "--start-from",
        metavar="CHECKPOINT",
        help="begin with the weights of a whole network, such as starter (the network that comes with the package), "
        "at step 0; with --resume only where there is no checkpoint yet",
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", help="length instead of the config's; the schedule is rescaled to it"
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="pairs per batch and process instead of the config's; the learning rate follows the config's batch_rule",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="of weights, order and samples (default: the config's)")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    parser.add_argument("--precision", choices=PRECISIONS, help="of the forward pass (default: the config's)")
    parser.add_argument(
        "--track", choices=TRACKERS, help="send what is logged to Weights & Biases or MLflow too (an extra package)"
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=KeyValues,
        metavar="KEY=VALUE",
        help="change values of the config, such as train_dataloader.batch_size=4; any parameter of a class may be set, "
        "and an unknown key is refused",
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print the whole config that would run, as Python, and exit"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, *, prog: str = "train.py") -> int:
    """Train; returns the exit status."""
    if runs_a_command():
        exit_at_stop_signals()  # the imports take seconds
    args = parse_args(argv, prog)
    if noted := noted_status():
        return noted
    with ExitStack() as held:
        return train(args, prog, held)


def train(args: argparse.Namespace, prog: str, held: ExitStack) -> int:
    """Train, and keep other runs out of the work dir until `held` is closed; returns the exit status."""
    try:
        check_arguments(args)
        with imports_can_be_interrupted():
            from cmp.checkpoints import read_network_checkpoint
            from cmp.engine.processes import hold_work_dir, join_processes, timeout_s, watch_processes
            from cmp.engine.run import check_data, check_machine, on_device, train_run, training_config
        config, notes = training_config(
            args.config,
            data=args.data,
            val_data=args.val_data,
            work_dir=args.work_dir,
            steps=args.steps,
            batch_size=args.batch_size,
            seed=args.seed,
            precision=args.precision,
            options=args.cfg_options,
            track=args.track,
        )
        if args.print_config:
            print(config.pretty_text)
            return 0
        check_data(config, args.data)
        start = None if args.start_from is None else read_network_checkpoint(args.start_from)
        held.enter_context(on_device(args.device))
        check_machine(config)
        timeout_s(config)
        join_processes(config)  # if torchrun or srun started it
        held.enter_context(hold_work_dir(config.work_dir))
        watch_processes(config.work_dir, config)
        for note in notes if int(os.environ.get("RANK", 0)) == 0 else ():
            print(note)
        checkpoint = chosen_checkpoint(args.resume, config.work_dir, prog)
    except (OSError, ValueError, ModuleNotFoundError, FolderInUse) as error:
        say(prog, error)
        return note_status(REFUSED_STATUS)
    try:
        finished = train_run(config, resume_from=checkpoint, start_from=start)
    except Exception as error:  # whatever the parts that a config names raise
        return report(error, prog, config.work_dir)
    runner = finished.runner
    if runner.rank == 0:
        done = f"stopped by {finished.stopped_by} at" if finished.stopped_by else "trained to"
        saved = finished.last_checkpoint or "none was due"
        print(f"{done} step {runner.iter} of {runner.max_iters}; checkpoint: {saved}; log: {runner.log_dir}")
    return note_status(STOPPED_STATUS) if finished.stopped_by else 0


def check_arguments(args: argparse.Namespace) -> None:
    """Find the config and refuse wrong paths, before the slow imports.

    Raises:
        OSError, ValueError: a path is wrong; it is named.
    """
    work_dir = args.work_dir or str(Path("work_dirs") / Path(args.config).stem)
    given = {name: [p for p in paths or () if not names_shards(p)]
             for name, paths in (("--data", args.data), ("--val-data", args.val_data))}  # fmt: skip
    start = None if args.start_from == STARTER else args.start_from
    check_paths(reads={"CONFIG": args.config, **given, "--start-from": start}, folders={"--work-dir": work_dir})
    if start is not None and not Path(start).is_file():
        raise FileNotFoundError(f"--start-from: {start}: no such file")
    args.config = find_recipe(args.config)
    for name, paths in given.items():
        if missing := [path for path in paths if not Path(path).exists() and not args.print_config]:
            raise FileNotFoundError(f"{name}: {', '.join(missing)}: no such file or folder")
    if args.device == "cpu" and runs_a_command():
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # read when torch looks for GPUs the first time


def chosen_checkpoint(asked: str | None, work_dir: str, prog: str) -> str | None:
    """As `checkpoint_to_resume`; prints what was chosen."""
    from cmp.engine.resume import checkpoint_to_resume

    restarted = torchrun_started_again()
    checkpoint = checkpoint_to_resume(asked, work_dir, restarted=restarted, warn=partial(say, prog))
    if checkpoint:
        print(f"going on from {checkpoint}")
    elif asked or restarted:
        print(f"no checkpoint in {work_dir} yet: starting anew")
    return checkpoint


def report(error: Exception, prog: str, work_dir: str) -> int:
    """Print an error that training raised; returns the exit status, noted where a restart would not change it."""
    if os.environ.get("CMP_TRACEBACK"):
        raise error
    status = error_status(error)
    if is_compiler_error(error):
        say(
            prog,
            f"torch.compile failed: {str(error).splitlines()[0]} (on a CPU it needs a C++ compiler, g++ or "
            "what CXX names; compile=False does without; CMP_TRACEBACK=1 shows where)",
        )
        return note_status(status)
    if isinstance(error, RuntimeError):
        traceback.print_exception(error)
    say(prog, f"{describe_error(error, work_dir)} (CMP_TRACEBACK=1 shows where)")
    return note_status(status) if isinstance(error, FloatingPointError) else status
