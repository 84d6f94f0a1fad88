"""The example of clients/examples: a producer, a topic with a table, and SQL that counts while rows come."""

import sys
from decimal import Decimal

import engines
from harness import environment
from harness.process import run

_EXAMPLES = environment.REPOSITORY / "clients" / "examples"


def run_example(*arguments: str) -> str:
    rows = environment.stock_csv() or _EXAMPLES / "data" / "stocks.csv"
    ran = run([sys.executable, str(_EXAMPLES / "stock_tables.py"), "--ottla", str(environment.ottla_binary()),
               "--rounds", "3", *arguments, str(rows)], timeout_s=240)
    return ran.stdout


def test_every_row_of_the_stocks_is_in_the_table_once():
    said = run_example()
    assert "the table has every row once" in said
    # What `ottla lake status` said at the end: nothing is missing.
    assert said.splitlines()[-1].split()[0] == "stocks"


def test_every_row_is_in_the_table_that_glue_names(aws, monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", engines.REGION)
    said = run_example("--tables", "s3://lake/ottla", "--endpoint", aws.url)
    assert "the table has every row once" in said


def test_an_engine_that_says_anything_else_is_named(capsys):
    import stock_engines

    sent = {"rows": 20, engines.DISTINCT: 20, "sum open": Decimal("7.50")}
    equal, other = sent | {"sum open": Decimal("7.5")}, sent | {"sum open": Decimal("7.500000000000001")}
    assert stock_engines.print_table({"sent": sent, "one": equal})
    assert capsys.readouterr().out.split()[-1] == "equal"
    assert not stock_engines.print_table({"sent": sent, "one": equal, "another": other})
    assert capsys.readouterr().out.split()[-2:] == ["equal", "DIFFERENT"]
