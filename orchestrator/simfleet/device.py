"""One simulated device: an update client over a real slot pair.

It does one thing after the other, like the clients it stands for: poll, and when there is a deployment, download it, install
it, reboot into its trial and report the verdict. Of a deployment with several components it installs the applications first, in the
order it is given; one that fails is rolled back alone and ends the update, so the OS is then never touched. What it checks of the
gateway on the way:

- a link must be gone in the first poll after the report that ends it (``stale_links``);
- a device in trial must still be shown its deployment, or a restarted client could never report (``lost_links``);
- a request to cancel is honoured until the image is in the second slot, and refused from then on.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final

from firmware.device_sim.behaviour import Behaviour, ReleaseTraits, component_fault, crash_loops, self_test
from firmware.device_sim.components import ComponentBay, Fault
from firmware.device_sim.flash import FlashImage, flash_image
from firmware.device_sim.slots import SlotPair
from orchestrator.simfleet import ddi
from orchestrator.simfleet.client import Answer, DeviceClient, DownloadError, Identity, UnreachableError, WithdrawnError
from orchestrator.simfleet.counts import Counts
from orchestrator.simfleet.identity import attributes_id, health_report_id, report_id
from orchestrator.simfleet.model import DeviceSpec, Pace

_SOUND: Final = ReleaseTraits()


class SimDevice:
    """A device that polls until it is cancelled or an image silences it."""

    __slots__ = (
        "_base",
        "_bay",
        "_client",
        "_counts",
        "_crash_at",
        "_done",
        "_health",
        "_identity",
        "_outcomes",
        "_pace",
        "_period",
        "_rng",
        "_said",
        "_shown",
        "_slots",
        "_spec",
        "_staged",
        "_traits",
    )

    def __init__(
        self,
        spec: DeviceSpec,
        slots: SlotPair,
        bay: ComponentBay,
        *,
        base_url: str,
        health_url: str,
        client: DeviceClient,
        counts: Counts,
        traits: Mapping[str, ReleaseTraits],
        pace: Pace,
        rng: random.Random,
    ) -> None:
        self._spec = spec
        self._slots = slots
        self._bay = bay
        self._base = base_url
        self._health = health_url
        self._identity = Identity(spec.device_id, {"Authorization": f"TargetToken {spec.token}"})
        self._client = client
        self._counts = counts
        self._traits = traits
        self._pace = pace
        self._rng = rng
        self._said: str | None = None
        """Version that the gateway was last told."""
        self._shown: str | None = None
        """Action whose deployment it has seen last."""
        self._staged: str | None = None
        """Action whose image is in the second slot or in trial."""
        self._done: str | None = None
        """Action that an acknowledged report ended last."""
        self._outcomes: dict[str, str] = {}
        """What became of the components of the update under way; stays empty for one artifact."""
        self._period: tuple[int, float] = (0, 0.0)
        """Number of the period whose health is watched, and the loop's time when it began."""
        self._crash_at: float | None = None
        """The loop's time of the next crash, in a crash loop."""

    @property
    def slots(self) -> SlotPair:
        return self._slots

    async def run(self) -> None:
        """Live. Returns only when an image has silenced the device."""
        self._counts.running[str(self._slots.running_version)] += 1
        await asyncio.sleep(self._rng.uniform(0, self._pace.start_spread))
        self._watch_health()
        failures = 0
        while True:
            try:
                await self._tell_health()
                pause = await self._turn()
                failures = 0
            except UnreachableError:
                failures += 1
                self._counts.retries += 1
                await self._client.back_off(failures)
                continue
            if pause is None:
                return
            await asyncio.sleep(pause)

    # ---- one poll and what it asks for

    async def _turn(self) -> float | None:
        """One poll; returns the pause after it, or None when the device has fallen silent."""
        poll = self._read_poll(await self._client.get(self._identity, self._base))
        if poll is None:
            return self._pace.default_sleep
        pause = poll.sleep or self._pace.default_sleep
        if poll.cancel:
            return 0.0 if await self._answer_cancel(poll.cancel) else pause
        if self._said != str(self._slots.running_version) or poll.wants_attributes:
            return 0.0 if await self._tell_attributes() else pause
        if poll.deployment and not self._stale(poll.deployment):
            self._counts.updating += 1
            try:
                talks = await self._update(poll.deployment)
            finally:
                self._counts.updating -= 1
            return 0.0 if talks else None
        return pause

    def _read_poll(self, answer: Answer) -> ddi.Poll | None:
        self._counts.polls += 1
        if answer.status != HTTPStatus.OK:
            self._counts.refused[f"{answer.status} poll"] += 1
            return None
        try:
            return ddi.read_poll(answer.body)
        except ddi.UnreadableError:
            self._counts.unreadable += 1
            return None

    def _stale(self, link: ddi.Link) -> bool:
        if link.action != self._done:
            return False
        self._counts.stale_links += 1
        return True

    async def _tell_attributes(self) -> bool:
        version = str(self._slots.running_version)
        repeated = self._said == version
        body = ddi.config_data({"hw_revision": self._spec.hw_revision, "fw_version": version})
        taken = await self._client.report(
            self._identity,
            "PUT",
            f"{self._base}/configData",
            body,
            action="",
            state="attributes",
            event_id=attributes_id(self._spec.device_id, body),
        )
        if taken and self._said is None:
            self._counts.contacted += 1
        if taken:
            self._said = version
        # Asked for the same again: a gateway that does so at every poll would keep the device spinning.
        return taken and not repeated

    # ---- health

    def _watch_health(self) -> None:
        """Begin a period. Its number is the time, so that no other one has it, also after a restart of the simulation."""
        self._period = time.time_ns() // 1_000_000, asyncio.get_running_loop().time()

    async def _tell_health(self) -> None:
        """Report the period if it has been long enough, and begin the next one."""
        number, began = self._period
        now = asyncio.get_running_loop().time()
        if self._pace.health_every is None or now - began < self._pace.health_every:
            return
        body = ddi.health(number, self._crashes(now), max(1, round((now - began) * 1_000)))
        self._watch_health()
        event_id = health_report_id(self._spec.device_id, body)
        await self._client.report(
            self._identity, "POST", self._health, body, action="", state="health", event_id=event_id
        )

    def _crashes(self, now: float) -> int:
        """Crashes until ``now`` that were not told yet. The image is permanent, so each is only a restart of the same one."""
        version = self._slots.running_version
        if not crash_loops(version, self._spec.hw_revision, self._traits.get(str(version), _SOUND)):
            self._crash_at = None
            return 0
        crashes = 0
        self._crash_at = now if self._crash_at is None else self._crash_at
        while self._crash_at <= now:
            crashes += 1
            self._crash_at += self._pace.crash_every
        return crashes

    # ---- the update

    async def _update(self, link: ddi.Link) -> bool:
        """Take a deployment to its verdict; False if the device has fallen silent on the way."""
        answer = await self._client.get(self._identity, link.href)
        if answer.status != HTTPStatus.OK:
            self._end("withdrawn")
            return True
        try:
            wanted = ddi.read_deployment(answer.body)
        except ddi.UnreadableError:
            self._counts.unreadable += 1
            return True
        if wanted.action != self._shown:
            self._shown = wanted.action
            self._client.saw(self._identity, wanted.action, answer.sent_at)
        await self._report(wanted.action, "accepted", "proceeding")
        await self._report(wanted.action, "downloading", "download")
        for part in wanted.parts:
            image = await self._fetch(wanted, part)
            if image is None:
                return True
            if not part.application:
                return await self._install_image(wanted, part, image)
            if not await self._install_application(wanted, part, image):
                return True
        for name in self._outcomes:
            self._outcomes[name] = "confirmed"
        await self._report(wanted.action, "confirmed", "closed", ddi.SUCCESS)
        self._close(wanted.action, "confirmed")
        return True

    async def _fetch(self, wanted: ddi.Deployment, part: ddi.Part) -> FlashImage | None:
        """A part as it was announced and is still wanted; None if the update is over."""
        try:
            image = await self._client.download(self._identity, part)
        except WithdrawnError:
            self._give_up("withdrawn")
            return None
        except DownloadError as error:
            return await self._refuse(wanted, part, error.failure_class, error.reason)
        if self._fault(wanted, part) is Fault.CORRUPT:
            image = flash_image(image.data[:-1] + bytes([image.data[-1] ^ 1]))
        if image.sha256 != part.sha256:
            return await self._refuse(wanted, part, "integrity", "digest_mismatch")
        return image if await self._still_wanted(wanted.action) else None

    async def _refuse(self, wanted: ddi.Deployment, part: ddi.Part, failure_class: str, reason: str) -> None:
        self._became(wanted, part, "failed")
        await self._fail(wanted.action, "failed", failure_class, reason)

    async def _install_image(self, wanted: ddi.Deployment, part: ddi.Part, image: FlashImage) -> bool:
        self._slots.write_secondary(image)
        self._slots.set_pending()
        self._staged = wanted.action
        self._became(wanted, part, "installed")
        await self._report(wanted.action, "installed", "proceeding")
        return await self._trial(wanted, part)

    async def _install_application(self, wanted: ddi.Deployment, part: ddi.Part, image: FlashImage) -> bool:
        """Install and test; one that does not work goes back alone, and False ends the update."""
        self._bay.install(part.name, image)
        await asyncio.sleep(self._rng.uniform(*self._pace.self_test))
        if self._fault(wanted, part) is Fault.FAILS_SELF_TEST:
            self._bay.roll_back(part.name)
            self._became(wanted, part, "rolled_back")
            await self._fail(wanted.action, "failed", "health", "self_test_failed")
            return False
        self._became(wanted, part, "installed")
        await self._report(wanted.action, "progressed", "proceeding")
        return True

    def _fault(self, wanted: ddi.Deployment, part: ddi.Part) -> Fault | None:
        return component_fault(part.name, self._spec.hw_revision, self._traits.get(wanted.version, _SOUND))

    def _became(self, wanted: ddi.Deployment, part: ddi.Part, outcome: str) -> None:
        if len(wanted.parts) > 1:
            self._outcomes[part.name] = outcome

    async def _still_wanted(self, action: str) -> bool:
        """The last look before the second slot is written: from here on, only the image decides."""
        poll = self._read_poll(await self._client.get_until_answered(self._identity, self._base))
        if poll is None or (poll.deployment and poll.deployment.action == action):
            return True
        if poll.cancel and poll.cancel.action == action:
            await self._answer_cancel(poll.cancel)
        else:
            self._give_up("withdrawn")
        return False

    async def _trial(self, wanted: ddi.Deployment, part: ddi.Part) -> bool:
        action = wanted.action
        await self._reboot()
        boot = self._slots.boot()
        self._count_running()
        if not boot.in_trial:
            self._became(wanted, part, "failed")
            await self._fail(action, "failed", "boot", boot.refused or "not_swapped")
            return True
        version = str(boot.version)
        behaviour = self_test(boot.version, self._spec.hw_revision, self._traits.get(version, _SOUND))
        if behaviour is Behaviour.SILENT:
            self._end("silent")
            return False
        if behaviour is Behaviour.CRASH:
            self._became(wanted, part, "rolled_back")
            await self._fall_back(action, "boot", "watchdog_reset")
            return True
        await self._look_in_trial(action)
        await self._report(action, "trial", "proceeding")
        await asyncio.sleep(self._rng.uniform(*self._pace.self_test))
        if behaviour is Behaviour.FAIL:
            self._became(wanted, part, "rolled_back")
            await self._fall_back(action, "health", "self_test_failed")
            return True
        self._slots.confirm()
        self._became(wanted, part, "confirmed")
        await self._report(action, "confirmed", "closed", ddi.SUCCESS)
        self._close(action, "confirmed")
        return True

    async def _look_in_trial(self, action: str) -> None:
        """The first contact of the new image."""
        poll = self._read_poll(await self._client.get_until_answered(self._identity, self._base))
        if poll is None:
            return
        if poll.cancel:
            await self._answer_cancel(poll.cancel)
        elif poll.deployment is None or poll.deployment.action != action:
            self._counts.lost_links += 1

    async def _fall_back(self, action: str, failure_class: str, reason: str) -> None:
        await self._reboot()
        self._slots.boot()
        self._count_running()
        await self._fail(action, "reverted", failure_class, reason)

    async def _reboot(self) -> None:
        self._counts.running[str(self._slots.running_version)] -= 1
        await asyncio.sleep(self._rng.uniform(*self._pace.reboot))

    def _count_running(self) -> None:
        self._counts.running[str(self._slots.running_version)] += 1

    # ---- reports

    async def _report(
        self, action: str, state: str, execution: str, finished: str = ddi.NONE, details: Sequence[str] = ()
    ) -> None:
        components = (f"ota.component={name} ota.outcome={outcome}" for name, outcome in self._outcomes.items())
        body = ddi.feedback(action, execution, finished, [f"ota.state={state}", *details, *components])
        await self._send(f"deploymentBase/{action}", body, action, state, cancel=False)

    async def _fail(self, action: str, state: str, failure_class: str, reason: str) -> None:
        details = (f"ota.class={failure_class}", f"ota.reason={reason}")
        await self._report(action, state, "closed", ddi.FAILURE, details)
        self._close(action, state)

    async def _send(self, path: str, body: bytes, action: str, state: str, *, cancel: bool) -> bool:
        return await self._client.report(
            self._identity,
            "POST",
            f"{self._base}/{path}/feedback",
            body,
            action=action,
            state=state,
            event_id=report_id(self._spec.device_id, action, body, cancel=cancel),
        )

    async def _answer_cancel(self, link: ddi.Link) -> bool:
        """Acknowledge a cancel, or refuse it once the image is installed; False if the gateway did not take the answer."""
        answer = await self._client.get_until_answered(self._identity, link.href)
        if answer.status != HTTPStatus.OK:
            return False
        try:
            action = ddi.read_cancel(answer.body)
        except ddi.UnreadableError:
            self._counts.unreadable += 1
            return False
        path = f"cancelAction/{action}"
        if action == self._staged:
            refusal = ddi.feedback(action, "closed", ddi.FAILURE, ["The image is installed."])
            return await self._send(path, refusal, action, "cancel_refused", cancel=True)
        if action == self._done:
            self._counts.stale_links += 1
        self._bay.roll_back_all()
        taken = await self._send(path, ddi.feedback(action, "closed", ddi.SUCCESS), action, "cancelled", cancel=True)
        self._close(action, "cancelled")
        return taken

    def _close(self, action: str, outcome: str) -> None:
        self._staged = None
        self._done = action
        self._bay.keep()
        self._end(outcome)

    def _give_up(self, outcome: str) -> None:
        """Nobody will hear how it ends: the applications are as they were."""
        self._bay.roll_back_all()
        self._end(outcome)

    def _end(self, outcome: str) -> None:
        self._outcomes.clear()
        self._counts.outcomes[outcome] += 1
