"""Measure what encoding an image once saves: T guidance sets on one image, in one call and in T calls.

    python tools/benchmark/inference.py
    python tools/benchmark/inference.py --decoder plain --sets 16 --size 384x384 --device cuda --dtype bfloat16
    python tools/benchmark/inference.py --checkpoint ckpt_iter_42000.pth.tar

Rounds alternate between the two, so that other load on the machine meets both; the ratio is taken in each round and the
median told with the range. Without a checkpoint the weights are random: they do not change the time. What differs
between the two results is told as well.
"""

import argparse
import statistics
import time

from cmp.interrupts import exit_at_interrupt, run_command

if __name__ == "__main__":
    exit_at_interrupt()  # the imports below take seconds

import torch

from cmp.flow import FlowQuantizer
from cmp.inference import MotionPropagator, load_propagator
from cmp.models import CMP, DiscreteLoss, MotionEncoder, PropagationDecoder, ResNet, SkipPropagationDecoder

DECODERS = {"plain": (PropagationDecoder, (1, 2, 4)), "skip": (SkipPropagationDecoder, (1, 2, 4, 8))}


def parse_size(text: str) -> tuple[int, int]:
    try:
        height, width = (int(side) for side in text.split("x"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"a size is HEIGHTxWIDTH, got {text!r}") from error
    if min(height, width) < 1:
        raise argparse.ArgumentTypeError(f"a size is at least 1x1, got {text!r}")
    return height, width


def random_propagator(decoder: str, dtype: torch.dtype) -> MotionPropagator:
    """The published ResNet-50 network with random weights."""
    torch.manual_seed(0)
    kind, strides = DECODERS[decoder]
    parts = (dict(type=ResNet, depth=50), dict(type=MotionEncoder), dict(type=kind, strides=strides))
    network = CMP(*parts, dict(type=FlowQuantizer), dict(type=DiscreteLoss), init="default")
    network.image_encoder.to(dtype)
    network.decoder.to(dtype)
    return MotionPropagator(network)


def timed(call, device: str) -> tuple[float, torch.Tensor]:
    start = time.perf_counter()
    flow = call()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start, flow


def main(argv: list[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="measure this network instead of the published one with random weights")
    parser.add_argument("--decoder", choices=DECODERS, default="skip", help="default: %(default)s")
    parser.add_argument("--sets", type=int, default=16, help="T, guidance sets (default: %(default)s)")
    parser.add_argument("--size", type=parse_size, default=(384, 384), metavar="HxW", help="default: 384x384")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="default: float32"
    )
    args = parser.parse_args(argv)

    dtype = getattr(torch, args.dtype)
    if min(args.sets, args.rounds) < 1:
        parser.error(f"--sets and --rounds must be at least 1, got {args.sets} and {args.rounds}")
    if args.checkpoint:
        try:
            propagator = load_propagator(args.checkpoint, device=args.device, dtype=dtype)
        except (ValueError, OSError) as error:
            parser.error(str(error))
    else:
        propagator = random_propagator(args.decoder, dtype).to(args.device)
    random = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, *args.size, generator=random).to(args.device)
    mask = (torch.rand(args.sets, 1, *args.size, generator=random) < 1e-3).float()
    sparse = (mask * 20 * torch.randn(args.sets, 2, *args.size, generator=random)).clamp(-49, 49).to(args.device)
    mask = mask.to(args.device)

    def together() -> torch.Tensor:
        return propagator.predict_dense(image, sparse, mask)

    def apart() -> torch.Tensor:
        return torch.cat(
            [propagator.predict_dense(image, sparse[i : i + 1], mask[i : i + 1]) for i in range(args.sets)]
        )

    propagator.predict_dense(image, sparse[:1], mask[:1])  # warms up
    times = []
    for _ in range(args.rounds):
        (slow_s, one_by_one), (fast_s, at_once) = timed(apart, args.device), timed(together, args.device)
        times.append((slow_s, fast_s))
    slow_s, fast_s = (statistics.median(column) for column in zip(*times))
    ratios = [slow / fast for slow, fast in times]
    height, width = args.size
    print(
        f"{args.checkpoint or args.decoder}, {args.sets} sets at {height}x{width}, {args.dtype} on {args.device} "
        f"({torch.get_num_threads()} threads), {args.rounds} rounds\n"
        f"  one by one {slow_s:.2f} s, at once {fast_s:.2f} s: {statistics.median(ratios):.2f}x "
        f"({min(ratios):.2f}-{max(ratios):.2f})\n"
        f"  largest difference {float((one_by_one - at_once).abs().max()):.2e} px"
    )
    return 0


if __name__ == "__main__":
    run_command(main)
