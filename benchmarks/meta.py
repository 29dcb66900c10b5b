"""MAML over 64 tasks, inner and outer steps as one program, compared with eager torch and JAX."""

from functools import partial
from typing import Any

from benchmarks.harness import Case, Library, speed
from benchmarks.meta_peers import SETTINGS, jax, loop, points, rates

STEPS = (1, 5)


def ours(compiled: bool, inner_steps: int, seconds: float) -> list[float]:
    """Return updates in a second."""
    import funrl  # isort: skip  (before torch, as its threads then wait as funrl wants)
    import torch

    from funrl import meta, nn, optim, random

    net = nn.mlp(SETTINGS.hidden, 1, activation="relu")
    optimizer = optim.flatten(optim.adam(SETTINGS.learning_rate))
    support, query = (tuple(map(torch.as_tensor, pair)) for pair in points())
    size = torch.tensor(SETTINGS.step_size)

    def loss(params: Any, batch: Any) -> Any:
        x, y = batch
        return (net.apply(params, x) - y).square().mean()

    def after(params: Any, support: Any, query: Any) -> Any:
        return meta.maml_loss(meta.MetaParams(params, size), support, query, loss=loss, num_steps=inner_steps)

    def update(params: Any, state: Any, support: Any, query: Any) -> Any:
        gradient, (value, _) = torch.func.grad_and_value(after, has_aux=True)(params, support, query)
        updates, state = optimizer.update(gradient, state, params)
        return optim.apply_updates(params, updates), state, value

    params = net.init(random.key(0), torch.zeros(1))
    state, step = optimizer.init(params), funrl.compile(update) if compiled else update

    def call() -> None:
        nonlocal params, state
        params, state, value = step(params, state, support, query)
        value.item()

    return rates(call, seconds)


def _case(steps: int) -> Case:
    libraries = {
        "funrl": Library(partial(ours, True)),
        "funrl, not compiled": Library(partial(ours, False)),
        "torch, a loop over tasks": Library(loop, "torch"),
        "JAX": Library(jax, "jax"),
    }
    return Case(f"MAML, {SETTINGS.tasks} tasks, {steps} inner step{'s' * (steps > 1)}", (steps,), libraries, quick=steps == 1)


CASES = [_case(steps) for steps in STEPS]
BENCHMARK = speed(
    "meta",
    f"MAML on sinusoids: {SETTINGS.tasks} tasks of {SETTINGS.shots} points, networks 1-{'-'.join(map(str, SETTINGS.hidden))}-1, Adam.",
    CASES,
    unit="updates/s",
    targets={(case.name, library): least for case in CASES for library, least in (("torch, a loop over tasks", 20.0), ("JAX", 1.0))},
    seconds=2.0,
    rounds=3,
)
