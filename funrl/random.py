"""Random numbers as pure functions of a key."""

import torch

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15


def _i64(x):
    return x - (1 << 64) if x >= (1 << 63) else x


_M1 = _i64(0xBF58476D1CE4E5B9)
_M2 = _i64(0x94D049BB133111EB)
_BITS = _i64(0xD1B54A32D192ED03)
_SPLIT = _i64(0x8CB92BA72F3D8DD7)


def _mix(z):
    z = (z ^ ((z >> 30) & ((1 << 34) - 1))) * _M1
    z = (z ^ ((z >> 27) & ((1 << 37) - 1))) * _M2
    return z ^ ((z >> 31) & ((1 << 33) - 1))


def _stream(key, shape, domain):
    n = 1
    for s in shape:
        n *= s
    counter = torch.arange(n, device=key.device) ^ domain
    return _mix(key + counter * _GOLDEN).reshape(shape)


def key(seed, device=None):
    return _mix(torch.tensor(seed, dtype=torch.int64, device=device) ^ _GOLDEN)


def split(key, num=2):
    shape = (num,) if isinstance(num, int) else tuple(num)
    return _stream(key, shape, _SPLIT)


def bits(key, shape=()):
    return _stream(key, tuple(shape), _BITS)


def uniform(key, shape=(), low=0.0, high=1.0, dtype=torch.float32):
    u = ((bits(key, shape) >> 40) & 0xFFFFFF).to(dtype) * 2**-24
    return u * (high - low) + low
