"""Transforms of single environments and of copies, and :func:`compose`, which chains them."""

from funrl.transforms._action import action_discretize, action_mask, action_scale, sticky_actions
from funrl.transforms._core import Transform, TransformState as TransformState, compose, parent, stateful, stateless
from funrl.transforms._entries import cat_tensors, exclude, rename, select
from funrl.transforms._episode import end_of_life, frame_skip, init_tracker, noop_reset, step_counter, time_limit
from funrl.transforms._history import frame_stack, time_max_pool
from funrl.transforms._image import center_crop, grayscale, resize, to_tensor_image
from funrl.transforms._observation import cast, discrete_to_one_hot, flatten_observation, observation_norm, permute, squeeze, unsqueeze
from funrl.transforms._options import options
from funrl.transforms._reward import reward_clip, reward_scale, reward_sum, target_return
from funrl.transforms._statistics import VecNormParams as VecNormParams, check_vec_norm as check_vec_norm, update_vec_norm, vec_norm

__all__ = [
    "Transform",
    "action_discretize",
    "action_mask",
    "action_scale",
    "cast",
    "cat_tensors",
    "center_crop",
    "compose",
    "discrete_to_one_hot",
    "end_of_life",
    "exclude",
    "flatten_observation",
    "frame_skip",
    "frame_stack",
    "grayscale",
    "init_tracker",
    "noop_reset",
    "observation_norm",
    "options",
    "parent",
    "permute",
    "rename",
    "resize",
    "reward_clip",
    "reward_scale",
    "reward_sum",
    "select",
    "squeeze",
    "stateful",
    "stateless",
    "step_counter",
    "sticky_actions",
    "target_return",
    "time_limit",
    "time_max_pool",
    "to_tensor_image",
    "unsqueeze",
    "update_vec_norm",
    "vec_norm",
]
