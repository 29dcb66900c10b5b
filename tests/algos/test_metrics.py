"""The table of metrics in the docstring of ``funrl.algos``."""

import re

import pytest

from funrl import algos, envs, random
from tests.registry import ALGORITHMS

GROUPS = re.findall(r"^Metrics of ([^:]+):\n\n((?:    .+\n)+)", algos.__doc__, flags=re.MULTILINE)
OPTIONAL = {"reinforce": {"value_loss"}}


def documented(name):
    found = set()
    for group, rows in GROUPS:
        if group == "every algorithm" or name in re.split(r",\s+", group):
            found |= {row.split()[0] for row in rows.splitlines()}
    return found


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_the_table_lists_the_metrics_of_each_algorithm(kind):
    name, env, options = ALGORITHMS[kind]
    algo = algos.make(name, envs.make(env), **options)
    _, metrics = algo.step(random.key(0), algo.init(random.key(1)))
    assert documented(name) - OPTIONAL.get(name, set()) <= set(metrics) <= documented(name)


def test_the_table_names_known_algorithms_only():
    named = {name for group, _ in GROUPS if group != "every algorithm" for name in re.split(r",\s+", group)}
    assert named == set(algos.names()) and len(GROUPS) > 5
