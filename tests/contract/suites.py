"""What every implementation of a port must do. Subclasses provide the fixture named like the port."""

from __future__ import annotations

import asyncio
import hashlib
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest

from orchestrator.app.ports import Meta, Standing, VersionConflictError
from orchestrator.app.releases import ArtifactTooLargeError
from orchestrator.domain import campaign as c
from orchestrator.errors import ConflictError, ForbiddenError, NotFoundError
from schemas import campaign_events, registry_events
from schemas.campaign_events import CampaignHalted

META = Meta(actor="ann", reason="because", traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")
EVENT_TYPES = {**campaign_events.EVENT_TYPES, **registry_events.EVENT_TYPES}

_PLAIN: dict[Any, Any] = {str: "tëxt", int: 2**53 - 1, float: 0.1, bool: True, Any: {"deep": [1, None, 0.25]}}


def sample(kind: Any) -> Any:
    """Some value of a field's type, with every optional part present."""
    if kind in _PLAIN:
        return _PLAIN[kind]
    arguments = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return sample(next(item for item in arguments if item is not NoneType))
    if get_origin(kind) is list:
        return [sample(arguments[0])]
    if get_origin(kind) is dict:
        return {"key": sample(arguments[1])}
    return kind(**{name: sample(value) for name, value in get_type_hints(kind).items()})


def created(name: str = "one") -> campaign_events.CampaignCreated:
    return campaign_events.CampaignCreated(
        campaign_id="cmp_1", campaign_no=1, name=name, release_id="rel_1", plan={}, author="ann"
    )


def names(recorded: list[Any]) -> list[str]:
    return [item.event.name for item in recorded]


class EventLogContract:
    async def test_what_was_appended_is_read_in_order(self, event_log):
        first = await event_log.append("s", 0, [created("1"), created("2")], command_id="a", meta=META)
        await event_log.append("s", 2, [created("3")], command_id="b", meta=META)
        read = await event_log.read_stream("s")
        assert names(read) == ["1", "2", "3"]
        assert [item.version for item in read] == [1, 2, 3]
        assert [item.position for item in read] == [1, 2, 3]
        assert read[:2] == first
        assert read[0].meta == META
        assert names(await event_log.read_stream("s", after_version=2)) == ["3"]

    async def test_every_type_of_event_comes_back_as_it_went_in(self, event_log):
        events = [sample(kind) for kind in EVENT_TYPES.values()]
        await event_log.append("s", 0, events, command_id="a", meta=META)
        read = await event_log.read_stream("s")
        assert [item.event for item in read] == events
        assert [item.type for item in read] == list(EVENT_TYPES)

    async def test_a_stale_version_is_refused_and_leaves_nothing(self, event_log):
        await event_log.append("s", 0, [created()], command_id="a", meta=META)
        for stale in (0, 2):
            with pytest.raises(VersionConflictError):
                await event_log.append("s", stale, [created()], command_id=f"b{stale}", meta=META)
        assert len(await event_log.read_all(0, 10)) == 1

    async def test_a_repeated_command_gives_its_first_result(self, event_log):
        first = await event_log.append("s", 0, [created("1"), created("2")], command_id="a", meta=META)
        again = await event_log.append("elsewhere", 7, [created("x")], command_id="a", meta=META)
        assert again == first
        assert len(await event_log.read_all(0, 10)) == 2

    async def test_of_many_appends_at_one_version_one_wins(self, event_log):
        done = await asyncio.gather(
            *(event_log.append("s", 0, [created()], command_id=f"c{i}", meta=META) for i in range(8)),
            return_exceptions=True,
        )
        assert sum(isinstance(item, list) for item in done) == 1
        assert sum(isinstance(item, VersionConflictError) for item in done) == 7

    async def test_a_reader_that_remembers_its_position_misses_nothing_of_concurrent_writers(self, event_log):
        async def write(stream: str) -> None:
            for version in range(10):
                await event_log.append(stream, version, [created()], command_id=f"{stream}/{version}", meta=META)

        async def read() -> list[int]:
            seen: list[int] = []
            while len(seen) < 40:
                page = await event_log.read_all(seen[-1] if seen else 0, 7)
                seen += [item.position for item in page]
                await asyncio.sleep(0)
            return seen

        seen, *_ = await asyncio.gather(read(), *(write(f"s{i}") for i in range(4)))
        assert seen == list(range(1, 41))

    async def test_all_events_or_those_of_a_stream_are_read_page_by_page(self, event_log):
        for version in range(4):
            await event_log.append("a", version, [created(f"a{version}")], command_id=f"a{version}", meta=META)
            await event_log.append("b", version, [created(f"b{version}")], command_id=f"b{version}", meta=META)
        assert names(await event_log.read_all(2, 3)) == ["a1", "b1", "a2"]
        assert names(await event_log.read_all(2, 2, stream="b")) == ["b1", "b2"]
        assert await event_log.read_all(8, 10) == []

    async def test_the_chain_of_hashes_verifies(self, event_log):
        for version in range(3):
            await event_log.append("a", version, [created()], command_id=f"a{version}", meta=META)
        assert await event_log.verify_chain() == (3, None)


PLAN: dict[str, Any] = {
    "phases": [{"name": "all", "soak": 0}],
    "approvals": {"required": 1, "separation": True},
}


def create(campaign_id: str, number: int) -> Any:
    return lambda _, __: c.Create(
        campaign_id=campaign_id, campaign_no=number, name="n", release_id="rel_1", plan=PLAN, actor="ann"
    )


def halted(by: str = "gate") -> CampaignHalted:
    return CampaignHalted(by=by, reason="r", phase=None, gate_epoch=1, ledger_position=0)


class CampaignStoreContract:
    async def started(self, store: Any, campaign_id: str = "cmp_1") -> c.Campaign:
        """A running campaign."""
        number = await store.next_campaign_no()

        async def run(command_id: str, build: Any) -> c.Campaign:
            return (await store.execute(campaign_id, build, command_id=command_id, meta=META)).campaign

        await run("create", create(campaign_id, number))
        await run("submit", lambda *_: c.Submit(actor="ann", digest="sha256:1", dossier={"a": 1.5}))
        await run("approve", lambda *_: c.Approve(actor="bob", digest="sha256:1"))
        return await run("launch", lambda _, s: c.Launch(actor="ann", ledger_position=s.ledger_position))

    async def test_what_was_executed_is_loaded(self, store):
        campaign = await self.started(store)
        assert campaign.state is c.CampaignState.RUNNING
        assert campaign.version == 4
        assert await store.load("cmp_1") == campaign

    async def test_a_release_that_was_halted_elsewhere_needs_an_approval_that_knows_of_it(self, store):
        async def run(campaign_id: str, command_id: str, build: Any) -> c.Campaign:
            command_id = f"{campaign_id}/{command_id}"
            return (await store.execute(campaign_id, build, command_id=command_id, meta=META)).campaign

        def approve(actor: str) -> Any:
            return lambda _, s: c.Approve(actor=actor, digest="sha256:1", release_halts=s.release_halts)

        def launch(_: Any, s: Standing) -> c.Command:
            return c.Launch(actor="ann", ledger_position=s.ledger_position, release_halts=s.release_halts)

        await self.started(store)
        await run("cmp_2", "create", create("cmp_2", await store.next_campaign_no()))
        await run("cmp_2", "submit", lambda *_: c.Submit(actor="ann", digest="sha256:1", dossier={}))
        await run("cmp_2", "approve", approve("bob"))
        await run("cmp_1", "halt", lambda *_: c.Halt(event=halted()))
        with pytest.raises(c.ReleaseQuarantinedError, match="cmp_1"):
            await run("cmp_2", "launch", launch)
        with pytest.raises(ForbiddenError):
            await run("cmp_2", "own", approve("ann"))
        assert (await run("cmp_2", "anew", approve("cleo"))).approvals == ("cleo",)
        assert (await run("cmp_2", "launch", launch)).state is c.CampaignState.RUNNING

    async def test_a_fleet_that_did_not_fit_is_no_halt_of_the_release(self, store):
        await self.started(store)
        await store.execute("cmp_1", lambda *_: c.Halt(event=halted("orchestrator")), command_id="h", meta=META)
        number = await store.next_campaign_no()
        await store.execute("cmp_2", create("cmp_2", number), command_id="c2", meta=META)
        seen: list[Standing] = []

        def look(_: Any, standing: Standing) -> c.Command:
            seen.append(standing)
            return c.Abort(actor="ann", reason="r", ledger_position=0)

        await store.execute("cmp_2", look, command_id="a2", meta=META)
        assert seen[0].release_halts == ()

    async def test_an_unknown_campaign_is_not_found(self, store):
        with pytest.raises(NotFoundError) as load:
            await store.load("cmp_x")
        with pytest.raises(NotFoundError) as command:
            await store.execute(
                "cmp_x",
                lambda *_: c.Pause(actor="ann", reason="r", ledger_position=0),
                command_id="p",
                meta=META,
            )
        assert load.value.code == command.value.code == "campaign.not_found"

    async def test_a_repeated_command_gives_its_first_events_and_decides_nothing(self, store):
        await self.started(store)

        def pause(*_: Any) -> c.Command:
            return c.Pause(actor="ann", reason="r", ledger_position=0)

        def never(*_: Any) -> c.Command:
            raise AssertionError

        first = await store.execute("cmp_1", pause, command_id="p", meta=META)
        again = await store.execute("cmp_1", never, command_id="p", meta=META, expected_version=1)
        assert again.events == first.events
        assert again.campaign == first.campaign

    async def test_a_command_made_for_another_version_is_refused(self, store):
        await self.started(store)
        with pytest.raises(VersionConflictError):
            await store.execute(
                "cmp_1",
                lambda *_: c.Pause(actor="ann", reason="r", ledger_position=0),
                command_id="p",
                meta=META,
                expected_version=3,
            )
        assert (await store.load("cmp_1")).version == 4

    async def test_a_refused_command_leaves_nothing_and_its_id_free(self, store):
        await self.started(store)
        with pytest.raises(c.CampaignTransitionError):
            await store.execute(
                "cmp_1", lambda *_: c.Resume(actor="ann", reason="r", ledger_position=0), command_id="x", meta=META
            )
        done = await store.execute(
            "cmp_1", lambda *_: c.Pause(actor="ann", reason="r", ledger_position=0), command_id="x", meta=META
        )
        assert [item.type for item in done.events] == ["CampaignPaused"]

    async def test_a_command_with_nothing_left_to_do_gives_no_event(self, store):
        await self.started(store)

        def halt(campaign: c.Campaign, standing: Any) -> c.Command:
            return c.Halt(
                event=CampaignHalted(
                    by="ann",
                    reason="r",
                    phase=None,
                    gate_epoch=campaign.gate_epoch,
                    ledger_position=standing.ledger_position,
                )
            )

        assert len((await store.execute("cmp_1", halt, command_id="h1", meta=META)).events) == 1
        assert (await store.execute("cmp_1", halt, command_id="h2", meta=META)).events == []

    async def test_of_concurrent_commands_that_exclude_each_other_one_takes_effect(self, store):
        await self.started(store)
        done = await asyncio.gather(
            *(
                store.execute(
                    "cmp_1",
                    lambda *_: c.Pause(actor="ann", reason="r", ledger_position=0),
                    command_id=f"p{i}",
                    meta=META,
                )
                for i in range(5)
            ),
            return_exceptions=True,
        )
        assert sum(isinstance(item, ConflictError) for item in done) == 4
        assert (await store.load("cmp_1")).version == 5

    async def test_numbers_are_never_given_twice(self, store):
        numbers = await asyncio.gather(*(store.next_campaign_no() for _ in range(5)))
        assert len(set(numbers)) == 5


async def pieces(data: bytes, size: int = 1_000) -> Any:
    for at in range(0, len(data), size):
        yield data[at : at + size]


DATA = bytes(range(256)) * 1_000
NAME = hashlib.sha256(DATA).hexdigest()


class ArtifactsContract:
    async def put(self, artifacts: Any, data: bytes = DATA) -> str:
        async with artifacts.stage(pieces(data), len(data)) as staged:
            await artifacts.put(staged)
        return staged.sha256

    async def read(self, artifacts: Any, start: int, end: int) -> bytes:
        return b"".join([piece async for piece in artifacts.open_range(NAME, start, end)])

    async def test_a_file_is_kept_under_its_digest(self, artifacts):
        assert not await artifacts.exists(NAME)
        assert await self.put(artifacts) == NAME
        assert await artifacts.exists(NAME)
        assert await artifacts.size(NAME) == len(DATA)
        assert await self.read(artifacts, 0, len(DATA)) == DATA

    @pytest.mark.parametrize(("start", "end"), [(0, 1), (1_000, 150_000), (len(DATA) - 1, len(DATA)), (5, 5)])
    async def test_a_range_gives_exactly_its_bytes(self, artifacts, start, end):
        await self.put(artifacts)
        assert await self.read(artifacts, start, end) == DATA[start:end]

    async def test_the_same_file_twice_is_one_file(self, artifacts):
        assert await self.put(artifacts) == await self.put(artifacts)
        assert await self.read(artifacts, 0, len(DATA)) == DATA

    async def test_what_is_staged_is_measured_and_gone_afterwards(self, artifacts):
        async with artifacts.stage(pieces(DATA), len(DATA)) as staged:
            assert (staged.sha256, staged.size) == (NAME, len(DATA))
            assert staged.path.read_bytes() == DATA
        assert not staged.path.exists()
        assert not await artifacts.exists(NAME)

    async def test_a_file_beyond_the_limit_is_refused_before_its_end(self, artifacts):
        sent = 0

        async def endless() -> Any:
            nonlocal sent
            while True:
                sent += 1_000
                yield b"x" * 1_000

        with pytest.raises(ArtifactTooLargeError):
            async with artifacts.stage(endless(), 10_000):
                pass
        assert sent == 11_000

    @pytest.mark.parametrize("name", ["0" * 64, "", "../../etc/passwd", NAME.upper(), NAME + "/x"])
    async def test_what_is_not_there_is_not_found(self, artifacts, name):
        await self.put(artifacts)
        assert not await artifacts.exists(name)
        for read in (artifacts.size(name), anext(artifacts.open_range(name, 0, 1))):
            with pytest.raises(NotFoundError) as error:
                await read
            assert error.value.code == "artifact.not_found"


def tampered(value: msgspec.Struct) -> msgspec.Struct:
    return msgspec.structs.replace(value, name="somebody else's")
