"""Many processes, on one machine or on several, by torch.distributed."""

from funrl.distributed._group import DistributedError, Group, alone, in_job, join, restarts as restarts, share as share, told as told
from funrl.distributed._launch import launch

__all__ = ["DistributedError", "Group", "alone", "in_job", "join", "launch"]
