"""The implementations in memory."""

from __future__ import annotations

import msgspec
import pytest

from orchestrator.adapters.artifacts import ArtifactStore
from orchestrator.adapters.memory import MemoryCampaignStore, MemoryEventLog
from tests.contract.suites import META, ArtifactsContract, CampaignStoreContract, EventLogContract, created, tampered


class TestMemoryEventLog(EventLogContract):
    @pytest.fixture
    def event_log(self):
        return MemoryEventLog()

    async def test_a_changed_event_breaks_the_chain(self, event_log):
        await event_log.append("s", 0, [created(), created()], command_id="a", meta=META)
        first = event_log._events[0]
        event_log._events[0] = msgspec.structs.replace(first, event=tampered(first.event))
        assert await event_log.verify_chain() == (0, 1)


class TestMemoryCampaignStore(CampaignStoreContract):
    @pytest.fixture
    def store(self):
        return MemoryCampaignStore()


class TestArtifactsInMemory(ArtifactsContract):
    @pytest.fixture
    def artifacts(self, tmp_path):
        return ArtifactStore("memory:///", tmp_path)

    async def test_a_file_elsewhere_has_no_path_here(self, artifacts):
        assert artifacts.local_path(await self.put(artifacts)) is None


class TestArtifactsInAFolder(ArtifactsContract):
    @pytest.fixture
    def artifacts(self, tmp_path):
        return ArtifactStore("", tmp_path / "new" / "folder")

    async def test_a_file_can_be_read_where_it_is(self, artifacts):
        assert artifacts.local_path("0" * 64) is None
        path = artifacts.local_path(await self.put(artifacts))
        assert path is not None
        assert len(path.read_bytes()) == 256_000

    async def test_a_folder_can_be_named_by_its_url(self, artifacts, tmp_path):
        name = await self.put(artifacts)
        other = ArtifactStore(f"file://{tmp_path / 'new' / 'folder'}", tmp_path / "unused")
        assert await other.size(name) == 256_000
        assert not (tmp_path / "unused").exists()
