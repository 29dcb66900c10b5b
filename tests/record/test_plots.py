import subprocess
import sys

import numpy as np
import pytest

from funrl.record import learning_curve


def metrics(num_agents, num_updates=5, gap=2):
    update, agent = np.meshgrid(np.arange(1, num_updates + 1), np.arange(num_agents), indexing="ij")
    returns = (10.0 * update + agent).astype(float)
    returns[:gap] = np.nan
    columns = {"update": update, "agent": agent, "steps": 64 * update, "episode_return": returns}
    return {name: x.reshape(-1).astype(float) for name, x in columns.items()}


@pytest.mark.parametrize(("num_agents", "gap"), [(1, 0), (1, 5), (2, 2), (10, 1), (3, 5)])
def test_it_draws(tmp_path, num_agents, gap):
    learning_curve(metrics(num_agents, gap=gap), tmp_path / "curve.png", title="a run")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG") and len(list(tmp_path.iterdir())) == 1


def test_one_agent_without_a_return_yet(tmp_path):
    rows = metrics(2)
    rows["episode_return"][5] = np.nan
    learning_curve(rows, tmp_path / "curve.png")


def test_a_missing_column(tmp_path):
    with pytest.raises(ValueError, match="expected a column 'steps', got update, agent"):
        learning_curve({"update": np.ones(1), "agent": np.ones(1)}, tmp_path / "curve.png")


def test_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "funrl\[plot\]"'):
        learning_curve(metrics(1), tmp_path / "curve.png")


def test_funrl_imports_no_matplotlib():
    code = "import funrl, funrl.__main__, sys; sys.exit(any(name.split('.')[0] == 'matplotlib' for name in sys.modules))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
