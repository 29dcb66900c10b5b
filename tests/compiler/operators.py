"""Lowerings beside torch itself: each aten operator that an OpInfo sample runs is run by its lowering too, on the same numbers."""

import concurrent.futures
import json
import multiprocessing
import pathlib
import sys
import warnings

import jax
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from funrl.compiler import _torch_private as private
from funrl.compiler._lowerings import _table

DTYPES = (torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool)
FILE = pathlib.Path(__file__).with_name("operators.json")


class Record(TorchDispatchMode):
    """Note each aten operator with copies of what it is given and gives; operators without a lowering are decomposed where torch can."""

    def __init__(self):
        super().__init__()
        self.calls, self.missing = [], set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        known = private.decompositions()
        if func not in _table.TABLE and (func in known or private.is_composite(func)):
            with self:
                decomposed = known[func](*args, **kwargs) if func in known else func.decompose(*args, **kwargs)
            if decomposed is not NotImplemented:
                return decomposed
        given = pytree.tree_map(lambda x: x.detach().clone() if isinstance(x, torch.Tensor) else x, (args, kwargs))
        out = func(*args, **kwargs)
        if func._schema.is_mutable or not func._schema.returns:
            return out  # the functional twin has the lowering; or it only looks for errors
        if func in _table.TABLE:
            self.calls.append((func, *given, pytree.tree_map(lambda x: x.detach().clone() if isinstance(x, torch.Tensor) else x, out)))
        else:
            self.missing.add(str(func))
        return out


def calls_of(name, dtype, most_samples=8):
    """Return the aten calls of an operator of op_db (``name`` or ``name.variant``) and the operators that have no lowering."""
    from tests.compiler.opinfo import op_db

    mode = Record()
    for info in op_db:
        if info.name + (f".{info.variant_test_name}" if info.variant_test_name else "") != name or not info.supports_dtype(dtype, "cpu"):
            continue
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _, sample in zip(range(most_samples), info.sample_inputs("cpu", dtype), strict=False):
                with torch.no_grad(), mode:
                    info.op(sample.input, *sample.args, **sample.kwargs)
    return mode.calls, mode.missing


def wrong(calls, tolerance=None):
    """Return a line for each call whose lowering, compiled by XLA, gives another result than torch gave."""
    with jax.enable_x64(True):
        arrays = []

        def traced(given):
            rows = iter(given)
            results = []
            for func, args, kwargs, out in calls:
                args, kwargs = pytree.tree_map(lambda x: next(rows) if isinstance(x, torch.Tensor) else x, (args, kwargs))
                meta = pytree.tree_map(lambda x: x.to("meta") if isinstance(x, torch.Tensor) else x, out)
                results.append(list(_as_tuple(_table.apply(func, meta, args, kwargs))))
            return results

        for _, args, kwargs, _ in calls:
            arrays += [_to_jax(x) for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        compiled = (
            jax.jit(traced)
            .lower(arrays)
            .compile(compiler_options={"xla_backend_optimization_level": 0, "xla_allow_excess_precision": False})
        )
        results = compiled(arrays)
        lines = []
        for (func, args, kwargs, out), ours in zip(calls, results, strict=True):
            ours = [x if x is None else _to_torch(x) for x in ours]
            if "empty" in func._schema.name:
                out, ours = ([torch.zeros_like(x) for x in _as_tuple(results)] for results in (out, ours))
            if func.overloadpacket in OF_SIGNS:
                out, ours = ([x.abs() for x in results] for results in (out, ours))
            if func.overloadpacket in OF_TIES and len(ours) == 2:
                out, ours = (_chosen(func, args, kwargs, *pair) for pair in (out, ours))
            for theirs, x in zip(_as_tuple(out), ours, strict=True):
                if theirs is None:
                    continue
                options = {} if tolerance is None else {"rtol": tolerance, "atol": tolerance}
                try:
                    torch.testing.assert_close(x, theirs, equal_nan=True, check_stride=False, **options)
                except AssertionError as error:
                    lines.append(f"{func}{_short(args)}{_short(kwargs)}: {' '.join(str(error).split())[:300]}")
                    break
    return lines


# Whose indices, where entries are equal, are no one's promise: what lies there counts.
OF_TIES = {
    torch.ops.aten.sort,
    torch.ops.aten.topk,
    torch.ops.aten.kthvalue,
    torch.ops.aten.mode,
    torch.ops.aten.median,
    torch.ops.aten.nanmedian,
}


# Whose vectors have either sign.
OF_SIGNS = {torch.ops.aten._linalg_eigh, torch.ops.aten._linalg_svd}


def _chosen(func, args, kwargs, values, indices):
    """Return, instead of indices, what lies there."""
    given = dict(zip([a.name for a in func._schema.arguments], args, strict=False)) | kwargs
    x, dim = given["self"], given.get("dim", -1)
    if not x.ndim:
        return values, indices
    rows = indices if indices.ndim == x.ndim else indices.unsqueeze(dim)
    return values, x.gather(dim, rows)


def _to_torch(x):
    return torch.from_dlpack(x.view("uint8")).view(torch.bool) if x.dtype == bool else torch.from_dlpack(x)


def _as_tuple(x):
    return tuple(x) if isinstance(x, (tuple, list)) else (x,)


def _to_jax(x):

    x = x.detach().contiguous()
    return (
        jax.numpy.asarray(x.view(torch.int16).numpy().view(jax.numpy.bfloat16))
        if x.dtype == torch.bfloat16
        else jax.numpy.asarray(x.numpy().copy())
    )


def _short(x):
    return pytree.tree_map(lambda t: f"{t.dtype}{list(t.shape)}" if isinstance(t, torch.Tensor) else t, x)


def verdict(name, dtypes=DTYPES, most_samples=6):
    """Return of an operator of op_db the dtypes, of those that torch has it for, that are right, and a line for each fault or None."""
    right, faults = [], []
    for dtype in dtypes:
        try:
            calls, missing = calls_of(name, dtype, most_samples)
            lines = [f"no lowering: {', '.join(sorted(missing))}"] if missing else wrong(calls) if calls else []
        except Exception as error:
            calls, lines = [], [f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"]
        if lines:
            faults += [f"{dtype}: {line}" for line in lines]
        elif calls:
            right.append(str(dtype).removeprefix("torch."))
    return right, faults


def all_names():
    """Return the names of all operators of op_db, variants after a dot."""
    from tests.compiler.opinfo import op_db

    return sorted({info.name + (f".{info.variant_test_name}" if info.variant_test_name else "") for info in op_db})


def main(names):
    """Write what is right into operators.json, for the names given or for all: ``python -m tests.compiler.operators [NAME ...]``."""
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    names = names or all_names()
    with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        verdicts = zip(names, pool.map(verdict, names, chunksize=4), strict=True)
        save(known, verdicts)


def save(known, verdicts):
    for name, (right, faults) in verdicts:
        known[name] = {"right": right, **({"faults": faults[:3]} if faults else {})}
        print(name, *right, *faults, sep="\n  ", flush=True)
        FILE.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
