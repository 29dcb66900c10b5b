"""The five games of MinAtar, one file each; :func:`funrl.envs.make` finds them by name."""

__all__: list[str] = []
