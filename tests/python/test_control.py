"""A grpcio client of the current version works the control plane over a Unix socket."""

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from control import SERVICE, TaskService, error_info
from daemon import HANG_S, Daemon
from mesh import Mesh

SERVING = health_pb2.HealthCheckResponse.SERVING
REFLECTION = "grpc.reflection.{}.ServerReflection"
SERVICES = {SERVICE, "grpc.health.v1.Health"}
REFUSALS = [
    ({"task": "submarine"}, grpc.StatusCode.NOT_FOUND, "UNKNOWN_TASK", "city,fog,park,rain"),
    ({"task": "city", "model": "other"}, grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL", "peers"),
    ({"task": "city", "session": "other"}, grpc.StatusCode.NOT_FOUND, "UNKNOWN_SESSION", "default"),
    ({"task": "city", "request_id": "x" * 129}, grpc.StatusCode.INVALID_ARGUMENT, "BAD_REQUEST_ID", None),
    ({"task": "city", "expected_generation": 999}, grpc.StatusCode.FAILED_PRECONDITION, "GENERATION_MISMATCH", None),
]


@pytest.mark.parametrize("target", ["unix:{}", "unix://{}"])
def test_both_spellings_of_a_unix_target_connect(served: Daemon, target: str) -> None:
    with served.connect(target) as channel:
        assert TaskService(channel).call("ListModels").models[0].name == "peers"


def test_grpcio_without_options_is_answered(served: Daemon) -> None:
    with grpc.insecure_channel(f"unix:{served.control}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for _ in range(3):
            assert health.Check(health_pb2.HealthCheckRequest(), timeout=HANG_S).status == SERVING


@pytest.mark.parametrize("name", ["", SERVICE])
def test_health_is_serving(channel: grpc.Channel, name: str) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=name)
    assert health.Check(request, timeout=HANG_S).status == SERVING
    watch = health.Watch(request, timeout=HANG_S)
    assert next(watch).status == SERVING
    watch.cancel()


def test_health_of_an_unknown_service_is_not_found(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="x"), timeout=HANG_S)
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND


def test_reflection_lists_the_services(service: TaskService) -> None:
    assert set(service.database.get_services()) >= SERVICES


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_answers_in_both_versions(channel: grpc.Channel, version: str) -> None:
    # The two versions have the same messages under different names.
    ask = channel.stream_stream(
        f"/{REFLECTION.format(version)}/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = ask(iter([request]), timeout=HANG_S)
    names = {service.name for service in answer.list_services_response.service}
    assert names >= SERVICES | {REFLECTION.format(version)}


def test_reflection_describes_every_call(service: TaskService) -> None:
    methods = service.descriptor.methods_by_name
    sessions, foresight = {"OpenSession", "CloseSession"}, {"HintTasks", "PrepareTask"}
    assert {"SwitchTask", "ListModels", "GetStatus"} | sessions | foresight <= set(methods)
    for name, method in methods.items():
        assert (method.input_type.name, method.output_type.name) == (f"{name}Request", f"{name}Response")


def test_a_model_is_listed_as_its_bundle_has_it(service: TaskService, mesh: Mesh) -> None:
    (model,) = service.call("ListModels").models
    assert (model.bundle_id, model.dtype) == (mesh.meta["bundle_id"], "F32")
    assert (model.block_rows, model.block_cols, model.total.blocks) == (32, 32, len(mesh.blocks))
    needed = {task["name"]: task["blocks"] for task in mesh.meta["tasks"]}
    assert {task.name: task.needed.blocks for task in model.tasks} == needed


def test_a_switch_reports_the_difference(service: TaskService, mesh: Mesh) -> None:
    service.switch("city")
    before = service.generation()
    switched = service.switch("park")
    needed = mesh.task_set("park")
    assert switched.generation == before + 1 == service.generation()
    assert switched.needed.blocks == needed.sum() == switched.reused.blocks + switched.read.blocks
    assert switched.read.blocks <= (needed & ~mesh.task_set("city")).sum()
    assert switched.read.bytes == switched.read.blocks * 4096
    again = service.switch("park")
    assert again.outcome == service.value_of("SwitchOutcome", "SWITCH_OUTCOME_ALREADY_ACTIVE")
    assert again.generation == switched.generation


@pytest.mark.parametrize(("fields", "code", "reason", "known"), REFUSALS)
def test_a_refusal_has_a_code_and_a_reason(
    service: TaskService, fields: dict[str, str], code: grpc.StatusCode, reason: str, known: str | None
) -> None:
    before = service.generation()
    with pytest.raises(grpc.RpcError) as refused:
        service.call("SwitchTask", **fields)
    info = error_info(refused.value)
    assert (refused.value.code(), info.reason, info.domain) == (code, reason, "synchromesh")
    assert known is None or info.metadata["known"] == known
    assert service.generation() == before


def test_a_repeated_request_id_gets_the_first_answer(service: TaskService) -> None:
    first = service.switch("fog", request_id="fog-1")
    service.switch("rain")
    generation = service.generation()
    assert service.switch("fog", request_id="fog-1") == first
    assert service.generation() == generation, "and switches once"
    with pytest.raises(grpc.RpcError) as refused:
        service.switch("city", request_id="fog-1")
    assert error_info(refused.value).reason == "REQUEST_ID_REUSED"


def test_a_call_that_is_late_ends_at_its_deadline_and_harms_nothing(served: Daemon, service: TaskService) -> None:
    service.switch("city")
    before = service.generation()
    with served.halted(), pytest.raises(grpc.RpcError) as late:
        service.switch("rain", timeout=0.2)
    assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    # The late switch may have been taken up afterwards, but not twice.
    after = service.switch("park").generation
    assert before < after <= before + 2
    assert service.generation() == after


def test_calls_at_once_are_each_answered(service: TaskService, mesh: Mesh) -> None:
    parse = type(service.call("GetStatus")).FromString
    status = service.channel.unary_unary(f"/{SERVICE}/GetStatus", response_deserializer=parse)
    calls = [status.future(b"", timeout=HANG_S) for _ in range(200)]
    assert {call.result().models[0].bundle_id for call in calls} == {mesh.meta["bundle_id"]}


def test_a_session_opens_switches_and_closes(service: TaskService) -> None:
    default = service.generation()
    assert service.call("OpenSession", session="rear").session.generation == 0
    assert service.switch("fog", session="rear").generation == 1
    with pytest.raises(grpc.RpcError) as twice:
        service.call("OpenSession", session="rear")
    assert twice.value.code() == grpc.StatusCode.ALREADY_EXISTS
    service.call("CloseSession", session="rear")
    assert service.generation() == default


def test_a_prepared_task_is_resident_when_it_is_switched_to(service: TaskService, mesh: Mesh) -> None:
    service.switch("city")
    prepared = service.call("PrepareTask", task="rain", hold_ms=60_000)
    assert prepared.needed.blocks == mesh.task_set("rain").sum()
    switched = service.switch("rain")
    assert (switched.needed, switched.read.blocks) == (prepared.needed, 0)
    with pytest.raises(grpc.RpcError) as refused:
        service.call("PrepareTask", task="rain", hold_ms=3_600_001)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(refused.value).reason == "BAD_HOLD"


def test_hints_are_told_apart_from_what_cannot_be(service: TaskService) -> None:
    hints = [("fog", 0.5), ("park", float("nan")), ("submarine", 1.0), ("fog", 0.1), ("rain", 1.0)]
    told = service.call("HintTasks", hints=[{"task": task, "probability": p} for task, p in hints])
    assert (told.accepted, told.ignored) == (2, 3)
    forgotten = service.call("HintTasks")
    assert (forgotten.accepted, forgotten.ignored) == (0, 0)
