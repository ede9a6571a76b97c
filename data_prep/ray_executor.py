"""Run tasks on a Ray cluster, with the interface and the isolation of `LocalExecutor`.

Ray decides where a task runs, and runs it again if its worker or node is lost. In the Ray worker the task runs in a
child process: it can be killed when it hangs, and its crash is an `Outcome`. The child does the next tasks too.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.executors import LocalExecutor, Outcome, check_limits

_CONNECT_S = 60.0  # an idle cluster answers in 2 s; Ray itself waits for minutes and then ends the process
_RETRIES = 3  # of a task whose Ray worker or node was lost
_MAX_WAITING = 1000  # tasks given to Ray in advance, so that an autoscaling cluster sees the demand


@dataclass(frozen=True)
class RayCluster:
    """An existing cluster, and the resources per task: one CPU and `gpus_per_task` (0.25: four tasks share a GPU).

    address: "auto" for the cluster that this machine belongs to (or RAY_ADDRESS), "HOST:PORT", or "ray://HOST:PORT".
    """

    address: str = "auto"
    gpus_per_task: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.gpus_per_task < float("inf"):
            raise ValueError(f"gpus_per_task must be at least 0, got {self.gpus_per_task}")

    @property
    def resources(self) -> dict[str, float]:
        return {"num_cpus": 1, "num_gpus": self.gpus_per_task}


class RayExecutor:
    """Runs tasks in Ray workers; use it as a context manager, inside `connected`.

    Args:
        function: see `LocalExecutor`.
        cluster: the resources per task.
        num_workers: number of tasks at the same time; as many as the cluster can run if None.
        check: called in the Ray worker before every task; an exception from it gives the outcome "error".
        on_progress: called in this process when a task ends, with the sum of what it reported.
        **options: of the `LocalExecutor` in each Ray worker.
    """

    def __init__(
        self,
        function: Callable[[Any, Callable[[Any], None]], Any],
        *,
        cluster: RayCluster,
        num_workers: int | None = None,
        check: Callable[[], None] | None = None,
        on_progress: Callable[[Any], None] | None = None,
        **options: Any,
    ) -> None:
        import ray

        check_limits(num_workers, options.get("stall_s"))
        self._ray = ray
        self._on_progress = on_progress
        # One object for all tasks. Its name tells a worker whether its child process is of the same job.
        self._job = ray.put((secrets.token_hex(8), function, options, check))
        self._remote = ray.remote(max_retries=_RETRIES, **cluster.resources)(_run_task)
        self._pending: deque = deque()
        self._running: dict[Any, Any] = {}
        self._most = num_workers or _MAX_WAITING

    def submit(self, task: Any) -> None:
        """Queue a task; allowed while `outcomes` runs."""
        self._pending.append(task)

    def outcomes(self) -> Iterator[tuple[Any, Outcome]]:
        """Yield (task, outcome) as tasks end, in any order, until all are done. Statuses: see `Outcome`."""
        while self._pending or self._running:
            while self._pending and len(self._running) < self._most:
                task = self._pending.popleft()
                self._running[self._remote.remote(self._job, task)] = task
            ended, _ = self._ray.wait(list(self._running))
            for reference in ended:
                yield self._running.pop(reference), self._outcome(reference)

    def close(self) -> None:
        """Stop all tasks."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)

    def __enter__(self) -> RayExecutor:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _outcome(self, reference: Any) -> Outcome:
        try:
            outcome, reported = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError:
            return Outcome("error", detail=traceback.format_exc())
        except self._ray.exceptions.RayError as error:
            # Its worker was lost again and again. The cause is outside: the task itself runs in a child process.
            why = str(error).partition("\n")[0]
            return Outcome("killed", detail=f"its Ray worker was lost {_RETRIES + 1} times ({why})")
        if self._on_progress is not None and reported:
            self._on_progress(reported)
        return outcome


@contextmanager
def connected(cluster: RayCluster) -> Iterator[None]:
    """Connect this process to the cluster, unless it is connected to one already.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        RuntimeError: no cluster answers at the address.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ModuleNotFoundError(
            "--executor ray needs the package ray, in the cluster's version: pip install 'cmp-motion[ray]'", name="ray"
        ) from error
    if ray.is_initialized():
        yield
        return
    _check_answers(cluster.address)
    # Workers import the checkout from the path that it has here, which all nodes must see, or an installed package.
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    ray.init(
        address=cluster.address,
        logging_level="warning",
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": path}},
    )
    try:
        yield
    finally:
        ray.shutdown()


def call_once(cluster: RayCluster, function: Callable, *args: Any) -> Any:
    """Call function(*args) on a node of the cluster, with the resources of a task; returns or raises what it does.

    While the cluster has too few GPUs this waits, with a line on stderr, because the cluster may be growing.
    """
    import ray

    num_gpus = ray.cluster_resources().get("GPU", 0)
    if cluster.gpus_per_task > num_gpus:
        print(f"waiting: a task takes {cluster.gpus_per_task:g} GPUs, the cluster has {num_gpus:g}", file=sys.stderr)
    try:
        return ray.get(ray.remote(**cluster.resources)(function).remote(*args))
    except ray.exceptions.RayTaskError as error:
        raise (error.cause or error) from None


def check_shared(token: str, video_dir: str) -> None:
    """Raise RuntimeError unless this node sees the file `token` and at least one entry in `video_dir`."""
    node = socket.gethostname()
    if not os.path.isfile(token):
        folder = os.path.dirname(os.path.dirname(token))
        raise RuntimeError(f"node {node} does not see {folder}: OUT_DIR must lie where all nodes see it by that path")
    if not os.path.isdir(video_dir) or not os.listdir(video_dir):
        raise RuntimeError(f"node {node} does not see {video_dir}: the videos must lie where all nodes see them")


def _check_answers(address: str) -> None:
    """Raise RuntimeError if no cluster answers. A child process tries it, as Ray ends a process without an answer."""
    code = "import ray, sys; ray.init(address=sys.argv[1], logging_level='error', log_to_driver=False)"
    try:
        found = subprocess.run(
            [sys.executable, "-c", code, address], capture_output=True, timeout=_CONNECT_S, text=True
        )
    except subprocess.TimeoutExpired:
        why = f"no answer within {_CONNECT_S:g} s"
    else:
        if found.returncode == 0:
            return
        lines = found.stderr.strip().splitlines()
        why = lines[-1] if lines else f"status {found.returncode}"
    raise RuntimeError(f"no Ray cluster at {address!r}: {why}")


@dataclass
class _Child:
    """The child process of a Ray worker, kept for its next task of the same job and on the same GPU."""

    key: tuple
    executor: LocalExecutor
    reported: int = 0  # by the present task

    def hear(self, value: int) -> None:
        self.reported += value


_child: _Child | None = None


def _hear(value: int) -> None:
    if _child is not None:
        _child.hear(value)


def _run_task(job: tuple, task: Any) -> tuple[Outcome, int]:
    """Run a task in the child process; returns its outcome and the sum of what it reported. Runs in a Ray worker."""
    global _child
    name, function, options, check = job
    if check is not None:
        check()
    key = (name, os.environ.get("CUDA_VISIBLE_DEVICES"))
    if _child is None or _child.key != key:
        if _child is not None:
            _child.executor.close()
        executor = LocalExecutor(function, num_workers=1, on_progress=_hear, **options)
        _child = _Child(key, executor)
    _child.reported = 0
    try:
        _child.executor.submit(task)
        (_, outcome), *_ = _child.executor.outcomes()
    except BaseException:
        _child.executor.close()
        _child = None
        raise
    return outcome, _child.reported
