"""Acting in environments: ``rollout`` gathers transitions, ``evaluate`` measures whole episodes.

An :class:`ActorState` consists of the states of environments, their latest timesteps and, for a recurrent policy, its memory.
:func:`start` makes one. A rollout in pure environments can be compiled; environments on the host are stepped by a loop in Python.
"""

from funrl.acting._choose import check_act as check_act, host_chooser as host_chooser
from funrl.acting._evaluate import Evaluation, evaluate
from funrl.acting._host import Drawn as Drawn, draw as draw, host_steps as host_steps
from funrl.acting._rollout import rollout
from funrl.acting._state import ActorState, Memory, start, with_memory
from funrl.acting._step import rand_step, step_mdp, with_discount as with_discount

__all__ = [
    "ActorState",
    "Evaluation",
    "Memory",
    "evaluate",
    "rand_step",
    "rollout",
    "start",
    "step_mdp",
    "with_memory",
]
