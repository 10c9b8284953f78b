"""Everything that this package refuses, and why.

One class per reason. ``code`` is stable and is what machines compare; ``detail`` says what is wrong with this input;
``remedy`` says what to do next. The class docstring is the default detail.
"""

from __future__ import annotations

from typing import Any, ClassVar


class FirmwareError(Exception):
    """The firmware was refused."""

    code: ClassVar[str] = "firmware.invalid"
    remedy: str = ""

    def __init__(self, detail: str | None = None, *, remedy: str | None = None, **fields: Any) -> None:
        self.detail = detail or (type(self).__doc__ or "").strip().splitlines()[0]
        if remedy is not None:
            self.remedy = remedy
        self.fields = fields
        super().__init__(self.detail)


_REBUILD = "Build and sign the image again with imgtool; do not edit it afterwards."
_TRANSFER = "Copy or upload the file again and compare its sha256 with that of the build."


class InvalidVersionError(FirmwareError):
    """The text is not a version."""

    code = "firmware.version.invalid"
    remedy = "Write it as MAJOR.MINOR.REVISION or MAJOR.MINOR.REVISION+BUILD, for example 1.4.0+17."


# ---- structure of the file


class ImageError(FirmwareError):
    """The image was refused."""

    code = "firmware.image.invalid"


class TruncatedImageError(ImageError):
    """The file ends before the image does."""

    code = "firmware.image.truncated"
    remedy = _TRANSFER


class BadMagicError(ImageError):
    """The file does not start like an MCUboot image."""

    code = "firmware.image.bad_magic"
    remedy = "Give the signed image that imgtool wrote (often zephyr.signed.bin), not the bare binary, ELF or HEX file."


class BadHeaderError(ImageError):
    """The image header contradicts itself."""

    code = "firmware.image.bad_header"
    remedy = _REBUILD


class UnknownFlagsError(ImageError):
    """The image header has flags that MCUboot does not know."""

    code = "firmware.image.unknown_flags"
    remedy = _REBUILD


class BadTlvError(ImageError):
    """The list of records (TLVs) after the payload is malformed."""

    code = "firmware.image.bad_tlv"
    remedy = _REBUILD


class TlvNotAllowedError(ImageError):
    """A record (TLV) stands where it must not: it may have been added after signing."""

    code = "firmware.image.tlv_not_allowed"
    remedy = _REBUILD


class RepeatedTlvError(ImageError):
    """A record (TLV) that must be unique appears more than once: one may have been added after signing."""

    code = "firmware.image.tlv_repeated"
    remedy = _REBUILD


class HashMissingError(ImageError):
    """The image carries no hash of itself."""

    code = "firmware.image.hash_missing"
    remedy = _REBUILD


class TrailingBytesError(ImageError):
    """Bytes that no signature covers follow the image."""

    code = "firmware.image.trailing_bytes"
    remedy = _TRANSFER


class SlotTrailerError(ImageError):
    """The file is a whole flash slot with a swap trailer, which can make a device skip the trial."""

    code = "firmware.image.slot_trailer"
    remedy = "Sign without --pad, --confirm and --test: the device itself requests the swap."


class EncryptedUnsupportedError(ImageError):
    """The image is encrypted: its signature covers the plaintext, which cannot be checked here."""

    code = "firmware.image.encrypted_unsupported"
    remedy = "Sign the image without --encrypt."


# ---- signature and policy


class UnsignedImageError(ImageError):
    """The image is not signed."""

    code = "firmware.image.unsigned"
    remedy = "Sign it: imgtool sign --key PRIVATE.pem …"


class KeyMismatchError(ImageError):
    """The image names a signing key that is not trusted here."""

    code = "firmware.image.key_mismatch"
    remedy = "Sign with a trusted key, or have the right public key added to the trusted keys of this hardware model."


class AlgorithmMismatchError(ImageError):
    """The image is not signed with the algorithm of the trusted key."""

    code = "firmware.image.algorithm_mismatch"
    remedy = "Sign with imgtool's defaults for the type of the key."


class PureNotAllowedError(ImageError):
    """The signature covers the image itself instead of its hash (pure), which is not allowed here."""

    code = "firmware.image.pure_not_allowed"
    remedy = "Sign without --pure, or allow pure signatures if the bootloaders were built for them."


class HashMismatchError(ImageError):
    """The content is not what was hashed when the image was signed."""

    code = "firmware.image.hash_mismatch"
    remedy = _TRANSFER


class SignatureInvalidError(ImageError):
    """The signature is not the trusted key's signature of this image."""

    code = "firmware.image.signature_invalid"
    remedy = _REBUILD


class CounterMissingError(ImageError):
    """The image has no protected security counter."""

    code = "firmware.image.counter_missing"
    remedy = "Sign with --security-counter: without one, an old image can be installed again."


class CounterTooLowError(ImageError):
    """The security counter of the image is below the lowest one allowed."""

    code = "firmware.image.counter_too_low"
    remedy = "Build from a current source and sign with a security counter that is at least the lowest one allowed."


class VersionTooLowError(ImageError):
    """The version of the image is below the lowest one allowed."""

    code = "firmware.image.version_too_low"
    remedy = "Give the image a higher version."


# ---- keys, files, tools


class KeyUnreadableError(FirmwareError):
    """The file is not a public key in PEM form."""

    code = "firmware.key.unreadable"
    remedy = "Write it with: imgtool getpub --key PRIVATE.pem --encoding pem --output PUBLIC.pem"


class PrivateKeyGivenError(FirmwareError):
    """A private key was given where only its public part may be."""

    code = "firmware.key.private"
    remedy = "Keep it where releases are signed; write the public part with: imgtool getpub --encoding pem"


class KeyUnsupportedError(FirmwareError):
    """MCUboot has no signatures with this type of key."""

    code = "firmware.key.unsupported"
    remedy = "Use RSA with 2048 or 3072 bits, ECDSA on P-256 or P-384, or Ed25519."


class NoTrustedKeysError(FirmwareError):
    """There is no trusted key to verify the image with."""

    code = "firmware.key.none_trusted"
    remedy = "Name at least one public key."


class FileUnreadableError(FirmwareError):
    """The file cannot be read."""

    code = "firmware.file.unreadable"
    remedy = "Check the path and the permissions."


class FileTooLargeError(FirmwareError):
    """The file is larger than any firmware image may be."""

    code = "firmware.file.too_large"
    remedy = "Check that this is a firmware image."


class ImgtoolMissingError(FirmwareError):
    """The package imgtool is not installed."""

    code = "firmware.sign.imgtool_missing"
    remedy = "Install the development dependencies: imgtool signs images for the demo and the tests only."


class SigningFailedError(FirmwareError):
    """The image could not be signed."""

    code = "firmware.sign.failed"


# ---- simulated devices


class InTrialError(FirmwareError):
    """The device is in trial: its second slot holds its only way back."""

    code = "firmware.slot.in_trial"
    remedy = "Confirm the running image or reset the device first."


class NothingStagedError(FirmwareError):
    """The second slot is empty."""

    code = "firmware.slot.nothing_staged"
    remedy = "Write an image to the second slot first."
