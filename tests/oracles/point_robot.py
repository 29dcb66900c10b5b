"""A point on a plane as plain Python."""


def step(position, action, goal, max_action, goal_radius):
    """Return the new position, the reward, and whether the goal is reached."""
    new = [x + min(max(a, -max_action), max_action) for x, a in zip(position, action, strict=True)]
    squared = sum((x - g) ** 2 for x, g in zip(new, goal, strict=True))
    return new, -squared, squared**0.5 < goal_radius
