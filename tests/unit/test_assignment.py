"""Who gets which partitions, and the claims members send each other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fairlane.policy.assignment import Assignment, Member, Partition, sticky, whole_topics
from fairlane.streams.assignor import PolicyAssignor, pool_assignor, sticky_assignor

NAMES = st.sampled_from(["a", "b", "c", "d", "e"])
TOPICS = st.dictionaries(st.sampled_from(["t1", "t2", "t3", "t4"]), st.integers(1, 7), min_size=1)


def members(*names: str, topics: frozenset[str]) -> dict[str, Member]:
    return {name: Member(topics) for name in names}


def again(assignment: dict[str, set[Partition]], epoch: int, topics: frozenset[str]) -> dict[str, Member]:
    return {name: Member(topics, frozenset(owned), epoch) for name, owned in assignment.items()}


@given(st.sets(NAMES, min_size=1), TOPICS)
def test_every_partition_gets_exactly_one_owner_and_shares_are_even(names: set[str], counts: dict[str, int]) -> None:
    assignment = sticky(members(*names, topics=frozenset(counts)), counts)
    owned = [tp for partitions in assignment.values() for tp in partitions]
    assert sorted(owned) == sorted((topic, p) for topic, n in counts.items() for p in range(n))
    for topic in counts:
        shares = [sum(t == topic for t, _ in partitions) for partitions in assignment.values()]
        assert max(shares) - min(shares) <= 1


@given(st.sets(NAMES, min_size=1), NAMES, TOPICS)
def test_when_a_member_joins_or_leaves_only_what_must_move_moves(
    names: set[str], other: str, counts: dict[str, int]
) -> None:
    topics = frozenset(counts)
    before = sticky(members(*names, topics=topics), counts)
    claims = again(before, 1, topics)
    if other in names:
        del claims[other]
    else:
        claims[other] = Member(topics)
    if not claims:
        return
    after = sticky(claims, counts)
    for name in claims.keys() & before.keys():
        lost, won = before[name] - after[name], after[name] - before[name]
        if other in names:
            assert not lost  # somebody left: nobody else gives anything up
        else:
            assert not won  # somebody came: only they win


@given(st.sets(NAMES, min_size=1), TOPICS)
def test_the_same_members_get_the_same_again(names: set[str], counts: dict[str, int]) -> None:
    topics = frozenset(counts)
    policy: Assignment
    for policy in (sticky, whole_topics):
        once = policy(members(*names, topics=topics), counts)
        assert policy(again(once, 1, topics), counts) == once


@given(st.sets(NAMES, min_size=1), TOPICS)
def test_a_whole_topic_has_one_owner_and_topics_are_spread(names: set[str], counts: dict[str, int]) -> None:
    assignment = whole_topics(members(*names, topics=frozenset(counts)), counts)
    owners = {
        topic: {name for name, owned in assignment.items() if any(t == topic for t, _ in owned)} for topic in counts
    }
    assert all(len(who) == 1 for who in owners.values())
    assert sum(len(owned) for owned in assignment.values()) == sum(counts.values())
    shares = [len({topic for topic, _ in owned}) for owned in assignment.values()]
    assert max(shares) - min(shares) <= 1


def test_one_pool_never_moves_while_its_owner_lives() -> None:
    topics = frozenset({"lanes.sim"})
    owner = again({"z": {("lanes.sim", p) for p in range(16)}}, 3, topics)
    assert whole_topics(owner | members("a", "b", topics=topics), {"lanes.sim": 16})["z"] == set(owner["z"].owned)


def test_a_member_that_was_away_does_not_win_back_what_was_given_on() -> None:
    topics = frozenset({"lanes.sim"})
    all_of_it = frozenset({("lanes.sim", 0)})
    back = {"returned": Member(topics, all_of_it, 4), "owner": Member(topics, all_of_it, 7)}
    assert whole_topics(back, {"lanes.sim": 1})["owner"] == {("lanes.sim", 0)}


def test_a_member_gets_nothing_of_a_topic_it_does_not_subscribe_to() -> None:
    mixed = {"a": Member(frozenset({"t1"})), "b": Member(frozenset({"t1", "t2"})), "c": Member(frozenset())}
    policy: Assignment
    for policy in (sticky, whole_topics):
        assignment = policy(mixed, {"t1": 4, "t2": 4, "t3": 4})
        assert {topic for topic, _ in assignment["a"]} <= {"t1"}
        assert {tp for tp in assignment["b"] if tp[0] == "t2"} == {("t2", p) for p in range(4)}
        assert assignment["c"] == set()


class Cluster:
    def __init__(self, **counts: int) -> None:
        self._counts = counts

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return set(range(self._counts[topic])) if topic in self._counts else None


def rounds(cluster: Cluster, assignors: dict[str, PolicyAssignor], topics: list[str]) -> dict[str, set[Partition]]:
    """One rebalance as aiokafka does it: metadata from all, assignment by one, told to all."""
    metadata = {name: assignor.metadata(topics) for name, assignor in assignors.items()}
    leader = next(iter(assignors.values()))
    assignment = leader.assign(cluster, metadata)
    for name, assignor in assignors.items():
        assignor.on_assignment(assignment[name])
    return {name: {(tp.topic, tp.partition) for tp in each.partitions()} for name, each in assignment.items()}


def test_what_members_had_travels_with_them_through_rebalances() -> None:
    cluster = Cluster(lanes=16)
    one, two = pool_assignor(), pool_assignor()
    first = rounds(cluster, {"z": one}, ["lanes"])
    assert len(first["z"]) == 16
    second = rounds(cluster, {"a": two, "z": one}, ["lanes"])
    assert second == {"a": set(), "z": first["z"]}
    third = rounds(cluster, {"a": two}, ["lanes"])
    assert third["a"] == first["z"]
    # The old owner comes back with an old claim.
    assert rounds(cluster, {"a": two, "z": one}, ["lanes"]) == {"a": first["z"], "z": set()}


def test_a_topic_the_cluster_does_not_show_yet_is_left_out() -> None:
    assert rounds(Cluster(t1=2), {"a": sticky_assignor()}, ["t1", "t9"]) == {"a": {("t1", 0), ("t1", 1)}}


def test_a_member_of_another_make_claims_nothing_and_gets_its_share() -> None:
    stranger = sticky_assignor().metadata(["t"])
    stranger.user_data = b"\x00\x01 not ours"
    ours = sticky_assignor()
    assignment = ours.assign(Cluster(t=4), {"stranger": stranger, "ours": ours.metadata(["t"])})
    assert [len(assignment[name].partitions()) for name in ("ours", "stranger")] == [2, 2]
