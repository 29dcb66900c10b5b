"""Sinusoids: regression tasks, to check meta-learning without an environment."""

import math

import torch

from funrl import _check, random, tree
from funrl.env import constants
from funrl.envs.tasks._tasks import Tasks, uniform


@tree.dataclass
class SinusoidTask(tree.Replaceable):
    """A regression task: y = amplitude · sin(x - phase).

    Attributes:
        amplitude: floating point [].
        phase: floating point [].
    """

    amplitude: torch.Tensor = tree.constant(1.0)
    phase: torch.Tensor = tree.constant(0.0)


def sinusoids() -> Tasks:
    """Return sinusoids with amplitudes from 0.1 to 5 and phases from 0 to π, each a :class:`SinusoidTask`.

    :func:`sinusoid_batch` draws points of one. They are drawn by :func:`uniform`; ``env`` is None.

    Example:
        >>> tasks = sinusoids()
        >>> x, y = sinusoid_batch(random.key(1), tree.index(tasks.train(random.key(0), 4), 0), 10)
        >>> x.shape, y.shape
        (torch.Size([10, 1]), torch.Size([10, 1]))

    Reference: C. Finn, P. Abbeel, S. Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", 2017, arXiv:1703.03400,
    section 5.1.
    """
    default = constants(SinusoidTask)
    return uniform(None, name="sinusoids", default_params=default, amplitude=(0.1, 5.0), phase=(0.0, math.pi))


def sinusoid_batch(key: torch.Tensor, task: SinusoidTask, num: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw points of a sinusoid, with x uniform from -5 to 5.

    Args:
        key: a key [].
        task: the sinusoid; map over several with :func:`torch.func.vmap`.
        num: N, the number of points.

    Returns:
        x and y, each floating point [N, 1].

    Example:
        >>> task = SinusoidTask(torch.tensor(2.0), torch.tensor(0.0))
        >>> x, y = sinusoid_batch(random.key(0), task, 3)
        >>> bool((y == 2 * x.sin()).all())
        True
    """
    _check.instance("sinusoid_batch: task", task, SinusoidTask, "tree.index(tasks.train(key, n), 0) is one")
    _check.sized("sinusoid_batch: task.amplitude", task.amplitude, (), "map over several tasks with torch.func.vmap")
    _check.integer("sinusoid_batch: num", num, 1)
    x = random.uniform(key, (num, 1), -5.0, 5.0, dtype=task.amplitude.dtype)
    return x, task.amplitude * torch.sin(x - task.phase)
