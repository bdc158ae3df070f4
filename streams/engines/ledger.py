"""What a process has of the partitions it owns: what is delivered, what is done, what may be committed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from fairlane.policy.offsets import CommitTracker
from fairlane.ports import Position, Record, Restored, TopicPartition


class _Partition:
    __slots__ = ("committed", "paused", "tp", "tracker")

    def __init__(self, tp: TopicPartition, restored: Restored, window: int) -> None:
        self.tp = tp
        self.tracker = CommitTracker(restored.offset, restored.finished, window=window)
        self.committed: Position | None = None
        self.paused = False


class Ledger:
    """The partitions a process owns. Not for threads: one event loop uses it.

    ``window`` bounds the unfinished records of each partition, ``batch`` is the most that is read at
    once; ``on_pause`` is told each time a partition reaches its bound.
    """

    def __init__(self, *, window: int, batch: int, on_pause: Callable[[], None]) -> None:
        self._window = window
        self._batch = min(batch, window)
        self._on_pause = on_pause
        self._partitions: dict[tuple[str, int], _Partition] = {}
        self._owned: frozenset[TopicPartition] = frozenset()
        self._unfinished = 0

    @property
    def unfinished(self) -> int:
        """Records delivered and not done, over all partitions."""
        return self._unfinished

    @property
    def partitions(self) -> frozenset[TopicPartition]:
        """The partitions owned."""
        return self._owned

    def add(self, partitions: Mapping[TopicPartition, Restored]) -> None:
        """Own these too."""
        for tp, restored in partitions.items():
            self._partitions[tp] = _Partition(tp, restored, self._window)
        self._owned = self._owned.union(partitions)

    def drop(self, partitions: Iterable[TopicPartition]) -> None:
        """Own these no longer: what is unfinished of them is another's now."""
        for tp in partitions:
            dropped = self._partitions.pop(tp, None)
            if dropped is not None:
                self._unfinished -= dropped.tracker.unfinished
                self._owned = self._owned.difference((tp,))

    def room(self) -> tuple[frozenset[TopicPartition], int]:
        """The partitions to read from, and how many records at most so that none exceeds its window.

        A partition near its window waits until half a batch fits, so that it does not make the
        batches of all others tiny.
        """
        least = max(1, self._batch // 2)
        limit = self._batch
        readable = []
        for partition in self._partitions.values():
            room = partition.tracker.room
            if room < least:
                if not partition.paused:
                    partition.paused = True
                    self._on_pause()
                continue
            partition.paused = False
            limit = min(limit, room)
            readable.append(partition.tp)
        return frozenset(readable), limit

    def take(self, tp: TopicPartition, records: Iterable[Record]) -> list[Record]:
        """Those of the records (in order) that are to be delivered now; of a partition not owned, none."""
        partition = self._partitions.get(tp)
        if partition is None:
            return []
        tracker = partition.tracker
        # A seek may hand out a record a second time while its first delivery is still at work.
        taken = [record for record in records if record.offset >= tracker.reached and tracker.take(record.offset)]
        self._unfinished += len(taken)
        return taken

    def done(self, record: Record) -> bool:
        """Every effect of the record is acknowledged. Returns whether that was news."""
        partition = self._partitions.get((record.topic, record.partition))
        if partition is None or not partition.tracker.is_open(record.offset):
            return False
        partition.tracker.done(record.offset)
        self._unfinished -= 1
        return True

    def is_unfinished(self, record: Record) -> bool:
        """Whether the record was delivered, is not done and is still owned."""
        partition = self._partitions.get((record.topic, record.partition))
        return partition is not None and partition.tracker.is_open(record.offset)

    def next_offsets(self) -> Mapping[TopicPartition, int]:
        """For each partition the next offset to read."""
        return {partition.tp: partition.tracker.reached for partition in self._partitions.values()}

    def bases(self) -> Mapping[TopicPartition, int]:
        """For each partition the offset below which everything is done."""
        return {partition.tp: partition.tracker.base for partition in self._partitions.values()}

    def positions(self, note: Callable[[TopicPartition], str]) -> Mapping[TopicPartition, Position]:
        """What to commit now: the positions that differ from those last committed."""
        positions = {}
        for partition in self._partitions.values():
            position = Position(*partition.tracker.position(note(partition.tp)))
            if position != partition.committed:
                positions[partition.tp] = position
        return positions

    def committed(self, positions: Mapping[TopicPartition, Position]) -> None:
        """The broker has these positions."""
        for tp, position in positions.items():
            partition = self._partitions.get(tp)
            if partition is not None:
                partition.committed = position
