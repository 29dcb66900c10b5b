"""Type hints: pyright finds nothing to complain about, in the mode that pyproject.toml sets."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_pyright_passes():
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    errors = [x for x in report["generalDiagnostics"] if x["severity"] == "error"]
    found = "\n".join(f"{x['file']}:{x['range']['start']['line'] + 1}: {x['message']}" for x in errors)
    assert report["summary"]["filesAnalyzed"] > 100 and not errors, found
