from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DAEMON_STATE_DRAINING: DaemonState
DAEMON_STATE_SERVING: DaemonState
DAEMON_STATE_UNSPECIFIED: DaemonState
DESCRIPTOR: _descriptor.FileDescriptor
SESSION_END_CALL: SessionEnd
SESSION_END_EXPIRED: SessionEnd
SESSION_END_OWNER: SessionEnd
SESSION_END_UNSPECIFIED: SessionEnd
SESSION_OWNER_ATTACHMENT: SessionOwner
SESSION_OWNER_UNSPECIFIED: SessionOwner
SLOT_STATE_FILLING: SlotState
SLOT_STATE_FREE: SlotState
SLOT_STATE_LOST: SlotState
SLOT_STATE_RESIDENT: SlotState
SLOT_STATE_UNSPECIFIED: SlotState
SLOT_STATE_VERIFYING: SlotState
SWITCH_MODE_IN_PLACE: SwitchMode
SWITCH_MODE_SEAMLESS: SwitchMode
SWITCH_MODE_UNSPECIFIED: SwitchMode
SWITCH_OUTCOME_ALREADY_ACTIVE: SwitchOutcome
SWITCH_OUTCOME_LOADED: SwitchOutcome
SWITCH_OUTCOME_PARTLY_PREFETCHED: SwitchOutcome
SWITCH_OUTCOME_RESIDENT: SwitchOutcome
SWITCH_OUTCOME_UNSPECIFIED: SwitchOutcome

class Amount(_message.Message):
    __slots__ = ["blocks", "bytes"]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    blocks: int
    bytes: int
    def __init__(self, blocks: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...

class AttachmentEnded(_message.Message):
    __slots__ = ["caller", "pid", "uid"]
    CALLER_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    caller: Client
    pid: int
    uid: int
    def __init__(self, pid: _Optional[int] = ..., uid: _Optional[int] = ..., caller: _Optional[_Union[Client, _Mapping]] = ...) -> None: ...

class BlockQuarantined(_message.Message):
    __slots__ = ["block"]
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    block: int
    def __init__(self, block: _Optional[int] = ...) -> None: ...

class CellRun(_message.Message):
    __slots__ = ["ahead", "count", "pinned", "state", "task_words"]
    AHEAD_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    TASK_WORDS_FIELD_NUMBER: _ClassVar[int]
    ahead: bool
    count: int
    pinned: bool
    state: SlotState
    task_words: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, count: _Optional[int] = ..., state: _Optional[_Union[SlotState, str]] = ..., pinned: bool = ..., ahead: bool = ..., task_words: _Optional[_Iterable[int]] = ...) -> None: ...

class Client(_message.Message):
    __slots__ = ["pid", "uid"]
    PID_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    pid: int
    uid: int
    def __init__(self, pid: _Optional[int] = ..., uid: _Optional[int] = ...) -> None: ...

class ClientAttached(_message.Message):
    __slots__ = ["pid", "uid"]
    PID_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    pid: int
    uid: int
    def __init__(self, pid: _Optional[int] = ..., uid: _Optional[int] = ...) -> None: ...

class ClientDetached(_message.Message):
    __slots__ = ["pid", "uid"]
    PID_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    pid: int
    uid: int
    def __init__(self, pid: _Optional[int] = ..., uid: _Optional[int] = ...) -> None: ...

class CloseSessionRequest(_message.Message):
    __slots__ = ["model", "session"]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    session: str
    def __init__(self, model: _Optional[str] = ..., session: _Optional[str] = ...) -> None: ...

class CloseSessionResponse(_message.Message):
    __slots__ = ["instance"]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    instance: str
    def __init__(self, instance: _Optional[str] = ...) -> None: ...

class ConfigReloaded(_message.Message):
    __slots__ = ["caller", "error"]
    CALLER_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    caller: Client
    error: str
    def __init__(self, error: _Optional[str] = ..., caller: _Optional[_Union[Client, _Mapping]] = ...) -> None: ...

class DaemonChanged(_message.Message):
    __slots__ = ["remark", "state", "version"]
    REMARK_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    remark: str
    state: DaemonState
    version: str
    def __init__(self, state: _Optional[_Union[DaemonState, str]] = ..., version: _Optional[str] = ..., remark: _Optional[str] = ...) -> None: ...

class EndAttachmentRequest(_message.Message):
    __slots__ = ["model", "pid", "session"]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    pid: int
    session: str
    def __init__(self, model: _Optional[str] = ..., session: _Optional[str] = ..., pid: _Optional[int] = ...) -> None: ...

class EndAttachmentResponse(_message.Message):
    __slots__ = ["ended", "instance"]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    ended: int
    instance: str
    def __init__(self, ended: _Optional[int] = ..., instance: _Optional[str] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ["attachment_ended", "block_quarantined", "client_attached", "client_detached", "config_reloaded", "daemon_changed", "given_up", "lease_revoked", "lost", "model", "prepared", "sequence", "session", "session_closed", "session_opened", "storage_recovered", "storage_stalled", "switch_failed", "switched", "time_us"]
    ATTACHMENT_ENDED_FIELD_NUMBER: _ClassVar[int]
    BLOCK_QUARANTINED_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ATTACHED_FIELD_NUMBER: _ClassVar[int]
    CLIENT_DETACHED_FIELD_NUMBER: _ClassVar[int]
    CONFIG_RELOADED_FIELD_NUMBER: _ClassVar[int]
    DAEMON_CHANGED_FIELD_NUMBER: _ClassVar[int]
    GIVEN_UP_FIELD_NUMBER: _ClassVar[int]
    LEASE_REVOKED_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PREPARED_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SESSION_CLOSED_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_OPENED_FIELD_NUMBER: _ClassVar[int]
    STORAGE_RECOVERED_FIELD_NUMBER: _ClassVar[int]
    STORAGE_STALLED_FIELD_NUMBER: _ClassVar[int]
    SWITCHED_FIELD_NUMBER: _ClassVar[int]
    SWITCH_FAILED_FIELD_NUMBER: _ClassVar[int]
    TIME_US_FIELD_NUMBER: _ClassVar[int]
    attachment_ended: AttachmentEnded
    block_quarantined: BlockQuarantined
    client_attached: ClientAttached
    client_detached: ClientDetached
    config_reloaded: ConfigReloaded
    daemon_changed: DaemonChanged
    given_up: TaskGivenUp
    lease_revoked: LeaseRevoked
    lost: EventsLost
    model: str
    prepared: TaskPrepared
    sequence: int
    session: str
    session_closed: SessionClosed
    session_opened: SessionOpened
    storage_recovered: StorageRecovered
    storage_stalled: StorageStalled
    switch_failed: SwitchFailed
    switched: TaskSwitched
    time_us: int
    def __init__(self, sequence: _Optional[int] = ..., time_us: _Optional[int] = ..., model: _Optional[str] = ..., session: _Optional[str] = ..., lost: _Optional[_Union[EventsLost, _Mapping]] = ..., switched: _Optional[_Union[TaskSwitched, _Mapping]] = ..., switch_failed: _Optional[_Union[SwitchFailed, _Mapping]] = ..., given_up: _Optional[_Union[TaskGivenUp, _Mapping]] = ..., prepared: _Optional[_Union[TaskPrepared, _Mapping]] = ..., session_opened: _Optional[_Union[SessionOpened, _Mapping]] = ..., session_closed: _Optional[_Union[SessionClosed, _Mapping]] = ..., client_attached: _Optional[_Union[ClientAttached, _Mapping]] = ..., client_detached: _Optional[_Union[ClientDetached, _Mapping]] = ..., lease_revoked: _Optional[_Union[LeaseRevoked, _Mapping]] = ..., block_quarantined: _Optional[_Union[BlockQuarantined, _Mapping]] = ..., storage_stalled: _Optional[_Union[StorageStalled, _Mapping]] = ..., daemon_changed: _Optional[_Union[DaemonChanged, _Mapping]] = ..., config_reloaded: _Optional[_Union[ConfigReloaded, _Mapping]] = ..., storage_recovered: _Optional[_Union[StorageRecovered, _Mapping]] = ..., attachment_ended: _Optional[_Union[AttachmentEnded, _Mapping]] = ...) -> None: ...

class EventPosition(_message.Message):
    __slots__ = ["instance", "sequence"]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    instance: str
    sequence: int
    def __init__(self, instance: _Optional[str] = ..., sequence: _Optional[int] = ...) -> None: ...

class EventsLost(_message.Message):
    __slots__ = ["count"]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    count: int
    def __init__(self, count: _Optional[int] = ...) -> None: ...

class Foresight(_message.Message):
    __slots__ = ["lead_us", "probability", "rank"]
    LEAD_US_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    lead_us: int
    probability: float
    rank: int
    def __init__(self, probability: _Optional[float] = ..., rank: _Optional[int] = ..., lead_us: _Optional[int] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ["model", "picture"]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PICTURE_FIELD_NUMBER: _ClassVar[int]
    model: str
    picture: bool
    def __init__(self, model: _Optional[str] = ..., picture: bool = ...) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ["instance", "models", "state", "uptime_ms", "version"]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    UPTIME_MS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    instance: str
    models: _containers.RepeatedCompositeFieldContainer[ModelStatus]
    state: DaemonState
    uptime_ms: int
    version: str
    def __init__(self, version: _Optional[str] = ..., state: _Optional[_Union[DaemonState, str]] = ..., uptime_ms: _Optional[int] = ..., models: _Optional[_Iterable[_Union[ModelStatus, _Mapping]]] = ..., instance: _Optional[str] = ...) -> None: ...

class HintTasksRequest(_message.Message):
    __slots__ = ["hints", "model", "session"]
    HINTS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    hints: _containers.RepeatedCompositeFieldContainer[TaskHint]
    model: str
    session: str
    def __init__(self, model: _Optional[str] = ..., session: _Optional[str] = ..., hints: _Optional[_Iterable[_Union[TaskHint, _Mapping]]] = ...) -> None: ...

class HintTasksResponse(_message.Message):
    __slots__ = ["accepted", "ignored", "instance"]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    IGNORED_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    accepted: int
    ignored: int
    instance: str
    def __init__(self, accepted: _Optional[int] = ..., ignored: _Optional[int] = ..., instance: _Optional[str] = ...) -> None: ...

class Lease(_message.Message):
    __slots__ = ["generation", "kept", "pid", "revoked", "superseded_ms", "task", "uid"]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    SUPERSEDED_MS_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    generation: int
    kept: Amount
    pid: int
    revoked: bool
    superseded_ms: int
    task: str
    uid: int
    def __init__(self, pid: _Optional[int] = ..., uid: _Optional[int] = ..., generation: _Optional[int] = ..., task: _Optional[str] = ..., kept: _Optional[_Union[Amount, _Mapping]] = ..., superseded_ms: _Optional[int] = ..., revoked: bool = ...) -> None: ...

class LeaseRevoked(_message.Message):
    __slots__ = ["generation", "pid", "task", "uid"]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    generation: int
    pid: int
    task: str
    uid: int
    def __init__(self, pid: _Optional[int] = ..., uid: _Optional[int] = ..., generation: _Optional[int] = ..., task: _Optional[str] = ...) -> None: ...

class LikelyTask(_message.Message):
    __slots__ = ["expected_ms", "probability", "task"]
    EXPECTED_MS_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    expected_ms: int
    probability: float
    task: str
    def __init__(self, task: _Optional[str] = ..., probability: _Optional[float] = ..., expected_ms: _Optional[int] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = []
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ["instance", "models"]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    instance: str
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ..., instance: _Optional[str] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ["base_bytes", "block_cols", "block_rows", "bundle_id", "dtype", "name", "tasks", "total"]
    BASE_BYTES_FIELD_NUMBER: _ClassVar[int]
    BLOCK_COLS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_ROWS_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    base_bytes: int
    block_cols: int
    block_rows: int
    bundle_id: str
    dtype: str
    name: str
    tasks: _containers.RepeatedCompositeFieldContainer[Task]
    total: Amount
    def __init__(self, name: _Optional[str] = ..., bundle_id: _Optional[str] = ..., block_rows: _Optional[int] = ..., block_cols: _Optional[int] = ..., dtype: _Optional[str] = ..., total: _Optional[_Union[Amount, _Mapping]] = ..., base_bytes: _Optional[int] = ..., tasks: _Optional[_Iterable[_Union[Task, _Mapping]]] = ...) -> None: ...

class ModelStatus(_message.Message):
    __slots__ = ["blocks_mismatched", "blocks_read_again", "bundle_id", "direct_io", "name", "picture", "pool", "prefetch", "quarantined_blocks", "request_bytes", "sessions", "stalled_ms", "storage"]
    BLOCKS_MISMATCHED_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_READ_AGAIN_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_ID_FIELD_NUMBER: _ClassVar[int]
    DIRECT_IO_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PICTURE_FIELD_NUMBER: _ClassVar[int]
    POOL_FIELD_NUMBER: _ClassVar[int]
    PREFETCH_FIELD_NUMBER: _ClassVar[int]
    QUARANTINED_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_BYTES_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    STALLED_MS_FIELD_NUMBER: _ClassVar[int]
    STORAGE_FIELD_NUMBER: _ClassVar[int]
    blocks_mismatched: int
    blocks_read_again: int
    bundle_id: str
    direct_io: bool
    name: str
    picture: Picture
    pool: PoolStatus
    prefetch: PrefetchStatus
    quarantined_blocks: int
    request_bytes: int
    sessions: _containers.RepeatedCompositeFieldContainer[SessionStatus]
    stalled_ms: int
    storage: StorageStatus
    def __init__(self, name: _Optional[str] = ..., bundle_id: _Optional[str] = ..., pool: _Optional[_Union[PoolStatus, _Mapping]] = ..., sessions: _Optional[_Iterable[_Union[SessionStatus, _Mapping]]] = ..., quarantined_blocks: _Optional[int] = ..., direct_io: bool = ..., blocks_read_again: _Optional[int] = ..., blocks_mismatched: _Optional[int] = ..., request_bytes: _Optional[int] = ..., storage: _Optional[_Union[StorageStatus, _Mapping]] = ..., prefetch: _Optional[_Union[PrefetchStatus, _Mapping]] = ..., picture: _Optional[_Union[Picture, _Mapping]] = ..., stalled_ms: _Optional[int] = ...) -> None: ...

class OpenSessionRequest(_message.Message):
    __slots__ = ["model", "owner", "session", "ttl_ms"]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    TTL_MS_FIELD_NUMBER: _ClassVar[int]
    model: str
    owner: SessionOwner
    session: str
    ttl_ms: int
    def __init__(self, model: _Optional[str] = ..., session: _Optional[str] = ..., ttl_ms: _Optional[int] = ..., owner: _Optional[_Union[SessionOwner, str]] = ...) -> None: ...

class OpenSessionResponse(_message.Message):
    __slots__ = ["instance", "session"]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    instance: str
    session: SessionStatus
    def __init__(self, session: _Optional[_Union[SessionStatus, _Mapping]] = ..., instance: _Optional[str] = ...) -> None: ...

class Picture(_message.Message):
    __slots__ = ["cells", "slots_per_cell", "tasks", "transitions"]
    CELLS_FIELD_NUMBER: _ClassVar[int]
    SLOTS_PER_CELL_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    TRANSITIONS_FIELD_NUMBER: _ClassVar[int]
    cells: _containers.RepeatedCompositeFieldContainer[CellRun]
    slots_per_cell: int
    tasks: _containers.RepeatedScalarFieldContainer[str]
    transitions: _containers.RepeatedCompositeFieldContainer[Transition]
    def __init__(self, tasks: _Optional[_Iterable[str]] = ..., cells: _Optional[_Iterable[_Union[CellRun, _Mapping]]] = ..., slots_per_cell: _Optional[int] = ..., transitions: _Optional[_Iterable[_Union[Transition, _Mapping]]] = ...) -> None: ...

class PoolStatus(_message.Message):
    __slots__ = ["base_bytes", "filling", "free", "huge_bytes", "locked", "lost", "pinned", "resident", "slot_bytes", "slots", "verifying"]
    BASE_BYTES_FIELD_NUMBER: _ClassVar[int]
    FILLING_FIELD_NUMBER: _ClassVar[int]
    FREE_FIELD_NUMBER: _ClassVar[int]
    HUGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOCKED_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    SLOT_BYTES_FIELD_NUMBER: _ClassVar[int]
    VERIFYING_FIELD_NUMBER: _ClassVar[int]
    base_bytes: int
    filling: int
    free: int
    huge_bytes: int
    locked: bool
    lost: int
    pinned: int
    resident: int
    slot_bytes: int
    slots: int
    verifying: int
    def __init__(self, slot_bytes: _Optional[int] = ..., base_bytes: _Optional[int] = ..., slots: _Optional[int] = ..., free: _Optional[int] = ..., filling: _Optional[int] = ..., verifying: _Optional[int] = ..., resident: _Optional[int] = ..., pinned: _Optional[int] = ..., locked: bool = ..., huge_bytes: _Optional[int] = ..., lost: _Optional[int] = ...) -> None: ...

class PrefetchStatus(_message.Message):
    __slots__ = ["budget_bytes", "hits", "ignored_hints", "late", "loaded", "prepared", "read", "switches", "used", "waiting", "wasted"]
    BUDGET_BYTES_FIELD_NUMBER: _ClassVar[int]
    HITS_FIELD_NUMBER: _ClassVar[int]
    IGNORED_HINTS_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    LOADED_FIELD_NUMBER: _ClassVar[int]
    PREPARED_FIELD_NUMBER: _ClassVar[int]
    READ_FIELD_NUMBER: _ClassVar[int]
    SWITCHES_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    WASTED_FIELD_NUMBER: _ClassVar[int]
    budget_bytes: int
    hits: int
    ignored_hints: int
    late: Amount
    loaded: Amount
    prepared: int
    read: Amount
    switches: int
    used: Amount
    waiting: Amount
    wasted: Amount
    def __init__(self, switches: _Optional[int] = ..., hits: _Optional[int] = ..., loaded: _Optional[_Union[Amount, _Mapping]] = ..., used: _Optional[_Union[Amount, _Mapping]] = ..., wasted: _Optional[_Union[Amount, _Mapping]] = ..., late: _Optional[_Union[Amount, _Mapping]] = ..., waiting: _Optional[_Union[Amount, _Mapping]] = ..., read: _Optional[_Union[Amount, _Mapping]] = ..., budget_bytes: _Optional[int] = ..., ignored_hints: _Optional[int] = ..., prepared: _Optional[int] = ...) -> None: ...

class PrepareTaskRequest(_message.Message):
    __slots__ = ["hold_ms", "model", "task"]
    HOLD_MS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    hold_ms: int
    model: str
    task: str
    def __init__(self, model: _Optional[str] = ..., task: _Optional[str] = ..., hold_ms: _Optional[int] = ...) -> None: ...

class PrepareTaskResponse(_message.Message):
    __slots__ = ["instance", "needed", "reused", "total_us"]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    NEEDED_FIELD_NUMBER: _ClassVar[int]
    REUSED_FIELD_NUMBER: _ClassVar[int]
    TOTAL_US_FIELD_NUMBER: _ClassVar[int]
    instance: str
    needed: Amount
    reused: Amount
    total_us: int
    def __init__(self, needed: _Optional[_Union[Amount, _Mapping]] = ..., reused: _Optional[_Union[Amount, _Mapping]] = ..., total_us: _Optional[int] = ..., instance: _Optional[str] = ...) -> None: ...

class SessionClosed(_message.Message):
    __slots__ = ["caller", "end"]
    CALLER_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    caller: Client
    end: SessionEnd
    def __init__(self, caller: _Optional[_Union[Client, _Mapping]] = ..., end: _Optional[_Union[SessionEnd, str]] = ...) -> None: ...

class SessionOpened(_message.Message):
    __slots__ = ["caller"]
    CALLER_FIELD_NUMBER: _ClassVar[int]
    caller: Client
    def __init__(self, caller: _Optional[_Union[Client, _Mapping]] = ...) -> None: ...

class SessionStatus(_message.Message):
    __slots__ = ["clients", "confidence", "draining_generations", "generation", "leases", "likely", "model", "owned_by", "owner", "pending_task", "remaining_ms", "session", "task"]
    CLIENTS_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    DRAINING_GENERATIONS_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    LIKELY_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    OWNED_BY_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    PENDING_TASK_FIELD_NUMBER: _ClassVar[int]
    REMAINING_MS_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    clients: int
    confidence: float
    draining_generations: int
    generation: int
    leases: _containers.RepeatedCompositeFieldContainer[Lease]
    likely: _containers.RepeatedCompositeFieldContainer[LikelyTask]
    model: str
    owned_by: SessionOwner
    owner: Client
    pending_task: str
    remaining_ms: int
    session: str
    task: str
    def __init__(self, model: _Optional[str] = ..., session: _Optional[str] = ..., task: _Optional[str] = ..., generation: _Optional[int] = ..., pending_task: _Optional[str] = ..., clients: _Optional[int] = ..., draining_generations: _Optional[int] = ..., likely: _Optional[_Iterable[_Union[LikelyTask, _Mapping]]] = ..., confidence: _Optional[float] = ..., leases: _Optional[_Iterable[_Union[Lease, _Mapping]]] = ..., remaining_ms: _Optional[int] = ..., owner: _Optional[_Union[Client, _Mapping]] = ..., owned_by: _Optional[_Union[SessionOwner, str]] = ...) -> None: ...

class StorageRecovered(_message.Message):
    __slots__ = ["stalled_ms"]
    STALLED_MS_FIELD_NUMBER: _ClassVar[int]
    stalled_ms: int
    def __init__(self, stalled_ms: _Optional[int] = ...) -> None: ...

class StorageStalled(_message.Message):
    __slots__ = ["switches"]
    SWITCHES_FIELD_NUMBER: _ClassVar[int]
    switches: int
    def __init__(self, switches: _Optional[int] = ...) -> None: ...

class StorageStatus(_message.Message):
    __slots__ = ["backend", "deferred_reads", "failed_reads", "fallback_reason", "read_bytes", "reads", "short_reads", "stray_completions"]
    BACKEND_FIELD_NUMBER: _ClassVar[int]
    DEFERRED_READS_FIELD_NUMBER: _ClassVar[int]
    FAILED_READS_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_REASON_FIELD_NUMBER: _ClassVar[int]
    READS_FIELD_NUMBER: _ClassVar[int]
    READ_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHORT_READS_FIELD_NUMBER: _ClassVar[int]
    STRAY_COMPLETIONS_FIELD_NUMBER: _ClassVar[int]
    backend: str
    deferred_reads: int
    failed_reads: int
    fallback_reason: str
    read_bytes: int
    reads: int
    short_reads: int
    stray_completions: int
    def __init__(self, backend: _Optional[str] = ..., fallback_reason: _Optional[str] = ..., reads: _Optional[int] = ..., read_bytes: _Optional[int] = ..., failed_reads: _Optional[int] = ..., short_reads: _Optional[int] = ..., deferred_reads: _Optional[int] = ..., stray_completions: _Optional[int] = ...) -> None: ...

class SwitchFailed(_message.Message):
    __slots__ = ["caller", "message", "reason", "request_id", "task", "trace_id"]
    CALLER_FIELD_NUMBER: _ClassVar[int]
    FROM_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    caller: Client
    message: str
    reason: str
    request_id: str
    task: str
    trace_id: str
    def __init__(self, task: _Optional[str] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., request_id: _Optional[str] = ..., trace_id: _Optional[str] = ..., caller: _Optional[_Union[Client, _Mapping]] = ..., **kwargs) -> None: ...

class SwitchTaskRequest(_message.Message):
    __slots__ = ["expected_generation", "mode", "model", "request_id", "session", "task"]
    EXPECTED_GENERATION_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    expected_generation: int
    mode: SwitchMode
    model: str
    request_id: str
    session: str
    task: str
    def __init__(self, model: _Optional[str] = ..., session: _Optional[str] = ..., task: _Optional[str] = ..., request_id: _Optional[str] = ..., expected_generation: _Optional[int] = ..., mode: _Optional[_Union[SwitchMode, str]] = ...) -> None: ...

class SwitchTaskResponse(_message.Message):
    __slots__ = ["evicted", "foresight", "generation", "in_place", "instance", "needed", "outcome", "prefetched", "read", "reused", "timing"]
    EVICTED_FIELD_NUMBER: _ClassVar[int]
    FORESIGHT_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    IN_PLACE_FIELD_NUMBER: _ClassVar[int]
    NEEDED_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    PREFETCHED_FIELD_NUMBER: _ClassVar[int]
    READ_FIELD_NUMBER: _ClassVar[int]
    REUSED_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    evicted: Amount
    foresight: Foresight
    generation: int
    in_place: bool
    instance: str
    needed: Amount
    outcome: SwitchOutcome
    prefetched: Amount
    read: Amount
    reused: Amount
    timing: SwitchTiming
    def __init__(self, generation: _Optional[int] = ..., outcome: _Optional[_Union[SwitchOutcome, str]] = ..., needed: _Optional[_Union[Amount, _Mapping]] = ..., reused: _Optional[_Union[Amount, _Mapping]] = ..., prefetched: _Optional[_Union[Amount, _Mapping]] = ..., read: _Optional[_Union[Amount, _Mapping]] = ..., evicted: _Optional[_Union[Amount, _Mapping]] = ..., timing: _Optional[_Union[SwitchTiming, _Mapping]] = ..., foresight: _Optional[_Union[Foresight, _Mapping]] = ..., in_place: bool = ..., instance: _Optional[str] = ...) -> None: ...

class SwitchTiming(_message.Message):
    __slots__ = ["plan_us", "publish_us", "queue_us", "read_us", "total_us", "verify_us"]
    PLAN_US_FIELD_NUMBER: _ClassVar[int]
    PUBLISH_US_FIELD_NUMBER: _ClassVar[int]
    QUEUE_US_FIELD_NUMBER: _ClassVar[int]
    READ_US_FIELD_NUMBER: _ClassVar[int]
    TOTAL_US_FIELD_NUMBER: _ClassVar[int]
    VERIFY_US_FIELD_NUMBER: _ClassVar[int]
    plan_us: int
    publish_us: int
    queue_us: int
    read_us: int
    total_us: int
    verify_us: int
    def __init__(self, queue_us: _Optional[int] = ..., plan_us: _Optional[int] = ..., read_us: _Optional[int] = ..., verify_us: _Optional[int] = ..., publish_us: _Optional[int] = ..., total_us: _Optional[int] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ["name", "needed", "retained"]
    NAME_FIELD_NUMBER: _ClassVar[int]
    NEEDED_FIELD_NUMBER: _ClassVar[int]
    RETAINED_FIELD_NUMBER: _ClassVar[int]
    name: str
    needed: Amount
    retained: float
    def __init__(self, name: _Optional[str] = ..., needed: _Optional[_Union[Amount, _Mapping]] = ..., retained: _Optional[float] = ...) -> None: ...

class TaskGivenUp(_message.Message):
    __slots__ = ["generation", "task"]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    generation: int
    task: str
    def __init__(self, task: _Optional[str] = ..., generation: _Optional[int] = ...) -> None: ...

class TaskHint(_message.Message):
    __slots__ = ["expires_in_ms", "probability", "starts_in_ms", "task"]
    EXPIRES_IN_MS_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    STARTS_IN_MS_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    expires_in_ms: int
    probability: float
    starts_in_ms: int
    task: str
    def __init__(self, task: _Optional[str] = ..., probability: _Optional[float] = ..., starts_in_ms: _Optional[int] = ..., expires_in_ms: _Optional[int] = ...) -> None: ...

class TaskPrepared(_message.Message):
    __slots__ = ["caller", "reason", "result", "task"]
    CALLER_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    caller: Client
    reason: str
    result: PrepareTaskResponse
    task: str
    def __init__(self, task: _Optional[str] = ..., result: _Optional[_Union[PrepareTaskResponse, _Mapping]] = ..., reason: _Optional[str] = ..., caller: _Optional[_Union[Client, _Mapping]] = ...) -> None: ...

class TaskSwitched(_message.Message):
    __slots__ = ["caller", "request_id", "result", "task", "trace_id"]
    CALLER_FIELD_NUMBER: _ClassVar[int]
    FROM_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    caller: Client
    request_id: str
    result: SwitchTaskResponse
    task: str
    trace_id: str
    def __init__(self, task: _Optional[str] = ..., result: _Optional[_Union[SwitchTaskResponse, _Mapping]] = ..., request_id: _Optional[str] = ..., trace_id: _Optional[str] = ..., caller: _Optional[_Union[Client, _Mapping]] = ..., **kwargs) -> None: ...

class Transition(_message.Message):
    __slots__ = ["probability", "to"]
    FROM_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    probability: float
    to: int
    def __init__(self, to: _Optional[int] = ..., probability: _Optional[float] = ..., **kwargs) -> None: ...

class WatchEventsRequest(_message.Message):
    __slots__ = ["after", "model", "only_new"]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ONLY_NEW_FIELD_NUMBER: _ClassVar[int]
    after: EventPosition
    model: str
    only_new: bool
    def __init__(self, model: _Optional[str] = ..., after: _Optional[_Union[EventPosition, _Mapping]] = ..., only_new: bool = ...) -> None: ...

class WatchEventsResponse(_message.Message):
    __slots__ = ["events", "instance"]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    instance: str
    def __init__(self, instance: _Optional[str] = ..., events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ...) -> None: ...

class SwitchMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class SwitchOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class SessionOwner(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class DaemonState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class SlotState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []

class SessionEnd(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = []
