"""Origins of arrays for which an operator is cheaper: an index that was expanded, or counts up from a number; a matrix that was transposed.

torch.func.vmap turns reads and writes of whole rows into ``gather`` and ``scatter`` with an index expanded over the row. XLA would write
element by element; with the index before its expansion it writes rows.
"""

import weakref

from jax import lax

# By the id of an array: a weak reference to it (ids are used again), and how it came to be.
_ORIGINS = {}


def _note(x, *origin):
    key = id(x)
    _ORIGINS[key] = (weakref.ref(x, lambda _: _ORIGINS.pop(key, None)), *origin)


def _origin(x):
    reference, *origin = _ORIGINS.get(id(x), (lambda: None, None))
    return origin if reference() is x else [None]


def note_expanded(x, source):
    """Note that ``x`` is ``source`` broadcast by torch's rule."""
    if x is not source:
        _note(x, "expanded", source)


def note_reshaped(x, source):
    """Note that ``x`` has the elements of ``source``, if they differ in dimensions of one element only."""
    if x is not source and [n for n in x.shape if n != 1] == [n for n in source.shape if n != 1]:
        _note(x, "reshaped", source)


def note_count(x, start, step):
    """Note that ``x`` [n] holds ``start + step * i``."""
    _note(x, "count", start, step)


def note_transposed(x, source, order):
    """Note that ``x`` is ``source`` with its dimensions in another order."""
    _note(x, "transposed", source, order)


def before_transposition(x):
    """Return ``x`` with its last two dimensions exchanged, if its last dimension is not the one that is dense in memory, else None."""
    how, *origin = _origin(x)
    if how != "transposed" or origin[1][-1] != x.ndim - 2:
        return None
    source, order = origin
    order = (*order[:-2], order[-1], order[-2])
    return source if order == tuple(range(x.ndim)) else lax.transpose(source, order)


def spread(x):
    """Return an array without dimensions of one element, and the ascending dimensions of ``x`` over which it is broadcast to give ``x``."""
    base, dims = _spread(x)
    kept = [i for i, n in enumerate(base.shape) if n != 1]
    base = reshaped(base, [base.shape[i] for i in kept])
    return base, [dims[i] for i in kept]


def reshaped(x, shape):
    """Return ``x`` reshaped, with a note of where it came from."""
    result = lax.reshape(x, tuple(shape))
    note_reshaped(result, x)
    return result


def _spread(x):
    how, *origin = _origin(x)
    if how == "expanded":
        source = origin[0]
        base, dims = _spread(source)
        before = x.ndim - source.ndim
        # A dimension of one element that was expanded is no dimension of the base any more: it can only be one of one element there.
        return base, [d + before for d in dims]
    if how == "reshaped":
        source = origin[0]
        base, dims = _spread(source)
        longer = [d for d, n in enumerate(x.shape) if n != 1]
        places = dict(zip([d for d, n in enumerate(source.shape) if n != 1], longer, strict=True))
        kept = [i for i, n in enumerate(base.shape) if n != 1]
        return reshaped(base, [base.shape[i] for i in kept]), [places[dims[i]] for i in kept]
    return x, list(range(x.ndim))


def counts_from(x):
    """Return the first number of an array that counts up by ones, and None for any other array."""
    how, *origin = _origin(x)
    while how == "reshaped":
        x = origin[0]
        how, *origin = _origin(x)
    return origin[0] if how == "count" and (origin[1] == 1 or x.size == 1) else None
