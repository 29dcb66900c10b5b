"""VariBAD: its loss against loops, and what learns from what."""

import pytest
import torch

import funrl
from funrl import envs, meta, random, tree
from funrl.meta.varibad import _networks
from tests.support import same

B, T, S, A, D = 2, 6, 2, 1, 3


def test_the_loss_is_that_of_a_loop():
    numbers = torch.Generator().manual_seed(0)
    observation = torch.randn(B, T, S + A + 2, generator=numbers).double()
    mean, log_variance, noise = (torch.randn(B, T, D, generator=numbers).double() for _ in range(3))
    weight = torch.randn(S + A + D, generator=numbers).double()
    reset = torch.tensor([[1, 0, 0, 1, 0, 0], [0, 0, 1, 0, 0, 1]]).bool()
    normal = torch.distributions.Normal
    errors, divergences = [], []
    for b in range(B):
        for t in range(T):
            belief = normal(mean[b, t], (0.5 * log_variance[b, t]).exp())
            if reset[b, t]:
                divergences.append(torch.distributions.kl_divergence(belief, normal(torch.zeros(D).double(), 1.0)).sum())
            elif t:
                before = normal(mean[b, t - 1], (0.5 * log_variance[b, t - 1]).exp())
                divergences.append(torch.distributions.kl_divergence(belief, before).sum())
            latent = belief.loc + belief.scale * noise[b, t]
            for i in range(T - 1):
                low, high = sorted((t, i))
                if reset[b, low + 1 : high + 1].any() or reset[b, i + 1]:
                    continue  # of another trial
                x = torch.cat([observation[b, i, :S], observation[b, i + 1, S : S + A], latent])
                errors.append((x @ weight - observation[b, i + 1, -2]).square())
    found = meta.varibad.belief_loss(observation, reset, mean, log_variance, noise, size=S, decode=lambda x: x @ weight)
    torch.testing.assert_close(found, (torch.stack(errors).mean(), torch.stack(divergences).mean()))


def made(**options):
    options = dict(num_envs=4, num_steps=6, num_minibatches=1, num_epochs=1, num_cells=(4,), recurrent_size=4, latent_size=D, **options)
    return meta.varibad.make(envs.point_robot(), **options)


def test_the_policy_loss_reaches_no_encoder_and_the_model_no_policy():
    one, other = made(model_weight=0.0), made(value_weight=0.0, entropy_weight=0.0)
    state = one.init(random.key(0))
    new, _ = one.step(random.key(1), state)
    before, after = (x.learner.params.network for x in (state, new))
    for name in ("cell", "belief", "decoder"):
        same(before[name], after[name], rtol=0, atol=0)
    assert not tree.equal(before["heads"], after["heads"])
    new, metrics = other.step(random.key(1), other.init(random.key(0)))
    after = new.learner.params.network
    for name in ("cell", "belief", "decoder"):
        assert not tree.equal(before[name], after[name]), name
    assert metrics["reward_error"] > 0 and metrics["belief_kl"] > 0


def test_the_forward_pass_over_a_rollout_is_that_of_acting():
    algo = made()
    state = algo.init(random.key(0))
    _, samples = algo.collect(random.key(1), state)
    nets, params = _networks(algo.config, algo.env), state.learner.params.network
    samples = samples.replace(action=samples.extras["unclipped_action"])
    distribution, value = nets.both(params, nets.inputs(samples))
    torch.testing.assert_close(distribution.log_prob(nets.rows(samples.action)), samples.extras["log_prob"].T)
    torch.testing.assert_close(value, samples.extras["value"].T)
    torch.testing.assert_close(nets.values(params, samples)[0], samples.extras["value"])


def test_errors():
    for options, message in (
        (dict(latent_size=0), "latent_size: expected a number of at least 1"),
        (dict(recurrent_size=0), "recurrent_size: expected a number of at least 1"),
        (dict(decoder_cells=(0,)), "decoder_cells: expected integers of at least 1"),
        (dict(num_channels=(0,)), "num_channels: expected integers of at least 1"),
        (dict(kl_weight=-1.0), "kl_weight: expected a number of at least 0"),
        (dict(recurrent="none"), "recurrent: expected one of gru, lstm, min_gru, got 'none'"),
        (dict(normalize_observation=True), "normalize_observation: the decoder reads rewards from observations"),
    ):
        with pytest.raises(ValueError, match=message):
            meta.varibad.make(envs.point_robot(), **options)
    with pytest.raises(ValueError, match="env: VariBAD needs vectors as observations, but Maze-misc has"):
        meta.varibad.make(envs.maze())
    assert funrl.algos.make("varibad", "CartPole-v1").config.latent_size == 5
