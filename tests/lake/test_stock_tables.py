"""The example of clients/examples: a producer, a topic with a table, and SQL that counts while rows come."""

import sys

from harness import environment
from harness.process import run

_EXAMPLES = environment.REPOSITORY / "clients" / "examples"


def test_every_row_of_the_stocks_is_in_the_table_once():
    rows = environment.stock_csv() or _EXAMPLES / "data" / "stocks.csv"
    ran = run([sys.executable, str(_EXAMPLES / "stock_tables.py"), "--ottla", str(environment.ottla_binary()),
               "--rounds", "3", str(rows)], timeout_s=240)
    assert "the table has every row once" in ran.stdout
    # What `ottla lake status` said at the end: nothing is missing.
    assert ran.stdout.splitlines()[-1].split()[0] == "stocks"
