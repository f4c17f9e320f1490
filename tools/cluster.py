"""Many sweeps on many machines, with Ray: ``make table1 RAY=1``, or ``RAY=address``.

A worker is a Ray actor.  It loads model and judges once, on a GPU of its own where the cluster has
any, else on one core, and then does one sweep after the other.  It writes nothing: the process that
asked does, as if it had done the sweeps itself.

Ray is imported when it is asked for: it is the extra ``ray``.
"""

from __future__ import annotations

import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from helpers import load_model
from helpers.comparison.experiment import Experiment, Scored, Sweep, score
from helpers.comparison.scores import weights_behind
from helpers.evaluation.clap import load_clap
from helpers.methods import Method

HERE = "1"  # in place of an address: a cluster of this machine alone, for as long as the command
PATIENCE = 5.0  # seconds that a cluster has to answer
QUIET = {"log_to_driver": False, "logging_level": "ERROR"}
TRIES = 3  # of a sweep, or of a start, that takes its worker with it


class ClusterError(ValueError):
    """A cluster that cannot be used; the message says why and what to do."""


@contextmanager
def cluster(address: str) -> Iterator[None]:
    """Join a Ray cluster, or start one; leave it, or stop it, in the end.

    Parameters
    ----------
    address : str
        Of the cluster, such as ``10.0.0.1:6379``, or :data:`HERE`.

    Raises
    ------
    ClusterError
        If Ray is not installed, or nothing answers there.
    """
    try:
        import ray
    except ImportError as error:
        raise ClusterError(
            "Ray is not installed: run .venv/bin/python -m pip install --editable '.[ray]'."
        ) from error
    nobody = ClusterError(
        f"No Ray cluster answers at {address}: give RAY=1 for this machine alone, or the host:port "
        "that `ray start --head` has printed."
    )
    try:
        if address == HERE:
            ray.init("local", include_dashboard=False, **QUIET)
        else:
            _knock(address)  # Ray itself would try for minutes
            ray.init(address, **QUIET)
    except (OSError, ValueError, RuntimeError) as error:
        raise nobody from error
    try:
        yield
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class Workers:
    """Workers of the cluster that was joined, one a GPU, or one a core where there is no GPU.

    Parameters
    ----------
    experiment : Experiment
        Whose sweeps they do.
    model, clap : str
        What they load, by the names that the experiment's were loaded by.
    limit : int, optional
        How many workers at most.
    """

    experiment: Experiment
    model: str
    clap: str
    limit: int | None = None

    def __call__(self, sweeps: Sequence[Sweep]) -> Iterator[tuple[Sweep, Scored]]:
        """Yield each sweep with what it gives, as they are ready.

        A worker that is lost is replaced, and its sweep done by the next that is free.

        Raises
        ------
        ClusterError
            If a sweep, or loading, takes one worker after the other with it, or a worker has other
            weights.
        Exception
            What a sweep raises.
        """
        import ray

        waiting, lost = deque(sweeps), Counter[str]()
        running: dict[Any, tuple[Any, Sweep | None]] = {}  # by what is awaited; None: it starts
        start = self._starter()
        try:
            for _ in range(min(self._room(), len(sweeps))):
                worker = start()
                running[worker.weights.remote()] = worker, None
            while running:
                [ready], _ = ray.wait(list(running))
                worker, sweep = running.pop(ready)
                try:
                    result = ray.get(ready)
                except ray.exceptions.RayActorError as error:
                    if sweep is not None:
                        waiting.appendleft(sweep)
                    self._count(lost, sweep, error)
                    worker = start()
                    running[worker.weights.remote()] = worker, None
                    continue
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from error
                if sweep is None:
                    self._check(result)
                if waiting:
                    following = waiting.popleft()
                    method = self.experiment.methods[following.method]
                    running[worker.score.remote(method, following)] = worker, following
                if sweep is not None:
                    yield sweep, result
        finally:
            for worker, _ in running.values():
                ray.kill(worker)

    def _starter(self) -> Callable[[], Any]:
        """Return what starts a worker: its weights can be asked for once it has loaded."""
        import ray

        needs = {"num_gpus": 1} if self._gpus() else {"num_cpus": 1}
        actor = ray.remote(**needs)(_Worker)
        return lambda: actor.remote(self.model, self.clap)

    def _room(self) -> int:
        """How many workers there is room for."""
        import ray

        room = int(self._gpus() or ray.cluster_resources()["CPU"])
        return room if self.limit is None else min(room, self.limit)

    @staticmethod
    def _gpus() -> float:
        import ray

        return ray.cluster_resources().get("GPU", 0)

    @staticmethod
    def _count(lost: Counter[str], sweep: Sweep | None, error: Exception) -> None:
        doing = "it was loading" if sweep is None else f"it did {sweep.method} on {sweep.pair.id}"
        lost[doing] += 1
        if lost[doing] == TRIES:
            raise ClusterError(
                f"A worker was lost {TRIES} times while {doing}: see Ray's logs for the reason, "
                "which is often too little memory."
            ) from error

    def _check(self, weights: dict[str, str]) -> None:
        others = [
            name for name, digest in self.experiment.weights.items() if weights[name] != digest
        ]
        if others:
            raise ClusterError(
                f"A worker has other weights of {', '.join(others)} than this machine: bring every "
                "machine's checkout to the same commit."
            )


def _knock(address: str) -> None:
    """Raise an OSError or a ValueError unless something listens at ``host:port``."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    socket.create_connection((host, int(port)), PATIENCE).close()


class _Worker:
    """What stays loaded in a worker's process."""

    def __init__(self, model: str, clap: str) -> None:
        self.model, self.clap = load_model(model), load_clap(clap)

    def weights(self) -> dict[str, str]:
        return weights_behind(self.model, self.clap)

    def score(self, method: Method, sweep: Sweep) -> Scored:
        return score(self.model, self.clap, method, sweep)
