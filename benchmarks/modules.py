"""An ensemble of 100 networks by ``funrl.nn.ensemble``, forward and backward; a loop over torch modules; and tensordict's vmap."""

from functools import partial
from typing import Any

from benchmarks.harness import Case, Library, speed
from benchmarks.modules_peers import SETTINGS, loop, tensordict, timed

THREADS = 2
TOGETHER = 10  # members at once: what they remember for the way back then stays in the cache


def ours(compiled: bool, seconds: float) -> list[float]:
    """Return the milliseconds of the gradient of all members' losses."""
    import funrl  # isort: skip  (before torch, as its threads then wait as funrl wants)
    import torch

    from funrl import nn, random, tree

    net = nn.ensemble(nn.mlp(SETTINGS.hidden, SETTINGS.outputs), SETTINGS.members)
    group = nn.ensemble(nn.mlp(SETTINGS.hidden, SETTINGS.outputs), TOGETHER)
    x = torch.randn(SETTINGS.batch_size, SETTINGS.inputs)
    params = net.init(random.key(0), x)

    def losses(params: Any, x: Any, net: Any = net) -> Any:
        return net.apply(params, x).square().mean((-2, -1)).sum()

    def in_groups(params: Any, x: Any) -> Any:
        def one(total: Any, params: Any) -> Any:
            gradient, loss = torch.func.grad_and_value(losses)(params, x, group)
            return total + loss, gradient

        total, gradient = funrl.scan(one, x.new_zeros(()), tree.reshape(params, (SETTINGS.members // TOGETHER, TOGETHER), batch_dims=1))
        return tree.reshape(gradient, (SETTINGS.members,), batch_dims=2), total

    torch.set_num_threads(THREADS)
    gradient = funrl.compile(in_groups, threads=THREADS) if compiled else torch.func.grad_and_value(losses)
    return timed(lambda: gradient(params, x), seconds)


CASE = f"{SETTINGS.members} networks, forward and backward"
BENCHMARK = speed(
    "modules",
    f"{SETTINGS.members} networks {SETTINGS.inputs}-{'-'.join(map(str, SETTINGS.hidden))}-{SETTINGS.outputs}, one pass forward and back "
    f"of all on a batch of {SETTINGS.batch_size}.",
    [
        Case(
            CASE,
            (),
            {
                "funrl": Library(partial(ours, True)),
                "funrl, not compiled": Library(partial(ours, False)),
                "loop": Library(loop, "torch"),
                "tensordict": Library(tensordict, "tensordict"),
            },
        )
    ],
    unit="ms",
    lower=True,
    targets={(CASE, "loop"): 5.0, (CASE, "tensordict"): 1.0},
    seconds=3.0,
    rounds=2,
)
