"""The benchmark command runs, and what it compares with finds the same points."""

import importlib.util
from pathlib import Path

import numpy as np

from cmp.guidance import local_maxima, motion_edges, watershed_map

PATH = Path(__file__).resolve().parents[2] / "tools" / "benchmark" / "guidance.py"


def load_benchmark():
    spec = importlib.util.spec_from_file_location("benchmark_guidance", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_benchmark_prints_every_stage_for_every_size(capsys):
    benchmark = load_benchmark()
    benchmark.main(["--sizes", "40x56", "60x48", "--kernel", "9", "--stride-px", "20", "--rounds", "2"])
    printed = capsys.readouterr().out
    assert "40x56" in printed and "60x48" in printed
    for stage in benchmark.STAGES:
        assert printed.count(f" {stage} ") == 2


def test_plain_scipy_finds_the_same_candidates_on_drawn_flow():
    benchmark = load_benchmark()
    flow = benchmark.draw_flow(120, 170, np.random.default_rng(0))
    expected = benchmark.scipy_maxima(benchmark.scipy_distance(benchmark.scipy_edges(flow)), 15)
    assert len(expected) > 3
    np.testing.assert_array_equal(local_maxima(watershed_map(motion_edges(flow)), 15), expected)
