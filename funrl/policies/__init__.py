"""Policies and exploration: ``act(params, key, observation) -> (action, extras)``.

A policy with a state takes it as an argument and returns the new one: ``act(params, key, state, observation, reset) -> (state, action,
extras)``.
"""

from funrl.policies._acting import deterministic, keyed, q_value, random, safe, stochastic
from funrl.policies._exploration import additive_gaussian, epsilon_greedy, ornstein_uhlenbeck
from funrl.policies._export import export, to_module
from funrl.policies._joined import ActorCritic, actor_critic, recurrent
from funrl.policies._policy import Policy, StatefulPolicy

__all__ = [
    "ActorCritic",
    "Policy",
    "StatefulPolicy",
    "actor_critic",
    "additive_gaussian",
    "deterministic",
    "epsilon_greedy",
    "export",
    "keyed",
    "ornstein_uhlenbeck",
    "q_value",
    "random",
    "recurrent",
    "safe",
    "stochastic",
    "to_module",
]
