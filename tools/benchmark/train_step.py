r"""Measure one training step and its loss, variant by variant: time, memory, share of the machine's matmul rate.

    python tools/benchmark/train_step.py --recipe both
    python tools/benchmark/train_step.py --recipe resnet50 --device cuda --batch 64 --compile --data my_pairs

Each variant adds one thing to the one above it; the first is the plain float32 step. All variants run in one process on
one network and take turns within every round, so that other load on the machine slows them all alike. A ratio is
computed within each round; its median and range over the rounds are printed. On a CPU the ratio of CPU seconds is
printed too, which does not count the time that other programs used the cores.

Peak memory on a CPU is the largest resident size of a separate process that takes two steps; on a GPU it is what torch
allocated. FLOPs are those of the network's convolutions and matrix products, forward and backward, as torch counts
them. They are compared with the rate of a square matrix product in the variant's precision, measured between the steps.
Input is random. With --data the fastest variant also trains on that store after the tables, and the share of time spent
waiting for data is printed. With --profile the operators that take most of a step are printed.
"""

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from cmp.interrupts import exit_at_interrupt, run_command

if __name__ == "__main__":
    exit_at_interrupt()  # the imports below take seconds

import torch
from mmengine.runner import Runner
from torch.utils.flop_counter import FlopCounterMode

from cmp.engine.config import read_config
from cmp.engine.step import AutocastOptimWrapper, set_memory_layout
from cmp.engine.trained_model import build_trained_model
from cmp.models.upsampled_cross_entropy import banded_cross_entropy, plain_cross_entropy

ROOT = Path(__file__).resolve().parents[2]
RECIPES = {  # config, and stride of the logits, px
    "alexnet": ("cmp_alexnet_yfcc_16xb12_70k.py", 32),
    "resnet50": ("cmp_r50_yfcc_16xb10_42k.py", 8),
    "resnet50-skip": ("cmp_r50_skip_vip_mpii_8xb8_42k.py", 2),
}
VARIANTS = ("plain float32", "+ banded loss", "+ channels last", "+ bfloat16", "+ fused SGD", "+ compile")
MATMUL_SIDE = {"cpu": 2048, "cuda": 8192}  # rows and columns of the matrices whose product is the machine's rate
LOSSES = ("plain loss", "banded loss")  # by themselves, forward and backward to the logits


class Bench:
    """A recipe's network with a random batch, and its step in any variant.

    Args:
        recipe: a key of RECIPES.
        batch: images a step.
        device: "cpu" or "cuda".
    """

    def __init__(self, recipe: str, batch: int, device: str) -> None:
        torch.manual_seed(0)
        name, self.logits_stride = RECIPES[recipe]
        self.config = read_config(ROOT / "configs" / "pretrain" / name)
        self.size = self.config.train_dataloader.dataset.transforms[0].size_px
        trained = build_trained_model(self.config.model).to(device).train()
        self.model, self.device, self.eager_step = trained.network, device, trained.train_step
        sgd = self.config.optim_wrapper.optimizer
        optimizer = torch.optim.SGD(
            self.model.parameters(), lr=1e-3, momentum=sgd.momentum, weight_decay=sgd.weight_decay
        )
        self.wrapper = AutocastOptimWrapper(optimizer)
        self.compiled_step = None
        shape = (self.size, self.size)
        image = torch.randint(0, 256, (batch, 3, *shape), dtype=torch.uint8)
        flow, mask = 5 * torch.randn(batch, 2, *shape), (torch.rand(batch, 1, *shape) < 1e-4).float()
        self.batch = dict(image=image, flow=flow, guidance=flow * mask, mask=mask)
        self.batch = {key: value.to(device) for key, value in self.batch.items()}

    def prepare(self, variant: str) -> None:
        """Turn the network, its loss and its optimizer into a variant."""
        level = VARIANTS.index(variant)
        self.model.loss.summed = banded_cross_entropy if level >= 1 else plain_cross_entropy
        set_memory_layout(self.model, self.wrapper.optimizer, channels_last=level >= 2)
        self.wrapper.precision = "bfloat16" if level >= 3 else "float32"
        for group in self.wrapper.optimizer.param_groups:
            group["fused"], group["foreach"] = level >= 4, None
        if level >= 5 and self.compiled_step is None:
            self.compiled_step = torch.compile(self.eager_step)
        self.take_step = self.compiled_step if level >= 5 else self.eager_step

    def step(self, batch: dict | None = None) -> None:
        """One step."""
        self.take_step(self.batch if batch is None else batch, self.wrapper)
        self.wait()

    def prepare_loss(self, name: str) -> None:
        """Random logits of the recipe's size for one of LOSSES."""
        cells = self.size // self.logits_stride
        shape = (len(self.batch["flow"]), self.model.quantizer.num_logits, cells, cells)
        self.logits = torch.randn(shape, device=self.device, requires_grad=True)
        self.model.loss.summed = banded_cross_entropy if name == "banded loss" else plain_cross_entropy

    def loss_step(self) -> None:
        """The loss by itself, forward and backward to the logits."""
        self.model.loss(self.logits, self.batch["flow"]).backward()
        self.wait()

    def matmul_rate(self, variant: str) -> float:
        """FLOP/s of a square matrix product in the variant's precision."""
        dtype = torch.bfloat16 if VARIANTS.index(variant) >= 3 else torch.float32
        n = MATMUL_SIDE[self.device]
        a = torch.randn(n, n, device=self.device).to(dtype)
        torch.mm(a, a)
        self.wait()
        start, times = time.perf_counter(), 3
        for _ in range(times):
            torch.mm(a, a)
        self.wait()
        return 2 * n**3 * times / (time.perf_counter() - start)

    def count_flops(self) -> int:
        """FLOPs of one plain step, forward and backward, optimizer left out."""
        self.prepare(VARIANTS[0])
        with FlopCounterMode(display=False) as counter:
            self.model(**self.batch, mode="loss")["loss"].backward()
        self.model.zero_grad()
        return counter.get_total_flops()

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def peak_memory(bench: Bench | None, args: argparse.Namespace, recipe: str, name: str) -> tuple[float, float]:
    """MiB at most, and of them above what stood before the first step: two steps of a variant, or of a loss."""
    if args.device == "cpu":  # a fresh process, because memory is not given back
        command = [sys.executable, __file__, "--recipe", recipe, "--batch", str(args.batch), "--memory-of", name]
        command += ["--threads", str(args.threads)]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        peak, before = result.stdout.split()[-2:]
        return float(peak), float(peak) - float(before)
    take = ready(bench, name)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    take(), take()
    peak = torch.cuda.max_memory_allocated()
    return peak / 2**20, (peak - before) / 2**20


def ready(bench: Bench, name: str):
    """The bench made ready for a variant or a loss, and the call to measure."""
    if name in LOSSES:
        bench.prepare_loss(name)
        return bench.loss_step
    bench.prepare(name)
    return bench.step


def seconds_of(take) -> tuple[float, float]:
    """Wall-clock and processor seconds of a call."""
    start, worked = time.perf_counter(), time.process_time()
    take()
    return time.perf_counter() - start, time.process_time() - worked


def rounds(bench: Bench, names: list[str], args: argparse.Namespace) -> list[list[tuple[float, float, float]]]:
    """For each round and name: seconds, processor seconds, and the matmul rate beside them."""
    rows = []
    for number in range(args.rounds):
        row = []
        for name in names:
            take = ready(bench, name)
            take()  # warms up; a compiled step is made here
            seconds = min(seconds_of(take) for _ in range(args.steps))
            row.append((*seconds, bench.matmul_rate(name) if name in VARIANTS else float("nan")))
        rows.append(row)
        print(f"round {number + 1} of {args.rounds}", file=sys.stderr)
    return rows


def table(bench: Bench, recipe: str, names: list[str], args: argparse.Namespace) -> None:
    """Measure and print the rows of some variants or losses."""
    flops = bench.count_flops()
    rows = rounds(bench, names, args)
    is_step, on_cpu = names[0] in VARIANTS, args.device == "cpu"
    head = [f"{recipe}, {bench.size} px, batch {args.batch}", f"ms a {'step' if is_step else 'loss'}", "times as fast"]
    head += ["in processor time"] if on_cpu else []
    head += ["peak MiB", "of it new"]
    head += ["images/s", "GFLOP/s", "matmul GFLOP/s", "share"] if is_step else []
    print("\n| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
    for i, name in enumerate(names):
        walls = [row[i][0] for row in rows]
        median = statistics.median(walls)
        cells = [name, f"{1e3 * median:.0f} ({1e3 * min(walls):.0f}-{1e3 * max(walls):.0f})"]
        cells += [spread([row[0][k] / row[i][k] for row in rows]) for k in range(2 if on_cpu else 1)]
        cells += [f"{mebibytes:.0f}" for mebibytes in peak_memory(bench, args, recipe, name)]
        if is_step:
            cells += [f"{args.batch / median:.2f}", f"{flops / median / 1e9:.0f}"]
            cells += [f"{statistics.median(row[i][2] for row in rows) / 1e9:.0f}"]
            cells += [spread([flops / row[i][0] / row[i][2] for row in rows])]
        print("| " + " | ".join(cells) + " |", flush=True)


def spread(values: list[float]) -> str:
    """Median with range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def train_on_store(bench: Bench, recipe: str, variant: str, args: argparse.Namespace) -> None:
    """Train on a store for some steps and print how long the step waited for its batch."""
    bench.prepare(variant)
    loader = bench.config.train_dataloader
    loader.update(batch_size=args.batch, num_workers=args.workers, persistent_workers=args.workers > 0)
    if args.workers == 0:
        loader.prefetch_factor = None
    loader.pin_memory = args.device == "cuda"
    loader.dataset.source.paths = args.data
    batches = iter(Runner.build_dataloader(loader, seed=0))
    waited, stepped = [], []
    for _ in range(args.data_steps + 2):
        start = time.perf_counter()
        batch = next(batches)
        batch = {key: v.to(bench.device, non_blocking=True) for key, v in batch.items() if torch.is_tensor(v)}
        waited.append(time.perf_counter() - start)
        stepped.append(seconds_of(lambda batch=batch: bench.step(batch))[0])
    waited, stepped = waited[2:], stepped[2:]  # the first two warm up
    total = sum(waited) + sum(stepped)
    print(
        f"\n{recipe}, {variant}, {args.workers} workers on {', '.join(args.data)}: "
        f"{args.batch * args.data_steps / total:.2f} images/s, {100 * sum(waited) / total:.1f} % of the time waiting"
    )


def profile(bench: Bench, recipe: str, variant: str) -> None:
    """Print the operators that take most of the time of one step."""
    take = ready(bench, variant)
    take(), take()  # warms up
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] if bench.device == "cuda" else []
    with torch.profiler.profile(activities=activities) as profiler:
        take()
    kind = "self_device_time_total" if bench.device == "cuda" else "self_cpu_time_total"
    rows = sorted(profiler.key_averages(), key=lambda row: getattr(row, kind), reverse=True)
    total = sum(getattr(row, kind) for row in rows)
    print(f"\n| {recipe}, {variant}: operator | calls | ms | share |\n| --- | --- | --- | --- |")
    for row in rows[:15]:
        us = getattr(row, kind)
        print(f"| {row.key:.70} | {row.count} | {us / 1e3:.2f} | {us / total:.2f} |")


def memory_child(recipe: str, name: str, batch: int) -> None:
    """Two steps in a process that did nothing else; prints its largest resident size, MiB, and that before them."""
    bench = Bench(recipe, batch, "cpu")
    take = ready(bench, name)
    before = largest_resident()
    take(), take()
    print(largest_resident(), before)


def largest_resident() -> float:
    """MiB that this process had at most."""
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage says was inherited from the process that started this one
        return (
            int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1]) / 2**10
        )
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main(argv: list[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=[*RECIPES, "both"], default="both", help="default: alexnet and resnet50")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=4, help="images a step (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="of torch on a CPU (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=1, help="timed steps a variant and round; the best counts")
    parser.add_argument("--only", choices=("step", "loss", "none"), help="print only this table, or neither of the two")
    parser.add_argument("--variants", choices=("all", "last"), default="all", help="rows of the table of steps")
    parser.add_argument("--profile", action="store_true", help="print where the time of the last variant's step goes")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too: minutes more on a CPU")
    parser.add_argument("--data", nargs="+", metavar="STORE", help="pair stores to measure waiting on")
    parser.add_argument("--data-steps", type=int, default=20, help="steps on them (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="loader processes for them (default: %(default)s)")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if min(args.rounds, args.steps, args.batch) < 1:
        parser.error("--rounds, --steps and --batch must be at least 1")

    if args.device == "cuda" and not torch.cuda.is_available():
        print("train_step.py: --device cuda needs a CUDA GPU, and torch finds none", file=sys.stderr)
        return 2
    torch.set_num_threads(args.threads)
    if args.memory_of:
        memory_child(args.recipe, args.memory_of, args.batch)
        return 0
    name = torch.cuda.get_device_name() if args.device == "cuda" else f"{platform.machine()}, {args.threads} threads"
    print(f"{args.device}: {name} of {os.cpu_count()} cores; torch {torch.__version__}, {args.rounds} rounds")
    variants = list(VARIANTS if args.compile else VARIANTS[:-1])
    for recipe in ("alexnet", "resnet50") if args.recipe == "both" else (args.recipe,):
        bench = Bench(recipe, args.batch, args.device)
        if args.only in (None, "loss"):
            table(bench, recipe, list(LOSSES), args)
        if args.only in (None, "step"):
            table(bench, recipe, variants if args.variants == "all" else variants[-1:], args)
        if args.profile:
            profile(bench, recipe, variants[-1])
        if args.data:
            train_on_store(bench, recipe, variants[-1], args)
    return 0


if __name__ == "__main__":
    run_command(main)
