"""The wheel holds what it should, and works away from the source tree."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_a_citation_names_the_version():
    (version,) = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.nightly
def test_the_wheel_passes_tests_from_outside_the_source_tree(tmp_path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    source = tmp_path / "source"  # setuptools writes beside what it builds
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "funrl"):
        (source / name).symlink_to(ROOT / name)
    subprocess.run([*pip, "wheel", "--no-deps", "-w", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("funrl-*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert inside >= {"funrl/py.typed", "funrl/API.md", "funrl/CHANGELOG.md"}
    programs = {path.relative_to(ROOT).as_posix() for path in (ROOT / "funrl").rglob("*.py")}
    assert inside >= {name for name in programs if not name.startswith("funrl/docs/")}
    assert not [name for name in inside if name.startswith("funrl/docs/")]
    assert not [name for name in inside if not name.startswith(("funrl/", "funrl-"))]

    target = tmp_path / "installed"
    subprocess.run([*pip, "install", "--no-deps", "--target", target, wheel], check=True)
    environment = {**os.environ, "PYTHONPATH": str(target)}
    where = [sys.executable, "-W", "error", "-c", "import funrl; print(funrl.__file__)"]
    done = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).is_relative_to(target) and not done.stderr
    tests = [ROOT / "tests" / name for name in ("test_spaces.py", "test_optim.py", "returns")]
    options = ["-q", "--import-mode=importlib", "-c", os.devnull, "--rootdir", tmp_path, "-p", "no:cacheprovider"]
    subprocess.run([sys.executable, "-m", "pytest", *options, *tests], cwd=tmp_path, env=environment, check=True)


@pytest.mark.nightly
def test_what_is_released_passes_the_checks_of_the_index(tmp_path):
    for package in ("build", "twine"):
        pytest.importorskip(package)
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "funrl"):
        (source / name).symlink_to(ROOT / name)
    subprocess.run([sys.executable, "-m", "build", "-o", tmp_path / "dist", source], check=True, capture_output=True)
    files = sorted((tmp_path / "dist").iterdir())
    assert [path.name.split("-")[0] for path in files] == ["funrl", "funrl"] and {path.suffix for path in files} == {".whl", ".gz"}
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], check=True)
