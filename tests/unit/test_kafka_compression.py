"""Decompression within a bound."""

from __future__ import annotations

import struct
import tracemalloc

import cramjam
import pytest

from fairlane.adapters.kafka_compression import Damaged, TooMuch, decompressed
from tests.bad_input.raw_batch import CODECS, bomb, compress

TEXT = b"some text of a request " * 20_000
HEADER_BYTES = 61


@pytest.mark.parametrize("codec", CODECS)
def test_what_fits_comes_back_behind_what_was_asked_to_stand_before_it(codec: str) -> None:
    data = compress(codec, TEXT)
    for limit in (len(TEXT), 10 * len(TEXT)):
        assert decompressed(CODECS[codec], memoryview(data), limit, b"before ") == b"before " + TEXT


@pytest.mark.parametrize("codec", CODECS)
def test_one_byte_over_the_bound_is_too_much(codec: str) -> None:
    with pytest.raises(TooMuch):
        decompressed(CODECS[codec], memoryview(compress(codec, TEXT)), len(TEXT) - 1)


@pytest.mark.parametrize("codec", CODECS)
def test_a_bomb_takes_no_more_memory_than_the_bound(codec: str) -> None:
    data = bomb(codec, 40_000_000)[HEADER_BYTES:]
    limit = 1_000_000
    tracemalloc.start()
    try:
        with pytest.raises(TooMuch):
            decompressed(CODECS[codec], memoryview(data), limit)
        assert tracemalloc.get_traced_memory()[1] < 2 * limit + 2 * len(data)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("codec", CODECS)
def test_what_the_codec_did_not_write_is_damaged(codec: str) -> None:
    for data in (b"\xff" * 100, compress(codec, TEXT)[:-40]):
        with pytest.raises(Damaged):
            decompressed(CODECS[codec], memoryview(data), 10 * len(TEXT))


def test_a_codec_nobody_knows_is_damage() -> None:
    with pytest.raises(Damaged):
        decompressed(7, memoryview(b"x"), 100)


def test_snappy_without_javas_frames_is_read_and_bounded_too() -> None:
    data = memoryview(bytes(cramjam.snappy.compress_raw(TEXT)))
    assert decompressed(CODECS["snappy"], data, len(TEXT)) == TEXT
    with pytest.raises(TooMuch):
        decompressed(CODECS["snappy"], data, len(TEXT) - 1)


@pytest.mark.parametrize("size", [-4, 1_000_000])
def test_a_frame_of_snappy_that_lies_about_its_size_is_damage(size: int) -> None:
    data = compress("snappy", TEXT)
    with pytest.raises(Damaged):
        decompressed(CODECS["snappy"], memoryview(data[:16] + struct.pack(">i", size) + data[20:]), 10 * len(TEXT))
