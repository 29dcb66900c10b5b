"""Normalisation of observations and rewards by their running statistics, as the options of an on-policy learner say."""

from typing import Any

import torch

from funrl import stats
from funrl.algos import _actor_critic as actor_critic, _rewards as rewards
from funrl.algos._state import LearnerState
from funrl.env import Transition


def start(config: Any, observation: torch.Tensor, reward: torch.Tensor) -> tuple[Any, Any]:
    """Return the moments of observations and the state of reward normalisation, each () without the option; ``reward`` is [B]."""
    moments = stats.moments(observation) if config.normalize_observation else ()
    return moments, rewards.start(reward) if config.normalize_reward else ()


def normalize(config: Any, learner: LearnerState, samples: Transition, gamma: torch.Tensor) -> tuple[LearnerState, Transition]:
    """Normalise observations and rewards by the statistics so far, of rewards with these samples, and update the statistics.

    ``gamma`` is [], or [T, B], the discount of each step.
    """
    params, seen = learner.params, samples.observation
    if config.normalize_observation:
        observation, successor = (actor_critic.normalized(params, x) for x in (seen, samples.next_observation))
        samples = samples.replace(observation=observation, next_observation=successor)
        learner = learner.replace(params=params.replace(observation=stats.update(params.observation, seen)))
    if config.normalize_reward:
        scale, reward = rewards.scale_rewards(learner.normalizers, samples, gamma)
        learner, samples = learner.replace(normalizers=scale), samples.replace(reward=reward)
    return learner, samples
