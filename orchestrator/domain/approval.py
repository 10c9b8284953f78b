"""Approvals: a number of distinct people agree to one digest.

An approval is bound to the digest of the dossier. If anything in it changes, the digest does, and approvals of the
old one count for nothing. With separation of duties, neither the author nor whoever edited last may approve.
"""

from __future__ import annotations

from collections.abc import Collection

from orchestrator.errors import ConflictError, ForbiddenError


class SameActorError(ForbiddenError):
    """The author or last editor of a plan may not approve it."""

    code = "campaign.approval.same_actor"
    remedy = "Have somebody else approve it."


class DigestMismatchError(ConflictError):
    """The approval is for another version of the dossier."""

    code = "campaign.approval.digest_mismatch"
    remedy = "Read the campaign again, review what changed, and approve its present digest."


class DuplicateApprovalError(ConflictError):
    """Somebody can approve a dossier only once."""

    code = "campaign.approval.duplicate"
    remedy = "Nothing is left to do for you; another person may have to approve."


def check_approval(
    *,
    actor: str,
    digest: str,
    expected_digest: str,
    author: str,
    last_editor: str,
    approvers: Collection[str],
    separation: bool,
) -> None:
    """Refuse an approval that does not count.

    Args:
        actor: who approves.
        digest: what they say they approve.
        expected_digest: what there is to approve.
        author: who created the campaign.
        last_editor: who changed its plan last.
        approvers: who has approved this digest so far.
        separation: whether author and last editor are barred.

    Raises:
        DigestMismatchError: they saw another version.
        SameActorError: they would approve their own work.
        DuplicateApprovalError: they have approved it already.
    """
    if digest != expected_digest:
        raise DigestMismatchError(f"The approval is for {digest}, the campaign is at {expected_digest}.")
    if separation and actor in (author, last_editor):
        raise SameActorError(f"'{actor}' wrote or edited this plan and may not approve it.")
    if actor in approvers:
        raise DuplicateApprovalError(f"'{actor}' has approved this already.")


def approvals_missing(approvers: Collection[str], required: int) -> int:
    """How many more people must approve."""
    return max(0, required - len(set(approvers)))
