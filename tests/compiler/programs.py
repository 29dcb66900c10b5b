"""Random programs: loops, transforms, writes in place and views, captured tensors, all dtypes; each is a function of its seed alone.

What a program does next depends on its seed and on the shapes and dtypes that it has come by, never on values: a traced run does what an
eager one does. Floating-point numbers are kept within [-1, 1] or so, and compared with offsets that no result hits by accident.
"""

import copy
import random

import torch
from torch.func import grad, grad_and_value, hessian, jacfwd, jacrev, jvp, vjp, vmap

from funrl import scan

INTEGERS = (torch.int64, torch.int32, torch.uint8)
SHAPES = ((), (3,), (4,), (3, 4), (4, 3), (2, 3), (3, 3), (2, 3, 4))
COUNTS: dict[str, int] = {}


class Program:
    """A random program.

    Attributes:
        inputs: tensors to call it with.
        outside: tensors that it closes over.
        tolerance: relative and absolute, of its floating-point results.
    """

    def __init__(self, seed):
        rng = random.Random(seed)
        self.seed = seed
        kind = rng.choice(["double"] * 8 + ["float", "mixed", "brain"])
        self.floats = {
            "double": (torch.float64,),
            "float": (torch.float32,),
            "mixed": (torch.float64, torch.float32),
            "brain": (torch.bfloat16, torch.float32),
        }[kind]
        self.exact = kind == "double"
        self.tolerance = {"double": 1e-9, "float": 2e-4, "mixed": 2e-4, "brain": 0.15}[kind]
        generator = torch.Generator().manual_seed(seed)
        self.inputs = [self.tensor(rng, generator, shape) for shape in ((3, 4), (3,), (4, 3), *rng.choices(SHAPES, k=3))]
        self.inputs[0] = torch.randn((3, 4), generator=generator, dtype=torch.float64).to(self.floats[0])
        self.inputs[1] = torch.randint(-3, 3, (3,), generator=generator)
        self.outside = [self.tensor(rng, generator, shape) for shape in ((3, 4), *rng.choices(SHAPES, k=2))]
        self.outside[1] = self.outside[1].mT if self.outside[1].ndim > 1 else self.outside[1]
        self.size = rng.randint(3, 6)
        self.depth = rng.choice([1, 2, 2, 3])

    def in_double(self):
        """Return the same program in float64, where its own rounding is not felt."""
        double = copy.copy(self)
        double.floats, double.tolerance = (torch.float64,) * len(self.floats), 1e-9
        double.inputs, double.outside = ([x.double() if x.is_floating_point() else x for x in part] for part in (self.inputs, self.outside))
        return double

    def tensor(self, rng, generator, shape):
        dtype = rng.choice([*self.floats * 3, *INTEGERS, torch.bool])
        if dtype.is_floating_point:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        return torch.randint(
            0 if dtype in (torch.uint8, torch.bool) else -9, 2 if dtype == torch.bool else 9, shape, generator=generator
        ).to(dtype)

    def __call__(self, *inputs):
        return Block(self, self.seed, list(inputs), self.depth).run(self.size)


class Block:
    """The body of a program, of a loop, or of a function that is transformed."""

    def __init__(self, program, seed, values, depth, learns=False):
        self.program, self.rng, self.values, self.depth, self.learns = program, random.Random(seed), values, depth, learns

    def run(self, size):
        """Return what ``size`` random steps give."""
        start = len(self.values)
        for _ in range(size):
            steps = STEPS if self.depth else SIMPLE
            step = self.rng.choices(steps, [WEIGHTS[s] for s in steps])[0]
            COUNTS[step.__name__] = COUNTS.get(step.__name__, 0) + 1
            out = step(self)
            self.values += out if isinstance(out, list) else [out]
        return self.values[start:]

    # Choosing --------------------------------------------------------------------------------------------------------------------

    def pick(self, suits=lambda x: True):
        """Return a tensor that there is, mostly a late one, or one from outside; one is made where none suits."""
        if self.rng.random() < 0.15:
            found = [x for x in self.program.outside if suits(x)]
            if found:
                return self.rng.choice(found)
        found = [x for x in self.values if suits(x)]
        return self.rng.choice(found[-4:] if self.rng.random() < 0.7 else found) if found else None

    def float(self, least_dims=0, most_dims=3):
        x = self.pick(lambda x: x.is_floating_point() and least_dims <= x.ndim <= most_dims and x.numel())
        if x is None:
            x = torch.linspace(-1, 1, 12, dtype=self.program.floats[0]).reshape((3, 4) if least_dims < 3 else (2, 3, 2))
            y = self.pick(lambda x: x.is_floating_point())
            x = x if y is None else x * y.sum().sin()
        return x

    def whole(self, least_dims=0, most_dims=3):
        x = self.pick(lambda x: x.dtype in INTEGERS and least_dims <= x.ndim <= most_dims and x.numel())
        return torch.arange(12).reshape(3, 4)[(0,) * (2 - max(1, least_dims))] % 5 if x is None else x

    def any(self, least_dims=0, most_dims=3):
        x = self.pick(lambda x: least_dims <= x.ndim <= most_dims and x.numel())
        return self.float(least_dims, most_dims) if x is None else x

    def dim(self, x):
        return self.rng.randrange(-x.ndim, x.ndim)

    def like(self, x, other):
        """Return ``other`` so that it can be broadcast with ``x``, whose shape results."""
        if other.ndim <= x.ndim and all(a in (b, 1) for a, b in zip(reversed(other.shape), reversed(x.shape), strict=False)):
            return other
        return summed(other)

    def tame(self, x):
        """Return ``x`` within bounds."""
        if not x.is_floating_point():
            return x
        return self.rng.choice([torch.sin, torch.tanh, torch.cos, lambda x: x / (1 + x * x)])(x)

    def indices(self, x, dim, count=None):
        """Return integers that are places along a dimension."""
        n = x.shape[dim]
        i = self.whole(1, 1)
        i = (i.reshape(-1)[:count] if count else i).to(torch.int64)
        return i % n if self.rng.random() < 0.6 else i % n - n


def summed(x):
    return x.any() if x.dtype == torch.bool else x.sum().to(x.dtype) if not x.is_floating_point() else x.mean()


def as_dtype(x, dtype):
    """Return ``x`` as a dtype; floats become integers by a way that small errors do not change."""
    if x.is_floating_point() and not dtype.is_floating_point:
        return x > 0.1234567 if dtype == torch.bool else (x * 8 + 0.2371).floor().clamp(-100, 100).abs().to(dtype)
    return x.to(dtype)


def fitted(b, x, like):
    """Return a tensor of the shape and dtype of ``like`` that comes of ``x`` and ``like``."""
    x = b.like(like, x)
    if not b.program.exact and x.is_floating_point() and not like.is_floating_point():
        x = torch.ones((), dtype=torch.int64)
    x = as_dtype(x, like.dtype)
    if like.dtype == torch.bool:
        return like ^ x
    if like.is_floating_point():
        return torch.sin(like + x)
    return like * 3 + x


# Steps without a function inside ---------------------------------------------------------------------------------------------------


def unary(b):
    x = b.float()
    return b.rng.choice(
        [
            torch.sin,
            torch.tanh,
            torch.sigmoid,
            torch.relu,
            torch.square,
            torch.neg,
            torch.erf,
            torch.nn.functional.softplus,
            lambda x: torch.exp(-x.abs()),
            lambda x: torch.sqrt(x * x + 1),
            lambda x: torch.log1p(x * x),
            lambda x: x.clamp(-0.51, 0.49),
            lambda x: x * 2,
            lambda x: 0.5 - x,
            lambda x: 1 / (2 + x * x),
            lambda x: (x * x + 0.5) ** 1.5,
            lambda x: x**3,
            lambda x: x.abs(),
            lambda x: torch.nn.functional.gelu(x),
            lambda x: torch.expm1(-x * x),
            lambda x: torch.atan2(x, x * x + 1),
        ]
    )(x)


def binary(b):
    x = b.any()
    y = b.like(x, b.any())
    if x.dtype == y.dtype == torch.bool:
        return b.rng.choice([torch.logical_and, torch.logical_or, torch.logical_xor, torch.bitwise_or])(x, y)
    f = b.rng.choice(
        [torch.add, torch.mul, torch.maximum, torch.minimum, lambda x, y: x * 2 + y, lambda x, y: torch.where(x > 0.123, x, y)]
    )
    return b.tame(f(x, y))


def whole(b):
    x = b.whole()
    y = b.like(x, b.whole())
    return b.rng.choice(
        [
            lambda x, y: x * y,
            lambda x, y: x + 200 * y,
            lambda x, y: x - y,
            lambda x, y: x % 7,
            lambda x, y: x // 3,
            lambda x, y: x & y,
            lambda x, y: x ^ 5,
            lambda x, y: ~x,
            lambda x, y: torch.div(x, 4, rounding_mode="trunc"),
            lambda x, y: x >> 1,
            lambda x, y: x << 2,
            lambda x, y: x.to(torch.uint8),
            lambda x, y: x.to(torch.int32),
            lambda x, y: (x * 0.5).to(b.program.floats[0]),
            lambda x, y: x == y,
            lambda x, y: x > y,
            lambda x, y: torch.clamp(x, 1, 3),
            lambda x, y: torch.remainder(x, y.abs() + 1),
            lambda x, y: torch.fmod(x, 3),
            lambda x, y: 2 ** (x % 5),
        ]
    )(x, y)


def convert(b):
    x = b.any()
    if x.is_floating_point() and not b.program.exact:
        return x.to(b.rng.choice(b.program.floats))
    return as_dtype(x, b.rng.choice([*b.program.floats, *INTEGERS, torch.bool]))


def reduce(b):
    x = b.any(1)
    d, keepdim = b.dim(x), b.rng.random() < 0.3
    kinds = [
        lambda: x.sum(d, keepdim=keepdim),
        lambda: x.amax(d, keepdim=keepdim),
        lambda: x.amin(d),
        lambda: x.max(d).values,
        lambda: x.any(d),
        lambda: x.all(d),
        lambda: x.cumsum(d),
        lambda: x.min(),
        lambda: x.sum(),
        lambda: x.prod(d),
        lambda: x.flip(d).max(d).values,
        lambda: x.sort(d).values,
        lambda: x.to(b.program.floats[0]).mean(d),
    ]
    if x.dtype == torch.bool:
        kinds = [
            lambda: x.sum(d),
            lambda: x.any(d),
            lambda: x.all(),
            lambda: x.sum(d, dtype=torch.uint8),
            lambda: x.cumsum(d),
            lambda: x.amax(d),
        ]
    elif x.is_floating_point():
        kinds += [
            lambda: x.softmax(d),
            lambda: x.logsumexp(d),
            lambda: x.var(d, correction=0),
            lambda: x.mean((0, -1)) if x.ndim > 1 else x.mean(),
            lambda: x.log_softmax(d),
            lambda: x.cumsum(d),
            lambda: torch.nn.functional.layer_norm(x, x.shape[-1:]),
            lambda: x.cumprod(d),
        ]
    else:
        kinds += [
            lambda: x.argmax(d),
            lambda: x.argmin(d, keepdim=keepdim),
            lambda: x.t().argmax() if x.ndim == 2 else x.argmax(),
            lambda: torch.sort(x, dim=d, stable=True).indices,
            lambda: x.min(d).indices,
            lambda: x.to(torch.int8).amax(d).to(torch.int64),
        ]
    return b.tame(b.rng.choice(kinds)())


def rearrange(b):
    x = b.any(1)
    d = b.dim(x)
    n = x.shape[d]
    return b.rng.choice(
        [
            lambda: x.reshape(-1),
            lambda: x.transpose(0, -1),
            lambda: x.permute(*reversed(range(x.ndim))),
            lambda: x.movedim(0, -1),
            lambda: x.unsqueeze(d).squeeze(d),
            lambda: x.flip(d),
            lambda: x.roll(1, d),
            lambda: torch.cat([x, x.flip(d)], d).narrow(d, 1, n),
            lambda: torch.stack([x, x.roll(1, d)], b.rng.choice([0, 1, -1])).sum(0).to(x.dtype),
            lambda: x.narrow(d, n // 2, n - n // 2),
            lambda: list(x.split((n + 1) // 2, d)),
            lambda: list(x.unbind(d)[:2]),
            lambda: x.diagonal(0, 0, 1) if x.ndim > 1 else x[:1],
            lambda: x.tril() if x.ndim == 2 else x,
            lambda: x.unsqueeze(0).expand(2, *x.shape)[1],
            lambda: x.repeat(2, *[1] * (x.ndim - 1))[::2],
            lambda: torch.nn.functional.pad(x, (1, 2))[..., 1:-1],
            lambda: x.mT.contiguous() if x.ndim > 1 else x.clone(),
            lambda: x.contiguous().view(1, *x.shape)[0],
            lambda: list(x.chunk(2, d)),
            lambda: x.tile((2,))[..., : x.shape[-1]],
        ]
    )()


def product(b):
    x, y = b.float(1, 2), b.float(1, 2)
    y = y.to(x.dtype)
    if x.shape[-1] != y.shape[0]:
        y = x.mT if x.ndim == 2 else x
    return b.tame(b.rng.choice([lambda: x @ y, lambda: torch.einsum("...i,i...->...", x, y) if y.ndim == 1 else x.matmul(y)])())


def index(b):
    x = b.any(1)
    d = b.dim(x)
    n = x.shape[d]
    place = b.whole(0, 0).to(torch.int64) % n if b.rng.random() < 0.5 else torch.tensor(n - 1)
    place = place.reshape(()) if place.numel() == 1 else place.reshape(-1)[0]
    first = place % x.shape[0]
    i = b.indices(x, d)
    front = x.movedim(d, 0)
    return b.rng.choice(
        [
            lambda: x[0],
            lambda: x[-1],
            lambda: x[..., ::2],
            lambda: x[first],
            lambda: x.index_select(d, i % n),
            lambda: front[i],
            lambda: torch.gather(x, d, torch.zeros_like(x, dtype=torch.int64) + place),
            lambda: x[None, ..., -1],
            lambda: front[first % front.shape[0], None],
            lambda: torch.take_along_dim(x, torch.zeros_like(x.narrow(d, 0, 1), dtype=torch.int64) + place, d),
            lambda: front[[0, -1]],
            lambda: x[..., 1:],
            lambda: front[i, ...] if x.ndim == 1 else front.movedim(0, 1)[:, i],
        ]
    )()


def scatter(b):
    x = b.any(1)
    d = b.dim(x)
    n = x.shape[d]
    value = as_dtype(x, x.dtype) if b.rng.random() < 0.5 else b.tame(x * 2 if x.dtype != torch.bool else ~x)
    order = (torch.arange(n) + summed(b.whole()).to(torch.int64)) % n  # a permutation
    many = b.indices(x, d, n)
    spread = torch.zeros_like(x, dtype=torch.int64) + order.reshape([n if k == d % x.ndim else 1 for k in range(x.ndim)])
    one = value.select(d, 0)
    kinds = [
        lambda: x.scatter(d, spread, value),
        lambda: x.index_copy(d, order, value),
        lambda: x.select_scatter(one, d, n - 1),
        lambda: x.slice_scatter(value.narrow(d, 0, (n + 1) // 2), d, 0, n, 2),
        lambda: x.index_fill(d, order[:1], 1),
        lambda: x.masked_fill(spread == 1, 0),
        lambda: torch.zeros_like(x).index_copy(d, order[: n // 2 + 1], value.narrow(d, 0, n // 2 + 1)),
        lambda: torch.zeros(x.shape, dtype=x.dtype).movedim(d, 0).index_put((order[:1],), one.unsqueeze(0)),
        lambda: x.movedim(d, 0).index_put((order,), value.movedim(d, 0)),
    ]
    if x.dtype != torch.bool and len(many) and many.shape[0] <= n:
        part = value.narrow(d, 0, many.shape[0])
        kinds += [
            lambda: x.index_add(d, many % n, part),
            lambda: x.movedim(d, 0).index_put((many,), part.movedim(d, 0), accumulate=True),
            lambda: x.scatter_add(d, spread % max(n - 1, 1), value),
            lambda: x.scatter_reduce(d, spread % max(n - 1, 1), value, "amax"),
        ]
    return b.tame(b.rng.choice(kinds)())


# Views that can be written, from a tensor of at least one dimension.
def a_view(b, x, whole):
    d = b.dim(x)
    n = x.shape[d]
    many = [lambda: x.split(max(1, n // 2), d)[-1], lambda: x.unbind(d)[b.rng.randrange(n)], lambda: x.chunk(2, d)[0]]
    if not b.learns and b.rng.random() < 0.2:  # autograd refuses writes to them
        return b.rng.choice(many)()
    return b.rng.choice(
        [
            lambda: x.select(d, b.rng.randrange(n)),
            lambda: x[..., b.rng.randrange(x.shape[-1]) :],
            lambda: x.narrow(d, n // 2, n - n // 2),
            lambda: x.transpose(0, -1),
            lambda: x.diagonal(0, 0, -1) if x.ndim > 1 else x,
            lambda: x.view(-1) if whole else x.mT if x.ndim > 1 else x,
            lambda: x.unsqueeze(d),
            lambda: x[..., ::2],
            lambda: x.movedim(0, -1),
            lambda: x.view(*x.shape, 1) if whole else x.unsqueeze(-1),
            lambda: x[0],
            lambda: x.permute(*reversed(range(x.ndim))),
            lambda: x.detach() if not b.depth else x,
            lambda: x.flatten() if whole else x,
            lambda: torch.squeeze(x.unsqueeze(0), 0),
            lambda: x.view_as(x),
            lambda: x.swapaxes(0, -1),
            lambda: x[b.rng.choice([-1, slice(None), None])],
        ]
    )()


def in_place(b):
    """Write into views of a tensor, and give the tensor, a view that was written, and one that was taken before."""
    x, value = b.any(1), b.any()
    x = x + (summed(value) * 0).to(x.dtype) if x.dtype != torch.bool else x ^ (summed(value).to(torch.bool) & False)
    x = x.clone(memory_format=torch.contiguous_format)
    aside = a_view(b, x, True)
    for _ in range(b.rng.randint(1, 3)):
        view = x
        for _ in range(b.rng.randint(0, 3)):
            if view.ndim and view.numel():
                view = a_view(b, view, view is x)
        if not view.numel():
            continue
        new = b.like(view, value)
        if new.is_floating_point() and not view.is_floating_point():
            new = torch.ones((), dtype=torch.int64)
        new = as_dtype(new, view.dtype)
        kinds = [
            lambda v, new: v.copy_(new),
            lambda v, new: v.fill_(1),
            lambda v, new: v.zero_(),
            lambda v, new: v.masked_fill_(v == new, 1),
        ]
        if view.dtype == torch.bool:
            kinds += [lambda v, new: v.logical_not_(), lambda v, new: v.logical_or_(new), lambda v, new: v.__ixor__(new)]
        else:
            kinds += [
                lambda v, new: v.add_(new),
                lambda v, new: v.mul_(2),
                lambda v, new: v.sub_(new, alpha=2),
                lambda v, new: v.clamp_(-0.5 if v.is_floating_point() else 0, 1),
                lambda v, new: v.__iadd__(new),
                lambda v, new: v.__imul__(new),
                lambda v, new: v.neg_(),
            ]
        if view.is_floating_point():
            kinds += [
                lambda v, new: v.sin_(),
                lambda v, new: v.tanh_(),
                lambda v, new: v.div_(2),
                lambda v, new: v.lerp_(new.expand(v.shape), 0.3),
                lambda v, new: v.addcmul_(new, new, value=0.5),
            ]
        if view.ndim:
            kinds += [
                lambda v, new: v.__setitem__(-1, new if new.ndim < v.ndim else 1),
                lambda v, new: v.__setitem__((..., slice(0, 1)), 0),
                lambda v, new: v.index_fill_(0, torch.tensor([0]), 1),
                lambda v, new: v.__setitem__(torch.tensor(0), 1),
                lambda v, new: v.index_copy_(0, torch.tensor([v.shape[0] - 1]), v[:1].clone()),
                lambda v, new: v.__setitem__(slice(None), new),
                lambda v, new: v.index_put_((torch.tensor([-1]),), torch.ones((), dtype=v.dtype)),
                lambda v, new: v.__setitem__(torch.tensor([True] + [False] * (v.shape[0] - 1)), 0),
            ]
        b.rng.choice(kinds)(view, new)
    results = [x, aside if b.rng.random() < 0.5 else view]
    return [torch.sin(y) if y.is_floating_point() else y + 0 if y.dtype != torch.bool else y for y in results]


def fresh_in_place(b):
    """Fill a tensor of zeros part by part, and compute out=."""
    x = b.float(1, 2)
    zero = (x * 0).sum(0)
    out = torch.zeros(2, *zero.shape, dtype=zero.dtype) + zero
    out[0] = x.mean(0)
    out[1, ...] += x[0] * 2
    out.mul_(0.5)[0].sub_(out[1].clone())
    if b.rng.random() < 0.5 and not b.learns:
        other = torch.empty_like(x[0]) + zero
        torch.sin(x[-1] * 1.5, out=other)
        return [out, other]
    return out.clone()


# Steps with a function inside ----------------------------------------------------------------------------------------------------


def _inside(b, learns=False):
    """Return a function of tensors that is a block, closing over some tensors of this one."""
    seed = b.rng.getrandbits(32)
    around = b.rng.sample(b.values, min(2, len(b.values)))
    size = b.rng.choice([1, 2, 3])

    def f(*values):
        return Block(b.program, seed, [*around, *values], b.depth - 1, learns or b.learns).run(size)

    return f


def loop(b):
    carry = [b.any() for _ in range(b.rng.choice([0, 1, 1, 2, 3]))]
    xs = []
    if b.rng.random() < 0.75 or not carry:
        first = b.any(1)
        xs = [first] + [x for x in (b.any(1) for _ in range(b.rng.choice([0, 1]))) if x.shape[0] == first.shape[0]]
    f, with_y = _inside(b), b.rng.random() < 0.75 or not carry
    seed = b.rng.getrandbits(32)

    def body(carry, row):
        out = f(*carry, *row)
        inner = Block(b.program, seed, [], 0)
        new = tuple(fitted(inner, out[k % len(out)], c) for k, c in enumerate(carry))
        return new, tuple(out[-2:]) if with_y else ()

    carry, ys = scan(body, tuple(carry), tuple(xs), length=None if xs else 3, reverse=b.rng.random() < 0.4)
    return [*carry, *ys]


def mapped(b):
    first = b.any(1)
    dims, values = [b.dim(first) if b.rng.random() < 0.5 else 0], [first]
    size = first.shape[dims[0]]
    for _ in range(b.rng.choice([0, 1, 2])):
        x = b.any()
        fits = [d for d in range(x.ndim) if x.shape[d] == size]
        dims.append(b.rng.choice([None, *fits * 2]))
        values.append(x)
    f = _inside(b)
    if b.rng.random() < 0.5:
        return list(vmap(lambda *values: tuple(f(*values)), tuple(dims))(*values))

    # All results are batched: torch's vmap takes arbitrary memory for an out_dim of -1 where one is not.
    def batched(*values):
        zero = (summed(values[0]) * 0).to(torch.uint8)
        return tuple(x ^ zero.to(torch.bool) if x.dtype == torch.bool else x + zero.to(x.dtype) for x in f(*values))

    return list(vmap(batched, tuple(dims), -1)(*values))


def _scalar(out, *learned):
    total = sum((x * x).sum() for x in learned)
    for x in out:
        if x.is_floating_point():
            total = total + x.sum().to(total.dtype)
    return total


def gradient(b):
    x = b.float(0, 2) + 0
    f = _inside(b, learns=True)
    kind = b.rng.choice(["grad", "value", "vjp", "jvp", "hessian", "two", "jac"])
    if (kind == "hessian" and x.numel() > 4) or (kind == "jac" and x.numel() > 12):
        kind = "grad"

    def loss(x):
        return _scalar(f(x), x)

    if kind == "grad":
        return b.tame(grad(loss)(x))
    if kind == "value":
        slope, (value, aux) = grad_and_value(lambda x: (loss(x), x * 2), has_aux=True)(x)
        return [b.tame(slope), b.tame(value), b.tame(aux)]
    if kind == "vjp":
        value, pull = vjp(lambda x: torch.sin(x) * loss(x).sin(), x)
        return [value, b.tame(pull(torch.cos(value))[0])]
    if kind == "jvp":
        value, slope = jvp(lambda x: torch.sin(x) * loss(x).sin(), (x,), (torch.cos(x),))
        return [value, b.tame(slope.to(value.dtype))]  # torch's own tangents of numbers under vmap are of float64
    if kind == "hessian":
        return b.tame(hessian(loss)(x))
    if kind == "two":
        y = b.float(0, 2)
        one, other = grad(lambda x, y: _scalar(f(x, y), x, y), (0, 1))(x, y)
        return [b.tame(one), b.tame(other)]
    return b.tame(b.rng.choice([jacfwd, jacrev])(lambda x: torch.sin(x.sum()) * loss(x).sin() + x)(x).sum(0))


def descend(b):
    """Gradient descent in a loop: what a training step is."""
    x = b.float(0, 2)
    f = _inside(b, learns=True)

    def body(w, _):
        slope, value = grad_and_value(lambda w: _scalar(f(w), w))(w)
        return torch.sin(w - 0.1 * slope), torch.sin(value)

    return list(scan(body, x, length=2, reverse=b.rng.random() < 0.5))


WEIGHTS = {
    unary: 3,
    binary: 3,
    whole: 2,
    convert: 1,
    reduce: 3,
    rearrange: 3,
    product: 1,
    index: 3,
    scatter: 3,
    in_place: 5,
    fresh_in_place: 1,
    loop: 6,
    mapped: 6,
    gradient: 6,
    descend: 2,
}
SIMPLE = [unary, binary, whole, convert, reduce, rearrange, product, index, scatter, in_place, fresh_in_place]
STEPS = [*SIMPLE, loop, mapped, gradient, descend]


# A donated state, of 64 KiB, that a program writes and rearranges.
def state(seed):
    return torch.randn(130, 64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def successor(seed, x, rows):
    """Return a tensor of the shape of ``x`` [130, 64] that reads it at other places than it writes; rows [5, 64]."""
    rng = random.Random(seed)
    for _ in range(rng.randint(1, 3)):
        i, k = rng.randrange(100), rng.randrange(60)
        places = (torch.arange(5) * 7 + i) % 130
        x = rng.choice(
            [
                lambda x: x.index_copy(0, places, rows),
                lambda x: x.roll(1, 0),
                lambda x: x.index_put((places,), rows),
                lambda x: x.flip(0),
                lambda x: x.reshape(64, 130).t().contiguous().reshape(130, 64),
                lambda x: x.slice_scatter(rows, 0, i, i + 5),
                lambda x: x.index_add(0, places, rows),
                lambda x: x[torch.arange(129, -1, -1)],
                lambda x: torch.cat([x[1:], x[:1]]),
                lambda x: x.index_put((places, torch.tensor(k)), x[0, :5]),
                lambda x: x + x.roll(3, 1),
                lambda x: written(x, i, rows),
                lambda x: scan(lambda x, r: (x.index_copy(0, places[:1], r[None] + x[3:4]), ()), x, rows)[0],
                lambda x: x.scatter(1, places[None, :1] % 64, x[1:2, :1]),
                lambda x: torch.where(x > 0.1234567, x, x.flip(1)),
                lambda x: x.view(130, 8, 8).mT.reshape(130, 64),
                lambda x: vmap(lambda r: r.roll(1).index_fill(0, torch.tensor([k]), 1.0))(x),
            ]
        )(x)
    return x


def written(x, i, rows):
    x = x.clone()
    x[i : i + 5].add_(rows)
    x.t()[0] *= 2
    x.diagonal().copy_(x[1])
    return x


def close(one, other, tolerance):
    """Return what differs between two lists of tensors, or None."""
    for k, (x, y) in enumerate(zip(one, other, strict=True)):
        if x.shape != y.shape or x.dtype != y.dtype:
            return f"result {k} is {x.dtype} {list(x.shape)}, expected {y.dtype} {list(y.shape)}"
        if not x.is_floating_point():
            wrong = int((x != y).sum())
        else:
            x, y = x.double(), y.double()
            scale = max(1.0, y.abs().nan_to_num(0, 0, 0).max().item() if y.numel() else 1.0)
            wrong = int((~torch.isclose(x, y, rtol=tolerance, atol=tolerance * scale, equal_nan=True)).sum())
        if wrong:
            return f"result {k}, {x.dtype} {list(x.shape)}: {wrong} of {x.numel()} entries are wrong: {x.reshape(-1)[:4].tolist()} and not {y.reshape(-1)[:4].tolist()}"
    return None


def valid(count, start=0):
    """Return ``count`` programs that run eagerly, with their results; what torch refuses to run is left out.

    A program whose own rounding takes a good part of the tolerance runs in float64.
    """
    found, left_out = [], []
    seed = start
    while len(found) < count:
        program = Program(seed)
        try:
            results = program(*program.inputs)
            if not program.exact:
                double = program.in_double()
                exact = double(*double.inputs)
                if close(results, [x.to(y.dtype) for x, y in zip(exact, results, strict=True)], program.tolerance / 3):
                    program, results = double, exact
            nudge = 1e-13 if program.tolerance < 1e-6 else 2e-7
            nudged = program(*(x * (1 + nudge) if x.dtype in (torch.float32, torch.float64) else x for x in program.inputs))
            if close(nudged, results, program.tolerance / 10):
                raise ValueError("ill-conditioned")
            found.append((program, results))
        except (RuntimeError, IndexError, ValueError, NotImplementedError, TypeError) as error:
            left_out.append((seed, error))
        seed += 1
    return found, left_out
