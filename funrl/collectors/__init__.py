"""Collectors of experience: batches from environments in worker processes, or from a compiled program, with the latest parameters.

A collector needs a policy, the parameters of the policy, and a function that returns an environment. A loop over the collector yields
batches. The learner sends new parameters with ``update_params``; each batch has the version number of the parameters that acted.
"""

from funrl.collectors._collector import Collector, CollectorState
from funrl.collectors._messages import Transport as Transport
from funrl.collectors._processes import asynchronous, by_transport as by_transport, synchronous
from funrl.collectors._pure import compiled
from funrl.collectors._ray import ray
from funrl.collectors._tracker import Collected
from funrl.collectors._worker import Answer as Answer, RemoteWorker as RemoteWorker

__all__ = ["Collected", "Collector", "CollectorState", "asynchronous", "compiled", "ray", "synchronous"]
