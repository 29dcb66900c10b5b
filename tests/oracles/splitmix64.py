"""SplitMix64 in plain integers, written from the paper (Steele, Lea, Flood 2014) with Stafford's variant 13."""

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def mix64(z: int) -> int:
    """Return the output for a state, both unsigned.

    Example:
        >>> mix64(0), mix64(GOLDEN)
        (0, 16294208416658607535)
    """
    z &= MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def sequence(seed: int, n: int) -> list[int]:
    """Return the first n outputs of the generator with this seed.

    Example:
        >>> sequence(1234567, 5) == [
        ...     6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
        True
    """
    out = []
    for _ in range(n):
        seed = (seed + GOLDEN) & MASK
        out.append(mix64(seed))
    return out
