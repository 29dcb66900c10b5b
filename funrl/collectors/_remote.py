"""Collectors whose workers speak by messages, through a transport."""

from collections.abc import Callable
from typing import Any

import torch

from funrl.collectors._collector import Collector
from funrl.collectors._messages import Latest, MessagePool, Transport
from funrl.collectors._processes import Asynchronous, Synchronous, staleness_bound


def by_messages(
    what: str,
    *args: Any,
    transport: Callable[[], Transport],
    num_workers: int,
    together: bool,
    queue_size: int,
    max_staleness: int | None,
    **options: Any,
) -> Collector:
    """Return a collector with workers behind a transport; arguments as for :func:`funrl.collectors.ray`.

    Raises:
        TypeError, ValueError, HostError: as :func:`funrl.collectors.synchronous`.
    """
    bound = staleness_bound(what, num_workers, queue_size, max_staleness)
    kind: Any = _Together if together else _Apart
    further = {} if together else {"num_slots": queue_size, "max_staleness": bound}
    return kind(what, *args, transport=transport, num_workers=num_workers, **options, **further)


class _ByMessages:
    """The part of a collector that makes a :class:`MessagePool`."""

    def __init__(self, *args: Any, transport: Callable[[], Transport], **options: Any):
        self._transport = transport
        super().__init__(*args, **options)

    def _make_pool(self, what: str, create_envs: Any, act: Any, key: torch.Tensor, params: Any, **options: Any) -> MessagePool:
        transport = self._transport()
        return MessagePool(what, create_envs, act, key, Latest(params, transport.send), transport=transport, **options)


class _Together(_ByMessages, Synchronous):
    """A collector that assembles each batch from all workers."""


class _Apart(_ByMessages, Asynchronous):
    """A collector that delivers the batches of its workers."""
