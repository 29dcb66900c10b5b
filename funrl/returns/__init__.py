"""Returns and advantages: functions from tensors [T, ...] to tensors [T, ...], time first."""

from funrl.returns.gae import gae

__all__ = ["gae"]
