"""Acting in environments: ``rollout`` gathers transitions, ``evaluate`` measures whole episodes.

An :class:`ActorState` consists of the states of environments, their latest timesteps and, for a recurrent policy, its memory.
:func:`start` makes one. A rollout in pure environments can be compiled; environments on the host are stepped by a loop in Python.
"""

from funrl.acting._actor import ActorState, Memory, check_act as check_act, host_chooser as host_chooser, start, with_memory
from funrl.acting._evaluate import Evaluation, evaluate
from funrl.acting._rollout import (
    Drawn as Drawn,
    draw as draw,
    host_steps as host_steps,
    rand_step,
    rollout,
    step_mdp,
    with_discount as with_discount,
)

__all__ = ["ActorState", "Evaluation", "Memory", "evaluate", "rand_step", "rollout", "start", "step_mdp", "with_memory"]
