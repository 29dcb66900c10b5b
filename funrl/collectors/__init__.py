"""Collectors of experience: batches from environments in worker processes, or from a compiled program, with the latest parameters.

A collector is made of a function that makes an environment, a policy, and the parameters of the policy. A loop over it yields batches. The
learner sends new parameters with ``update_params``; each batch has the version number of the parameters that acted.
"""

from funrl.collectors._collector import Collector, CollectorState
from funrl.collectors._messages import Transport as Transport
from funrl.collectors._processes import asynchronous, by_transport as by_transport, synchronous
from funrl.collectors._pure import compiled
from funrl.collectors._ray import ray
from funrl.collectors._tracker import Collected
from funrl.collectors._worker import Answer as Answer, RemoteWorker as RemoteWorker

__all__ = ["Collected", "Collector", "CollectorState", "asynchronous", "compiled", "ray", "synchronous"]
