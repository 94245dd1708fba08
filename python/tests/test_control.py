"""The control plane by keyword arguments, and its errors by code and reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from inputs import TASKS, Inputs

from synchromesh import Control, ControlError
from synchromesh.v1 import task_service_pb2 as messages

REFUSALS: list[tuple[dict[str, Any], grpc.StatusCode, str, dict[str, str]]] = [
    ({"task": "sea"}, grpc.StatusCode.NOT_FOUND, "UNKNOWN_TASK", {"known": ",".join(TASKS), "name": "sea"}),
    ({"task": "city", "model": "other"}, grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL", {"name": "other"}),
    ({"task": "city", "session": "other"}, grpc.StatusCode.NOT_FOUND, "UNKNOWN_SESSION", {"name": "other"}),
    ({"task": "city", "request_id": "x" * 129}, grpc.StatusCode.INVALID_ARGUMENT, "BAD_REQUEST_ID", {}),
    (
        {"task": "city", "expected_generation": 1 << 40},
        grpc.StatusCode.FAILED_PRECONDITION,
        "GENERATION_MISMATCH",
        {"expected": str(1 << 40)},
    ),
]


def test_a_model_is_listed(control: Control, any_model: Inputs) -> None:
    (model,) = control.list_models()
    assert (model.name, model.dtype) == (any_model.name, "F32")
    assert [task.name for task in model.tasks] == list(TASKS)


def test_a_switch_takes_its_fields_by_name(control: Control, any_model: Inputs) -> None:
    control.switch_task("city")
    first = control.switch_task("fog", model=any_model.name, request_id="once")
    assert control.switch_task("fog", model=any_model.name, request_id="once") == first
    again = control.switch_task("fog", expected_generation=first.generation)
    assert again.outcome == messages.SWITCH_OUTCOME_ALREADY_ACTIVE
    (model,) = control.status(model=any_model.name).models
    default = next(session for session in model.sessions if session.session == "default")
    assert (default.task, default.generation) == ("fog", first.generation)


def test_a_field_that_the_protocol_does_not_have_is_refused_here(control: Control) -> None:
    with pytest.raises(ValueError, match="colour"):
        control.switch_task("city", colour="red")


def test_tasks_are_hinted_and_prepared(control: Control) -> None:
    control.switch_task("city")
    hints = [messages.TaskHint(task="fog", probability=0.5), {"task": "rain", "probability": 0.4}, {"task": "sea"}]
    told = control.hint_tasks(hints)
    assert (told.accepted, told.ignored) == (2, 1)
    assert control.hint_tasks().accepted == 0
    prepared = control.prepare_task("rain", hold_ms=60_000)
    assert control.switch_task("rain").needed == prepared.needed


def test_a_session_opens_and_closes(control: Control) -> None:
    opened = control.open_session("rear")
    assert (opened.session, opened.generation) == ("rear", 0)
    assert control.switch_task("fog", session="rear").generation == 1
    with pytest.raises(ControlError) as twice:
        control.open_session("rear")
    assert (twice.value.code, twice.value.reason) == (grpc.StatusCode.ALREADY_EXISTS, "SESSION_EXISTS")
    control.close_session("rear")


def test_events_are_told_as_they_happen(control: Control) -> None:
    generation = control.switch_task("city").generation
    events = control.events(timeout=30)
    event = next(event for event in events if event.switched.result.generation == generation)
    assert (event.session, event.switched.task) == ("default", "city")
    first = event.sequence
    control.switch_task("fog", request_id="told")
    event = next(event for event in events if event.WhichOneof("kind") == "switched")
    assert (event.switched.task, event.switched.request_id) == ("fog", "told")
    assert event.sequence > first
    events.close()


def test_events_end_with_their_time(control: Control) -> None:
    with pytest.raises(ControlError) as late:
        list(control.events(timeout=0.2))
    assert late.value.code == grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize(("fields", "code", "reason", "metadata"), REFUSALS)
def test_a_refusal_has_code_reason_and_metadata(
    control: Control, fields: dict[str, Any], code: grpc.StatusCode, reason: str, metadata: dict[str, str]
) -> None:
    with pytest.raises(ControlError, match=f"{code.name} {reason}: ") as refused:
        control.switch_task(**fields)
    assert (refused.value.code, refused.value.reason) == (code, reason)
    assert refused.value.metadata.items() >= metadata.items()
    assert refused.value.message
    assert refused.value.retry_after_s is None


def test_without_a_daemon_there_is_a_code_and_no_reason(tmp_path: Path) -> None:
    with Control(tmp_path / "nobody.sock", timeout=0.5) as control, pytest.raises(ControlError) as refused:
        control.list_models()
    assert refused.value.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    assert (refused.value.reason, refused.value.metadata) == ("", {})
