"""Trained policies as ONNX and as programs of torch.export: the same actions as the policy's own."""

import dataclasses

import numpy as np
import pytest
import torch

from funrl import algos, policies, random, tree

KEY = random.key(4)
SIZES = {"num_envs": 2, "num_cells": (8, 8)}
CASES = {
    "ppo": ("ppo", "CartPole-v1", SIZES | {"num_steps": 8}),
    "ppo, continuous": ("ppo", "Pendulum-v1", SIZES | {"num_steps": 8, "normalize_observation": True}),
    "sac": ("sac", "Pendulum-v1", SIZES),
    "dqn, noisy": ("dqn", "CartPole-v1", SIZES | {"noisy": True}),
}


def agent(case):
    """A policy whose parameters are not those of the start, and observations [7, ...]."""
    name, env, options = CASES[case]
    algo = algos.make(name, env, **options)
    params = algo.init(KEY).learner.params
    moved = [x + 0.3 * random.normal(random.fold_in(KEY, i), tuple(x.shape)) if x.ndim else x for i, x in enumerate(tree.leaves(params))]
    params = tree.unflatten(tree.flatten(params)[1], moved)
    if params.observation != ():
        params = params.replace(observation=dataclasses.replace(params.observation, var=torch.full((3,), 4.0)))
    return algo, params, random.normal(KEY, (7, *algo.env.observation_space.shape))


def expected(algo, params, observation):
    return torch.func.vmap(lambda x, key: algo.greedy(params, key, x)[0])(observation, random.split(KEY, len(observation)))


@pytest.mark.parametrize("case", CASES)
def test_a_module_and_a_program_of_torch_act_alike(case, tmp_path):
    algo, params, observation = agent(case)
    right = expected(algo, params, observation)
    torch.testing.assert_close(policies.to_module(algo.greedy, params)(observation), right)
    policies.export(tmp_path / "deep" / "policy.pt2", algo.greedy, params, observation[0])
    program = torch.export.load(tmp_path / "deep" / "policy.pt2").module()
    for count in (7, 3, 1):
        torch.testing.assert_close(program(observation[:count]), right[:count], atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_onnx_acts_alike(case, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    algo, params, observation = agent(case)
    policies.export(tmp_path / "policy.onnx", algo.greedy, params, observation[0])
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx", providers=["CPUExecutionProvider"])
    assert [x.name for x in session.get_inputs()] == ["observation"] and [x.name for x in session.get_outputs()] == ["action"]
    for count in (7, 3, 1):
        (action,) = session.run(None, {"observation": observation[:count].numpy()})
        np.testing.assert_allclose(action, expected(algo, params, observation)[:count].numpy(), atol=1e-5, rtol=0)
    assert [x.name for x in tmp_path.iterdir()] == ["policy.onnx"]


PICTURES = {"num_envs": 2, "num_steps": 8, "num_cells": (8,), "num_channels": (2,)}
TASKS = {"num_envs": 2, "num_steps": 8, "num_cells": (8,), "num_tasks": 2, "popart_rate": 0.1}


@pytest.mark.parametrize("name, env, options", [("ppo", "Breakout-MinAtar", PICTURES), ("multi_task", "CartPole-v1", TASKS)])
def test_some_policies_need_a_batch_size(name, env, options, tmp_path):
    algo = algos.make(name, env, **options)
    params, shape = algo.init(KEY).learner.params, algo.env.observation_space.shape
    observation = (random.uniform(KEY, (3, *shape)) < 0.2).to(torch.float32)
    with pytest.raises(ValueError, match="batch_size: expected a size for this policy"):
        policies.export(tmp_path / "policy.pt2", algo.greedy, params, observation[0])
    policies.export(tmp_path / "policy.pt2", algo.greedy, params, observation[0], batch_size=3)
    found = torch.export.load(tmp_path / "policy.pt2").module()(observation)
    torch.testing.assert_close(found, expected(algo, params, observation))


def test_a_policy_that_needs_a_key(tmp_path):
    algo = algos.make("ppo", "CartPole-v1", num_envs=2, num_steps=8, num_cells=(8,))
    with pytest.raises(TypeError, match="expected a policy that draws no random numbers"):
        policies.to_module(algo.act, algo.init(KEY).learner.params)(torch.zeros(2, 4))


@pytest.mark.parametrize("name, env", [("ppo", "CartPole-v1"), ("sac", "Pendulum-v1")])
def test_the_parameters_of_several_agents(name, env, tmp_path):
    algo = algos.make(name, env, num_envs=2, num_cells=(8,))
    params = torch.func.vmap(algo.init)(random.split(KEY, 3)).learner.params
    observation = torch.zeros(algo.env.observation_space.shape)
    with pytest.raises(ValueError, match=r"expected the parameters of one agent .* choose one with tree.index\(params, 0\)"):
        policies.export(tmp_path / "policy.pt2", algo.greedy, params, observation)
    policies.export(tmp_path / "policy.pt2", algo.greedy, tree.index(params, 0), observation)


def test_the_policy_of_two_levels(tmp_path):
    """It needs no key when it is greedy, and its state counts the steps of a goal."""
    algo = algos.make("feudal", "FourRooms-misc", num_envs=2, num_cells=(8,), num_steps=8)
    params = algo.init(KEY).learner.params
    actor = algo.init(KEY).actor
    observation = actor.timestep.observation
    state = torch.func.vmap(lambda x: algo.greedy.start(params, x))(observation)
    right = torch.func.vmap(lambda *x: algo.greedy.act(params, KEY, *x)[:2])(state, observation, torch.tensor([False, True]))
    policies.export(tmp_path / "policy.pt2", algo.greedy, params, tree.index(observation, 0), batch_size=2)
    program = torch.export.load(tmp_path / "policy.pt2").module()
    found = program(*tree.leaves(state), *tree.leaves(observation), torch.tensor([False, True]))
    for x, y in zip(found, tree.leaves(right), strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_recurrent_policy(cell, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    options = {"num_envs": 4, "num_steps": 8, "num_cells": (8,), "recurrent": cell, "recurrent_size": 6}
    algo = algos.make("ppo", "CartPole-v1", **options)
    params, observation = algo.init(KEY).learner.params, random.normal(KEY, (3, 4))
    state = torch.func.vmap(lambda x: algo.greedy.start(params, x))(observation)
    reset = torch.tensor([False, True, False])
    right = torch.func.vmap(lambda *x: algo.greedy.act(params, KEY, *x)[:2])(state, observation, reset)
    policies.export(tmp_path / "policy.onnx", algo.greedy, params, observation[0])
    session = onnxruntime.InferenceSession(tmp_path / "policy.onnx", providers=["CPUExecutionProvider"])
    names = [x.name for x in session.get_inputs()]
    inputs = [*tree.leaves(state), observation, reset]
    found = session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
    assert names[0].startswith("state") and names[-2:] == ["observation", "reset"]
    for x, y in zip(found, tree.leaves(right), strict=True):
        np.testing.assert_allclose(x, y.numpy(), atol=1e-5, rtol=0)
    module = policies.to_module(algo.greedy, params)
    assert tree.equal(module(state, observation, reset), right)


def test_wrong_arguments(tmp_path):
    algo, params, observation = agent("ppo")
    with pytest.raises(ValueError, match=r"path: expected a name that ends in .onnx or .pt2, got '.*x.pth'"):
        policies.export(tmp_path / "x.pth", algo.greedy, params, observation[0])
    with pytest.raises(TypeError, match="act: expected a function act"):
        policies.to_module(3, params)
    with pytest.raises((TypeError, ValueError), match="key"):
        policies.to_module(algo.act, params)(observation)
