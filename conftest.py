"""What doctests need before they are collected."""

import importlib
import pathlib

ROOT = pathlib.Path(__file__).parent


def pytest_collect_file(file_path: pathlib.Path) -> None:
    """Import the package of a file of funrl, before pytest imports the file.

    Pytest imports a package that is not there yet, which imports the file, and then executes the file once more: its classes are two,
    and a configuration of the one is not equal to the same configuration of the other. Rooms of funrl come with their first use.
    """
    if file_path.suffix == ".py" and file_path.is_relative_to(ROOT / "funrl"):
        try:
            importlib.import_module(".".join(file_path.parent.relative_to(ROOT).parts))
        except ImportError:
            pass  # of an extra: pytest says so where it matters


# The test files that take longest, the longest first: one that began last would leave the other process without work.
LONGEST = (
    *("test_main", "algos/test_probes", "algos/test_algorithm", "compiler/test_processes", "distributed/test_parallel"),
    *("envs/test_dm_control", "distributed/test_faults", "algos/test_arguments", "offline/test_learners", "training/test_killed"),
    *("policies/test_export", "collectors/test_processes", "evolution/test_peers", "test_notebooks", "transforms/test_contract"),
    *("meta/test_runs", "compiler/test_random_programs", "algos/test_off_policy", "distributed/test_populations", "algos/test_learn"),
    *("envs/test_contract", "populations/test_command", "collectors/test_pool", "compiler/test_program", "distributed/test_actors"),
    *("test_imports", "test_optim", "algos/test_analytic", "test_threads", "populations/test_sweep", "distributions/test_ends"),
    *("test_startup", "envs/test_gymnasium", "training/test_experience", "test_random", "compiler/test_debug", "training/test_loop"),
)


def pytest_collection_modifyitems(items: list) -> None:
    """Put the tests of the longest files first; ``--no-loadscope-reorder`` in pyproject.toml keeps this order."""
    places = {ROOT / "tests" / f"{name}.py": i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
