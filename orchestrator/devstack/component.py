"""What PostgreSQL, Kafka and Temporal have in common for the stack that runs them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from signal import Signals
from threading import Event
from typing import Protocol

from orchestrator.devstack.process import Command, ComponentError, ProcessRef, spawn, wait_ready

#: Receives one line of progress about one component.
Say = Callable[[str], None]

#: Starts of a component until its failure is final. A port can be lost between the check and the bind, and PostgreSQL
#: refuses to start while a backend of a killed predecessor is still about to notice.
START_ATTEMPTS = 3
#: Seconds between two attempts.
START_PAUSE = 0.3


class Component(Protocol):
    """One server of the stack. Its folder and its log are its own; it knows nothing about the process that runs it."""

    @property
    def name(self) -> str: ...

    @property
    def variable(self) -> str:
        """The environment variable that carries the address, and that replaces the component when set."""
        ...

    @property
    def start_timeout(self) -> float:
        """Seconds from the start until it must serve."""
        ...

    @property
    def stop_signal(self) -> Signals:
        """What asks it to end in an orderly way."""
        ...

    @property
    def stop_timeout(self) -> float:
        """Seconds it is given for that before it is killed."""
        ...

    @property
    def log(self) -> Path: ...

    @property
    def address(self) -> str:
        """How clients reach it; known after the first ``prepare`` and from then on."""
        ...

    def prepare(self, say: Say) -> None:
        """Do all that must be done while it is not running: fetch, claim ports, format the data folder, configure."""
        ...

    def command(self) -> Command: ...

    def ready(self) -> bool:
        """Whether it serves a real request; quick when it does not."""
        ...

    def ended(self) -> None:
        """Learn that it has ended in an orderly way."""
        ...


def start(
    component: Component,
    *,
    die_with_parent: bool,
    say: Say,
    spawned: Callable[[ProcessRef], None],
    cancelled: Event,
) -> None:
    """Start a component and return when it serves.

    Args:
        component: what to start.
        die_with_parent: see ``spawn``.
        say: receives progress.
        spawned: receives each process at once, before it is known whether it will serve.
        cancelled: gives the start up when set.

    Raises:
        ComponentError: it did not, after ``START_ATTEMPTS`` tries for one that ends by itself.
    """
    for attempt in range(1, START_ATTEMPTS + 1):
        component.prepare(say)
        say("starting")
        began = time.monotonic()
        command = component.command()
        process = spawn(command, die_with_parent=die_with_parent)
        spawned(process)
        try:
            wait_ready(process, command, component.ready, timeout=component.start_timeout, cancelled=cancelled)
        except BaseException as error:
            ended_by_itself = not process.alive()
            process.kill()
            if not (isinstance(error, ComponentError) and ended_by_itself and attempt < START_ATTEMPTS):
                raise
            say(f"ended while starting; trying again, {attempt + 1} of {START_ATTEMPTS}")
            cancelled.wait(START_PAUSE)
        else:
            say(f"ready after {time.monotonic() - began:.1f} s")
            return
