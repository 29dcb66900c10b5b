"""Returns and advantages: functions from tensors [T, ...] to tensors [T, ...], time first.

All take rewards, values and the two flags of an episode's end as a rollout returns them: a ``terminated`` step does not bootstrap; a
``truncated`` step bootstraps from ``next_value``, the value of the true successor, but later steps have no effect on it.
"""

from funrl.returns._off_policy import retrace, vtrace
from funrl.returns._recurrence import running_sum as running_sum
from funrl.returns._td import gae, n_step, q_lambda, reward_to_go, td0, td1, td_lambda

__all__ = ["gae", "n_step", "q_lambda", "retrace", "reward_to_go", "td0", "td1", "td_lambda", "vtrace"]
