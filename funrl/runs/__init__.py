"""Runs: the folder of a training run, and functions that read its configuration, algorithm and latest state."""

from funrl.runs._folder import (
    Folder as Folder,
    RunError,
    check_algorithm as check_algorithm,
    checking as checking,
    describe as describe,
    differences as differences,
    options_of as options_of,
    read_config,
    reading as reading,
    rebuild as rebuild,
    writing as writing,
)
from funrl.runs._parts import (
    finish_parts as finish_parts,
    load_part as load_part,
    read_manifest as read_manifest,
    save_part as save_part,
)
from funrl.runs._run import (
    Run,
    check_metrics as check_metrics,
    check_no_checkpoint_is_lost as check_no_checkpoint_is_lost,
    load_checkpoint as load_checkpoint,
    load_run,
    named as named,
)

__all__ = [
    "Run",
    "RunError",
    "load_run",
    "read_config",
]
