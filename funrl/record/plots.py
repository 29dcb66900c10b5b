"""Pictures of a run. Matplotlib is imported when one is drawn, and none of its global state is touched."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

__all__ = ["learning_curve"]


def learning_curve(metrics: Mapping[str, np.ndarray], path: str | os.PathLike, *, title: str = "") -> None:
    """Draw the mean episode return over the environment steps as a PNG file.

    With several agents it draws each as a thin line, their mean as a thick one, and the band between their quartiles.

    Args:
        metrics: columns [rows], as :func:`funrl.record.read_metrics` gives them: ``update``, ``agent``, ``steps`` and
            ``episode_return``. Every update has a row for each agent. A return that is NaN (no episode has ended yet) is left out.
        path: the picture.
        title: what stands above it.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed.
        ValueError: if a column is missing.

    Example:
        >>> import tempfile, numpy as np
        >>> rows = {"update": [1, 1, 2, 2], "agent": [0, 1, 0, 1], "steps": [64, 64, 128, 128], "episode_return": [20, 22, 30, 50]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     learning_curve({name: np.array(x) for name, x in rows.items()}, f"{folder}/curve.png")
    """
    missing = [name for name in ("update", "agent", "steps", "episode_return") if name not in metrics]
    if missing:
        raise ValueError(f"learning_curve: metrics: expected a column {missing[0]!r}, got {', '.join(metrics)}")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ModuleNotFoundError('a learning curve needs matplotlib; install it with: pip install "funrl[plot]"') from None

    updates, row = np.unique(metrics["update"], return_inverse=True)
    agents, column = np.unique(metrics["agent"], return_inverse=True)
    returns = np.full((len(updates), len(agents)), np.nan)
    steps = np.zeros(len(updates))
    returns[row, column] = metrics["episode_return"]
    steps[row] = metrics["steps"]
    ended = ~np.isnan(returns).all(1)
    steps, returns = steps[ended], returns[ended]

    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if len(agents) > 1:
        axes.plot(steps, returns, color="tab:blue", linewidth=0.6, alpha=0.4)
        low, high = np.nanquantile(returns, (0.25, 0.75), axis=1) if len(steps) else (steps, steps)
        axes.fill_between(steps, low, high, color="tab:blue", alpha=0.25, linewidth=0, label="quartiles")
    label = f"mean of {len(agents)} agents" if len(agents) > 1 else "episode return"
    axes.plot(steps, np.nanmean(returns, 1) if len(steps) else steps, color="tab:blue", linewidth=2.0, label=label)
    axes.set(xlabel="environment steps of an agent", ylabel="mean return of finished episodes", title=title)
    axes.grid(alpha=0.3)
    if len(agents) > 1:
        axes.legend(loc="best", frameon=False)

    path = Path(path)
    temporary = path.with_name(f".{path.name}.partial")
    with open(temporary, "wb") as file:
        canvas.print_png(file)
    os.replace(temporary, path)
