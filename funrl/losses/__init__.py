"""Losses: pure functions ``loss(params, batch, ...) -> (loss, metrics)``, one file for each family of algorithms."""

from funrl.losses.ppo import PPOBatch, clipped_surrogate, clipped_value_loss, explained_variance, normalize_advantage, ppo_loss

__all__ = ["PPOBatch", "clipped_surrogate", "clipped_value_loss", "explained_variance", "normalize_advantage", "ppo_loss"]
