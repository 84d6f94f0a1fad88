"""The checks of this suite fail when they must: one that cannot fail proves nothing."""

import pytest
from cluster import batches
from load import Acknowledged, LostPromise, check_records, value_of


def told(idempotent: bool = True) -> Acknowledged:
    return Acknowledged(idempotent, {0: (0, 0), 2: (0, 1), 1: (1, 0), 3: (1, 1)})


def kept() -> dict[int, list[tuple[int, bytes]]]:
    return {0: [(0, value_of(0)), (1, value_of(2))], 1: [(0, value_of(1)), (1, value_of(3))]}


def test_what_is_kept_passes():
    assert check_records(told(), kept()) == 4


def lost(records):
    records[1].pop()


def changed(records):
    records[0][1] = (1, value_of(2)[:-1] + b"x")


def moved(records):
    records[0][1], records[1][1] = (1, records[1][1][1]), (1, records[0][1][1])


def with_a_gap(records):
    records[0][1] = (2, records[0][1][1])


@pytest.mark.short
@pytest.mark.parametrize("damage", [lost, changed, moved, with_a_gap])
def test_damage_is_seen(damage):
    for idempotent in (True, False):
        records = kept()
        damage(records)
        with pytest.raises(LostPromise):
            check_records(told(idempotent), records)


@pytest.mark.short
def test_a_duplicate_counts_only_for_an_idempotent_producer():
    records = kept()
    records[0].append((2, value_of(2)))
    with pytest.raises(LostPromise):
        check_records(told(), records)
    check_records(told(idempotent=False), records)


@pytest.mark.short
def test_a_record_acknowledged_without_its_offset_must_be_there():
    expected = told()
    expected.places[5] = (1, -1)
    with pytest.raises(LostPromise):
        check_records(expected, kept())
    records = kept()
    records[1].append((2, value_of(5)))
    check_records(expected, records)


@pytest.mark.short
def test_what_retention_deleted_is_not_missed_and_the_rest_is():
    records = kept()
    del records[0][0]
    assert check_records(told(), records, {0: 1}) == 3
    records[0].clear()
    with pytest.raises(LostPromise):
        check_records(told(), records, {0: 1})


@pytest.mark.short
def test_replicas_are_compared_by_bytes(tmp_path):
    def batch(base: int, body: bytes) -> bytes:
        rest = body.ljust(60, b".")
        return base.to_bytes(8, "big") + len(rest).to_bytes(4, "big") + rest
    for name, body in [("a", b"one"), ("b", b"one"), ("c", b"two")]:
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{0:020}.log").write_bytes(batch(0, b"zero") + batch(1, body) + bytes(100))
    assert batches(tmp_path / "a") == batches(tmp_path / "b") != batches(tmp_path / "c")
    assert set(batches(tmp_path / "a")) == {0, 1}
