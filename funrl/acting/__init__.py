"""Acting in environments: ``rollout`` gathers transitions, ``evaluate`` measures whole episodes.

What acts is an :class:`ActorState`: environments, their latest timesteps and, with a recurrent policy, its memory. :func:`start` makes one.
A pure environment is scanned, so that a rollout is one program; one that runs on the host is stepped by a loop in Python.
"""

from funrl.acting._choose import Act, check_act, host_chooser
from funrl.acting._evaluate import Evaluation, evaluate
from funrl.acting._host import Drawn, draw, host_steps
from funrl.acting._rollout import rollout
from funrl.acting._state import ActorState, Memory, start, with_memory
from funrl.acting._step import rand_step, step_mdp

__all__ = [
    "Act",
    "ActorState",
    "Drawn",
    "Evaluation",
    "Memory",
    "check_act",
    "draw",
    "evaluate",
    "host_chooser",
    "host_steps",
    "rand_step",
    "rollout",
    "start",
    "step_mdp",
    "with_memory",
]
