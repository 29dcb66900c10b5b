"""What the benchmarks that measure in processes of their own share."""

import json
import os
import subprocess
import sys
from typing import Any

__all__ = ["last_line", "say"]


def last_line(command: list[str], **environment: str) -> Any:
    """Run a command, with further variables of its environment, and return what the last line of its output has as JSON."""
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def say(text: str) -> None:
    """Tell whoever waits what is measured now."""
    print(text, file=sys.stderr, flush=True)
