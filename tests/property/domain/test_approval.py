from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.domain.approval import approvals_missing, check_approval
from orchestrator.errors import OtaError

untimed = settings(deadline=None)  # a busy machine is no defect

people = st.sampled_from(["ann", "bea", "cem", "dan", "eva"])


@untimed
@given(
    author=people,
    last_editor=people,
    required=st.integers(1, 3),
    attempts=st.lists(st.tuples(people, st.sampled_from(["sha256:1", "sha256:2"])), max_size=20),
)
def test_what_is_approved_was_approved_by_enough_other_people_who_saw_it(author, last_editor, required, attempts):
    approvers: list[str] = []
    for actor, digest in attempts:
        try:
            check_approval(
                actor=actor,
                digest=digest,
                expected_digest="sha256:1",
                author=author,
                last_editor=last_editor,
                approvers=approvers,
                separation=True,
            )
        except OtaError:
            continue
        approvers.append(actor)
    others = {actor for actor, digest in attempts if digest == "sha256:1"} - {author, last_editor}
    assert set(approvers) == others
    assert len(approvers) == len(others)
    assert (approvals_missing(approvers, required) == 0) == (len(others) >= required)
