"""The environment interface: pure functions over a state, and their data."""

from funrl.env._check import check_env
from funrl.env._data import (
    HostError,
    Place,
    Timestep,
    Transition,
    constants,
    first_timestep as first_timestep,
    seed_globals as seed_globals,
)
from funrl.env._interface import (
    AnyEnv,
    Env,
    Mask as Mask,
    VectorEnv,
    batch_shape as batch_shape,
    copy_keys as copy_keys,
    masked as masked,
    on_host as on_host,
    over_copies as over_copies,
    with_label,
)

__all__ = ["AnyEnv", "Env", "HostError", "Place", "Timestep", "Transition", "VectorEnv", "check_env", "constants", "with_label"]
