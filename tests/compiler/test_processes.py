"""Compiled programs and the process around them: imports, forks, pickles, the cache on disk, memory, jax's settings, donated buffers."""

import functools
import os
import pathlib
import pickle
import resource
import stat
import subprocess
import sys
import threading
import warnings

import pytest
import torch
from torch.func import grad, vmap

from funrl import compiler, scan, tree
from tests import preloaded
from tests.support import same

HAS_JAX = compiler._backends.has_jax()
needs_jax = pytest.mark.skipif(not HAS_JAX, reason="jax is not installed")
BACKENDS = ["aot_eager", pytest.param("xla", marks=needs_jax)]
backends = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture(scope="module", autouse=True)
def forgotten():
    yield
    compiler.clear()


def child(script, *args, env=(), code=0, seconds=300, run=subprocess.run):
    """Run a script in a Python of its own, within seconds; return what it printed."""
    result = run(
        [sys.executable, "-c", script, *map(str, args)],
        capture_output=True,
        text=True,
        env={**os.environ, **dict(env)},
        cwd=pathlib.Path(__file__).parents[2],
        timeout=seconds,
    )
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout


# Imports --------------------------------------------------------------------------------------------------------------------------------

IMPORTS = """
import sys
if %(blocked)r:
    sys.modules.update(jax=None, jaxlib=None)  # as if they were not installed
import torch
before = set(sys.modules)
import funrl
funrl.algos, funrl.buffers, funrl.envs, funrl.training
new = {name.split(".")[0] for name in set(sys.modules) - before}
assert not {"jax", "jaxlib", "sympy"} & new, new
assert not [name for name in set(sys.modules) - before if name.startswith(("torch._dynamo", "torch._inductor", "torch.fx.experimental"))]
"""

TRACES = """
import torch
from torch.func import grad, jvp, vmap
def f(x, w):
    loss = lambda w: (torch.tanh(x @ w) ** 2).mean() + torch.nn.functional.softplus(w).sum() + torch.logsumexp(w, 0).sum()
    value = funrl.scan(lambda c, _: (c - 0.1 * grad(loss)(c), loss(c)), w, length=3)
    return value, vmap(lambda r: r.sort().values)(x), jvp(loss, (w,), (w,)), x.sum((0, 1)), x.amax(1), x[:, torch.tensor([0, 1])]
funrl.compile(f, backend=BACKEND)(torch.ones(4, 3), torch.ones(3, 2))
def late():
    return sorted({name for name in sys.modules if name.split(".")[0] == "sympy" or name.startswith(("torch._dynamo", "torch._inductor"))})
"""


@pytest.mark.slow
def test_importing_starts_no_compiler_and_tracing_no_dynamo():
    """Neither the import of funrl nor a first trace of common operators imports jax, Dynamo or sympy: seconds."""
    out = child(IMPORTS % {"blocked": False} + "BACKEND = 'aot_eager'\n" + TRACES + "print(late(), 'jax' in sys.modules)")
    assert out.strip() == "[] False"


@needs_jax
@pytest.mark.slow
def test_compiling_by_xla_imports_no_dynamo():
    out = child(IMPORTS % {"blocked": False} + "BACKEND = 'xla'\n" + TRACES + "print(late(), 'jax' in sys.modules)")
    assert out.strip() == "[] True"


@pytest.mark.slow
def test_without_jax_all_but_xla_works():
    script = """
    BACKEND = "aot_eager"
    assert funrl.compiler.backend() == ("inductor", "jax is not installed: pip install 'funrl[xla]' for programs that start in seconds")
    try:
        funrl.compile(lambda x: x + 1, backend="xla")(torch.ones(1))
    except ImportError as error:
        print(error)
    with funrl.compiler.eager():
        assert funrl.compile(lambda x: x + 1)(torch.ones(1)).item() == 2
    assert funrl.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).item() == 2
    algo = funrl.algos.make("ppo", funrl.envs.make("CartPole-v1"), num_envs=2, num_steps=2, num_epochs=1, num_minibatches=1, num_cells=(4,))
    step = funrl.compile(algo.step, backend="aot_eager")
    step(funrl.random.key(0), algo.init(funrl.random.key(1)))
    funrl.compiler.clear()
    """
    out = child(
        IMPORTS % {"blocked": True} + TRACES.replace("BACKEND", "'aot_eager'") + "\n".join(line[4:] for line in script.splitlines())
    )
    assert out.strip() == "backend='xla' needs jax: pip install 'funrl[xla]' (or compile with backend='inductor')"


# Forks and pickles ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "backend, threads",
    [pytest.param("xla", 2, marks=needs_jax), *[pytest.param(*x, marks=pytest.mark.nightly) for x in (("xla", 1), ("aot_eager", 1))]],
)
def test_a_forked_child_runs_eagerly(backend, threads):
    """A child of a process with programs has none of its threads: it must not hang, and says what it does."""
    script = """
import os, sys, time, warnings, torch, funrl, multiprocessing
backend, threads = sys.argv[1], int(sys.argv[2])
f = funrl.compile(lambda x: (x @ x).sin().sum(0), threads=threads, backend=backend)
x = torch.ones(300, 300)
ref = f(x)
pid = os.fork()
if pid == 0:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        right = torch.allclose(f(x), ref) and torch.allclose(funrl.compile(lambda x: x * 2, backend=backend)(x), x * 2)
    os._exit(0 if right and sum("was forked" in str(w.message) for w in caught) == 1 else 3)
for _ in range(300):
    done, status = os.waitpid(pid, os.WNOHANG)
    if done:
        break
    time.sleep(0.1)
else:
    os.kill(pid, 9)
    raise SystemExit("the child hangs")
assert status == 0, status
context = multiprocessing.get_context("fork")
queue = context.Queue()
process = context.Process(target=lambda: queue.put(f(x).sum().item()))
process.start()
assert abs(queue.get(timeout=30) - ref.sum().item()) < 1e-2
process.join()
assert torch.equal(f(x), ref)
"""
    child(script, backend, threads, run=preloaded.run)


@backends
def test_a_compiled_function_is_not_pickled(backend):
    f = compiler.compile(test_a_compiled_function_is_not_pickled, backend=backend)
    for g in (f, {"f": f}, functools.partial(f, 1)):
        with pytest.raises(
            TypeError, match="is a compiled function, which cannot be pickled: send the function itself and compile it there"
        ):
            pickle.dumps(g)


# The cache on disk ------------------------------------------------------------------------------------------------------------------------


@needs_jax
def test_the_cache_on_disk(tmp_path, monkeypatch):
    """An entry is found again; one that is cut, changed, foreign, of another program or of another user is built anew, never run."""
    from funrl.compiler import _cache

    monkeypatch.setenv("FUNRL_CACHE", str(tmp_path))
    table = torch.tensor([1.0, 2.0])

    def made(factor=3.0):
        parts = []
        f = compiler.compile(
            lambda x: scan(lambda c, r: (c * factor + r + torch.tensor([1.0, 2.0]).sum(), table * c), x[0], x), backend="xla"
        )
        with compiler.listening(lambda name, ended, seconds, begins: parts.append(begins)):
            c, ys = f(torch.ones(3))
        assert c.item() == pytest.approx(((1 * factor + 4) * factor + 4) * factor + 4) and ys[0].tolist() == [1, 2]
        return parts[1:-1]

    built, loaded = ["lowering", "compiling"], ["loading"]
    assert made() == built
    (entry,) = (tmp_path / "xla").iterdir()
    assert made() == loaded
    assert made(2.5) == loaded and len(list((tmp_path / "xla").iterdir())) == 1
    assert made(2) == built and len(list((tmp_path / "xla").iterdir())) == 2
    (other,) = set((tmp_path / "xla").iterdir()) - {entry}
    assert stat.S_IMODE((tmp_path / "xla").stat().st_mode) & 0o077 == 0 and stat.S_IMODE(entry.stat().st_mode) & 0o077 == 0
    whole = entry.read_bytes()
    for bad in (
        b"",
        whole[:20],
        whole[:-1],
        whole + b"x",
        whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:],
        b"funrl-xla-0\n" + whole[12:],
        other.read_bytes(),
        pickle.dumps(print),
    ):
        entry.write_bytes(bad)
        assert made() == built, bad[:10]
        assert entry.read_bytes() != bad and made() == loaded
    # Of another user, or where others may write.
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: 12345)
        assert made() == built
    os.chmod(entry, 0o666)
    assert made() == built
    assert made() == loaded
    # A whole entry, but of what jax cannot load.
    _cache._write(entry, b"not an executable")
    assert made()[-2:] == built
    assert made() == loaded
    # Versions and code are part of the key.
    with monkeypatch.context() as patch:
        patch.setattr(_cache, "_world", lambda: b"another version")
        assert made() == built
    # Switched off, and no place to write.
    before = sorted((tmp_path / "xla").iterdir())
    for value in ("0", ""):
        monkeypatch.setenv("FUNRL_CACHE", value)
        assert made(2.25) == built
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FUNRL_CACHE", str(tmp_path / "file"))
    assert made(2.25) == built
    monkeypatch.setenv("FUNRL_CACHE", "/proc/none")
    assert made(2.25) == built
    assert sorted((tmp_path / "xla").iterdir()) == before


@needs_jax
def test_what_an_entry_is_found_by(tmp_path, monkeypatch):
    """Programs that differ in a constant, a shape, a dtype, a loop's length or direction, what is donated, or threads are not mixed up."""
    monkeypatch.setenv("FUNRL_CACHE", str(tmp_path))
    x = torch.arange(4.0)
    small, large = torch.zeros(2), torch.zeros(200, 200)

    def run(f, *args, **options):
        parts = []
        with compiler.listening(lambda name, ended, seconds, begins: parts.append(begins)):
            got = compiler.compile(f, backend="xla", **options)(*[a.clone() for a in args])
        same(got, f(*args))
        return "loading" in parts

    programs = [
        (lambda x: x + 1, x),
        (lambda x: x + 2, x),
        (lambda x: x + 1.0, x),
        (lambda x: x + 1, x[:2]),
        (lambda x: x + 1, x.double()),
        (lambda x: x + torch.tensor([1.0, 2.0, 3.0, 4.0]), x),
        (lambda x: x + torch.tensor([1.0, 2.0, 3.0, 5.0]), x),
        (lambda x: x + torch.tensor([1.0, 2.0, 3.0, float("nan")]), x),
        (lambda x: scan(lambda c, r: (c + r, c * r), x[0], x), x),
        (lambda x: scan(lambda c, r: (c + r, c * r), x[0], x, reverse=True), x),
        (lambda x: scan(lambda c, r: (c + r, c * r), x[0], x[:3]), x),
        (lambda x: scan(lambda c, r: (c + r, r * c * 2), x[0], x), x),
        (lambda x: (x * 2, x * 3), x),
        (lambda x: (x * 3, x * 2), x),
        (lambda x: [x * 3, x * 2], x),
        (lambda x, y: x - y, small, small + 1),
        (lambda y, x: x - y, small, small + 1),
        (lambda x: x.sum(0), large),
        (lambda x: x.sum(1), large),
        (lambda x: x.t() + 1, large),
        (lambda x: x + 1, large),
    ]
    assert not any(run(f, *args) for f, *args in programs[:2])
    assert run(programs[0][0], x) and not any(run(f, *args) for f, *args in (programs[3], *programs[4:12]))
    for f, *args in programs[12:]:
        run(f, *args)  # whether they are found again does not matter; they are right
    assert run(lambda x: 1 + x, x) in (True, False)
    f = programs[-1][0]
    assert run(f, large)
    assert not run(f, large, donate=0)
    assert run(f, large, donate=0)


@needs_jax
@pytest.mark.slow
def test_a_second_process_loads(tmp_path):
    script = """
import torch, funrl, sys
parts = []
with funrl.compiler.listening(lambda name, ended, seconds, begins: parts.append(begins)):
    state = (torch.zeros(200, 200), torch.ones(3))
    step = funrl.compile(lambda s, x: ((s[0] + x, s[1] * torch.linalg.det(2 * torch.eye(1) + s[0][:1, :1] * 0)), x.sum()), donate=0, backend="xla")
    for _ in range(2):
        state, total = step(state, torch.ones(200))
assert state[0][0, 0] == 2 and state[1][0] == 4 and total == 200
print(parts, flush=True)
state = step((torch.zeros(200, 200), torch.ones(3)), torch.ones(200))  # the process ends while it runs
"""
    env = {"FUNRL_CACHE": str(tmp_path)}
    assert child(script, env=env).strip() == "['tracing', 'lowering', 'compiling', '']"
    again = functools.partial(child, script, run=preloaded.run)
    assert again(env=env).strip() == "['tracing', 'loading', '']"
    for entry in (tmp_path / "xla").iterdir():
        entry.write_bytes(entry.read_bytes()[:-100])
    assert again(env=env).strip() == "['tracing', 'lowering', 'compiling', '']"
    assert again(env={"FUNRL_CACHE": "0"}).strip() == "['tracing', 'lowering', 'compiling', '']"


# jax's settings stay -------------------------------------------------------------------------------------------------------------------------


@needs_jax
def test_the_users_own_jax_stays_as_it_is():
    import jax

    double = compiler.compile(lambda x, n: (x * 2, x.sum(), n + 1), backend="xla")
    theirs = jax.jit(lambda x: (x * 2, x.sum()))
    errors = []

    def other():
        for _ in range(50):
            y = theirs(jax.numpy.arange(3))[0] * 1.5
            if y.dtype != "float32" or jax.config.jax_enable_x64:
                errors.append(y.dtype)

    thread = threading.Thread(target=other)
    thread.start()
    for n in range(1, 6):
        x = torch.ones(n, dtype=torch.float64) / 3
        y, total, m = double(x, torch.tensor(2**40))
        assert y.dtype == torch.float64 and total.item() == x.sum().item() and m.item() == 2**40 + 1
        assert jax.config.jax_enable_x64 is False
        assert theirs(jax.numpy.ones(3))[0].dtype == "float32" and jax.numpy.arange(2).dtype == "int32"
    thread.join()
    assert not errors
    with pytest.raises(ZeroDivisionError):
        compiler.compile(lambda x: x * (1 / 0), backend="xla")(torch.ones(1))
    assert jax.config.jax_enable_x64 is False
    with jax.enable_x64(True):
        assert double(torch.ones(2), torch.tensor(1))[0].tolist() == [2, 2] and jax.numpy.ones(1).dtype == "float64"
    # A compiled function called by a callback of jax's own, and jax within a call of Python.
    assert theirs(jax.numpy.asarray(double(torch.ones(2), torch.tensor(1))[0].numpy()))[0].tolist() == [4, 4]


# Memory ------------------------------------------------------------------------------------------------------------------------------------------


def resident():
    """Return how much memory this process has, in MiB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


linux = pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="it reads /proc")


def calls(backend, count):
    w = torch.ones(64)

    def f(state, x):
        new = {"table": state["table"].index_copy(0, torch.tensor([3]), x[None]), "n": state["n"] + 1, "w": state["w"] * 0.5 + w}
        return new, (x.sum(), x * 2, torch.ones(300, 100))

    step = compiler.compile(f, donate=0, backend=backend)
    state = {"table": torch.zeros(1000, 64), "n": torch.tensor(0), "w": torch.ones(64)}
    marks = []
    for i in range(count):
        state, _ = step(state, torch.full((64,), float(i % 7)))
        if i in (count // 5, count - 1):
            marks.append(resident())
    assert state["n"].item() == count
    return marks[1] - marks[0]


@linux
@backends
def test_calls_take_no_memory(backend):
    calls(backend, 100)
    assert calls(backend, 1000) < 4


@linux
@needs_jax
@pytest.mark.nightly
def test_ten_thousand_calls_take_no_memory():
    calls("xla", 100)
    assert calls("xla", 10_000) < 4


CLEARED = """
import gc, os, resource, sys, torch, funrl
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20
def programs(count):
    kept = []
    for n in range(count):
        f = funrl.compile(lambda x, n=n: funrl.scan(lambda c, r: (torch.tanh(c @ r * n), c.sum()), x, x[None].expand(3, 8, 8)), backend="xla")
        f(torch.ones(8, 8))
        kept.append(f)
    used = resident()
    assert all(len(f.programs) == 1 for f in kept)
    funrl.compiler.clear()
    assert not any(f.programs for f in kept)
    return used, resident()
programs(10)
before = resident()
used, after = programs(int(sys.argv[1]))
again = programs(int(sys.argv[1]) // 2)[1]
print(before, used, after, again)
assert after - before < 0.2 * (used - before) + 10 and again - after < 0.2 * (used - before) + 5, (before, used, after, again)
"""


@linux
@needs_jax
@pytest.mark.slow
def test_clear_gives_memory_back():
    child(CLEARED, 20, env={"FUNRL_CACHE": "0"})


@linux
@needs_jax
@pytest.mark.weekly
def test_clear_gives_the_memory_of_200_programs_back():
    """Minutes of compiling; 20 programs each day."""
    child(CLEARED, 200, env={"FUNRL_CACHE": "0"}, seconds=1200)


@backends
def test_a_compiled_function_is_freed(backend):
    import gc
    import weakref

    w = torch.ones(300, 300)
    f = compiler.compile(lambda x: x @ w, backend=backend)
    f(torch.ones(300))
    gone = weakref.ref(w)
    f = w = None
    gc.collect()
    assert gone() is None


def test_clear_and_then_again():
    f = compiler.compile(lambda x: x + 1, backend="aot_eager")
    f(torch.ones(1))
    compiler.clear()
    assert f(torch.ones(1)).item() == 2 and f(torch.ones(2)).tolist() == [2, 2]


# Donation ------------------------------------------------------------------------------------------------------------------------------------------


@needs_jax
def test_donated_buffers_are_written_in_place():
    def f(state, x):
        return {"table": state["table"].index_copy(0, torch.tensor([3]), x[None]), "n": state["n"] + 1}

    step = compiler.compile(f, donate=0, backend="xla")
    state = {"table": torch.zeros(1000, 64), "n": torch.tensor(0)}
    state = step(state, torch.ones(64))
    place = state["table"].data_ptr()
    for _ in range(5):
        state = step(state, torch.ones(64))
        assert state["table"].data_ptr() == place
    assert state["table"].sum().item() == 64 and state["n"].item() == 6


@needs_jax
def test_each_donated_buffer_has_its_successor_in_its_place():
    """Others of the same shape, before it in the result, are not put there: that would cost a copy."""

    def f(x, state):
        a, b = state["a"].index_copy(0, torch.tensor([3]), x[None]), state["b"].index_copy(0, torch.tensor([4]), x[None])
        return state["b"] * 2, {"a": a, "b": b}

    step = compiler.compile(f, donate=1, backend="xla")
    state = {"a": torch.zeros(1000, 64), "b": torch.ones(1000, 64)}
    _, state = step(torch.ones(64), state)
    places = [state[name].data_ptr() for name in "ab"]
    twice, state = step(torch.zeros(64), state)
    assert [state[name].data_ptr() for name in "ab"] == places
    assert state["a"].sum() == 0 and state["b"].sum() == twice.sum() / 2 - 64 == 999 * 64


@backends
def test_a_donated_tensor_is_not_read_again(backend):
    step = compiler.compile(lambda s, x: {"table": s["table"] + x, "n": s["n"] + 1}, donate=0, backend=backend)
    old = {"table": torch.zeros(200, 200), "n": torch.tensor(0)}
    alias = old["table"]
    new = step(old, torch.ones(()))
    for use in (
        lambda x: x + 1,
        lambda x: x.sum(),
        lambda x: x.tolist(),
        lambda x: x.numpy(),
        lambda x: x[0],
        lambda x: torch.stack([x]),
        lambda x: x.add_(1),
        lambda x: x.shape and x.clone(),
    ):
        with pytest.raises(ValueError, match="was donated to <lambda>|was donated to fn|was donated to"):
            use(alias)
    assert "donated" in repr(alias)
    for again in (lambda: step(old, torch.ones(())), lambda: compiler.compile(lambda s: s["n"] * 2, backend=backend)(old)):
        with pytest.raises(
            ValueError, match=r"leaf .* of argument 0 was donated to .* before, which wrote over it; use what that call returned"
        ):
            again()
    same(step(new, torch.ones(()))["table"], torch.full((200, 200), 2.0))
    # What is not donated stays.
    x = torch.ones(200, 200)
    compiler.compile(lambda s, x: (s + x, x * 2), donate=0, backend=backend)(torch.zeros(200, 200), x)
    assert x.sum().item() == 40_000


@backends
def test_two_functions_that_share_a_donated_buffer(backend):
    """Each function returns the state that the other takes; each is given what the last one returned, and none reads what was overwritten."""
    write = compiler.compile(lambda s, x: (s.index_copy(0, torch.tensor([2]), x[None]), s.sum()), donate=0, backend=backend)
    roll = compiler.compile(lambda s: (s.roll(1, 0) * 2, s[0]), donate=0, backend=backend)
    look = compiler.compile(lambda s: (s.sum(1), s, s[5:]), backend=backend)
    state, right = torch.arange(64000.0).reshape(1000, 64) / 1000, torch.arange(64000.0).reshape(1000, 64) / 1000
    for i in range(4):
        state, total = write(state, torch.full((64,), float(i)))
        right_total = right.sum()
        right = right.index_copy(0, torch.tensor([2]), torch.full((1, 64), float(i)))
        torch.testing.assert_close(total, right_total, rtol=1e-4, atol=1e-4)
        sums, whole, part = look(state)
        kept = [sums.clone(), part.clone()]
        seen = roll(state)
        state, first = seen
        same(first, right[0])
        same([sums, part], kept)  # results are not views of what the next call wrote over
        same([sums, part], [right.sum(1), right[5:]], rtol=1e-5, atol=1e-3)
        right = right.roll(1, 0) * 2
        same(state, right)
        del whole


@backends
def test_views_of_donated_tensors_that_are_held_stay_right(backend):
    """A view of a donated tensor that the user holds has the old values or is an error; never the new ones."""
    step = compiler.compile(lambda s: s * 0 + 9, donate=0, backend=backend)
    for make in (
        lambda: torch.arange(40000.0).reshape(200, 200),
        lambda: step(torch.zeros(200, 200)) * 0 + torch.arange(40000.0).reshape(200, 200),
        lambda: compiler.compile(lambda x: x + 1, backend=backend)(torch.arange(40000.0).reshape(200, 200) - 1),
    ):
        state = make()
        held = {"row": state[1], "view": state.view(-1), "alias": state.detach(), "numpy": state.numpy(), "strided": state[::2, 1]}
        right = {name: torch.as_tensor(x).clone() for name, x in held.items()}
        new = step(state)
        assert new.min().item() == 9
        for name, x in held.items():
            try:
                now = torch.as_tensor(x).clone()
            except ValueError:
                continue
            assert torch.equal(now, right[name]), name


@backends
def test_donated_leaves_that_are_one_tensor_or_also_an_argument(backend):
    x = torch.ones(200, 200)
    step = compiler.compile(lambda s: {"a": s["a"] + 1, "b": s["b"] * 5}, donate=0, backend=backend)
    same(step({"a": x, "b": x}), {"a": torch.full((200, 200), 2.0), "b": torch.full((200, 200), 5.0)})
    x = torch.ones(200, 200)
    other = compiler.compile(lambda s, x: (s + x, x * 3), donate=0, backend=backend)
    same(other(x, x), (torch.full((200, 200), 2.0), torch.full((200, 200), 3.0)))
    captured = torch.ones(200, 200)
    third = compiler.compile(lambda s: s + captured * 2, donate=0, backend=backend)
    same(third(captured.clone()), torch.full((200, 200), 3.0))
    base = torch.ones(400, 200)
    fourth = compiler.compile(lambda s, t: (s + 1, t * 2), donate=0, backend=backend)
    same(fourth(base[:200], base[100:300]), (torch.full((200, 200), 2.0), torch.full((200, 200), 2.0)))


@backends
def test_a_donated_tensor_that_is_captured(backend):
    """The captured tensor is what was donated: its values at the call count."""
    buffer = torch.ones(200, 200)
    step = compiler.compile(lambda s: s + buffer, donate=0, backend=backend)
    try:
        got = step(buffer)
    except ValueError as error:
        assert "donate" in str(error)
    else:
        same(got, torch.full((200, 200), 2.0))


@backends
def test_results_that_are_donated_in_turn(backend):
    """Results of one call share no memory: donating one leaves the others as they are."""
    make = compiler.compile(lambda x: {"a": x + 1, "b": x + 1, "c": x, "d": x.view(-1), "small": (x[0, 0], x[0, :3])}, backend=backend)
    eat = compiler.compile(lambda s: s * 0 - 1, donate=0, backend=backend)
    x = torch.ones(200, 200)
    out = make(x)
    assert eat(out["a"]).max().item() == -1
    same([out["b"], out["c"], out["d"], x], [torch.full((200, 200), 2.0), x, torch.ones(40000), torch.ones(200, 200)])
    assert eat(out["small"][1]).tolist() == [-1, -1, -1]
    assert out["small"][0].item() == 1
    assert eat(out["d"]).max().item() == -1
    same([out["b"], x], [torch.full((200, 200), 2.0), torch.ones(200, 200)])


@backends
def test_writing_into_arguments_and_results_between_calls(backend):
    """Kept arrays are the tensors' own memory: what is written between calls is seen by the next, also by a small leaf in a vector."""
    f = compiler.compile(lambda t: tree.map(lambda x: x * 2, t), backend=backend)
    t = f({"a": torch.ones(3), "b": torch.ones(()), "big": torch.ones(200, 200)})
    t["a"][1] = 5
    t["b"].fill_(7)
    t["big"].mul_(3)
    got = f(t)
    assert got["a"].tolist() == [4, 10, 4] and got["b"].item() == 14 and got["big"][0, 0].item() == 12
    t["a"].data = torch.zeros(3)
    t["big"].set_(torch.full((200, 200), 4.0))
    assert f(t)["a"].tolist() == [0, 0, 0] and f(t)["big"][0, 0].item() == 8 and f(t)["b"].item() == 14
    swapped = {"a": t["a"], "b": torch.tensor(1.0), "big": t["big"].t()}
    assert f(swapped)["b"].item() == 2


@backends
def test_a_result_outlives_its_function(backend):
    def make():
        f = compiler.compile(lambda x: (x + 1, x.sum()), backend=backend)
        return f(torch.ones(200, 200))

    big, small = make()
    compiler.clear()
    junk = [torch.full((200, 200), -1.0) for _ in range(20)]
    assert big.min().item() == big.max().item() == 2 and small.item() == 40_000 and len(junk) == 20


def test_no_warnings_of_jax_at_all():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for backend in ["aot_eager"] + ["xla"] * HAS_JAX:
            f = compiler.compile(lambda s, x: (s[:0], vmap(grad(torch.sin))(x)), donate=0, backend=backend)
            assert f(torch.zeros(0), torch.zeros(3))[1].tolist() == [1, 1, 1]
