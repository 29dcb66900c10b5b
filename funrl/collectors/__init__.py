"""Collectors: batches of experience, from environments in worker processes or from a compiled program, with the parameters of the moment.

A collector is made of a function that makes an environment, a policy and its parameters, and is iterated over. The learner
publishes new parameters by ``update_params``; each batch says which version of them made it.
"""

from funrl.collectors.collector import Collector, CollectorState
from funrl.collectors.ledger import Collected
from funrl.collectors.processes import asynchronous, synchronous
from funrl.collectors.pure import compiled

__all__ = ["Collected", "Collector", "CollectorState", "asynchronous", "compiled", "synchronous"]
