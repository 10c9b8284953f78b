"""Whatever a device is told in whatever order: it boots a valid image and keeps its last confirmed one.

The machine keeps its own, much simpler account: which image is confirmed, which is on trial, what is staged and
requested.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from firmware.device_sim.flash import flash_image
from firmware.device_sim.slots import SlotPair, Swap
from firmware.errors import InTrialError, NothingStagedError


@dataclass(frozen=True)
class Candidate:
    data: bytes
    counter: int | None
    genuine: bool = True

    @property
    def sha256(self) -> str:
        return flash_image(self.data).sha256

    def boots_at(self, minimum: int) -> bool:
        return self.genuine and self.counter is not None and self.counter >= minimum


@pytest.fixture(scope="session")
def candidates(workshops) -> list[Candidate]:
    workshop = workshops["ecdsa-p256"]
    good = [Candidate(workshop.build(major=n, counter=c), c) for n, c in ((1, 1), (2, 1), (3, 2), (4, 2), (5, 3))]
    flipped = bytearray(good[2].data)
    flipped[40] ^= 1
    return [
        *good,
        Candidate(workshop.build(major=6, counter=None), None),
        Candidate(workshop.build(major=7, counter=3, signer="theirs"), 3, genuine=False),
        Candidate(bytes(flipped), 2, genuine=False),
        Candidate(good[4].data[:100], 3, genuine=False),
        Candidate(b"", 3, genuine=False),
    ]


class Device(RuleBasedStateMachine):
    candidates: list[Candidate]
    key: object

    @initialize()
    def leave_the_factory(self):
        self.confirmed = self.candidates[0]
        self.trial: Candidate | None = None
        self.staged: Candidate | None = None
        self.request: Swap = Swap.NONE
        self.minimum = 0
        self.device = SlotPair(self.confirmed.data, key=self.key)

    @rule(number=st.integers(0, 9))
    def write(self, number):
        if self.trial:
            with pytest.raises(InTrialError):
                self.device.write_secondary(self.candidates[number].data)
            return
        self.device.write_secondary(self.candidates[number].data)
        self.staged, self.request = self.candidates[number], Swap.NONE

    @rule(permanent=st.booleans())
    def request_a_swap(self, permanent):
        if self.trial or self.staged is None:
            with pytest.raises(InTrialError if self.trial else NothingStagedError):
                self.device.set_pending(permanent=permanent)
            return
        self.device.set_pending(permanent=permanent)
        if self.request is Swap.NONE:
            self.request = Swap.PERM if permanent else Swap.TEST

    @rule()
    def confirm(self):
        self.device.confirm()
        if self.trial:
            self.confirmed, self.staged, self.trial = self.trial, self.confirmed, None

    @rule()
    def reset(self):
        booted = self.device.boot()
        self._reset_the_account(booted)
        assert booted.version == self.device.running_version
        assert booted.in_trial == bool(self.trial)

    def _reset_the_account(self, booted):
        request, self.request = self.request, Swap.NONE
        if self.trial:
            assert booted.swap is Swap.REVERT
            assert self.device.reverted
            self.staged, self.trial = self.trial, None
        elif request is not Swap.NONE and not self.staged.boots_at(self.minimum):
            assert booted.swap is Swap.NONE
            assert booted.refused
            self.staged = None
        elif request is Swap.TEST:
            self.trial, self.staged = self.staged, None
            assert booted.swap is Swap.TEST
        elif request is Swap.PERM:
            self.confirmed, self.staged = self.staged, self.confirmed
            assert booted.swap is Swap.PERM
        else:
            assert booted.swap is Swap.NONE
        if not self.trial:
            self.minimum = max(self.minimum, self.confirmed.counter)

    @precondition(lambda self: hasattr(self, "device"))
    @invariant()
    def the_running_image_is_valid_and_the_confirmed_one_is_there(self):
        running = self.trial or self.confirmed
        assert self.device.running.sha256 == running.sha256
        assert running.boots_at(self.device.hardware_counter)
        if self.trial:
            assert self.device.secondary_sha256 == self.confirmed.sha256

    @precondition(lambda self: hasattr(self, "device"))
    @invariant()
    def the_hardware_never_locks_out_the_confirmed_image(self):
        assert self.device.hardware_counter == self.minimum <= self.confirmed.counter


def test_a_device_always_boots_and_never_loses_its_confirmed_image(candidates, workshops):
    class ThisDevice(Device):
        pass

    ThisDevice.candidates, ThisDevice.key = candidates, workshops["ecdsa-p256"].key
    run_state_machine_as_test(ThisDevice, settings=settings(max_examples=300, stateful_step_count=40, deadline=None))
