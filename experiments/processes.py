"""Processes for cells: each takes one after the other; one that dies is replaced.

joblib's own worker processes are stopped when their memory grows, as that of JAX does,
and which cell one of them died of is not told.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from queue import Queue
from typing import Any

from mimii_jax.watch import Interrupted

_SPAWN = multiprocessing.get_context("spawn")  # a fork is not safe beside JAX's threads
PATIENCE = 60.0  # seconds that a process has to save and end


class Died(Exception):
    """The process that a call ran in has ended without an answer."""


class Worker:
    """One process, started when it is needed."""

    def __init__(self) -> None:
        self._process: Any = None
        self._connection: Any = None

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What the function returns there.

        Raises
        ------
        Died : the process ended meanwhile; the next call has a new one
        """
        if self._process is None:
            self._connection, other = _SPAWN.Pipe()
            self._process = _SPAWN.Process(target=_serve, args=(other,))
            self._process.start()
            other.close()
        try:
            self._connection.send((function, arguments))
            return self._connection.recv()
        except (EOFError, OSError, TypeError) as error:  # as of one closed meanwhile
            self.close()
            raise Died from error

    def close(self) -> None:
        """End the process; what it trains is saved first."""
        process, self._process = self._process, None
        if process is None:
            return
        self._connection.close()
        process.terminate()
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()
            process.join()
        process.close()


def _serve(connection: Connection) -> None:
    """Answer calls until the other end is closed, or something asks to stop."""
    os.setsid()  # a Ctrl-C goes to the one that started it, which asks this one to save
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        while True:
            function, arguments = connection.recv()
            connection.send(function(*arguments))
    except (EOFError, ConnectionError, Interrupted, KeyboardInterrupt):
        connection.close()


def _end_with_parent() -> None:
    """Ask this process to save and end when the one that started it has been killed."""
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


class Workers:
    """Several processes; a thread that calls gets one of those that are free."""

    def __init__(self, number: int) -> None:
        self._all = [Worker() for _ in range(number)]
        self._free: Queue[Worker] = Queue()
        for worker in self._all:
            self._free.put(worker)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """As `Worker.call`, in a process that is free, or will be."""
        worker = self._free.get()
        try:
            return worker.call(function, *arguments)
        finally:
            self._free.put(worker)


@contextmanager
def workers(number: int) -> Iterator[Workers]:
    """So many processes, which end with the context."""
    found = Workers(number)
    try:
        yield found
    finally:
        for worker in found._all:
            worker.close()
