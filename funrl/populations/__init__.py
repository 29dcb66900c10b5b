"""Populations: many agents of one algorithm in one program, each with its own hyperparameters; they may exchange parameters."""

from funrl.populations._halving import hyperband, successive_halving
from funrl.populations._hparams import begin, by_value, check_hparams as check_hparams, first_state as first_state, hparam_names
from funrl.populations._optuna import optuna_search
from funrl.populations._pbt import PBTState, pbt
from funrl.populations._population import Exchange, Population, PopulationState, advance, first_hparams as first_hparams, seeds, sweep
from funrl.populations._run import Chunk as Chunk, Records as Records, agent_bytes as agent_bytes, chunk_size as chunk_size, run
from funrl.populations._spaces import Range, log_uniform, uniform
from funrl.populations._table import Table, checked_metrics as checked_metrics, join, not_finite as not_finite, read_table

__all__ = [
    "Exchange",
    "PBTState",
    "Population",
    "PopulationState",
    "Range",
    "Table",
    "advance",
    "begin",
    "by_value",
    "hparam_names",
    "hyperband",
    "join",
    "log_uniform",
    "optuna_search",
    "pbt",
    "read_table",
    "run",
    "seeds",
    "successive_halving",
    "sweep",
    "uniform",
]
