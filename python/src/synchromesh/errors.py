"""What can go wrong on the data plane, by what the caller can do about it.

Not here: `ControlError`, which a refused gRPC call raises.
"""

from __future__ import annotations


class AttachError(Exception):
    """The base of all errors of the data plane."""


class Refused(AttachError):
    """The daemon does not attach this client. `status` is a gRPC status code, `text` says why."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"the daemon refuses (status {status}): {text}")
        self.status = status
        self.text = text


class Closed(AttachError):
    """The daemon is gone, or has ended the membership: attach again, once it is back."""


class Revoked(AttachError):
    """A lease lasted longer than the daemon's patience: this attachment is of no use any more, attach again."""


class NoTask(AttachError):
    """The session has no task at the moment: switch to one, or wait for one."""


class StaleGeneration(AttachError):
    """The session is not at the generation that was asked for, so that cannot be leased. `found` is where it is."""

    def __init__(self, wanted: int, found: int) -> None:
        super().__init__(f"generation {wanted} was asked for, but the session is at {found}")
        self.wanted = wanted
        self.found = found


class LeaseError(AttachError):
    """Wrong use of leases: a second one while one is held, or access through one that is over."""


class DescriptorLimit(AttachError):
    """This process cannot take in the descriptors that the daemon sends: raise RLIMIT_NOFILE (`ulimit -n`)."""


class ProtocolError(AttachError):
    """The peer is none that this client understands, or what it hands out does not hold together."""
