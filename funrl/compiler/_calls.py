"""Calls of Python from programs of XLA."""

from typing import Any

import numpy as np
import torch

from funrl.compiler._effects import Effect, ElementwiseCall
from funrl.compiler._jax import load


def call(f: Effect, metas: list[torch.Tensor], arrays: list[Any]) -> None:
    """Record a call of ``f`` in the program that jax is tracing."""

    def run(*words: Any) -> None:
        try:
            f(*(_from_words(np.array(x), meta) for x, meta in zip(words, metas, strict=True)))
        except BaseException as error:
            f.raised.append(error)

    load().debug.callback(run, *map(_words, arrays), ordered=True)


def value_of_call(f: ElementwiseCall, meta: torch.Tensor, x: Any) -> Any:
    """Return the value of a call, as a jax array."""
    from jax import lax
    from jax.experimental import io_callback

    words = _words(x)

    def compute(words: Any) -> np.ndarray:
        result = f.value(_from_words(np.array(words), meta))
        return result.reshape(-1).view(_WORDS[meta.dtype.itemsize]).numpy().reshape(words.shape)

    result = io_callback(compute, load().ShapeDtypeStruct(words.shape, words.dtype), words, ordered=True)
    return result != 0 if meta.dtype == torch.bool else lax.bitcast_convert_type(result, x.dtype)


_WORDS = {1: torch.uint8, 2: torch.uint16, 4: torch.uint32, 8: torch.uint32}


def _words(x: Any) -> Any:
    """Return the bits of a jax array as small integers: in the thread of a call jax knows neither 64 bits nor bfloat16."""
    from jax import lax

    from funrl.compiler import _lowerings

    x = x.astype("uint8") if x.dtype == bool else x
    return lax.bitcast_convert_type(x, _lowerings.jax_dtype(_WORDS[x.dtype.itemsize]))


def _from_words(words: np.ndarray, meta: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(words.reshape(-1)).view(meta.dtype).reshape(meta.shape)
