"""A collector whose workers are actors of Ray, on this machine or on others."""

import importlib
import os
import socket
import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch

from funrl.collectors._collector import Collector
from funrl.collectors._messages import Transport
from funrl.collectors._processes import CreateEnv, by_transport
from funrl.collectors._worker import Answer, RemoteWorker
from funrl.env import HostError

__all__ = ["ray"]


def ray(
    create_env: CreateEnv | Sequence[CreateEnv],
    act: Any,
    params: Any,
    *,
    num_workers: int,
    frames_per_batch: int,
    total_frames: int,
    together: bool = True,
    max_frames_per_traj: int = -1,
    split_trajectories: bool = False,
    device: torch.device | str | None = None,
    policy_device: torch.device | str | None = None,
    env_params: Any = None,
    key: torch.Tensor | None = None,
    restart_workers: bool = False,
    timeout: float = 60.0,
    queue_size: int = 2,
    max_staleness: int | None = None,
    address: str | None = None,
    resources: Mapping[str, Any] = MappingProxyType({"num_cpus": 1}),
) -> Collector:
    """Collect with workers that are actors (remote processes) of Ray, also on other machines. It needs the extra ``ray``.

    With ``together=True`` and the same key, the batches equal those of :func:`synchronous`, bit for bit. The parameters go to Ray's object
    store once for each :meth:`~Collector.update_params`, and from there to each machine. A worker acts with the parameters
    that were the latest when its batch was requested.

    If a machine is lost and ``restart_workers`` is True, its workers are restarted on other machines. They replay the running episodes, and
    collect again the batches that were not delivered, so that the learner gets each batch once.

    Args:
        together: True: as :func:`synchronous`, all workers contribute to each batch; False: as :func:`asynchronous`, each worker makes
            complete batches.
        timeout: the number of seconds that a batch may take before its worker counts as lost.
        address: of a running cluster, as for ``ray.init``; None: the cluster of this process, or a new one on this machine that ends with
            the process.
        resources: the resources of a worker, as for ``options`` of a Ray actor: ``num_cpus``, ``resources``,
            ``scheduling_strategy="SPREAD"`` to use all machines evenly, and so on.
        create_env, act, params, num_workers, frames_per_batch, total_frames, max_frames_per_traj: as for :func:`synchronous`.
        split_trajectories, device, policy_device, env_params, key, restart_workers: as for :func:`synchronous`.
        queue_size, max_staleness: as for :func:`asynchronous`.

    Returns:
        A :class:`Collector`.

    Raises:
        ImportError: if Ray is missing.
        ConnectionError: if there is no cluster at ``address``.
        TypeError, ValueError, HostError: as :func:`synchronous`; a ValueError too if the cluster has too few resources.

    Example:
        >>> import funrl
        >>> create_env = lambda: funrl.envs.gymnasium.make("Pendulum-v1", num_envs=3)
        >>> options = dict(num_workers=2, frames_per_batch=30, total_frames=60)
        >>> with funrl.collectors.ray(create_env, None, (), **options) as collector:  # doctest: +SKIP
        ...     batch = next(collector)

    Reference: P. Moritz et al., "Ray: a distributed framework for emerging AI applications", 2018, arXiv:1712.05889.
    """
    given, engine = dict(locals()), _load()
    del given["address"], given["resources"]
    return by_transport("collectors.ray", **given, transport=lambda: _Actors(engine, address, resources, num_workers))


def _load() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise ImportError("collectors.ray needs Ray: pip install 'funrl[ray]', or use collectors.synchronous on one machine") from None


class _Actors(Transport):
    """Workers as actors of Ray. ``asked`` has the references of each worker's results that have not been read."""

    def __init__(self, engine: Any, address: str | None, resources: Mapping[str, Any], num_workers: int):
        self.engine, self.actors, self.asked = engine, {}, {}
        if not engine.is_initialized():
            _check_address(address)
            if address is None:  # a new cluster; by default Ray's workers have a low priority
                os.environ.setdefault("RAY_worker_niceness", "0")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # of what Ray will do with GPUs
                try:
                    engine.init(address=address or "local", include_dashboard=False, log_to_driver=False, logging_level="error")
                except ConnectionError as error:
                    raise ConnectionError(
                        f"collectors.ray: address: {error}; start the cluster with ray start --head, and set RAY_AUTH_MODE=token here if "
                        "it asks for one"
                    ) from error
        # A program that uses Ray Client, at "ray://...", may be unable to reach the head node, which is therefore not checked.
        self.head = "" if (address or "").startswith("ray://") else engine.get_runtime_context().gcs_address
        _check_room(engine.cluster_resources(), resources, num_workers)
        self.kind = engine.remote(RemoteWorker).options(max_restarts=0, **resources)

    def connect(self, worker: int) -> None:
        self._check_head()
        if worker in self.actors:
            self.engine.kill(self.actors[worker])
        self.actors[worker], self.asked[worker] = self.kind.remote(), deque()

    def send(self, value: Any) -> Any:
        return self.engine.put(value)

    def request(self, worker: int, method: str, *args: Any) -> None:
        self.asked[worker].append(self.actors[worker].answer.remote(method, *args))

    def wait(self, seconds: float) -> list[tuple[int, Answer]]:
        oldest = {asked[0]: worker for worker, asked in self.asked.items() if asked}
        ready, _ = self.engine.wait(list(oldest), num_returns=1, timeout=seconds)
        if not ready:
            self._check_head()
            return []
        ready, _ = self.engine.wait(list(oldest), num_returns=len(oldest), timeout=0)
        return [(oldest[reference], self._answer(self.asked[oldest[reference]].popleft())) for reference in ready]

    def _answer(self, reference: Any) -> Answer:
        errors = self.engine.exceptions
        try:
            return self.engine.get(reference)
        except (errors.RayActorError, errors.ObjectLostError, errors.NodeDiedError, errors.WorkerCrashedError) as error:
            return Answer(lost=f"was lost ({type(error).__name__})")
        except errors.RayTaskError as error:
            return Answer(failed=str(error))

    def close(self) -> None:
        if not self._head_is_lost():
            for actor in self.actors.values():
                self.engine.kill(actor)
        self.actors.clear()

    def _check_head(self) -> None:
        """Raise if the cluster has lost its head: calls of Ray then wait for it, and after a minute Ray ends this process."""
        if self._head_is_lost():
            raise HostError(
                f"collectors.ray: the head of the cluster, at {self.head}, cannot be reached; start the cluster again, and resume the run"
            )

    def _head_is_lost(self) -> bool:
        return bool(self.head) and not _is_there(self.head)


def _is_there(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), 5.0).close()
    except (OSError, ValueError):
        return False
    return True


def _check_address(address: str | None) -> None:
    """Raise a ConnectionError if nothing listens at "HOST:PORT"; Ray itself would try for minutes."""
    if address not in (None, "auto", "local") and "://" not in address and not _is_there(address):
        raise ConnectionError(
            f"collectors.ray: address: nothing listens at {address!r}; start the cluster with ray start --head, and give its HOST:PORT"
        )


def _check_room(there: Mapping[str, float], each: Mapping[str, Any], num_workers: int) -> None:
    """Raise a ValueError if the cluster has less than the workers need together; Ray itself would wait for more machines."""
    named = {"CPU": each.get("num_cpus"), "GPU": each.get("num_gpus"), **(each.get("resources") or {})}
    for name, needed in named.items():
        if needed and num_workers * needed > there.get(name, 0):
            raise ValueError(
                f"collectors.ray: num_workers: {num_workers} workers need {num_workers * needed:g} {name}, and the cluster has "
                f"{there.get(name, 0):g}; start fewer, add machines, or give less to each: resources={{'num_cpus': 0.5}}"
            )
