"""Many processes, on one machine or on several, by torch.distributed."""

from funrl.distributed._group import DistributedError, Group, alone, in_job, join, restarts as restarts, share as share, told as told
from funrl.distributed._launch import launch
from funrl.distributed._parallel import averaged, data_parallel

__all__ = ["DistributedError", "Group", "alone", "averaged", "data_parallel", "in_job", "join", "launch"]
