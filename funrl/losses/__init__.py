"""Losses: pure functions ``loss(params, batch, ...) -> (loss, metrics)``, one file for each family of algorithms.

The first argument is the one to differentiate; networks are keyword arguments, functions of their parameters. Every loss takes a
``weight`` for each sample. If a batch may come from prioritised replay, ``metrics["td_error"]`` [N...] gives its priorities.
"""

from funrl.losses._behavior import awac_critic_loss, rebrac_actor_loss, rebrac_critic_loss, td3_bc_actor_loss
from funrl.losses._crossq import crossq_actor_loss, crossq_critic_loss
from funrl.losses._deterministic import ddpg_actor_loss, ddpg_critic_loss, ddpg_loss, td3_actor_loss, td3_critic_loss
from funrl.losses._drift import LearnedDrift, clip_drift, dpo_drift, drift_loss, init_drift, learned_drift
from funrl.losses._ensembles import ensemble_diversity_loss, redq_actor_loss, redq_critic_loss, redq_loss
from funrl.losses._imitation import advantage_weighted_loss, bc_loss, decision_transformer_loss
from funrl.losses._offline_critics import cql_critic_loss, cql_penalty, discrete_cql_loss, expectile_loss, iql_critic_loss, iql_value_loss
from funrl.losses._parts import ActorCritic, SoftActorCritic, explained_variance, huber
from funrl.losses._policy_gradient import (
    A2CBatch,
    OptionBatch,
    ReinforceBatch,
    a2c_loss,
    impala_loss,
    option_critic_loss,
    reinforce_loss,
    reinforce_with_baseline_loss,
)
from funrl.losses._ppo import PPOBatch, adapt_kl_weight, clipped_surrogate, clipped_value_loss, normalize_advantage, ppo_kl_loss, ppo_loss
from funrl.losses._q_learning import c51_loss, dqn_loss, project_categorical, qr_dqn_loss, quantile_huber, take as take
from funrl.losses._sac import sac_actor_loss, sac_critic_loss, sac_loss, temperature_loss
from funrl.losses._sac_discrete import sac_discrete_actor_loss, sac_discrete_critic_loss, sac_discrete_loss

__all__ = [
    "A2CBatch",
    "ActorCritic",
    "LearnedDrift",
    "OptionBatch",
    "PPOBatch",
    "ReinforceBatch",
    "SoftActorCritic",
    "a2c_loss",
    "adapt_kl_weight",
    "advantage_weighted_loss",
    "awac_critic_loss",
    "bc_loss",
    "c51_loss",
    "clip_drift",
    "clipped_surrogate",
    "clipped_value_loss",
    "cql_critic_loss",
    "cql_penalty",
    "crossq_actor_loss",
    "crossq_critic_loss",
    "ddpg_actor_loss",
    "ddpg_critic_loss",
    "ddpg_loss",
    "decision_transformer_loss",
    "discrete_cql_loss",
    "dpo_drift",
    "dqn_loss",
    "drift_loss",
    "ensemble_diversity_loss",
    "expectile_loss",
    "explained_variance",
    "huber",
    "impala_loss",
    "init_drift",
    "iql_critic_loss",
    "iql_value_loss",
    "learned_drift",
    "normalize_advantage",
    "option_critic_loss",
    "ppo_kl_loss",
    "ppo_loss",
    "project_categorical",
    "qr_dqn_loss",
    "quantile_huber",
    "rebrac_actor_loss",
    "rebrac_critic_loss",
    "redq_actor_loss",
    "redq_critic_loss",
    "redq_loss",
    "reinforce_loss",
    "reinforce_with_baseline_loss",
    "sac_actor_loss",
    "sac_critic_loss",
    "sac_discrete_actor_loss",
    "sac_discrete_critic_loss",
    "sac_discrete_loss",
    "sac_loss",
    "td3_actor_loss",
    "td3_bc_actor_loss",
    "td3_critic_loss",
    "temperature_loss",
]
