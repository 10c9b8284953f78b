from __future__ import annotations

import pytest

from orchestrator.domain.approval import (
    DigestMismatchError,
    DuplicateApprovalError,
    SameActorError,
    approvals_missing,
    check_approval,
)
from orchestrator.errors import ConflictError, ForbiddenError, OtaError

GIVEN = {
    "actor": "op_bea",
    "digest": "sha256:1",
    "expected_digest": "sha256:1",
    "author": "op_ann",
    "last_editor": "op_cem",
    "approvers": ("op_dan",),
    "separation": True,
}


def test_somebody_else_may_approve_what_is_there():
    check_approval(**GIVEN)


@pytest.mark.parametrize("actor", ["op_ann", "op_cem"])
def test_neither_author_nor_last_editor_may_approve(actor):
    with pytest.raises(SameActorError) as caught:
        check_approval(**GIVEN | {"actor": actor})
    assert isinstance(caught.value, ForbiddenError)
    assert caught.value.code == "campaign.approval.same_actor"


@pytest.mark.parametrize("actor", ["op_ann", "op_cem"])
def test_without_separation_of_duties_they_may(actor):
    check_approval(**GIVEN | {"actor": actor, "separation": False})


def test_an_approval_of_another_version_does_not_count():
    with pytest.raises(DigestMismatchError) as caught:
        check_approval(**GIVEN | {"digest": "sha256:0"})
    assert isinstance(caught.value, ConflictError)
    assert caught.value.code == "campaign.approval.digest_mismatch"
    assert "sha256:0" in caught.value.detail


@pytest.mark.parametrize("separation", [True, False])
def test_nobody_counts_twice(separation):
    with pytest.raises(DuplicateApprovalError) as caught:
        check_approval(**GIVEN | {"actor": "op_dan", "separation": separation})
    assert caught.value.code == "campaign.approval.duplicate"


def test_a_wrong_version_is_said_first():
    with pytest.raises(OtaError) as caught:
        check_approval(**GIVEN | {"actor": "op_ann", "digest": "sha256:0"})
    assert caught.value.code == "campaign.approval.digest_mismatch"


@pytest.mark.parametrize(
    ("approvers", "missing"), [([], 2), (["a"], 1), (["a", "a"], 1), (["a", "b"], 0), (["a", "b", "c"], 0)]
)
def test_distinct_people_are_counted(approvers, missing):
    assert approvals_missing(approvers, 2) == missing
