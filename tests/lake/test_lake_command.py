"""`ottla lake`: what it says of tables, by the broker's word for where they are."""

import json

from harness.process import wait_until


def status(ottla, *topics: str) -> list[dict]:
    return [json.loads(line) for line in ottla("lake", "status", "--json", *topics).lines]


def test_status_says_how_far_a_table_is(ottla):
    ottla("topics", "create", "plain")
    assert status(ottla) == []
    ottla("topics", "create", "Stock.Rows", "--partitions", "3", "--config", "ottla.lake.enable=true",
          "--config", "ottla.lake.lag.ms=20000")
    [new] = status(ottla)
    assert (new["table"], new["rows"], new["lag_records"]) == ("stock_rows", 0, 0)
    lines = [json.dumps({"id": number}) for number in range(300)] + ["not JSON"] * 7
    ottla("produce", "Stock.Rows", stdin="\n".join(lines) + "\n")
    [behind] = status(ottla)
    assert (behind["lag_records"], behind["exists"]) == (307, False) and 0 <= behind["lag_seconds"] < 60
    wait_until(lambda: status(ottla, "Stock.Rows")[0]["lag_records"] == 0, 60, "all records in the table", poll_s=0.5)
    [done] = status(ottla)
    assert (done["rows"], done["quarantined"], done["lag_seconds"]) == (300, 7, None)
    assert done["exists"] and done["files"] > 0 and done["bytes"] > 0 and done["snapshots"] > 0
    header, row = ottla("lake", "status").lines
    assert header.split()[:3] == ["TOPIC", "TABLE", "ROWS"] and row.split()[:3] == ["Stock.Rows", "ottla.stock_rows", "300"]


def test_what_is_not_there_is_said(ottla):
    assert "there is none" in ottla("lake", "status", "nowhere", code=1).stderr
    ottla("topics", "create", "plain")
    assert "ottla.lake.enable is not true" in ottla("lake", "status", "plain", code=1).stderr
    wrong = ottla("lake", "--override", "ottla.tier.url=ftp://nowhere", "status", code=2)
    assert "ottla.tier.url" in wrong.stderr
