"""The archive of MAP-Elites as loops over candidates and cells."""


def insert(elites, cells, candidates, fitness, descriptors):
    """Return ``{cell: (candidate, fitness, descriptor)}`` after the candidates came one by one."""
    elites = dict(elites)
    for x, f, b in zip(candidates, fitness, descriptors, strict=True):
        distances = [sum((p - q) ** 2 for p, q in zip(b, cell, strict=True)) for cell in cells]
        cell = distances.index(min(distances))
        if cell not in elites or f > elites[cell][1]:
            elites[cell] = (x, f, b)
    return elites
