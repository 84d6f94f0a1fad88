# The two commands of the README are `make test` and `cargo run --release -- start`; the rest are their parts.
# The steps of `make test` run in this order: what fails in seconds first, what needs the built binary last.

CARGO ?= cargo
TEST_ENV := $(abspath $(or $(OTTLA_TEST_ENV),.test-env))
PYTEST := $(TEST_ENV)/python/bin/python -m pytest
# Two brokers at once, one for each worker, is what two cores carry without tests running into their time limits.
STOCK_WORKERS ?= 2
STOCK_ARGS ?=

TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
# Says when each step begins, so that a log tells where the time went.
BEGIN = @echo "== $@ at $$(date +%T)"

.PHONY: test setup fmt clippy unit binary stock stock-kafka crash crash-power lake-crash crash-short power-cut power-cut-short compare compare-cluster cluster cluster-test cluster-short cluster-kafka cluster-targets lake
.PHONY: sim sim-short sim-build tier-large tier-bench lake-bench stock-tables lake-engines lake-query
.NOTPARALLEL:

test: setup fmt clippy unit power-cut-short crash-short cluster-short stock lake sim-short

# What the tests drive Ottla with: see the head of the script.
setup:
	$(BEGIN)
	tests/setup.sh

fmt:
	$(BEGIN)
	$(CARGO) fmt --all --check

clippy:
	$(BEGIN)
	$(CARGO) clippy --workspace --all-targets -- -D warnings

unit: setup binary
	$(BEGIN)
	OTTLA_TEST_ENV=$(TEST_ENV) $(CARGO) test --workspace

# Everything that any of the tests needs. One build for all of them: built package by package, the features of the
# dependencies would differ, and most of the workspace would be compiled once more for each set of them.
# The tests with clients use this debug build: its assertions are on.
binary:
	$(BEGIN)
	$(CARGO) build --workspace --all-targets

# Real clients and Kafka's own tools against the binary.
stock: setup binary
	$(BEGIN)
	$(PYTEST) tests/stock -n $(STOCK_WORKERS) --dist worksteal $(STOCK_ARGS)

# Engines of others read the tables that topics become.
lake: setup binary
	$(BEGIN)
	$(PYTEST) tests/lake -n $(STOCK_WORKERS) --dist worksteal

# SQL by the engine within the binary, beside DuckDB's. Not a part of `make test`: the engine takes longer to compile than all the rest,
# and some of the rest is compiled once more beside it.
lake-query: setup
	$(BEGIN)
	$(CARGO) build --workspace --all-targets --features ottla/query
	$(CARGO) test --workspace --lib --features ottla/query -- query
	OTTLA_TEST_QUERY=1 $(PYTEST) tests/lake/test_lake_query.py -n $(STOCK_WORKERS)

# The rows of a stock-market CSV in a topic, and in SQL while they come: STOCK_CSV=path, STOCK_ROUNDS=10.
stock-tables: setup
	$(BEGIN)
	$(CARGO) build -p ottla
	$(PYTHON) clients/examples/stock_tables.py --ottla $(TARGET)/debug/ottla --rounds $(or $(STOCK_ROUNDS),10) \
	  $(or $(STOCK_CSV),clients/examples/data/stocks.csv)

# The same on S3 and Glue (strict moto), and then PyIceberg, DuckDB, ClickHouse and Trino must say of the table what was sent, in rows and
# sums: see the head of the script. Installs Trino, half a gigabyte.
lake-engines: binary
	$(BEGIN)
	tests/setup.sh --with-trino
	$(PYTHON) tests/lake/stock_engines.py --rounds $(or $(STOCK_ROUNDS),20) $(or $(STOCK_CSV),clients/examples/data/stocks.csv)

# The same tests against Apache Kafka, to tell a wrong test from a wrong broker.
stock-kafka: setup
	$(BEGIN)
	$(PYTEST) tests/stock --broker kafka -n $(STOCK_WORKERS) --dist worksteal $(STOCK_ARGS)

# Cuts the power under the metadata store, POWER_CUTS times (200); needs root. See the head of the script.
power-cut: binary
	$(BEGIN)
	CRASH_WRITER=$(TARGET)/debug/examples/crash_writer tests/crash/power_cut.sh

# The same in a few seconds, and where power cannot be cut it says so.
power-cut-short: binary
	$(BEGIN)
	CRASH_WRITER=$(TARGET)/debug/examples/crash_writer POWER_CUTS=$${POWER_CUTS:-6} tests/crash/power_cut.sh --may-skip

PYTHON := $(TEST_ENV)/python/bin/python

# Kills a node under load, CRASHES times (50), and looks for every record it acknowledged.
crash: setup binary
	$(BEGIN)
	$(PYTHON) tests/crash/broker_crash.py --crashes $(or $(CRASHES),50)

# The same with power cuts, which take away what was not synced; needs root.
crash-power: setup binary
	$(BEGIN)
	$(PYTHON) tests/crash/broker_crash.py --power --crashes $(or $(CRASHES),50)

# Kills the committers of topics' tables, CRASHES times (200), while answers of Glue and S3 get lost; then three engines look for
# every acknowledged record in the tables, once. About 20 minutes.
lake-crash: setup binary
	$(BEGIN)
	$(PYTHON) tests/crash/lake_crash.py --crashes $(or $(CRASHES),200)

# Faults of disks and configurations, and a few crashes of each kind; where power cannot be cut it says so.
crash-short: setup binary
	$(BEGIN)
	$(PYTEST) tests/crash -n $(STOCK_WORKERS)
	$(PYTHON) tests/crash/broker_crash.py --crashes 5
	$(PYTHON) tests/crash/lake_crash.py --crashes 2 --tables 1
	$(PYTHON) tests/crash/broker_crash.py --power --crashes 3 --may-skip

# Three nodes on this machine as one cluster, until Ctrl-C: clients connect to 127.0.0.1:19092.
cluster:
	$(CARGO) build --release -p ottla
	config/cluster/start.sh $(TARGET)/release/ottla

# Clusters of real processes: nodes are killed, stopped and cut off under load. CLUSTER_ARGS="-k failover".
CLUSTER_ARGS ?=
cluster-test: setup binary
	$(BEGIN)
	$(PYTEST) tests/cluster $(CLUSTER_ARGS)

# Its part of `make test`.
cluster-short: setup binary
	$(BEGIN)
	$(PYTEST) tests/cluster -m short -n $(STOCK_WORKERS) --dist worksteal $(CLUSTER_ARGS)

# The same tests on Apache Kafka.
cluster-kafka: setup
	$(BEGIN)
	$(PYTEST) tests/cluster --broker kafka $(CLUSTER_ARGS)

# How soon a cluster is back after faults, and what many partitions cost, as tables: see the head of the script.
TARGETS_ARGS ?=
cluster-targets: setup
	$(BEGIN)
	$(CARGO) build --release -p ottla
	$(PYTHON) tests/cluster/targets.py $(TARGETS_ARGS)

# Nearly all of a topic from the remote tier, byte-equal, with the store gone for minutes: see the head of the script.
TIER_ARGS ?=
tier-large: setup
	$(BEGIN)
	$(CARGO) build --release -p ottla
	$(PYTHON) tests/tier/large_read.py $(TIER_ARGS)

# How fast the remote tier is read, beside cold local reads and reads from memory: see the head of the script.
tier-bench: setup
	$(BEGIN)
	@echo '#include <librdkafka/rdkafka.h>' | cc -E -x c - >/dev/null 2>&1 || apt-get install -y -qq librdkafka-dev
	$(CARGO) build --release -p ottla
	$(PYTHON) benches/tier/read.py $(TIER_ARGS)

# Topics with tables: when rows are visible, what producers notice, what the store is asked for: see the head of the script.
LAKE_ARGS ?=
lake-bench: setup
	$(BEGIN)
	@echo '#include <librdkafka/rdkafka.h>' | cc -E -x c - >/dev/null 2>&1 || apt-get install -y -qq librdkafka-dev
	$(CARGO) build --release -p ottla
	$(PYTHON) benches/lake/tables.py $(LAKE_ARGS)

# The same load on Apache Kafka and on Ottla, COMPARE_ARGS="--rounds 3 --scale 1": see the head of the script. Compiles its
# load with cc against librdkafka.
COMPARE_ARGS ?=
compare: setup
	$(BEGIN)
	@echo '#include <librdkafka/rdkafka.h>' | cc -E -x c - >/dev/null 2>&1 || apt-get install -y -qq librdkafka-dev
	$(CARGO) build --release -p ottla
	$(TEST_ENV)/python/bin/python benches/compare/compare.py $(COMPARE_ARGS)

# The same with three nodes each.
compare-cluster: setup
	$(BEGIN)
	@echo '#include <librdkafka/rdkafka.h>' | cc -E -x c - >/dev/null 2>&1 || apt-get install -y -qq librdkafka-dev
	$(CARGO) build --release -p ottla
	$(TEST_ENV)/python/bin/python benches/compare/three_nodes.py $(COMPARE_ARGS)

# Whole clusters, simulated: see tests/sim/src/main.rs. Built with flags and into a directory of its own.
SIM := $(abspath target/sim)/sim/ottla-sim
sim-build:
	$(BEGIN)
	cd tests/sim && $(CARGO) build --profile sim

# SEEDS seeds (100), from SIM_FROM (1); SIM_ARGS="--shape three" and the like.
sim: sim-build
	$(BEGIN)
	$(SIM) --seeds $(or $(SEEDS),100) --from $(or $(SIM_FROM),1) $(SIM_ARGS)

# Its part of `make test`: the checkers' own tests, the same seed twice, a few bugs that must be caught, and a few seeds.
sim-short: sim-build
	$(BEGIN)
	cd tests/sim && $(CARGO) test --profile sim
	$(SIM) same --seeds 1
	for bug in ack-before-fsync vote-not-persisted snapshot-lacks-its-tail; do $(SIM) planted $$bug || exit 1; done
	$(SIM) --seeds $(or $(SEEDS),8) $(SIM_ARGS)
