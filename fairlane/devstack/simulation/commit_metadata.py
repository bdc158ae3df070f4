"""What stands beside a committed offset, read a second time: from the format alone, apart from ``policy/offsets.py``.

The metadata is ``<set>|<note>``. The set names what is finished beyond the offset: empty; ``r`` and pairs of a gap
and a length, as unsigned LEB128 numbers; or ``b`` and a bit an offset, the lowest bit of the first byte for the
offset itself. Both are in base64 with the alphabet for addresses.
"""

from __future__ import annotations

import base64


def finished_beyond(offset: int, metadata: str) -> set[int]:
    """The offsets that a commit says are finished beyond itself. Raises ValueError if it cannot be read."""
    if not metadata:
        return set()
    coded, bar, _note = metadata.partition("|")
    if not bar:
        raise ValueError("no note")
    if not coded:
        return set()
    kind, octets = coded[0], base64.urlsafe_b64decode(coded[1:])
    if kind == "b":
        bits = int.from_bytes(octets, "little")
        return {offset + place for place in range(bits.bit_length()) if bits >> place & 1}
    if kind != "r":
        raise ValueError(f"sets of kind {kind!r} are unknown")
    numbers = _numbers(octets)
    if len(numbers) % 2:
        raise ValueError("a gap without a length")
    finished: set[int] = set()
    at = offset
    for gap, length in zip(numbers[::2], numbers[1::2], strict=True):
        at += gap
        finished.update(range(at, at + length))
        at += length
    return finished


def _numbers(octets: bytes) -> list[int]:
    numbers, digits = list[int](), list[int]()
    for octet in octets:
        digits.append(octet % 128)
        if octet < 128:
            numbers.append(sum(digit * 128**place for place, digit in enumerate(digits)))
            digits = []
    if digits:
        raise ValueError("a number is cut off")
    return numbers
