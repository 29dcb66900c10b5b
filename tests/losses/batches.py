"""Small networks and random batches for the tests of losses."""

import torch
from torch.func import vmap

from funrl import nn, random, tree
from funrl.distributions import Categorical
from funrl.env import Transition
from funrl.losses import (
    ActorCritic,
    SoftActorCritic,
    crossq_actor_loss,
    crossq_critic_loss,
    td3_actor_loss,
    td3_critic_loss,
    temperature_loss,
)
from tests.support import same

OBSERVATIONS, ACTIONS = 4, 3


def normal(seed, *shape, dtype=torch.float64):
    return random.normal(random.key(seed), shape, dtype=dtype)


def transitions(n=12, *, discrete=False, dtype=torch.float64, seed=0):
    """Return a batch [n] whose ends are of both kinds; actions are numbers below ACTIONS, or vectors [ACTIONS] in (-1, 1)."""
    action = random.randint(random.key(seed + 50), (n,), 0, ACTIONS) if discrete else normal(seed + 50, n, ACTIONS, dtype=dtype).tanh()
    return Transition(
        observation=normal(seed + 51, n, OBSERVATIONS, dtype=dtype),
        action=action,
        reward=normal(seed + 52, n, dtype=dtype),
        terminated=torch.arange(n) % 3 == 1,
        truncated=torch.arange(n) % 5 == 2,
        next_observation=normal(seed + 53, n, OBSERVATIONS, dtype=dtype),
        extras={"log_prob": 0.3 * normal(seed + 54, n, dtype=dtype) - 1.0},
    )


def weights(n=12, dtype=torch.float64):
    return random.uniform(random.key(60), (n,), 0.2, 1.5, dtype=dtype)


ACTOR, CRITIC, Q, POLICY_AND_VALUE = nn.mlp((5,), ACTIONS), nn.mlp((6,), 1), nn.mlp((6,), ACTIONS), nn.mlp((6,), ACTIONS + 1)


def parameters(net, seed, inputs, dtype=torch.float64, members=None):
    """Return random parameters, biases included; with ``members``, leaves [members, ...]."""

    def one(key):
        vector, unravel = tree.ravel(net.init(key, torch.zeros(inputs, dtype=dtype)))
        return unravel(0.6 * random.normal(key, tuple(vector.shape), dtype=dtype))

    return one(random.key(seed)) if members is None else tree.stack([one(k) for k in random.split(random.key(seed), members).unbind(0)])


def actor(params, observation):
    """A deterministic actor: actions [N..., ACTIONS]."""
    return torch.tanh(ACTOR.apply(params, observation))


def critic(params, observation, action):
    """One critic: Q [N...]."""
    return CRITIC.apply(params, torch.cat([observation, action], -1)).squeeze(-1)


def member(params, e):
    """Critic ``e`` of several, as a function of observation and action."""
    return lambda observation, action: critic(tree.index(params, e), observation, action)


def critics(params, observation, action):
    """Several critics, of leaves [E, ...]: Q [E, N...]."""
    return vmap(critic, (0, None, None))(params, observation, action)


class Gaussian:
    """A normal policy, of a deviation that the mean decides, that keeps the noise that it drew, for the oracles."""

    def __init__(self, loc, drawn):
        self.loc, self.drawn = loc, drawn

    def sample_with_log_prob(self, key):
        noise = random.normal(key, tuple(self.loc.shape), dtype=self.loc.dtype)
        self.drawn.append(noise)
        scale = 0.3 + self.loc.sigmoid()
        action = self.loc + scale * noise
        return action, torch.distributions.Normal(self.loc, scale, validate_args=False).log_prob(action).sum(-1)


def gaussian(drawn):
    """Make an actor that returns :class:`Gaussian`."""
    return lambda params, observation: Gaussian(ACTOR.apply(params, observation), drawn)


def categorical(params, observation):
    """A discrete actor."""
    return Categorical(ACTOR.apply(params, observation))


def q_values(params, observation):
    """One critic of every action: Q [N..., ACTIONS]."""
    return Q.apply(params, observation)


def q_critics(params, observation):
    """Several of them: Q [E, N..., ACTIONS]."""
    return vmap(q_values, (0, None))(params, observation)


def normalized_critics(params, moments, observation, action):
    """Several critics whose hidden layer is normalised by the batch: Q [E, N], and the running moments."""
    hidden = torch.einsum("nd,edh->enh", torch.cat([observation, action], -1), params["in"])
    mean, var = hidden.mean(1, keepdim=True), hidden.var(1, correction=0, keepdim=True)
    moments = {"mean": 0.9 * moments["mean"] + 0.1 * mean, "var": 0.9 * moments["var"] + 0.1 * var}
    return _output(params, hidden, mean, var), moments


def frozen_critics(params, moments, observation, action):
    """The same, normalised by the running moments: Q [E, N]."""
    hidden = torch.einsum("nd,edh->enh", torch.cat([observation, action], -1), params["in"])
    return _output(params, hidden, moments["mean"], moments["var"])


def _output(params, hidden, mean, var):
    return torch.einsum("enh,eh->en", torch.tanh((hidden - mean) / (var + 1e-3).sqrt()), params["out"])


def normalized_actor_critic(seed=0, dtype=torch.float64, members=2):
    """Parameters for these, and moments."""
    inputs, hidden = OBSERVATIONS + ACTIONS, 5
    params = SoftActorCritic(
        actor=parameters(ACTOR, seed, OBSERVATIONS, dtype),
        critic={"in": normal(seed + 1, members, inputs, hidden, dtype=dtype), "out": normal(seed + 2, members, hidden, dtype=dtype)},
        log_alpha=torch.tensor(-0.7, dtype=dtype),
    )
    size = (members, 1, hidden)
    mean, var = 0.1 * normal(seed + 3, *size, dtype=dtype), random.uniform(random.key(seed), size, 0.5, 2.0, dtype=dtype)
    return params, {"mean": mean, "var": var}


def policy_and_value(params, observation):
    """A discrete actor and its critic: Categorical, V [N...]."""
    out = POLICY_AND_VALUE.apply(params, observation)
    return Categorical(out[..., :ACTIONS]), out[..., ACTIONS]


def actor_critic(seed=0, dtype=torch.float64, members=None):
    critic = parameters(CRITIC, seed + 1, OBSERVATIONS + ACTIONS, dtype, members)
    return ActorCritic(actor=parameters(ACTOR, seed, OBSERVATIONS, dtype), critic=critic)


def soft_actor_critic(seed=0, dtype=torch.float64, members=2, discrete=False):
    net, inputs = (Q, OBSERVATIONS) if discrete else (CRITIC, OBSERVATIONS + ACTIONS)
    return SoftActorCritic(
        actor=parameters(ACTOR, seed, OBSERVATIONS, dtype),
        critic=parameters(net, seed + 1, inputs, dtype, members),
        log_alpha=torch.tensor(-0.7, dtype=dtype),
    )


def td3_sum(params, target_params, key, batch, *, weight=None, **options):
    """The losses of TD3 as one, of both critics and of the actor."""
    networks = {"actor": actor, "critic": critics, "weight": weight}
    critic_loss, metrics = td3_critic_loss(params.critic, target_params, key, batch, **networks, **options)
    actor_loss, more = td3_actor_loss(params.actor, params.critic, batch, **networks)
    return critic_loss + actor_loss, {**metrics, **more}


def crossq_sum(params, statistics, key, batch, *, actor, target_entropy, weight=None, **options):
    """The losses of CrossQ as one, of the critics, the actor and the temperature."""
    options = {"critic": normalized_critics, "frozen_critic": frozen_critics, **options}
    frozen_critic, (critic_key, actor_key) = options.pop("frozen_critic"), random.split(key)
    both = {"actor": actor, "weight": weight}
    critic_loss, metrics = crossq_critic_loss(params.critic, params, statistics, critic_key, batch, **both, **options)
    actor_loss, more = crossq_actor_loss(params.actor, params, statistics, actor_key, batch, frozen_critic=frozen_critic, **both)
    log_prob = more.pop("log_prob")
    temperature, last = temperature_loss(params.log_alpha, log_prob, target_entropy=target_entropy, weight=weight)
    return critic_loss + actor_loss + temperature, {**metrics, **more, **last}


def leaves_of_autograd(params):
    """Return a copy whose leaves autograd watches, and the leaves."""
    copy = tree.map(lambda x: x.detach().clone().requires_grad_(), params)
    return copy, tree.leaves(copy)


def same_as_autograd(gradient, loss, params, leaves):
    """The gradient that torch.func found is the one that autograd finds of the oracle's ``loss``."""
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    found = [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]
    same(gradient, tree.unflatten(tree.flatten(params)[1], found))


def unused(gradient):
    """Return whether a gradient is 0 everywhere."""
    return all((x == 0).all() for x in tree.leaves(gradient) if x.is_floating_point())
