"""Random numbers as pure functions of a key.

A *key* is an int64 tensor of shape []. It has no state: a function of this module always returns the same numbers for the same key,
whether it runs eagerly, compiled, or under :func:`torch.func.vmap`, on any device. So use a key once, and derive new ones with
:func:`split` (several keys at once) or :func:`fold_in` (the key for an integer, such as a step). Every function takes
one key; for keys [B] map over them: ``torch.func.vmap(lambda k: normal(k, (3,)))(split(key, B))``.

Construction: output i of a key is the output of SplitMix64 at one position of its sequence, which a counter reaches directly::

    output(key, i) = mix(key + (i ^ C) * 0x9E3779B97F4A7C15)                    (mod 2**64)
    mix(z):  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;  z = (z ^ z >> 27) * 0x94D049BB133111EB;  return z ^ z >> 31

C is a 64-bit constant, a different one for :func:`split`, :func:`fold_in` and the samplers, so that they read different positions of a
key as long as the counters (and the integers given to fold_in) stay below 2**60 in magnitude.

Limits: a key has 64 bits, and all keys read the same cycle of 2**64 positions from different starts. Among K keys that read
n numbers each, the probability that two streams overlap is about K * K * n / 2**64 (a million keys of a thousand numbers: 0.005 %),
and that two keys are equal K * K / 2**65. The 64-bit words of one key never repeat, as truly random words would after about 2**32.
The generator is not cryptographic: one word of :func:`bits` reveals its key.
Integers and keys are equal everywhere. Results of logarithms and cosines may differ in the last digits between
devices, or between an eager and a compiled program; so may, about once in a million draws, an index from :func:`categorical`.

References:
    Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators", OOPSLA, doi:10.1145/2660193.2660195 (no arXiv id).
    Stafford 2011, "Better bit mixing: improving on MurmurHash3's 64-bit finalizer", variant 13 (the multipliers and shifts of mix).
    Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3", SC11, doi:10.1145/2063384.2063405 (counters for state).
"""

from funrl.random._checks import watch as watch
from funrl.random._continuous import exponential, gumbel, normal, truncated_normal, uniform
from funrl.random._discrete import bernoulli, categorical, randint
from funrl.random._keys import bits, fold_in, key, split
from funrl.random._orders import choice, feistel as feistel, permutation
from funrl.random._splitmix import FOLD as FOLD, output as output, shift as shift

__all__ = [
    "bernoulli",
    "bits",
    "categorical",
    "choice",
    "exponential",
    "fold_in",
    "gumbel",
    "key",
    "normal",
    "permutation",
    "randint",
    "split",
    "truncated_normal",
    "uniform",
]
