"""The environment interface: pure functions over a state, and their data."""

from funrl.env._check import check_env
from funrl.env._interface import (
    Env,
    HostError,
    Place,
    Timestep,
    Transition,
    check_step as check_step,
    constants,
    seed_globals as seed_globals,
)

__all__ = ["Env", "HostError", "Place", "Timestep", "Transition", "check_env", "constants"]
