"""Records of labs."""

from pathlib import Path

import pytest

from meshlab import state
from meshlab.errors import LabError


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def test_labs_get_slots_of_their_own_and_give_them_back() -> None:
    slots = [state.begin(name, nodes=1, dual_stack=False).slot for name in ("one", "two", "three")]
    assert slots == [0, 1, 2]
    state.forget("two")
    assert state.begin("four", nodes=1, dual_stack=False).slot == 1


def test_a_lab_is_complete_only_when_said_so() -> None:
    record = state.begin("one", nodes=2, dual_stack=True)
    assert state.load("one") == record
    assert not record.complete
    state.complete(record)
    again = state.load("one")
    assert again is not None
    assert again.complete
    assert again.plan == record.plan


def test_an_invalid_lab_leaves_no_record() -> None:
    with pytest.raises(LabError):
        state.begin("One", nodes=2, dual_stack=False)
    assert state.all_records() == []


def test_a_lab_on_hosts_is_remembered_with_them() -> None:
    record = state.begin("one", nodes=2, dual_stack=False, hosts=["192.168.56.11", "192.168.56.12"])
    assert state.load("one") == record
    assert record.plan.bridge == ""
