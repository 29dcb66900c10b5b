"""Meta-learning: learning to learn, by gradients through learning (MAML, meta-gradients) and by memory (RL²); one policy for several
tasks (multi_task); and two levels (feudal)."""

from funrl.meta import feudal, maml, meta_a2c, multi_task, plr, rl2, varibad
from funrl.meta._adaptation import MetaParams, adapt, adapt_first_order, maml_loss, reptile_gradient
from funrl.meta._estimators import dice_loss, magic_box, surrogate_loss
from funrl.meta._evaluation import Adaptation, evaluate_adaptation, trial_returns
from funrl.meta._levels import (
    insert_levels as insert_levels,
    level_probabilities,
    level_score,
    sample_levels as sample_levels,
    start_levels as start_levels,
    update_levels as update_levels,
)
from funrl.meta._mixture import one_of, task_embedding, task_mixture, task_number
from funrl.meta._trials import trials

__all__ = [
    "Adaptation",
    "MetaParams",
    "adapt",
    "adapt_first_order",
    "dice_loss",
    "evaluate_adaptation",
    "feudal",
    "level_probabilities",
    "level_score",
    "magic_box",
    "maml",
    "maml_loss",
    "meta_a2c",
    "multi_task",
    "one_of",
    "plr",
    "reptile_gradient",
    "rl2",
    "surrogate_loss",
    "task_embedding",
    "task_mixture",
    "task_number",
    "trial_returns",
    "trials",
    "varibad",
]
