"""Draw arrows on an image in the browser and see what moves: a page on this machine, for nobody else.

Example:
    cmp-motion playground ckpt_iter_42000.pth.tar
    cmp-motion playground                               # the starter network, which comes with the package
    cmp-motion playground --video my_video.mp4          # a frame of it, and how it really moved

Needs the extra: pip install "cmp-motion[playground]". Nothing is fetched from a network, and nothing sent to one. Other
machines are let in by --host 0.0.0.0, without a password.
"""

import argparse
import signal
from collections.abc import Sequence
from pathlib import Path

from cmp.cli.arguments import CHECKPOINT_HELP, Parser, fail, say
from cmp.interrupts import imports_can_be_interrupted
from cmp.starter import STARTER


def parse_args(argv: Sequence[str] | None, prog: str = "playground.py") -> argparse.Namespace:
    """Parse and check the arguments."""
    parser = Parser(prog=prog, description=__doc__)
    parser.add_argument("checkpoint", nargs="?", default=STARTER, metavar="CHECKPOINT", help=CHECKPOINT_HELP)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a further name under which browsers reach this machine; may be repeated",
    )
    parser.add_argument("--port", type=int, default=7860, help="port to listen on (default: %(default)s)")
    parser.add_argument(
        "--long-side", type=int, default=384, metavar="PX", help="shrink images to this (default: %(default)s)"
    )
    parser.add_argument(
        "--video",
        metavar="FILE",
        help="open with the middle frame of this video (or folder of frames), and its true motion to compare with",
    )
    parser.add_argument("--device", default="cpu", help="where to compute (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, *, prog: str = "playground.py") -> int:
    """Serve the page; returns the exit status."""
    args = parse_args(argv, prog)
    try:
        if args.checkpoint != STARTER and "://" not in args.checkpoint and not Path(args.checkpoint).exists():
            raise FileNotFoundError(f"no such file: {args.checkpoint}")
        if not 16 <= args.long_side <= 2048:
            raise ValueError(f"--long-side must be in 16..2048, got {args.long_side}")
        if not 1 <= args.port <= 65535:
            raise ValueError(f"--port must be in 1..65535, got {args.port}")
        with imports_can_be_interrupted():
            from cmp.checkpoints import read_checkpoint
            from cmp.inference import load_propagator
            from cmp.playground import page, server
            from cmp.playground.gate import is_loopback
        checkpoint = read_checkpoint(args.checkpoint)
        propagator = load_propagator(checkpoint, device=args.device)
    except (ValueError, OSError) as error:
        return fail(prog, error)
    if not is_loopback(args.host):
        warning = "so anybody who reaches this machine can use the page; there is no password"
        say(prog, f"warning: listening on {args.host}, {warning}")
    terminated = []

    def end(number: int, frame: object) -> None:
        terminated.append(number)
        raise KeyboardInterrupt  # so that the folder is removed then, too

    signal.signal(signal.SIGTERM, end)
    with server.own_folder() as folder:
        try:
            built = page.build_page(
                propagator,
                folder,
                name=Path(args.checkpoint).name,
                long_side_px=args.long_side,
                trained_px=checkpoint.short_side_px,
                video=args.video,
            )
            names = {"allowed_hosts": args.allow_host} if args.allow_host else {}
            server.launch_page(built, host=args.host, port=args.port, **names)
        except ImportError as error:
            say(prog, f'{error}: install the extra with pip install "cmp-motion[playground]"')
            return 2
        except (OSError, ValueError) as error:
            say(prog, error)
            return 2
    if terminated:  # Ctrl-C has its line, of `run_command`
        print("stopped")
    return 0
