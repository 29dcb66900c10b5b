"""One of each: what the contract suites run over. A new algorithm joins by a line here."""

# One update of every kind of learner in a second or two once it is compiled.
PPO = dict(num_envs=4, num_steps=8, num_epochs=2, num_minibatches=2, num_cells=(8,))
OFF_POLICY = dict(num_envs=2, num_steps=4, num_updates=2, batch_size=8, num_cells=(8,), buffer_size=64, learning_starts=0)
RAINBOW = dict(double=True, dueling=True, n_step=3, prioritized=True, c51=True, noisy=True, epsilon_start=0, epsilon_end=0)
ON_POLICY = dict(num_envs=4, num_steps=6, num_cells=(8,), learning_rate=0.01, max_grad_norm=0.2)
EVOLUTION = dict(num_envs=8, num_steps=12, num_cells=(4,))
ANALYTIC = dict(num_envs=4, num_steps=6, num_cells=(8,), learning_rate=0.01)
ALGORITHMS = {
    "ppo, discrete": ("ppo", "CartPole-v1", PPO),
    "ppo, continuous": (
        "ppo",
        "Pendulum-v1",
        dict(PPO, trunk="shared", normalize_observation=True, normalize_reward=True, value_clip=0.2),
    ),
    "ppo, recurrent": ("ppo", "CartPole-v1", dict(PPO, recurrent="gru", recurrent_size=8)),
    "a2c": ("a2c", "Pendulum-v1", dict(ON_POLICY, lambda_=0.9, trunk="shared", initial_log_std=-0.5)),
    "reinforce": ("reinforce", "CartPole-v1", dict(ON_POLICY, num_steps=32, baseline="none")),
    "reinforce with a baseline": ("reinforce", "CartPole-v1", ON_POLICY),
    "feudal": (
        "feudal",
        "FourRooms-misc",
        dict(num_envs=2, num_steps=4, goal_steps=2, num_updates=2, batch_size=8, num_cells=(8,), buffer_size=64, learning_starts=0),
    ),
    "impala": ("impala", "CartPole-v1", dict(ON_POLICY, num_minibatches=2)),
    "pqn": ("pqn", "Breakout-MinAtar", dict(ON_POLICY, num_channels=(2,), num_minibatches=3, epsilon_steps=48.0)),
    "rainbow": ("dqn", "CartPole-v1", dict(OFF_POLICY, num_cells=(8, 8), **RAINBOW)),
    "sac": ("sac", "Pendulum-v1", OFF_POLICY),
    "dqn": ("dqn", "CartPole-v1", OFF_POLICY),
    "ddpg": ("ddpg", "Pendulum-v1", OFF_POLICY),
    "td3": ("td3", "Pendulum-v1", OFF_POLICY),
    "sac_discrete": ("sac_discrete", "CartPole-v1", OFF_POLICY),
    "redq": ("redq", "Pendulum-v1", dict(OFF_POLICY, num_critics=3, policy_delay=2)),
    "apg": ("apg", "Pendulum-v1", ANALYTIC),
    "shac": ("shac", "Reacher-misc", dict(ANALYTIC, num_epochs=2, num_minibatches=2)),
    "maml": ("maml", "PointRobot-misc", dict(num_envs=4, num_tasks=2, num_steps=8, num_cells=(8,), learning_rate=0.01)),
    "meta_a2c": ("meta_a2c", "Pendulum-v1", dict(ON_POLICY, learned="gamma,lambda_,entropy_weight")),
    "rl2": ("rl2", "BernoulliBandit-misc", dict(PPO, recurrent_size=8)),
    "varibad": ("varibad", "PointRobot-misc", dict(PPO, recurrent_size=8, latent_size=3, decoder_cells=(4,))),
    "multi_task": ("multi_task", "Pendulum-v1", dict(PPO, num_tasks=2, normalize_per_task=True, gradient_surgery=True)),
    "plr": ("plr", "Maze-misc", dict(PPO, num_channels=(2,), num_levels=8)),
    "crossq": ("crossq", "Pendulum-v1", dict(OFF_POLICY, policy_delay=2)),
    "option_critic": ("option_critic", "FourRooms-misc", dict(ON_POLICY, num_options=3)),
    "openes": ("openes", "Pendulum-v1", dict(EVOLUTION, normalize_observation=True)),
    "pgpe": ("pgpe", "Pendulum-v1", EVOLUTION),
    "snes": ("snes", "Pendulum-v1", EVOLUTION),
    "cma_es, separable": ("cma_es", "Pendulum-v1", dict(EVOLUTION, separable=True)),
    "ars": ("ars", "Pendulum-v1", dict(EVOLUTION, num_envs=16, num_episodes=2)),
}
EVOLUTIONARY = ("openes", "pgpe", "snes", "cma_es", "ars")  # they explore by parameters, and so act without noise
OFF_POLICY_KINDS = [kind for kind, (name, _, options) in ALGORITHMS.items() if "buffer_size" in options and name != "feudal"]
# Their collect is more than a rollout of their policy: they need its beginning, or many tasks.
OWN_COLLECT = ["apg", "shac", "maml", "plr", *(kind for kind, (name, _, _) in ALGORITHMS.items() if name in EVOLUTIONARY)]
