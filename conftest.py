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
