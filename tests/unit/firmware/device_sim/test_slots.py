from __future__ import annotations

import pytest

from firmware.device_sim.flash import flash_image, inspect
from firmware.device_sim.slots import BootResult, SlotPair, Swap
from firmware.errors import CounterMissingError, CounterTooLowError, InTrialError, KeyMismatchError, NothingStagedError
from firmware.version import Version

V1, V2, V3 = Version(1), Version(2), Version(3)


@pytest.fixture(scope="session")
def images(build, signers) -> dict[str, bytes]:
    """Named after version and fault; each version's security counter is its major number."""
    made = {f"v{n}": build(version=f"{n}.0.0", security_counter=n) for n in (1, 2, 3)}
    made["no counter"] = build(version="2.0.0", security_counter=None)
    made["foreign"] = build(version="2.0.0", security_counter=2, key=signers["other"].path)
    made["half"] = made["v2"][: len(made["v2"]) // 2]
    made["garbage"] = b"not an image"
    return made


@pytest.fixture
def device(images, p256) -> SlotPair:
    pair = SlotPair(images["v1"], key=p256.trusted)
    pair.boot()
    return pair


def in_trial_of(device: SlotPair, image: bytes) -> SlotPair:
    device.write_secondary(image)
    device.set_pending()
    device.boot()
    assert device.in_trial
    return device


def test_a_factory_image_runs_confirmed_and_raises_the_hardware_counter(images, p256):
    device = SlotPair(images["v1"], key=p256.trusted)
    assert device.hardware_counter == 0
    assert device.boot() == BootResult(V1, Swap.NONE, in_trial=False, refused=None, hardware_counter=1)
    device.confirm()
    assert device.next_swap is Swap.NONE


def test_a_factory_image_that_would_not_boot_makes_no_device(images, p256):
    with pytest.raises(KeyMismatchError):
        SlotPair(images["foreign"], key=p256.trusted)
    with pytest.raises(CounterMissingError):
        SlotPair(images["no counter"], key=p256.trusted)
    with pytest.raises(CounterTooLowError):
        SlotPair(images["v1"], key=p256.trusted, hardware_counter=2)


def test_an_image_in_the_second_slot_does_not_run_unless_requested(images, p256):
    device = SlotPair(images["v1"], images["v2"], key=p256.trusted)
    assert device.boot().version == V1
    device.set_pending()
    assert device.boot().version == V2


def test_a_confirmed_trial_stays(device, images):
    device.write_secondary(images["v2"])
    device.set_pending()
    assert device.next_swap is Swap.TEST
    assert device.boot() == BootResult(V2, Swap.TEST, in_trial=True, refused=None, hardware_counter=1)
    device.confirm()
    assert not device.in_trial
    assert device.boot() == BootResult(V2, Swap.NONE, in_trial=False, refused=None, hardware_counter=2)


def test_the_hardware_counter_rises_on_the_boot_after_the_confirmation(device, images):
    in_trial_of(device, images["v2"]).confirm()
    assert device.hardware_counter == 1
    device.boot()
    assert device.hardware_counter == 2


def test_a_trial_that_is_not_confirmed_reverts_at_the_next_reset(device, images):
    in_trial_of(device, images["v2"])
    assert device.boot() == BootResult(V1, Swap.REVERT, in_trial=False, refused=None, hardware_counter=1)
    assert device.reverted
    assert device.boot() == BootResult(V1, Swap.NONE, in_trial=False, refused=None, hardware_counter=1)


def test_after_a_revert_the_bad_image_is_still_in_the_second_slot_and_can_be_requested_again(device, images):
    in_trial_of(device, images["v2"]).boot()
    assert device.secondary_sha256 == flash_image(images["v2"]).sha256
    device.set_pending()
    assert device.boot().version == V2


def test_a_permanent_swap_has_no_trial_and_raises_the_hardware_counter_at_once(device, images):
    device.write_secondary(images["v2"])
    device.set_pending(permanent=True)
    assert device.boot() == BootResult(V2, Swap.PERM, in_trial=False, refused=None, hardware_counter=2)
    assert not device.reverted


def test_a_request_that_stands_is_not_made_permanent_by_a_second_one(device, images):
    device.write_secondary(images["v2"])
    device.set_pending()
    device.set_pending(permanent=True)
    assert device.boot().in_trial


def test_writing_again_withdraws_the_request(device, images):
    device.write_secondary(images["v2"])
    device.set_pending()
    device.write_secondary(images["v3"])
    assert device.boot().version == V1


def test_in_trial_nothing_is_written_and_nothing_requested(device, images):
    in_trial_of(device, images["v2"])
    with pytest.raises(InTrialError) as refusal:
        device.write_secondary(images["v3"])
    assert refusal.value.code == "firmware.slot.in_trial"
    with pytest.raises(InTrialError):
        device.set_pending()
    assert device.secondary_sha256 == flash_image(images["v1"]).sha256
    assert device.boot().version == V1


def test_after_the_confirmation_the_next_image_may_be_written(device, images):
    in_trial_of(device, images["v2"]).confirm()
    assert in_trial_of(device, images["v3"]).running_version == V3


def test_nothing_can_be_requested_of_an_erased_slot(device):
    with pytest.raises(NothingStagedError):
        device.set_pending()


@pytest.mark.parametrize(
    ("image", "code"),
    [
        ("foreign", "firmware.image.key_mismatch"),
        ("half", "firmware.image.truncated"),
        ("garbage", "firmware.image.bad_magic"),
        ("no counter", "firmware.image.counter_missing"),
    ],
)
@pytest.mark.parametrize("permanent", [False, True])
def test_a_refused_image_costs_its_slot_and_leaves_no_trace(device, images, image, code, permanent):
    device.write_secondary(images[image])
    device.set_pending(permanent=permanent)
    assert device.boot() == BootResult(V1, Swap.NONE, in_trial=False, refused=code, hardware_counter=1)
    assert (device.secondary_sha256, device.reverted, device.next_swap) == (None, False, Swap.NONE)


def test_an_image_below_the_hardware_counter_is_refused(device, images):
    in_trial_of(device, images["v3"]).confirm()
    device.boot()
    device.write_secondary(images["v2"])
    device.set_pending()
    assert device.boot().refused == "firmware.image.counter_too_low"
    assert device.running_version == V3


def test_a_confirmed_image_can_be_rolled_back_until_the_boot_that_raises_the_counter(device, images):
    in_trial_of(device, images["v2"]).confirm()
    device.write_secondary(images["v1"])
    device.set_pending()
    assert device.boot().version == V1


def test_the_running_image_is_identified_by_the_digest_of_its_file(device, images):
    assert device.running.sha256 == flash_image(images["v1"]).sha256
    assert in_trial_of(device, images["v2"]).running.sha256 == flash_image(images["v2"]).sha256


def test_devices_share_the_bytes_and_the_verification_of_equal_images(images, p256):
    inspect.cache_clear()
    copies = [bytes(bytearray(images["v2"])) for _ in range(100)]
    assert len({id(copy) for copy in copies}) == 100
    fleet = [SlotPair(images["v1"], key=p256.trusted) for _ in copies]
    for device, copy in zip(fleet, copies, strict=True):
        in_trial_of(device, copy)
    assert inspect.cache_info().misses == 2
    assert len({id(device._primary.data) for device in fleet}) == 1


def test_refusals_are_cached_and_do_not_collect_tracebacks(images, p256):
    found = inspect(flash_image(images["foreign"]), p256.trusted)
    for _ in range(3):
        with pytest.raises(KeyMismatchError):
            SlotPair(images["foreign"], key=p256.trusted)
    assert inspect(flash_image(images["foreign"]), p256.trusted) is found
    assert found.__traceback__ is None
