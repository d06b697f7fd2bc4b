# Sourced by ./test and the scripts beside it: where the things that a test run needs are found, and how to wait for one.
# Nothing here changes the machine; scripts/requirements installs, scripts/services starts and stops.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# The jars are made once and used by every later run of this clone; the name carries the version, so that a new one is fetched.
kafka_version=4.1.1
kafka_libs=${CARGO_TARGET_DIR:-$root/target}/services/kafka-libs-$kafka_version

# Likewise what validates GraphQL documents; the folder's name carries both versions.
shopify_schemas_version=1.16.0
graphql_version=16.13.2
graphql_tools=${CARGO_TARGET_DIR:-$root/target}/services/graphql-$graphql_version-shopify-$shopify_schemas_version

say() { printf '%s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# wait_until SECONDS COMMAND…: polls a condition; false once the time is over.
wait_until() {
  local end=$((SECONDS + $1)); shift
  until "$@"; do
    ((SECONDS < end)) || return 1
    sleep 0.1
  done
}

java_is_new() { [[ -x $1 ]] && [[ $("$1" -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p') -ge 17 ]]; }

# Java 17 or newer, also where an older one comes first in PATH.
find_java() {
  local java
  for java in "${JAVA_HOME:+$JAVA_HOME/bin/java}" "$(command -v java)" /usr/lib/jvm/*/bin/java; do
    if java_is_new "$java"; then echo "$java"; return; fi
  done
  return 1
}

# The newest Postgres server, 15 or later, of Debian's folders or of PATH; prints the folder of its programs.
find_postgres() {
  local dir version
  while read -r dir; do
    [[ -x $dir/initdb && -x $dir/postgres ]] || continue
    version=$("$dir/postgres" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
    if ((version >= 15)); then echo "$dir"; return; fi
  done < <(printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV; dirname "$(command -v postgres || echo /none/postgres)")
  return 1
}

# Debian installs aiosmtpd for its own python3; another python3 may come first in PATH.
find_smtp_python() {
  local python
  for python in /usr/bin/python3 "$(command -v python3)"; do
    if [[ -x $python ]] && "$python" -c 'import aiosmtpd' 2>/dev/null; then echo "$python"; return; fi
  done
  return 1
}
