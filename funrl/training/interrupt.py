"""Ctrl-C while agents learn."""

import signal
import threading
from typing import Any

__all__ = ["Interrupt"]


class Interrupt:
    """Ctrl-C while an update runs waits for its end, so that no work is lost; a second one does not wait.

    Raised at any place, KeyboardInterrupt may also meet one of torch's callbacks, where Python prints and forgets it.
    Handlers other than Python's own, and threads other than the main one, are left alone.
    """

    def __init__(self) -> None:
        self.asked = self._waits = False
        main = threading.current_thread() is threading.main_thread()
        self._installed = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._installed:
            signal.signal(signal.SIGINT, self._handle)

    def wait_for_update(self) -> None:
        """From now on (the program is compiled) wait for the end of an update."""
        self._waits = True

    def restore(self) -> None:
        """Give Ctrl-C back its usual meaning."""
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _handle(self, number: int, frame: Any) -> None:
        again, self.asked = self.asked, True
        if again or not self._waits:
            signal.default_int_handler(number, frame)
