"""Why a request waited in its lane, in words for its tenant. Pure."""

from __future__ import annotations

from fairlane.policy.vtc import Pick
from fairlane.schemas.decision import Reason


def why_waited(pick: Pick, waited_ms: int, slots: int, busy: int) -> Reason:
    """The main cause of a wait, with the figures behind it."""
    suggestion = None
    if pick.own_before == 0 and pick.others_before == 0:
        code, message = "slot_free", f"next in line when a slot was free, after {waited_ms} ms"
    elif pick.own_before >= pick.others_before:
        code = "own_lane"
        message = f"{pick.own_before} of the tenant's own requests were ahead; waited {waited_ms} ms"
        suggestion = "send fewer at once, or raise the pool's slots"
    else:
        code = "fair_share"
        message = (
            f"{pick.others_before} requests of tenants with less service for their weight, or of a higher "
            f"priority, went first; waited {waited_ms} ms"
        )
        suggestion = "raise the tenant's weight, the request's priority or the pool's slots"
    return Reason(code=code, message=message, limit=slots, used=busy, unit="slots", suggestion=suggestion)
