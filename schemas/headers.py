"""Record headers: CloudEvents 1.0.2 Kafka binary mode, W3C Trace Context, and our own internal ones.

CloudEvents: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
Trace Context: https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import re

Headers = tuple[tuple[str, bytes], ...]

TRACEPARENT = "traceparent"
TICKET = "fairlane-ticket"
DISPATCH = "fairlane-dispatch"
SOURCE = "fairlane-source"
"""``topic/partition/offset`` of the record this one was made from: lets a new owner of a partition
see which of its predecessor's effects already stand in the log."""
SLOT = "fairlane-slot"
"""``pool/group`` of the slot a terminal result frees."""
REDRIVE = "fairlane-redrive"
"""The dead letter a request was redriven from."""
IDENTITY = "fairlane-identity"
"""What identifies a request to admission: the ``topic/partition/offset`` of its record on ``requests``
and the fingerprint of its body, with a space between. The admission store is rebuilt from it."""
JOINED = "fairlane-joined"
"""On a ``joined`` decision: whose answer is waited for and what that answer repeats of the request."""

PASSED_ON_BYTES_MAX = 4_096
"""Tickets and identities have less than 2 KiB: topic names and ids are bounded."""

_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
_EMPTY_TRACE = b"0" * 32


def header(headers: Headers, name: str) -> bytes | None:
    """The first value of a header, or None."""
    for key, value in headers:
        if key == name:
            return value
    return None


def only(headers: Headers, *names: str) -> Headers:
    """The headers of these names, as they are; but for those that are longer than any that a stage writes, or a
    record that takes them over could be too large for the log.
    """
    return tuple(item for item in headers if item[0] in names and len(item[1]) <= PASSED_ON_BYTES_MAX)


def identity_header(source: bytes, fingerprint: str) -> tuple[str, bytes]:
    """The :data:`IDENTITY` header of a request's records."""
    return IDENTITY, source + b" " + fingerprint.encode()


def identity_of(headers: Headers) -> tuple[str, str] | None:
    """Source and fingerprint of the request; None where the header is absent or was not written by us."""
    source, space, fingerprint = (header(headers, IDENTITY) or b"").partition(b" ")
    if not space or not (source + fingerprint).isascii():
        return None
    return source.decode(), fingerprint.decode()


def trace_id(traceparent: bytes | None) -> str | None:
    """The trace id inside a ``traceparent``; None if it is absent or malformed (the field is optional)."""
    if traceparent is None:
        return None
    match = _TRACEPARENT.fullmatch(traceparent)
    return match[1].decode() if match and match[1] != _EMPTY_TRACE else None


def traceparent_of(headers: Headers) -> bytes | None:
    """The ``traceparent`` of a record if it is well formed."""
    value = header(headers, TRACEPARENT)
    return value if trace_id(value) is not None else None


def source_header(topic: str, partition: int, offset: int) -> tuple[str, bytes]:
    """The :data:`SOURCE` header for an effect of the given record."""
    return SOURCE, f"{topic}/{partition}/{offset}".encode()


def cloud_event(event_type: str, event_id: str, source: str, time: str) -> Headers:
    """The CloudEvents attributes of a record whose value is JSON."""
    return (
        ("ce_specversion", b"1.0"),
        ("ce_id", event_id.encode()),
        ("ce_type", event_type.encode()),
        ("ce_source", source.encode()),
        ("ce_time", time.encode()),
        ("content-type", b"application/json"),
    )
