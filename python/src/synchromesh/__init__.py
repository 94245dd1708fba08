"""A Synchromesh daemon's clients: `Control` switches tasks, `Attachment` computes on the daemon's memory in place.

    with synchromesh.Control("/run/synchromesh/control.sock") as control:
        generation = control.switch_task("highway").generation
    with synchromesh.Attachment("/run/synchromesh/attach.sock") as session:
        with session.lease(generation) as lease:
            y = lease.matmul("layer.0.weight", x) + lease.base("layer.0.bias")

Not here: making bundles and running the daemon, which the program `synchromesh` does.
"""

from ._rpc_error import ControlError
from .attachment import Attachment
from .control import Control
from .dlpack import Tensor
from .errors import (
    AttachError,
    Closed,
    DescriptorLimit,
    LeaseError,
    NoTask,
    ProtocolError,
    Refused,
    Revoked,
    StaleGeneration,
)
from .lease import Lease, matmul
from .model import ABSENT, BaseTensor, BlockTensor, Model

__all__ = [
    "ABSENT",
    "AttachError",
    "Attachment",
    "BaseTensor",
    "BlockTensor",
    "Closed",
    "Control",
    "ControlError",
    "DescriptorLimit",
    "Lease",
    "LeaseError",
    "Model",
    "NoTask",
    "ProtocolError",
    "Refused",
    "Revoked",
    "StaleGeneration",
    "Tensor",
    "matmul",
]
