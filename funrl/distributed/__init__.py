r"""Many processes, on one machine or on several, by torch.distributed: agents divided among them, one learner, or actors and a learner.

:func:`join` meets the processes that torchrun or SLURM started, :func:`launch` starts some from Python. Then there are three ways:

* ``funrl.train(algo, key, steps, num_agents=64, chunk=8, group=group)``: each process trains its chunks of agents. They exchange
  metrics about twice a second and nothing else, so that no agent waits for another within an update.
* :func:`data_parallel` and :func:`averaged`: one learner; the gradients are averaged inside the compiled step, by a call of Python in the
  program of XLA. (A program of inductor cannot call Python: on a GPU, run such a step within ``funrl.compiler.eager()``.)
* :func:`actors`: rank 0 learns, the other ranks step environments on the host.

The costs
=========
With W processes, K agents and P parameters of b bytes:

=================  ==========================================================  =========================================
way                bytes of a process                                          exchanges
=================  ==========================================================  =========================================
agents in chunks   about 8 K / W for each metric of an update                  2 each half a second
one learner        2 b P (W - 1) / W in each gradient step (a ring)            1 or 2 in each gradient step, 2 in each update
actors             b P and a batch of experience, in each batch                2 in each batch
=================  ==========================================================  =========================================

An exchange of n bytes in a ring takes

.. math:: t(n) = 2 (W - 1) \left(\ell + \frac{n}{W \beta}\right)

with the latency :math:`\ell` of a message and :math:`\beta` bytes a second. Up to 8 processes of one machine exchange tensors of up to
1 MiB by sockets instead, each with each, because gloo hands an exchange from thread to thread.

A gradient step on one learner's share takes :math:`c` seconds; with the same environments in each process, averaging brings more than it
costs while :math:`W c / (c + t(b P)) > 1`, and all processes wait for the slowest one in each gradient step. A small network on few
environments is therefore best trained as several agents in one process each, and averaging is for learners whose gradient steps take
longer than their exchange.

``python -m benchmarks.scaling_model`` computes efficiencies from these formulas, with nodes of 8 devices, a ring or a tree
in and between them, and a simulation of the slowest device. With the links that it assumes (150 GB/s and 5 µs within a node, 20 GB/s and
15 µs between nodes), a model and not a measurement:

=============================================  =========  ==========  =============
PPO with                                       8 devices  64 devices  1,000 devices
=============================================  =========  ==========  =============
2 x 64 units, updates of 10 ms                 0.89       0.74        0.62
the Atari network, updates of 150 ms           0.92       0.85        0.78
100 million parameters, updates of 2 s         0.90       0.83        0.78
=============================================  =========  ==========  =============

Ray Tune does not place populations: its trials are processes of their own, with checkpoints of their own, while here many agents are one
program, and ``funrl.train(group=, chunk=)`` divides such programs among machines.
"""

from funrl.distributed._actors import actors
from funrl.distributed._group import (
    DistributedError,
    Group,
    alone,
    in_job as in_job,
    join,
    raised_on_rank_0 as raised_on_rank_0,
    restarts as restarts,
    seconds_of_exchanges as seconds_of_exchanges,
    share as share,
)
from funrl.distributed._launch import launch
from funrl.distributed._parallel import averaged, data_parallel

__all__ = ["DistributedError", "Group", "actors", "alone", "averaged", "data_parallel", "join", "launch"]
