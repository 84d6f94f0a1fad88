#!/usr/bin/env bash
# Installs what the tests drive Ottla with, and nothing that Ottla itself needs.
#
#   tests/setup.sh            install what is missing; says in a moment that all is there when it is
#   tests/setup.sh --check    install nothing; report what is missing
#   tests/setup.sh --with-trino    the same with Trino (half a gigabyte), which only `make lake-engines` needs
#
# Everything goes to .test-env/ beside this repository's Cargo.toml (git-ignored), or to $OTTLA_TEST_ENV, which several
# clones may share. Only kcat, e2fsprogs, strace, libfaketime and a missing JDK, Maven or Node come from apt, and only when run
# by root.
# Each part leaves a stamp with the hash of what it was made from, so a changed version is installed again.
# What can't be installed is named together with the tests it stops, and the exit code is 1;
# OTTLA_TEST_ALLOW_MISSING=1 makes it 0, and the tests then skip those parts and say so.
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
env_dir=${OTTLA_TEST_ENV:-$(dirname "$here")/.test-env}
check_only=0
with_trino=0
for argument in "$@"; do
  case $argument in
    --check) check_only=1 ;;
    --with-trino) with_trino=1 ;;
    *) echo "setup: no such option: $argument" >&2; exit 2 ;;
  esac
done
missing=()

mkdir -p "$env_dir"
env_dir=$(cd "$env_dir" && pwd)
exec 9>"$env_dir/.lock"
flock 9

say() { printf 'setup: %s\n' "$*"; }

# Registries fail now and then: three tries, with a pause that grows.
try() {
  local attempt
  for attempt in 1 2 3; do
    "$@" >"$env_dir/last-command.log" 2>&1 && return 0
    [ "$attempt" = 3 ] || sleep $((attempt * 5))
  done
  say "failed three times: $*"
  tail -n 15 "$env_dir/last-command.log" | sed 's/^/setup:   /'
  return 1
}

hash_of() { cat "$@" | sha256sum | cut -d' ' -f1; }
fresh() { [ "$(cat "$env_dir/$1.stamp" 2>/dev/null)" = "$2" ]; }

# part NAME HASH "what is skipped without it" INSTALLER...: runs the installer unless the stamp says it was done.
part() {
  local name=$1 hash=$2 used_by=$3
  shift 3
  fresh "$name" "$hash" && return 0
  if [ "$check_only" = 0 ]; then
    say "installing $name"
    if "$@"; then
      printf '%s' "$hash" >"$env_dir/$name.stamp"
      return 0
    fi
  fi
  rm -f "$env_dir/$name.stamp"
  missing+=("$name: $used_by")
  return 1
}

# from_apt WHAT PACKAGE "what is skipped": what the system does not have and apt may be able to give.
apt_updated=0
from_apt() {
  local what=$1 package=$2 used_by=$3
  if [ "$check_only" = 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    if [ "$apt_updated" = 0 ]; then
      try apt-get update -q
      apt_updated=1
    fi
    say "installing $package"
    DEBIAN_FRONTEND=noninteractive try apt-get install -y -q --no-install-recommends "$package" && return 0
  fi
  missing+=("$what (package $package): $used_by")
  return 1
}

command_from_apt() { # COMMAND PACKAGE "what is skipped"
  PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null || from_apt "$@"
}

file_from_apt() { # PATTERN PACKAGE "what is skipped": a file wherever the machine's architecture has it.
  compgen -G "$1" >/dev/null || from_apt "$@"
}

install_venv() { # NAME REQUIREMENTS
  rm -rf "${env_dir:?}/$1"
  try python3 -m venv "$env_dir/$1" && try "$env_dir/$1/bin/pip" install -q -r "$2"
}

install_chdb() { # REQUIREMENTS
  rm -rf "${env_dir:?}/python-chdb"
  try python3 -m venv "$env_dir/python-chdb" && try "$env_dir/python-chdb/bin/pip" install -q --no-deps -r "$1"
}

install_node() {
  rm -rf "$env_dir/node"
  mkdir -p "$env_dir/node"
  cp "$here/setup/node/package.json" "$here/setup/node/package-lock.json" "$env_dir/node/"
  try npm ci --prefix "$env_dir/node" --ignore-scripts --no-audit --no-fund
}

install_java() { # VERSION
  rm -rf "$env_dir/java/$1" "$env_dir/java/$1"-*.jsa
  try mvn -q -B -f "$here/setup/java/$1/pom.xml" \
    org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$env_dir/java/$1"
}

install_iceberg_rest() {
  rm -rf "$env_dir/iceberg-rest"
  try mvn -q -B -f "$here/setup/iceberg-rest/pom.xml" \
    org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$env_dir/iceberg-rest"
}

install_trino() { # VERSION CONNECTOR
  rm -rf "$env_dir/trino/$1"
  try mvn -q -B -f "$here/setup/trino/pom.xml" -Dtrino="$1" \
    org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$env_dir/trino/$1/lib" &&
    # The plugin leaves its markers where it is run.
    (cd "$env_dir/trino/$1" && try mvn -q -B org.apache.maven.plugins:maven-dependency-plugin:3.6.1:unpack \
      -Dartifact="io.trino:trino-$2:$1:zip" -DoutputDirectory="$env_dir/trino/$1/plugin")
}

command_from_apt kcat kcat "the kcat tests are skipped"
command_from_apt mkfs.ext4 e2fsprogs "the power-cut tests are skipped"
command_from_apt strace strace "the tests with failing syncs are skipped"
file_from_apt '/usr/lib/*/faketime/libfaketimeMT.so.1' libfaketime "the tests with a clock an hour off are skipped"
command_from_apt ip iproute2 "no links are cut in the tests with clusters"
command_from_apt nft nftables "no links are cut in the tests with clusters"
if command_from_apt python3 python3-venv "all tests in tests/stock are skipped"; then
  part python "$(hash_of "$here/setup/python/requirements.txt")" \
    "nothing in tests/stock can run" install_venv python "$here/setup/python/requirements.txt"
  part python-tutorial "$(hash_of "$here/setup/python/requirements-tutorial.txt")" \
    "the tests with the kafka-python of the tutorials are skipped" \
    install_venv python-tutorial "$here/setup/python/requirements-tutorial.txt"
  # Half a gigabyte, more than everything else from PyPI: apart, so that a change of the others does not bring it anew.
  part python-chdb "$(hash_of "$here/setup/python/requirements-chdb.txt")" \
    "tables are not read with ClickHouse" install_chdb "$here/setup/python/requirements-chdb.txt"
fi
if command_from_apt node nodejs "the KafkaJS tests are skipped" &&
  command_from_apt npm npm "the KafkaJS tests are skipped"; then
  part node "$(hash_of "$here"/setup/node/package*.json)" "the KafkaJS tests are skipped" install_node
fi
if command_from_apt java default-jre-headless "all tests with Kafka's own tools are skipped" &&
  command_from_apt mvn maven "all tests with Kafka's own tools are skipped"; then
  command_from_apt javac default-jdk-headless "the tests with clients of Kafka that come without tools are skipped"
  for pom in "$here"/setup/java/*/pom.xml; do
    version=$(basename "$(dirname "$pom")")
    part "java-$version" "$(hash_of "$pom")" "the tests with Kafka $version are skipped" install_java "$version"
  done
  part iceberg-rest "$(hash_of "$here/setup/iceberg-rest/pom.xml")" \
    "the tests with an Iceberg REST catalog are skipped" install_iceberg_rest
  if [ "$with_trino" = 1 ]; then
    # What each is for: see tests/lake/trino.py.
    part trino-406 "$(hash_of "$here/setup/trino/pom.xml")" "tables are not read with Trino" install_trino 406 iceberg
    part trino-435 "$(hash_of "$here/setup/trino/pom.xml")" "tables are not read with Trino" install_trino 435 hive
  fi
fi

if [ "${#missing[@]}" = 0 ]; then
  say "everything the tests need is in $env_dir"
  exit 0
fi
say "MISSING:"
for line in "${missing[@]}"; do say "  $line"; done
if [ "${OTTLA_TEST_ALLOW_MISSING:-0}" = 1 ]; then
  say "going on without them, because OTTLA_TEST_ALLOW_MISSING=1"
  exit 0
fi
say "set OTTLA_TEST_ALLOW_MISSING=1 to go on without them"
exit 1
