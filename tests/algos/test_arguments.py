"""The parts of an algorithm that a user replaces: optimizers, networks, buffers, losses, spaces and exploration."""

import functools

import pytest
import torch
from torch.func import vmap

import funrl
from funrl import algos, buffers, distributions, nn, optim, policies, random, schedules, spaces, tree
from tests.support import same

ON_POLICY = dict(num_envs=4, num_steps=8, num_cells=(8,))
PPO = dict(ON_POLICY, num_epochs=2, num_minibatches=2)
OFF_POLICY = dict(num_envs=2, num_steps=4, num_updates=2, batch_size=8, num_cells=(8,), buffer_size=64, learning_starts=0)
ALGORITHMS = {
    "ppo": ("CartPole-v1", PPO),
    "a2c": ("CartPole-v1", ON_POLICY),
    "reinforce": ("CartPole-v1", ON_POLICY),
    "impala": ("CartPole-v1", dict(ON_POLICY, num_minibatches=2)),
    "pqn": ("CartPole-v1", PPO),
    "dqn": ("CartPole-v1", OFF_POLICY),
    "ddpg": ("Pendulum-v1", OFF_POLICY),
    "td3": ("Pendulum-v1", OFF_POLICY),
    "sac": ("Pendulum-v1", OFF_POLICY),
    "sac_discrete": ("CartPole-v1", OFF_POLICY),
    "redq": ("Pendulum-v1", dict(OFF_POLICY, num_critics=3, policy_delay=2)),
    "crossq": ("Pendulum-v1", dict(OFF_POLICY, policy_delay=2)),
}


def make(name, **options):
    env, defaults = ALGORITHMS[name]
    if ("network" in options or {"actor", "critic"} <= options.keys()) and "num_cells" not in options:
        defaults = without(defaults, "num_cells")
    if "buffer" in options and "buffer_size" not in options:
        defaults = without(defaults, "buffer_size")
    return algos.make(name, funrl.envs.make(env), **{**defaults, **options})


def without(options, *names):
    return {name: value for name, value in options.items() if name not in names}


def learns(algo, *, compiled=True, updates=1):
    """Check that updates are alike eagerly, of two agents under vmap and, with ``compiled``, by XLA; return the last metrics."""
    keys = random.split(random.key(0), 2)
    singles = [algo.init(key) for key in keys]
    states = vmap(algo.init)(keys)
    same(states, tree.stack(singles))
    before = tree.ravel(singles[0].learner.params.network)[0]
    step = funrl.compile(vmap(algo.step), backend="xla") if compiled else vmap(algo.step)
    for i in range(1, updates + 1):
        keys = random.split(random.key(i), 2)
        results = [algo.step(key, state) for key, state in zip(keys, singles, strict=True)]
        singles = [state for state, _ in results]
        states, metrics = step(keys, states)
        same(
            (states.learner.params, metrics),
            tree.stack([(state.learner.params, metrics) for state, metrics in results]),
            rtol=1e-3,
            atol=1e-4,
        )
    after = tree.ravel(singles[0].learner.params.network)[0]
    assert after.isfinite().all() and not torch.equal(before, after)
    return results[0][1]


def annealed_adamw(steps=100):
    return optim.chain(optim.clip_by_global_norm(1.0), optim.adamw(schedules.cosine(1e-2, 0.0, steps), eps=1e-4))


def test_an_observation_of_numpy_is_refused():
    for algo in (make("ppo"), make("dqn")):
        with pytest.raises(TypeError, match="observation: expected tensors, got a ndarray"):
            algo.greedy(algo.init(random.key(0)).learner.params, random.key(1), torch.zeros(4).numpy())


@pytest.mark.parametrize("name", ALGORITHMS)
def test_any_optimizer(name):
    metrics = learns(make(name, optimizer=annealed_adamw()), compiled=False)
    assert "learning_rate" not in metrics
    # What does nothing learns nothing, in all parts.
    algo = make(name, optimizer=optim.sgd(0.0))
    state = algo.init(random.key(0))
    after, _ = algo.step(random.key(1), state)
    if name != "crossq":  # whose running statistics move
        same(after.learner.params.network, state.learner.params.network, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["ppo", "a2c"])
def test_the_default_optimizer_can_be_given(name):
    algo = make(name, learning_rate=0.01)
    given = make(name, optimizer=optim.flatten(optim.chain(optim.clip_by_global_norm(0.5), optim.adam(0.01, eps=1e-5))))
    results = [algo.step(random.key(1), algo.init(random.key(0)))[0] for algo in (algo, given)]
    same(results[0].learner.params, results[1].learner.params, rtol=0, atol=0)


WHOLE = policies.actor_critic(nn.mlp((8,)), nn.mlp((), 2), nn.mlp((), 1), distributions.Categorical)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("ppo", dict(optimizer=optim.sgd(0.1), learning_rate=0.1), ValueError, "optimizer, learning_rate: expected one of them, got both"),
        ("sac", dict(optimizer=optim.sgd(0.1), anneal_steps=1e6), ValueError, "optimizer, anneal_steps: expected one of them, got both"),
        ("a2c", dict(optimizer=optim.adam), TypeError, "optimizer: expected a funrl.optim.Optimizer, got the function adam; call the"),
        (
            "dqn",
            dict(optim=optim.sgd(0.1)),
            ValueError,
            "unknown option 'optim': the argument is called optimizer; help.funrl.algos.dqn.make",
        ),
        ("ppo", dict(net=nn.mlp((8,))), ValueError, "unknown option 'net': the argument is called network; help.funrl.algos.ppo.make"),
        ("ppo", dict(network=nn.mlp((8,)), num_cells=(8,)), ValueError, "network, num_cells: expected one of them, got both"),
        ("ppo", dict(network=torch.nn.Linear(4, 2)), TypeError, "network: expected a net of .*give funrl.nn.from_module"),
        ("ppo", dict(network=nn.noisy_linear(8)), ValueError, "network: expected one without noise"),
        ("ppo", dict(network=nn.mlp((8,)), recurrent="gru", stride=2), ValueError, "network, stride: expected one of them, got both"),
        ("ppo", dict(network=WHOLE, recurrent="gru"), ValueError, "network, recurrent: expected one of them, got both"),
        ("pqn", dict(network=WHOLE), TypeError, "network: expected a net"),
        ("sac", dict(network=nn.mlp((8,))), ValueError, "unknown option 'network': the arguments are called actor and critic; help"),
        (
            "ppo",
            dict(replay_buffer=buffers.uniform(9)),
            ValueError,
            "'replay_buffer': this algorithm has no such part; .* network",
        ),
        ("sac", dict(buffer=buffers.uniform(64), buffer_size=64), ValueError, "buffer, buffer_size: expected one of them, got both"),
        ("dqn", dict(buffer=buffers.uniform(64), prioritized=True), ValueError, "buffer, prioritized: expected one of them, got both"),
        ("dqn", dict(buffer=buffers.uniform), TypeError, "buffer: expected a funrl.buffers.Buffer, got the function uniform"),
        ("dqn", dict(buffer=buffers.uniform(4)), ValueError, "buffer: it holds 4 items, less than the 8 transitions of one update"),
        ("td3", dict(actor=nn.mlp((), 1), critic=nn.mlp((), 1), num_cells=(8,)), ValueError, "actor, critic, num_cells: expected one of"),
        ("sac", dict(critic=nn.from_module(torch.nn.Linear(4, 1))), ValueError, "critic: expected parameters that depend on the key"),
        ("ppo", dict(loss="mse"), TypeError, "loss: expected a function, got a str"),
        ("td3", dict(loss=torch.square), ValueError, "unknown option 'loss': the arguments are called critic_loss and actor_loss; help"),
        ("dqn", dict(epsilon=0.1), ValueError, "unknown option 'epsilon': the argument is called exploration; help"),
        ("dqn", dict(exploration=0.1), TypeError, "exploration: expected a function, got a float"),
        ("td3", dict(exploration=schedules.constant(0.1), exploration_noise=0.1), ValueError, "exploration, exploration_noise: expected"),
        ("impala", dict(nonsense=3), ValueError, "unknown option 'nonsense'"),
    ],
)
def test_errors(name, options, error, message):
    with pytest.raises(error, match=message):
        make(name, **options)


def test_a_run_records_what_was_given(tmp_path):
    algo = make("ppo", optimizer=annealed_adamw())
    play = functools.partial(funrl.train, key=random.key(0), out=tmp_path, backend="eager", evaluate_episodes=0, progress=False)
    play(algo, total_steps=64)
    assert list(funrl.runs.read_config(tmp_path)["given"]) == ["optimizer"]
    with pytest.raises(funrl.runs.RunError, match=r"made with optimizer= of the user's own, .*load_run.*algo=algo"):
        funrl.training.load_run(tmp_path)
    assert funrl.training.load_run(tmp_path, algo=make("ppo", optimizer=annealed_adamw())).updates == 2
    with pytest.raises(funrl.runs.RunError, match=r"the run has optimizer = .* and the algorithm given has 'its own'"):
        funrl.training.load_run(tmp_path, algo=make("ppo"))
    play(make("ppo", optimizer=annealed_adamw()), total_steps=96, resume=True)
    with pytest.raises(funrl.runs.RunError, match=r"cannot resume: the run there has optimizer = .*not 'its own'"):
        play(make("ppo"), total_steps=128, resume=True)


class Transformer(torch.nn.Module):
    """Each number of a vector is a token."""

    def __init__(self):
        super().__init__()
        self.embed, self.place = torch.nn.Linear(1, 8), torch.nn.Parameter(torch.zeros(4, 8))
        self.layer = torch.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

    def forward(self, x):
        return self.layer(self.embed(x.unsqueeze(-1)) + self.place).mean(-2)


class Convolution(torch.nn.Module):
    def __init__(self, channels, outputs):
        super().__init__()
        self.convolution, self.head = torch.nn.Conv2d(channels, 2, 3, stride=2), torch.nn.Linear(2 * 4 * 4, outputs)

    def forward(self, x):
        return self.head(torch.relu(self.convolution(x.to(self.head.weight.dtype).movedim(-1, -3))).flatten(-3))


@pytest.mark.slow
def test_ppo_with_a_transformer_and_an_annealed_adamw():
    network = nn.from_module(Transformer())
    algo = make("ppo", network=network, optimizer=annealed_adamw(), num_steps=4, num_epochs=1)
    state = algo.init(random.key(0))
    assert state.learner.params.network["policy"][0]["weight"].shape == (2, 8)
    same(state.learner.params.network["trunk"], network.init())
    learns(algo)


@pytest.mark.slow
def test_dqn_with_a_convolution_of_the_users_own():
    env = funrl.envs.make("Breakout-MinAtar")
    algo = algos.dqn.make(env, network=nn.from_module(Convolution(4, env.action_space.n)), **without(OFF_POLICY, "num_cells"))
    learns(algo)


@pytest.mark.parametrize("name", ["a2c", "reinforce", "impala", "ppo"])
def test_policies_and_values_of_the_users_own(name):
    network = policies.actor_critic(nn.from_module(Transformer()), nn.mlp((), 2), nn.mlp((), 1), distributions.Categorical)
    learns(make(name, network=network), compiled=False)


def test_a_policy_of_continuous_actions_is_projected():
    def normal(output):
        return distributions.Independent(distributions.Normal(output + 100.0, torch.ones_like(output)), 1)

    network = policies.actor_critic(nn.mlp((8,)), nn.mlp((), 1), nn.mlp((), 1), normal)
    algo = algos.a2c.make(funrl.envs.make("Pendulum-v1"), network=network, num_envs=4, num_steps=8)
    _, transitions = algo.collect(random.key(1), algo.init(random.key(0)))
    assert (transitions.action == 2.0).all() and (transitions.extras["unclipped_action"] > 90).all()
    learns(algo, compiled=False)


def test_a_network_below_a_cell():
    algo = make("ppo", network=nn.from_module(Transformer()), recurrent="gru", recurrent_size=4, num_cells=(8,))
    assert "embed.weight" in algo.init(random.key(0)).learner.params.network["memory"]["below"]
    learns(algo, compiled=False)


def test_the_default_trunk_can_be_given():
    network = nn.mlp((8,), activation="tanh")
    results = []
    for algo in (make("ppo", trunk="shared"), make("ppo", network=network)):
        results.append(algo.step(random.key(1), algo.init(random.key(0)))[0].learner.params)
    same(*results, rtol=0, atol=0)


@pytest.mark.parametrize("options", [{}, dict(c51=True, num_atoms=5)])
def test_a_noisy_network_explores_in_dqn(options):
    size = 2 * 5 if options else 2
    network = nn.sequential(nn.noisy_linear(size), *([lambda x: x.unflatten(-1, (2, 5))] if options else []))
    algo = make("dqn", network=network, epsilon_start=0.0, epsilon_end=0.0, **options)
    state = algo.init(random.key(0))
    act = vmap(lambda key: algo.act(state.learner.params, key, torch.full((4,), 0.01))[0])
    assert len(act(random.split(random.key(1), 64)).unique()) == 2
    learns(algo, compiled=False)


@pytest.mark.slow
def test_pqn_takes_a_network():
    learns(make("pqn", network=nn.from_module(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 2)))))


@pytest.mark.parametrize(
    ("name", "network", "message"),
    [
        ("dqn", nn.mlp((), 3), r"network: expected an output \[1, 2\] of one observation, .* got \[1, 3\]"),
        ("pqn", nn.mlp((), 3), r"network: expected an output \[1, 2\] of one observation"),
        ("ppo", nn.sequential(lambda x: x.sum()), r"network: expected an output \[1, ...\] of 1 observations, got \[\]"),
        (
            "ppo",
            policies.actor_critic(nn.mlp((8,)), nn.mlp((), 2), nn.mlp((), 1), functools.partial(distributions.Categorical, start=1)),
            "network: expected actions from 0 on, as in Discrete.* got a distribution that begins at 1",
        ),
        ("a2c", policies.actor_critic(nn.mlp((8,)), nn.mlp((), 2), nn.mlp((), 1), distributions.OneHotCategorical), "network: the mode"),
        ("sac", dict(actor=nn.mlp((), 3)), r"actor: expected an output \[1, 2\] of one observation"),
        ("td3", dict(critic=nn.mlp((), 2)), r"critic: expected an output \[1, 1\] of one observation"),
    ],
)
def test_networks_that_do_not_fit(name, network, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make(name, **(network if isinstance(network, dict) else dict(network=network))).init(random.key(0))


class Critic(torch.nn.Module):
    def __init__(self, inputs, *norm, outputs=1):
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(inputs, 8), *norm, torch.nn.ReLU(), torch.nn.Linear(8, outputs))

    def forward(self, *inputs):
        return self.layers(torch.cat(inputs, -1))


def module(*args, **options):
    return nn.from_module(Critic(*args, **options), init=nn.orthogonal())


@pytest.mark.slow
def test_sac_with_layer_norm_critics_and_a_prioritized_buffer_of_n_steps():
    critic = module(3 + 1, torch.nn.LayerNorm(8))
    algo = make("sac", critic=critic, buffer=buffers.prioritized(64, 0.7, 0.5), n_step=3)
    state = algo.init(random.key(0))
    network = state.learner.params.network
    assert network.critic["layers.1.weight"].shape == (2, 8) and network.actor[0]["weight"].shape == (8, 3)
    assert not torch.equal(*network.critic["layers.0.weight"])
    state, _ = algo.step(random.key(1), state)
    assert "discount" in state.learner.buffer.ring.data.extras
    assert len(state.learner.buffer.priorities.weights.unique()) > 3
    learns(algo)


@pytest.mark.parametrize("name", ["ddpg", "td3", "sac", "redq", pytest.param("crossq", marks=pytest.mark.slow)])
def test_actors_and_critics(name):
    outputs = 1 if name in ("ddpg", "td3") else 2
    norm = torch.nn.BatchNorm1d if name == "crossq" else torch.nn.LayerNorm
    # Biases before a normalisation have gradients that are 0 but for rounding, which Adam would make large with its usual epsilon.
    parts = dict(actor=module(3, norm(8), outputs=outputs), critic=module(4, norm(8)), optimizer=annealed_adamw())
    learns(make(name, **parts, n_step=2), compiled=name == "crossq")
    learns(make(name, actor=nn.mlp((8,), outputs), critic=nn.mlp((8,), 1), buffer=buffers.prioritized(64)), compiled=False)


def test_statistics_of_a_module_in_crossq():
    algo = make("crossq", critic=module(4, torch.nn.BatchNorm1d(8)), actor=module(3, torch.nn.BatchNorm1d(8), outputs=2))
    state = algo.init(random.key(0))
    assert state.learner.target["layers.1.running_mean"].shape == (2, 8)
    state, _ = algo.step(random.key(1), state)
    assert (state.learner.target["layers.1.running_mean"].abs().sum(-1) > 0).all()
    statistics = state.learner.params.network.actor["statistics"]
    assert statistics["layers.1.running_mean"].abs().sum() > 0


def test_networks_of_sac_for_discrete_actions():
    learns(make("sac_discrete", actor=module(4, outputs=2), critic=module(4, outputs=2)), compiled=False)


@pytest.mark.parametrize("name", ["dqn", "sac_discrete", "ddpg", "td3", "redq", "crossq"])
def test_any_buffer(name):
    learns(make(name, buffer=buffers.prioritized(64), n_step=2), compiled=False)
    learns(make(name, buffer=buffers.without_replacement(64)), compiled=False)


def test_the_default_actor_critic_and_buffer_can_be_given():
    actor = nn.mlp((8,), 2, activation="relu", out_init=nn.orthogonal(0.01))
    critic = nn.mlp((8,), 1, activation="relu", out_init=nn.orthogonal(1.0))
    results = []
    for algo in (make("sac"), make("sac", actor=actor, critic=critic, buffer=buffers.uniform(64))):
        state, _ = algo.step(random.key(1), algo.init(random.key(0)))
        results.append(state.learner.params)
    same(*results, rtol=0, atol=0)


@pytest.mark.slow
def test_ppo_with_one_more_term_in_its_loss():
    def loss(params, rows, hparams, *, default, apply):
        total, metrics = default(params, rows, hparams)
        policy, _ = apply(params, rows.observation)
        smoothness = policy.logits.square().mean()
        return total + 0.1 * smoothness, {**metrics, "smoothness": smoothness}

    algo, plain = make("ppo", loss=loss), make("ppo")
    metrics = learns(algo)
    assert metrics["smoothness"] > 0 and not metrics["smoothness"].requires_grad
    results = [each.step(random.key(1), each.init(random.key(0)))[0].learner.params.network for each in (algo, plain)]
    assert not torch.equal(tree.ravel(results[0])[0], tree.ravel(results[1])[0])


@pytest.mark.parametrize("name", ["ppo", "a2c", "reinforce", "impala", "pqn"])
def test_a_loss_that_is_the_default_one(name):
    def loss(params, rows, hparams, *, default, apply):
        total, metrics = default(params, rows, hparams)
        return total, {**metrics, "rows": torch.tensor(float(len(tree.leaves(rows)[0])))}

    results = [algo.step(random.key(1), algo.init(random.key(0))) for algo in (make(name), make(name, loss=loss))]
    same(results[0][0], results[1][0], rtol=0, atol=0)
    assert results[1][1]["rows"] == {"ppo": 16.0, "pqn": 16.0, "impala": 2.0}.get(name, 32.0)


@pytest.mark.parametrize("name", ["dqn", "ddpg", "sac", "sac_discrete"])
def test_a_loss_that_is_the_default_one_off_policy(name):
    def loss(*args, default, **options):
        total, metrics = default(*args, **options)
        return total, {**metrics, "total": total}

    results = [algo.step(random.key(1), algo.init(random.key(0))) for algo in (make(name), make(name, loss=loss))]
    same(results[0][0], results[1][0], rtol=0, atol=0)
    assert results[1][1]["total"].isfinite()
    learns(make(name, loss=loss), compiled=False)


@pytest.mark.parametrize("name", ["td3", "redq", "crossq"])
def test_losses_of_critic_and_actor(name):
    def critic_loss(*args, default, **options):
        total, metrics = default(*args, **options)
        return total, {**metrics, "critic_total": total}

    def actor_loss(*args, default, **options):
        total, metrics = default(*args, **options)
        return total, {**metrics, "actor_total": total}

    options = dict(policy_delay=2)
    algos = make(name, **options), make(name, critic_loss=critic_loss, actor_loss=actor_loss, **options)
    results = [algo.step(random.key(1), algo.init(random.key(0))) for algo in algos]
    same(results[0][0], results[1][0], rtol=0, atol=0)
    assert results[1][1]["critic_total"].isfinite() and results[1][1]["actor_total"].isfinite()


@pytest.mark.parametrize(
    ("name", "loss", "error", "message"),
    [
        ("ppo", lambda *args, default, apply: default(*args)[0], TypeError, "loss: expected it to return the pair .*got a Tensor"),
        ("ppo", lambda *args, default, apply: (default(*args)[0], {}), ValueError, "loss: expected 'approximate_kl' among its metrics"),
        ("dqn", lambda *args, default, **options: (default(*args, **options)[0], {}), ValueError, "loss: expected 'td_error' among"),
        (
            "a2c",
            lambda *args, default, apply: (default(*args)[0], {"size": torch.zeros(3)}),
            ValueError,
            r"loss: expected tensors \[\] for the loss and its metrics, got .* for 'size'",
        ),
    ],
)
def test_losses_that_return_something_else(name, loss, error, message):
    algo = make(name, loss=loss)
    with pytest.raises(error, match=message):
        algo.step(random.key(1), algo.init(random.key(0)))


def with_a_picture(env):
    """The environment, with its vector also as one row of a picture of bytes."""
    size = env.observation_space.shape[0]

    def see(timestep):
        x = timestep.observation
        picture = (x.clamp(-1, 1) * 100 + 100).to(torch.uint8).expand(3, size)[..., None]
        return timestep.replace(observation={"camera": picture, "state": {"vector": x}})

    def reset(key, params):
        state, timestep = env.reset(key, params)
        return state, see(timestep)

    def step(key, state, action, params):
        state, timestep = env.step(key, state, action, params)
        return state, see(timestep)

    picture = spaces.Box(0, 255, (3, size, 1), torch.uint8, layout="hwc")
    space = spaces.Dict({"camera": picture, "state": spaces.Dict({"vector": env.observation_space})})
    return env._replace(reset=reset, step=step, observation_space=space)


class Both(torch.nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.eye, self.head = torch.nn.Linear(12, 4), torch.nn.Linear(4 + 4, outputs)

    def forward(self, x):
        pixels = self.eye(x["camera"].flatten(1).to(self.eye.weight.dtype) / 255)
        return self.head(torch.cat([pixels, x["state"]["vector"]], -1))


@pytest.mark.slow
def test_ppo_on_a_dict_observation():
    algo = algos.ppo.make(with_a_picture(funrl.envs.make("CartPole-v1")), num_channels=(2,), **PPO)
    params = algo.init(random.key(0)).learner.params.network
    assert list(params["policy"]["below"]) == ["camera", "state"] and params["policy"]["above"][0]["weight"].shape == (8, 2 * 1 * 2 + 4)
    learns(algo)


@pytest.mark.parametrize("name", ["a2c", "impala", "pqn", "dqn"])
def test_dict_observations(name):
    env = with_a_picture(funrl.envs.make("CartPole-v1"))
    learns(algos.make(name, env, num_channels=(2,), **ALGORITHMS[name][1]), compiled=False)
    network = nn.from_module(Both(5 if name in ("a2c", "impala") else 2))
    learns(algos.make(name, env, network=network, **without(ALGORITHMS[name][1], "num_cells")), compiled=False)


def test_dict_observations_and_a_cell_or_networks_of_sac():
    learns(algos.ppo.make(with_a_picture(funrl.envs.make("CartPole-v1")), recurrent="gru", num_channels=(2,), **PPO), compiled=False)
    env = with_a_picture(funrl.envs.make("Pendulum-v1"))
    layers = nn.mlp((8,), 2), nn.mlp((8,), 1)

    def vector(x, *action):
        return torch.cat([x["state"]["vector"], *action], -1)

    def above(net):
        return nn.Net(lambda key, *x: net.init(key, vector(*x)), lambda params, *x: net.apply(params, vector(*x)))

    options = without(OFF_POLICY, "num_cells")
    learns(algos.sac.make(env, actor=above(layers[0]), critic=above(layers[1]), **options), compiled=False)


def test_dicts_that_do_not_fit():
    env = with_a_picture(funrl.envs.make("CartPole-v1"))
    space = spaces.Dict({"lives": spaces.Discrete(3), **env.observation_space.spaces})
    with pytest.raises(ValueError, match=r"env: expected observations that are vectors .* or a Dict of both, got Discrete.* in Dict"):
        algos.ppo.make(env._replace(observation_space=space))
    with pytest.raises(ValueError, match="normalize_observation: expected vectors"):
        algos.ppo.make(env, normalize_observation=True)
    with pytest.raises(ValueError, match="with networks of your own for actor and critic it accepts any observations"):
        algos.sac.make(with_a_picture(funrl.envs.make("Pendulum-v1")))


PRODUCT = spaces.Dict(
    {
        "push": spaces.Discrete(2, start=1),
        "aim": spaces.Tuple([spaces.Box(-1.0, 1.0, (2,)), spaces.MultiDiscrete((2, 3), (0, 1))]),
        "lights": spaces.Binary((3,)),
    }
)


def with_more_actions(env):
    """CartPole whose cart is pushed by one part of the action; the rest of it costs reward."""

    def step(key, state, action, params):
        PRODUCT.check(action, "action")
        aim, several = action["aim"]
        state, timestep = env.step(key, state, action["push"] - 1, params)
        cost = aim.square().sum() + 0.1 * several.sum() + 0.1 * action["lights"].sum()
        return state, timestep.replace(reward=timestep.reward - cost)

    return env._replace(step=step, action_space=PRODUCT)


@pytest.mark.slow
def test_ppo_with_a_product_of_continuous_and_discrete_actions():
    algo = algos.ppo.make(with_more_actions(funrl.envs.make("CartPole-v1")), initial_log_std=1.0, **PPO)
    state = algo.init(random.key(0))
    network = state.learner.params.network
    assert network["log_std"].shape == (2,) and network["policy"][-1]["weight"].shape == (2 + 2 + 5 + 3, 8)
    _, transitions = algo.collect(random.key(1), state)
    drawn, played = transitions.extras["unclipped_action"], transitions.action
    assert (drawn["aim"][0].abs() > 1).any() and torch.equal(played["aim"][0], drawn["aim"][0].clamp(-1, 1))
    assert sorted(played["push"].unique().tolist()) == [1, 2] and torch.equal(played["push"], drawn["push"])
    assert all(vmap(vmap(PRODUCT.contains))(played).flatten().tolist())
    action, _ = algo.greedy(state.learner.params, random.key(2), torch.zeros(4))
    assert PRODUCT.contains(action)
    learns(algo)


@pytest.mark.parametrize("name", ["a2c", "reinforce", "impala", "ppo"])
def test_product_actions(name):
    env = with_more_actions(funrl.envs.make("CartPole-v1"))
    options = dict(recurrent="gru", recurrent_size=4) if name == "ppo" else dict(trunk="shared")
    learns(algos.make(name, env, **options, **ALGORITHMS[name][1]), compiled=False)


@pytest.mark.parametrize("space", [spaces.MultiDiscrete((2, 3), (0, 1)), spaces.Binary((2,))])
def test_several_discrete_actions(space):
    env = funrl.envs.make("CartPole-v1")
    push = dict(MultiDiscrete=lambda a: a[0], Binary=lambda a: a[0].to(torch.int64))[type(space).__name__]
    env = env._replace(step=lambda key, state, action, params, old=env.step: old(key, state, push(action), params), action_space=space)
    algo = algos.a2c.make(env, **ON_POLICY)
    _, transitions = algo.collect(random.key(1), algo.init(random.key(0)))
    assert vmap(vmap(space.contains))(transitions.action).all()
    learns(algo, compiled=False)


def test_a_network_with_a_joint_distribution_of_the_users_own():
    env = with_more_actions(funrl.envs.make("CartPole-v1"))

    def distribution(output):
        loc, choice, bits, several = output.split([2, 2, 3, 5], -1)
        normal = distributions.Independent(distributions.Normal(loc, torch.ones_like(loc)), 1)
        aim = (normal, distributions.MultiCategorical(several, (2, 3), (0, 1)))
        lights = distributions.Independent(distributions.Bernoulli(bits), 1)
        return distributions.joint({"push": distributions.Categorical(choice, 1), "aim": aim, "lights": lights})

    network = policies.actor_critic(nn.mlp((8,)), nn.mlp((), 12), nn.mlp((), 1), distribution)
    learns(algos.impala.make(env, network=network, num_envs=4, num_steps=8), compiled=False)


def test_actions_that_do_not_fit():
    env = funrl.envs.make("CartPole-v1")
    space = spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Box(0, 9, (2,), torch.int64)})
    with pytest.raises(ValueError, match=r"env: expected actions that are Discrete, .*, got Box.* in Dict"):
        algos.ppo.make(env._replace(action_space=space))
    with pytest.raises(ValueError, match="uniform_mix: is for discrete actions, but CartPole-v1 has other ones"):
        algos.ppo.make(with_more_actions(env), uniform_mix=0.1)
    with pytest.raises(ValueError, match="initial_log_std: is for continuous actions"):
        algos.ppo.make(env._replace(action_space=spaces.MultiDiscrete((2, 3))), initial_log_std=-1.0)


@pytest.mark.parametrize("name", ["dqn", "pqn", "sac", "sac_discrete"])
def test_random_actions_by_a_schedule_of_the_users_own(name):
    options = {} if name == "pqn" else dict(learning_starts=16)
    algo = make(name, exploration=schedules.cosine(0.8, 0.2, 64), **options)
    state, found = algo.init(random.key(0)), []
    for i in range(4):
        found.append(state.learner.params.random)
        state, _ = algo.step(random.key(i), state)
    steps = torch.arange(4) * algo.steps_per_update
    expected = schedules.cosine(0.8, 0.2, 64)(steps)
    torch.testing.assert_close(torch.stack(found), expected if name == "pqn" else torch.where(steps < 16, 1.0, expected))
    learns(algo, compiled=False, updates=3)


@pytest.mark.parametrize("name", ["ddpg", "td3"])
def test_noise_by_a_schedule_of_the_users_own(name):
    algo = make(name, exploration=lambda steps: 0.1 / (1 + steps / 8))
    state = algo.init(random.key(0))
    state, _ = algo.step(random.key(1), state)
    torch.testing.assert_close(state.learner.params.noise, torch.tensor(0.05))
    silent = make(name, exploration=schedules.constant(0.0))
    params = silent.init(random.key(0)).learner.params
    assert torch.equal(silent.act(params, random.key(1), torch.ones(3))[0], silent.greedy(params, random.key(1), torch.ones(3))[0])
    learns(algo, compiled=name == "ddpg")


def test_an_exploration_that_is_no_schedule():
    with pytest.raises(ValueError, match=r"exploration: expected a tensor \[\] at a number of steps, got .*schedules.constant"):
        make("dqn", exploration=lambda steps: 0.1).init(random.key(0))


def test_a_buffer_of_sequences_is_an_error():
    with pytest.raises(ValueError, match=r"buffer: it does not take single transitions .*; give one such as buffers.uniform"):
        make("dqn", buffer=buffers.sequence(64, 2, 3)).init(random.key(0))


def test_a_buffer_of_the_users_own_may_be_larger_than_the_default():
    assert make("dqn", buffer=buffers.uniform(200_000), num_envs=64, num_steps=2000).config.num_envs == 64
    with pytest.raises(ValueError, match=r"buffer_size: 100 is less than the 64 \* 2 transitions of one update; increase it"):
        make("dqn", num_envs=64, num_steps=2, buffer_size=100)


@pytest.mark.parametrize(("name", "parts"), [("sac", 3), ("ddpg", 2), ("sac_discrete", 3)])
def test_an_optimizer_of_the_users_own_clips_each_part_by_itself(name, parts):
    """The actor moves as far as if there were no critics."""
    limit = 1e-3
    algo = make(name, optimizer=optim.chain(optim.clip_by_global_norm(limit), optim.sgd(1.0)), num_updates=1)
    before = algo.init(random.key(0))
    after, _ = algo.step(random.key(1), before)
    assert len(before.learner.optimizer) == parts
    for part in before.learner.optimizer:
        x, y = (tree.ravel(getattr(s.learner.params.network, part))[0] for s in (before, after))
        assert (x - y).norm().item() == pytest.approx(limit, rel=1e-2), part


@pytest.mark.parametrize("name", ["ppo", "dqn"])
def test_metrics_of_a_loss_do_not_take_the_names_of_the_learners_own(name):
    def loss(*args, default, **options):
        total, metrics = default(*args, **(options if name == "dqn" else {}))
        return total, {**metrics, "episode_return": total}

    algo = make(name, loss=loss)
    with pytest.raises(ValueError, match="loss: expected metrics of other names than the learner's own, got 'episode_return'"):
        algo.step(random.key(1), algo.init(random.key(0)))


def test_a_configuration_that_was_built_by_hand_is_checked():
    config = funrl.algos.ppo.PPOConfig(num_envs=-1)
    with pytest.raises(ValueError, match="num_envs: expected a number of at least 1, got -1"):
        funrl.algos.ppo.build("mine", funrl.envs.make("CartPole-v1"), config, {})
