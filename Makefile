# The two commands of the README are `make test` and `cargo run --release -- start`; the rest are their parts.
# The steps of `make test` run in this order: what fails in seconds first, what needs the built binary last.

CARGO ?= cargo
TEST_ENV := $(abspath $(or $(OTTLA_TEST_ENV),.test-env))
PYTEST := $(TEST_ENV)/python/bin/python -m pytest
# Two brokers at once, one for each worker, is what two cores carry without tests running into their time limits.
STOCK_WORKERS ?= 2
STOCK_ARGS ?=

.PHONY: test setup fmt clippy unit binary stock stock-kafka crash crash-power crash-short power-cut power-cut-short

test: setup fmt clippy unit binary power-cut-short crash-short stock

# What the tests drive Ottla with: see the head of the script.
setup:
	tests/setup.sh

fmt:
	$(CARGO) fmt --all --check

clippy:
	$(CARGO) clippy --workspace --all-targets -- -D warnings

unit:
	$(CARGO) test --workspace

# The tests with clients use the debug build: its assertions are on, and `unit` has already compiled most of it.
binary:
	$(CARGO) build -p ottla

# Real clients and Kafka's own tools against the binary.
stock: setup binary
	$(PYTEST) tests/stock -n $(STOCK_WORKERS) --dist worksteal $(STOCK_ARGS)

# The same tests against Apache Kafka, to tell a wrong test from a wrong broker.
stock-kafka: setup
	$(PYTEST) tests/stock --broker kafka -n $(STOCK_WORKERS) --dist worksteal $(STOCK_ARGS)

# Cuts the power under the metadata store, POWER_CUTS times (200); needs root. See the head of the script.
power-cut:
	tests/crash/power_cut.sh

# The same in a few seconds, and where power cannot be cut it says so.
power-cut-short:
	POWER_CUTS=$${POWER_CUTS:-6} tests/crash/power_cut.sh --may-skip

PYTHON := $(TEST_ENV)/python/bin/python

# Kills a node under load, CRASHES times (50), and looks for every record it acknowledged.
crash: setup binary
	$(PYTHON) tests/crash/broker_crash.py --crashes $(or $(CRASHES),50)

# The same with power cuts, which take away what was not synced; needs root.
crash-power: setup binary
	$(PYTHON) tests/crash/broker_crash.py --power --crashes $(or $(CRASHES),50)

# Faults of disks and configurations, and a few crashes of both kinds; where power cannot be cut it says so.
crash-short: setup binary
	$(PYTEST) tests/crash -n $(STOCK_WORKERS)
	$(PYTHON) tests/crash/broker_crash.py --crashes 5
	$(PYTHON) tests/crash/broker_crash.py --power --crashes 3 --may-skip
