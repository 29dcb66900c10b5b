"""Rollouts: pure environments with a small policy and those of gymnax; the bridge, gymnasium and TorchRL."""

from typing import Any

from benchmarks.environments_peers import HIDDEN, gymnasium, gymnax, throughput, torchrl
from benchmarks.harness import Case, Library, speed

# Two threads gain where the work of a step is large, and lose elsewhere: see funrl.compile.
MANY = 2048


def pure(name: str, num_envs: int, num_steps: int, seconds: float) -> list[float]:
    """Return steps a second of compiled rollouts with a policy of two layers."""
    import funrl  # isort: skip  (before torch, as its threads then wait as funrl wants)
    import torch

    from funrl import distributions, nn, policies, random
    from funrl.spaces import Discrete

    env = funrl.envs.make(name)
    discrete = isinstance(env.action_space, Discrete)
    outputs = env.action_space.n if discrete else env.action_space.shape[0]
    net = nn.sequential(lambda x: x.to(torch.float32).flatten(-len(env.observation_space.shape)), nn.mlp(HIDDEN, outputs))

    def normal(loc: torch.Tensor) -> Any:
        return distributions.Independent(distributions.Normal(loc, torch.ones_like(loc)), 1)

    policy = policies.stochastic(net, distributions.Categorical if discrete else normal, return_log_prob=False)

    def step(params: Any, key: torch.Tensor, actor: Any) -> Any:
        return funrl.rollout(params, key, actor, env.default_params, env=env, act=policy.act, num_steps=num_steps)

    box = [funrl.acting.start(random.key(0), env=env, num_envs=num_envs)]
    params = policy.init(random.key(1), box[0].timestep.observation[0])
    program, key = funrl.compile(step, threads=2 if num_envs >= MANY else 1), random.key(2)

    def call(i: int) -> None:
        box[0], _ = program(params, random.fold_in(key, i), box[0])

    return throughput(call, num_envs * num_steps, seconds)


def bridge(name: str, num_envs: int, num_steps: int, seconds: float) -> list[float]:
    """Return steps a second of ``funrl.rollout`` with random actions in copies of a gymnasium environment."""
    import funrl  # isort: skip
    import torch

    torch.set_num_threads(1)
    with funrl.envs.make(f"gymnasium:{name}", num_envs=num_envs) as env:
        box = [env.reset(funrl.random.key(0))]
        key = funrl.random.key(1)

        def call(i: int) -> None:
            box[0], _ = funrl.rollout(None, funrl.random.fold_in(key, i), box[0], (), env=env, num_steps=num_steps)

        return throughput(call, num_envs * num_steps, seconds)


PURE = {"funrl": Library(pure), "gymnax": Library(gymnax, "gymnax")}
BRIDGE = {"funrl": Library(bridge), "gymnasium": Library(gymnasium, "gymnasium"), "torchrl": Library(torchrl, "torchrl")}
# Copies, and steps of a rollout.
SIZES = ((2048, 64), (64, 512))
CASES = [
    *(
        Case(
            f"{name} with a policy, {num_envs} copies", (name, num_envs, num_steps), PURE, quick=name != "Pendulum-v1" and num_envs == MANY
        )
        for name in ("CartPole-v1", "Pendulum-v1", "Breakout-MinAtar")
        for num_envs, num_steps in SIZES
    ),
    *(
        Case(f"gymnasium:{name}, 8 copies", (name, 8, 512), BRIDGE, quick=name == "CartPole-v1")
        for name in ("CartPole-v1", "Pendulum-v1", "Acrobot-v1")
    ),
]
BENCHMARK = speed(
    "environments",
    f"Rollouts: pure environments compiled together with a policy of {' x '.join(map(str, HIDDEN))} tanh units, those of gymnasium with "
    "random actions.",
    CASES,
    unit="environment steps/s",
    targets={
        **{(case.name, "gymnax"): 1.0 if case.arguments[1] == MANY else 0.7 for case in CASES if "gymnax" in case.libraries},
        **{(case.name, "gymnasium"): 1 / 1.3 for case in CASES if "gymnasium" in case.libraries},
        **{(case.name, "torchrl"): 3.0 for case in CASES if "torchrl" in case.libraries},
    },
    seconds=2.0,
    rounds=3,
)
