from __future__ import annotations

import pytest

from firmware.device_sim.behaviour import Behaviour, self_test
from firmware.errors import ImageError
from firmware.trust import load_public_key, verify_image
from firmware.version import Version
from orchestrator.demo.scenario import BAD_REVISION, SIGNING
from orchestrator.demo.world import make_world
from orchestrator.simfleet import load_fleet, load_traits


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("demo") / "world", 20)


def _verify(path, model, world):
    key = load_public_key(world.public_key(model).read_bytes())
    return verify_image(path.read_bytes(), [key], minimum_counter=None, minimum_version=None, counter_required=True)


@pytest.mark.parametrize("model", SIGNING)
def test_images_of_all_versions_verify_with_rising_counters(world, model):
    versions = ("1.0.0", "2.0.0", "3.0.0", "4.0.0")
    images = [_verify(world.image(model, version), model, world) for version in versions]
    assert [str(image.version) for image in images] == list(versions)
    assert [image.security_counter for image in images] == [1, 2, 3, 4]


def test_the_forged_image_does_not_verify(world):
    with pytest.raises(ImageError):
        _verify(world.forged("sensor-a"), "sensor-a", world)


def test_the_fleet_file_names_every_device_once_with_its_token(world):
    world.write_fleet({device.device_id: f"token of {device.device_id}" for device in world.devices})
    fleet = load_fleet(world.fleet_file)
    assert len({device.device_id for device in fleet.devices}) == 20
    assert all(device.token == f"token of {device.device_id}" for device in fleet.devices)
    assert fleet.hardware.keys() == SIGNING.keys()


@pytest.mark.parametrize(
    ("version", "behaviour"), [("2.0.0", Behaviour.CONFIRM), ("3.0.0", Behaviour.FAIL), ("4.0.0", Behaviour.SILENT)]
)
def test_releases_behave_as_they_are_called_and_only_on_the_bad_revision(world, version, behaviour):
    traits = load_traits(world.traits_file)[version]
    assert self_test(Version.parse(version), BAD_REVISION, traits) is behaviour
    assert self_test(Version.parse(version), "A", traits) is Behaviour.CONFIRM
