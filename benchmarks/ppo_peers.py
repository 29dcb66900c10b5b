"""PPO on CartPole-v1 in other libraries, timed: what ``benchmarks/ppo.py`` holds funrl against.

A sample is the environment steps per second of whole training iterations (rollout, advantages, 4 epochs of 4 minibatches),
all agents counted. Importing, building, compiling and a first iteration come before the clock. Every peer has the number of threads
that its library takes by default (``OMP_NUM_THREADS`` bounds those of torch; XLA ignores it).

Every peer has the same settings (:data:`SETTINGS`): two tanh networks 64 x 64, Adam with its epsilon at 1e-5, advantages
normalised in each minibatch, gradients clipped by their global norm, generalised advantages computed once an iteration.
Every peer is given the fastest of its library's own documented ways that was found:

``sb3``
    Stable-Baselines3: ``PPO("MlpPolicy")`` on the CPU over a ``DummyVecEnv`` of gymnasium's CartPole, without a ``Monitor``.
    (``SubprocVecEnv`` pays a round trip between processes for a step of a few microseconds.)
``torchrl``
    TorchRL: ``Collector``, ``GAE``, ``ClipPPOLoss``, minibatches from a ``ReplayBuffer`` with ``SamplerWithoutReplacement``, Adam. The
    environments are gymnasium's ``SyncVectorEnv`` of CartPole inside TorchRL's ``GymWrapper``, which resets them (the mode that its
    errors recommend, and half as fast again as gymnasium resetting them): TorchRL's overhead is then paid once for all
    environments. Nothing is compiled: a compiled policy gained nothing, and a compiled update gained at 4 environments only.
``torchrl_serial``
    The same over TorchRL's own ``SerialEnv`` of ``GymEnv``, as in its tutorials, which pays that overhead for each environment.
``rejax``
    rejax on gymnax: its ``PPO.train``, compiled ahead of time, for one agent or vmapped over the states of several. Evaluation
    costs nothing: the callback is replaced by a constant, the initial evaluation is skipped, and one call of ``train`` has
    a single evaluation interval. Every call goes on from the state that the last one returned. rejax clips gradients
    element by element and leaves Adam's epsilon at 1e-8; here its train states get the optimiser of the
    settings (the norm is that of each network, since rejax has an optimiser for each). It always clips the value
    loss too, and takes the end of an episode by its time limit for a terminal state; both stay.

The ``bench`` extra holds versions that work together (rejax needs gymnax below 1; TorchRL 0.14.1 wants tensordict 0.14).
"""

import sys
import time
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

__all__ = ["SETTINGS", "Stopwatch", "check_single", "rejax", "sb3", "torchrl", "torchrl_serial"]


class Settings(NamedTuple):
    """The hyperparameters that every peer shares (and ``benchmarks/ppo.py`` gives to funrl)."""

    hidden: tuple[int, ...] = (64, 64)
    num_epochs: int = 4
    num_minibatches: int = 4
    learning_rate: float = 2.5e-4
    adam_epsilon: float = 1e-5
    gamma: float = 0.99
    lambda_: float = 0.95
    clip: float = 0.2
    entropy_weight: float = 0.01
    value_weight: float = 0.5
    max_grad_norm: float = 0.5


SETTINGS = Settings()


class Stopwatch:
    """Turns calls of :meth:`tick`, each after the same number of environment steps, into samples of steps per second.

    The first tick starts the clock: what came before it is warm-up.

    Args:
        steps: environment steps between two ticks.
        min_seconds: the least time that a sample covers.
        repeats: how many samples to take.
    """

    def __init__(self, steps: int, min_seconds: float, repeats: int) -> None:
        self.steps = steps
        self.min_seconds = min_seconds
        self.repeats = repeats
        self.samples: list[float] = []
        self.start: float | None = None
        self.ticks = 0

    def tick(self) -> bool:
        """Count one round of steps, and return whether all samples are taken."""
        now = time.perf_counter()
        if self.start is None:
            self.start = now
            return False
        self.ticks += 1
        if now - self.start >= self.min_seconds:
            self.samples.append(self.ticks * self.steps / (now - self.start))
            self.start, self.ticks = now, 0
        return self.done

    @property
    def done(self) -> bool:
        """Return whether all samples are taken."""
        return len(self.samples) >= self.repeats


def sb3(num_envs: int, num_steps: int, num_agents: int, min_seconds: float, repeats: int = 3) -> list[float]:
    """Time Stable-Baselines3's PPO.

    Args:
        num_envs: environments of an agent.
        num_steps: steps of each environment in an iteration.
        num_agents: 1: it trains one agent at a time.
        min_seconds: the least time that a sample covers.
        repeats: how many samples to take.

    Returns:
        ``repeats`` numbers: environment steps per second.

    Raises:
        ValueError: if ``num_agents`` is not 1.
    """
    check_single("sb3", num_agents)
    import gymnasium
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.vec_env import DummyVecEnv

    watch = Stopwatch(num_envs * num_steps, min_seconds, repeats)

    class Timer(BaseCallback):
        def _on_rollout_start(self) -> None:
            if self.model.num_timesteps > 0:
                watch.tick()

        def _on_step(self) -> bool:
            return not watch.done

    agent = PPO(
        "MlpPolicy",
        DummyVecEnv([lambda: gymnasium.make("CartPole-v1")] * num_envs),
        learning_rate=SETTINGS.learning_rate,
        n_steps=num_steps,
        batch_size=num_envs * num_steps // SETTINGS.num_minibatches,
        n_epochs=SETTINGS.num_epochs,
        gamma=SETTINGS.gamma,
        gae_lambda=SETTINGS.lambda_,
        clip_range=SETTINGS.clip,
        ent_coef=SETTINGS.entropy_weight,
        vf_coef=SETTINGS.value_weight,
        max_grad_norm=SETTINGS.max_grad_norm,
        policy_kwargs={
            "net_arch": {"pi": list(SETTINGS.hidden), "vf": list(SETTINGS.hidden)},
            "optimizer_kwargs": {"eps": SETTINGS.adam_epsilon},
        },
        seed=0,
        device="cpu",
    )
    agent.learn(sys.maxsize, callback=Timer())
    return watch.samples


def torchrl_trainer(num_envs: int, num_steps: int, num_agents: int, min_seconds: float, repeats: int = 3, *, serial: bool) -> list[float]:
    """Time PPO made of TorchRL's pieces; arguments, return and error as for :func:`sb3`.

    ``serial`` chooses the environments: TorchRL's ``SerialEnv``, or else gymnasium's ``SyncVectorEnv`` wrapped by TorchRL.
    """
    check_single("torchrl", num_agents)
    import gymnasium
    import torch
    from tensordict.nn import TensorDictModule
    from torch.distributions import Categorical, Distribution
    from torchrl import torchrl_logger
    from torchrl.collectors import Collector
    from torchrl.data import LazyTensorStorage, ReplayBuffer, SamplerWithoutReplacement
    from torchrl.envs import GymEnv, GymWrapper, SerialEnv
    from torchrl.modules import ProbabilisticActor, ValueOperator
    from torchrl.objectives import ClipPPOLoss
    from torchrl.objectives.value import GAE

    torchrl_logger.setLevel("WARNING")
    Distribution.set_default_validate_args(False)
    torch.manual_seed(0)

    def network(num_outputs: int) -> torch.nn.Module:
        sizes = (4, *SETTINGS.hidden)
        layers: list[torch.nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [torch.nn.Linear(inputs, outputs), torch.nn.Tanh()]
        return torch.nn.Sequential(*layers, torch.nn.Linear(sizes[-1], num_outputs))

    def single() -> Any:
        return GymEnv("CartPole-v1", categorical_action_encoding=True, device="cpu")

    if serial:
        env = SerialEnv(num_envs, single)
    else:
        mode = gymnasium.vector.AutoresetMode.DISABLED
        host = gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * num_envs, autoreset_mode=mode)
        env = GymWrapper(host, categorical_action_encoding=True, device="cpu")

    actor = ProbabilisticActor(
        TensorDictModule(network(2), in_keys=["observation"], out_keys=["logits"]),
        in_keys=["logits"],
        spec=env.action_spec,
        distribution_class=Categorical,
        return_log_prob=True,
    )
    critic = ValueOperator(network(1), in_keys=["observation"])
    advantage = GAE(gamma=SETTINGS.gamma, lmbda=SETTINGS.lambda_, value_network=critic)
    loss = ClipPPOLoss(
        actor,
        critic,
        clip_epsilon=SETTINGS.clip,
        entropy_coeff=SETTINGS.entropy_weight,
        critic_coeff=SETTINGS.value_weight,
        loss_critic_type="l2",
        normalize_advantage=True,
        log_explained_variance=False,
    )
    optimizer = torch.optim.Adam(loss.parameters(), lr=SETTINGS.learning_rate, eps=SETTINGS.adam_epsilon)

    batch_size = num_envs * num_steps
    buffer = ReplayBuffer(
        storage=LazyTensorStorage(batch_size),
        sampler=SamplerWithoutReplacement(),
        batch_size=batch_size // SETTINGS.num_minibatches,
    )
    collector = Collector(env, actor, frames_per_batch=batch_size, total_frames=-1, device="cpu", auto_register_policy_transforms=False)
    watch = Stopwatch(batch_size, min_seconds, repeats)
    for data in collector:
        with torch.no_grad():
            data = advantage(data)
        buffer.extend(data.reshape(-1))
        for _ in range(SETTINGS.num_epochs):
            for minibatch in buffer:
                terms = loss(minibatch)
                optimizer.zero_grad()
                (terms["loss_objective"] + terms["loss_critic"] + terms["loss_entropy"]).backward()
                torch.nn.utils.clip_grad_norm_(loss.parameters(), SETTINGS.max_grad_norm)
                optimizer.step()
        if watch.tick():
            break
    collector.shutdown()
    return watch.samples


torchrl = partial(torchrl_trainer, serial=False)
torchrl_serial = partial(torchrl_trainer, serial=True)


def rejax(
    num_envs: int,
    num_steps: int,
    num_agents: int,
    min_seconds: float,
    repeats: int = 3,
    steps_per_call: int = 2**18,
    device: str = "cpu",
) -> list[float]:
    """Time rejax's PPO, one agent or several by ``jax.vmap``.

    Args:
        num_envs: environments of each agent.
        num_steps: steps of each environment in an iteration.
        num_agents: agents that train side by side in one program.
        min_seconds: the least time that a sample covers.
        repeats: how many samples to take.
        steps_per_call: about how many environment steps, all agents counted, one call of the compiled program takes.
        device: ``"cpu"`` or ``"cuda"``.

    Returns:
        ``repeats`` numbers: environment steps per second, all agents counted.
    """
    import jax
    import optax
    import rejax as library
    from flax.training.train_state import TrainState

    jax.config.update("jax_platforms", device)
    iterations = max(1, steps_per_call // (num_envs * num_steps * num_agents))
    total = iterations * num_envs * num_steps
    algorithm = library.PPO.create(
        env="CartPole-v1",
        agent_kwargs={"hidden_layer_sizes": SETTINGS.hidden, "activation": "tanh"},
        num_envs=num_envs,
        num_steps=num_steps,
        num_epochs=SETTINGS.num_epochs,
        num_minibatches=SETTINGS.num_minibatches,
        learning_rate=SETTINGS.learning_rate,
        gamma=SETTINGS.gamma,
        gae_lambda=SETTINGS.lambda_,
        clip_eps=SETTINGS.clip,
        ent_coef=SETTINGS.entropy_weight,
        vf_coef=SETTINGS.value_weight,
        total_timesteps=total,
        eval_freq=total,
        skip_initial_evaluation=True,
    ).replace(eval_callback=lambda algorithm, state, key: ())
    optimizer = optax.chain(
        optax.clip_by_global_norm(SETTINGS.max_grad_norm),
        optax.adam(SETTINGS.learning_rate, eps=SETTINGS.adam_epsilon),
    )

    def init(key: Any) -> Any:
        state = algorithm.init_state(key)
        actor, critic = (TrainState.create(apply_fn=(), params=part.params, tx=optimizer) for part in (state.actor_ts, state.critic_ts))
        return state.replace(actor_ts=actor, critic_ts=critic)

    def train(state: Any) -> Any:
        state, _ = algorithm.train(train_state=state)
        return state

    key = jax.random.PRNGKey(0)
    if num_agents == 1:
        state = jax.jit(init)(key)
    else:
        state = jax.jit(jax.vmap(init))(jax.random.split(key, num_agents))
        train = jax.vmap(train)
    program = jax.jit(train).lower(state).compile()

    watch = Stopwatch(num_agents * total, min_seconds, repeats)
    while not watch.done:
        state = jax.block_until_ready(program(state))
        watch.tick()
    return watch.samples


def check_single(peer: str, num_agents: int) -> None:
    """Raise ValueError unless ``num_agents`` is 1."""
    if num_agents != 1:
        raise ValueError(f"{peer}: num_agents is {num_agents}, expected 1: it trains one agent at a time; only rejax vmaps over agents")
