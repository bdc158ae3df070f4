"""What the dispatcher remembers beside a request: while it waits in its lane, and while it holds a slot."""

from __future__ import annotations

from typing import NamedTuple

from fairlane.policy.vtc import Charge
from fairlane.ports import Done, Record
from fairlane.schemas.job import Ticket


class LaneEntry(NamedTuple):
    """What rides on a waiting request. ``source`` names the record, ``admission`` what the gate made it from: the
    same if it wrote it twice. A request id that is used again when its answer is forgotten is another admission.
    """

    record: Record
    source: bytes
    ticket: Ticket
    admission: bytes
    done: Done


class BoundEntry(NamedTuple):
    """What is remembered of a request that holds a slot."""

    charge: Charge
    admission: bytes
