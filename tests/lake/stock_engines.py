"""The stock-market pipeline of clients/examples on S3 and Glue (strict moto), and then what each engine says of the table: PyIceberg,
DuckDB, ClickHouse and Trino, of which Athena is made.

    make lake-engines STOCK_CSV=path/to/indexProcessed.csv STOCK_ROUNDS=20

Prints a column for each engine beside one of what was sent, and ends with 1 if any says anything else.

The sums are exact. One of doubles depends on the order in which rows are added up, which no two engines share; so each double is
taken as the decimal that it is written as, and the decimals are added.
"""

import argparse
import os
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLES = REPOSITORY / "clients" / "examples"
sys.path[:0] = [str(REPOSITORY / "tests" / "stock"), str(EXAMPLES)]

import engines  # noqa: E402
import stock_tables  # noqa: E402
import trino  # noqa: E402
from harness import environment  # noqa: E402
from harness.aws import Aws  # noqa: E402

BUCKET, TOPIC = "stocks", "stocks"


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=Path)
    parser.add_argument("--rounds", type=int, default=20, help="how often the file is sent (default: 20)")
    return parser.parse_args()


def run_pipeline(arguments, endpoint: str) -> None:
    command = [sys.executable, EXAMPLES / "stock_tables.py", arguments.csv, "--rounds", str(arguments.rounds), "--topic", TOPIC,
               "--ottla", environment.ottla_binary(), "--tables", f"s3://{BUCKET}/ottla", "--endpoint", endpoint]
    subprocess.run(command, check=True)


def ask(engine, table: engines.InGlue, columns: list[str]) -> dict:
    begun = time.monotonic()
    found = engine.exact_sums(table, columns)
    print(f"{engine.name} answered in {time.monotonic() - begun:.1f} s", flush=True)
    return found


def text(value: int | Decimal) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value.normalize():,f}"


def print_table(columns: dict[str, dict]) -> bool:
    """A column for each engine; False if one differs from the first."""
    sent = next(iter(columns.values()))
    lines = [["", *columns]]
    for what, value in sent.items():
        lines.append([what, *(text(found[what]) for found in columns.values())])
    differing = [name for name, found in columns.items() if found != sent]
    lines.append(["", "", *("DIFFERENT" if name in differing else "equal" for name in list(columns)[1:])])
    widths = [max(map(len, cells)) for cells in zip(*lines)]
    for line in lines:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths)))
    return not differing


def main() -> int:
    arguments = parse_arguments()
    os.environ |= {"AWS_ACCESS_KEY_ID": engines.ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": engines.SECRET_KEY,
                   "AWS_DEFAULT_REGION": engines.REGION}
    rows, sums = stock_tables.sums_of_csv(arguments.csv)
    count = rows * arguments.rounds
    sent = {"rows": count, engines.DISTINCT: count}
    sent |= {f"sum {column}": total * arguments.rounds for column, total in sums.items()}
    aws = Aws(BUCKET)
    try:
        run_pipeline(arguments, aws.url)
        table = engines.InGlue(aws.url, stock_tables.DATABASE, TOPIC)
        columns = {"sent": sent}
        for make in [engines.PyIceberg, engines.DuckDb, engines.ChDb,
                     lambda: trino.TrinoIceberg(aws.url), lambda: trino.TrinoHive(aws.url)]:
            engine = make()
            try:
                columns[engine.name] = ask(engine, table, list(sums))
            finally:
                engine.close()
    finally:
        aws.end()
    return 0 if print_table(columns) else 1


if __name__ == "__main__":
    sys.exit(main())
