"""The loss of an actor and a critic, both linear, made of rlax's parts: to be differentiated by JAX."""

import warnings

import jax
import jax.numpy as jnp

from tests.oracles.deepmind import rlax


def actor_critic(params, observation, action, advantage, target, weight, value_weight, entropy_weight):
    """``params`` is a dict of "policy" [D, A] and "value" [D], arrays [N, ...]; advantages carry no gradient."""
    logits, value = observation @ params["policy"], observation @ params["value"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)  # rlax warns of its own softmax
        policy_loss = rlax.policy_gradient_loss(logits, action, jax.lax.stop_gradient(advantage), weight)
        entropy_loss = rlax.entropy_loss(logits, weight)
    value_loss = jnp.mean(weight * rlax.l2_loss(value, target))
    return policy_loss + value_weight * value_loss + entropy_weight * entropy_loss
