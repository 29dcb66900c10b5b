"""MAML on sinusoids: what one program of many seeds learns, for :mod:`benchmarks.meta`."""

from typing import Any

NUM_SEEDS = 5
NUM_TASKS = 25
ITERATIONS = 10_000
CHUNK = 2_000
TEST_TASKS = 600
STEPS = (0, 1, 10)


def learn(shots: int, iterations: int = ITERATIONS, *, learned: bool = False) -> dict[str, Any]:
    """Train by MAML with one inner step; return the errors of each seed after 0, 1 and 10 steps on new tasks.

    With ``learned`` step sizes, one for each parameter, only after 0 and 1: sizes that were learned for one step are so large that ten of
    them diverge, since nothing in the training kept a second step stable (Meta-SGD, arXiv:1707.09835, takes one step, too).

    The network, the tasks and the number of tasks in a batch are those of the paper (arXiv:1703.03400, section 5.1).
    """
    import time

    import torch
    from torch.func import grad, vmap

    import funrl
    from funrl import meta, nn, optim, random, tree
    from funrl.envs import tasks

    tested = STEPS[:2] if learned else STEPS
    net, kind = nn.mlp((40, 40), 1, activation="relu"), tasks.sinusoids()
    optimizer = optim.flatten(optim.adam(1e-3))

    def loss(params: Any, batch: Any) -> torch.Tensor:
        x, y = batch
        return (net.apply(params, x) - y).square().mean()

    def batch(key: torch.Tensor, drawn: Any, num: int) -> Any:
        keys = random.split(key, len(drawn.phase))
        return vmap(tasks.sinusoid_batch, (0, 0, None))(keys, drawn, num)

    def init(key: torch.Tensor) -> Any:
        params = net.init(key, torch.zeros(1))
        start = meta.MetaParams(params, tree.map(lambda x: torch.full_like(x, 0.01), params))
        return start, optimizer.init(start)

    def iterate(carry: Any, key: torch.Tensor) -> Any:
        start, state = carry
        task_key, support_key, query_key = random.split(key, 3).unbind(0)
        drawn = kind.train(task_key, NUM_TASKS)
        support, query = batch(support_key, drawn, shots), batch(query_key, drawn, shots)
        gradient, metrics = grad(meta.maml_loss, has_aux=True)(start, support, query, loss=loss, num_steps=1)
        if not learned:
            gradient = gradient.replace(step_size=tree.zeros_like(gradient.step_size))
        updates, state = optimizer.update(gradient, state, start)
        return (optim.apply_updates(start, updates), state), metrics["loss_after"]

    def train(key: torch.Tensor, carry: Any) -> Any:
        return funrl.scan(iterate, carry, random.split(key, CHUNK))

    def test(key: torch.Tensor, start: Any) -> torch.Tensor:
        task_key, support_key, query_key = random.split(key, 3).unbind(0)
        drawn = kind.test(task_key, TEST_TASKS)
        support, query = batch(support_key, drawn, shots), batch(query_key, drawn, 100)
        after = [meta.maml_loss(start, support, query, loss=loss, num_steps=n)[1]["loss_after"] for n in tested]
        return torch.stack(after)

    program, begin = funrl.compile(vmap(train)), time.perf_counter()
    carry = vmap(init)(random.split(random.key(0), NUM_SEEDS))
    for number in range(iterations // CHUNK):
        carry, _ = program(random.split(random.fold_in(random.key(1), number), NUM_SEEDS), carry)
    errors = funrl.compile(vmap(test, (None, 0)))(random.key(2), carry[0])
    return {
        "shots": shots,
        "iterations": iterations,
        "learned": learned,
        "seconds": time.perf_counter() - begin,
        "errors": {str(n): errors[:, i].tolist() for i, n in enumerate(tested)},
    }
