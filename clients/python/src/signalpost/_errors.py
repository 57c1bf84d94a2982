"""Why something did not work, for programs and for people."""

from dataclasses import dataclass

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from signalpost.v1 import event_ingest_pb2 as pb
from signalpost.v1.error_reason_pb2 import ErrorReason

CODES = {code.value[0]: code for code in grpc.StatusCode}
PREFIX = "ERROR_REASON_"
DETAILS = "grpc-status-details-bin"

#: With these, the same event may be accepted when it is sent again.
TRANSIENT = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}

#: With these, opening a stream again changes nothing: a person has to.
PERMANENT = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNIMPLEMENTED,
}


@dataclass(frozen=True)
class FieldViolation:
    """A field that breaks a rule."""

    #: Its path in the request, for example `event.type`.
    field: str
    #: What is wrong and what would be right.
    description: str


class StreamClosed(Exception):
    """The stream was closed, or has ended by an error that `close` raises."""


class Refusal(Exception):
    """The server refused, or could not be reached until the deadline."""

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        reason: str | None = None,
        violations: tuple[FieldViolation, ...] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{message} ({code.name}{f', {reason}' if reason else ''})")
        #: The status code.
        self.code = code
        #: The problem and its remedy, for people.
        self.message = message
        #: The reason for programs, as in `ErrorReason` without its prefix, for example `QUEUE_FULL`.
        self.reason = reason
        #: Every violated field.
        self.violations = violations
        #: How many seconds the server asks to wait before the call is repeated.
        self.retry_after = retry_after

    @property
    def is_transient(self) -> bool:
        """Whether the same event may be accepted when it is sent again."""
        return self.code in TRANSIENT

    @classmethod
    def of_event(cls, error: pb.EventError) -> "Refusal":
        """The error of one event of a batch or a stream."""
        code = CODES.get(error.code, grpc.StatusCode.UNKNOWN)
        violations = tuple(FieldViolation(one.field, one.description) for one in error.field_violations)
        reason = ErrorReason.Name(error.reason).removeprefix(PREFIX)
        return cls(code, error.message, reason, violations)

    @classmethod
    def of_call(cls, error: grpc.aio.AioRpcError) -> "Refusal":
        """The error of a call as a whole."""
        reason: str | None = None
        violations: tuple[FieldViolation, ...] = ()
        retry_after: float | None = None
        for detail in _details(error):
            info = error_details_pb2.ErrorInfo()
            bad = error_details_pb2.BadRequest()
            retry = error_details_pb2.RetryInfo()
            if detail.Unpack(info):
                reason = info.reason
            elif detail.Unpack(bad):
                violations = tuple(FieldViolation(one.field, one.description) for one in bad.field_violations)
            elif detail.Unpack(retry):
                retry_after = retry.retry_delay.ToMilliseconds() / 1000
        return cls(error.code(), error.details() or "no message", reason, violations, retry_after)


def _details(error: grpc.aio.AioRpcError) -> list[any_pb2.Any]:
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS and isinstance(value, bytes):
            return list(status_pb2.Status.FromString(value).details)
    return []
