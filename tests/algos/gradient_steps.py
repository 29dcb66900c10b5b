"""A record of gradient steps: what each was given, and what it returned."""

from typing import Any, NamedTuple

from funrl.algos import off_policy


class GradientStep(NamedTuple):
    """One call of ``learn``, or of ``delayed``, of a :class:`funrl.algos.off_policy.Learner`."""

    kind: str
    before: Any
    batch: Any
    gamma: Any
    weight: Any
    after: Any
    metrics: dict


def record(monkeypatch):
    """Return a list to which learners that are made from now on append their gradient steps, when they run eagerly."""
    steps, make = [], off_policy.make

    def recording(kind, learn):
        def step(key, learned, batch, gamma, weight, hparams):
            after, metrics = learn(key, learned, batch, gamma, weight, hparams)
            steps.append(GradientStep(kind, learned, batch, gamma, weight, after, dict(metrics)))
            return after, metrics

        return learn and step

    def recorded(name, env, config, learner, *args, **options):
        learner = learner._replace(learn=recording("learn", learner.learn), delayed=recording("delayed", learner.delayed))
        return make(name, env, config, learner, *args, **options)

    monkeypatch.setattr(off_policy, "make", recorded)
    return steps
