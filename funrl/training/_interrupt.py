"""Handling of Ctrl-C during training."""

import signal
import threading
from typing import Any


class Interrupt:
    """Context in which a first Ctrl-C waits for the end of the running update, so that no work is lost; a second one does not wait.

    A KeyboardInterrupt at an arbitrary place could be raised inside a callback of torch, where Python prints and ignores it.
    Handlers other than Python's default, and threads other than the main one, are not changed.
    """

    def __init__(self) -> None:
        self.asked = self._waits = False
        main = threading.current_thread() is threading.main_thread()
        self._installed = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._installed:
            signal.signal(signal.SIGINT, self._handle)

    def wait_for_update(self) -> None:
        """Wait for the end of an update from now on, as the program is compiled."""
        self._waits = True

    def restore(self) -> None:
        """Restore the usual handler of Ctrl-C."""
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _handle(self, number: int, frame: Any) -> None:
        again, self.asked = self.asked, True
        if again or not self._waits:
            signal.default_int_handler(number, frame)
