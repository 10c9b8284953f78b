# shellcheck shell=bash
# Set-up shared by deploy/test and deploy/demo. Sourced, not run.
#
# Everything is put into the user's cache folder, nothing into the checkout and nothing into the system, except that as root
# on Debian missing programs are installed with apt-get. Deleting $CACHE at any time is safe. Works with bash 3.2 (macOS).
#
# Afterwards VENV is an environment with the locked packages and this checkout in it, first on the PATH.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/bellwether
LOCK=$ROOT/deploy/requirements/dev.txt
POM=$ROOT/orchestrator/devstack/pom.xml

# The uv that is fetched when there is none; the hashes are those of its wheels on the Python Package Index.
UV_VERSION=0.13.8
UV_HASHES="
  e18a57b8b352eb7c8feb317b9f6f533c8f0ad9673fd6cf34bbe3cf1a9f6a8984
  0b3e8b1a4f5e405e31e2ff33de8af4744831e9f7338539671efbd8c3c94e791d
  5337c30bb893b4f9ce0ceb921ba2da0d13f649da644f40ad3bef84083bef0203
  29451c60f5e8b07403e0a175d5229efc36b0289b34143ff4aaa499a5dd52553a
  b7124ca1956ec2e476a1003ea5715a15f0266afaec37f4dc9c6972ba8183e6d1
  62b6943c7fd64fac6854f780bea6e0359e5a5bc3241f83ee357bb38276afac49
" # Linux x86_64 and aarch64 (glibc, newer glibc), Linux x86_64 (musl), macOS x86_64 and arm64

OLDEST_JAVA=17
# Seconds between two signs of life of a long step whose own progress cannot be shown.
HEARTBEAT=10

began=$SECONDS

say() { printf '%4d s  %s\n' $((SECONDS - began)) "$*" >&2; }

fail() {
  printf '\nset-up failed: %s\n' "$1" >&2
  shift
  [ $# -eq 0 ] || printf '  %s\n' "$@" >&2
  exit 1
}

# quietly WHAT COMMAND...: on a terminal the command shows its own progress; elsewhere there is a line now and then, and the
# output only if it fails.
quietly() {
  local what=$1
  shift
  say "$what"
  if [ -t 2 ]; then
    "$@" >&2 || fail "$what"
    return
  fi
  local log=$CACHE/setup.log.$$ status=0 worker due
  "$@" >"$log" 2>&1 </dev/null &
  worker=$!
  due=$((SECONDS + HEARTBEAT))
  while kill -0 "$worker" 2>/dev/null; do
    if [ "$SECONDS" -ge "$due" ]; then
      say "  still at it"
      due=$((SECONDS + HEARTBEAT))
    fi
    sleep 0.2
  done
  wait "$worker" || status=$?
  [ "$status" -eq 0 ] || tail -n 40 "$log" >&2
  rm -f "$log"
  [ "$status" -eq 0 ] || fail "$what (status $status)"
}

# python_fits PROGRAM: at least 3.11, and able to make an environment with pip in it where that is needed to get uv.
python_fits() {
  local modules="sys, venv"
  command -v uv >/dev/null || modules="$modules, ensurepip"
  "$1" -c "import $modules; sys.exit(sys.version_info < (3, 11))" >/dev/null 2>&1
}

# Prints the interpreter itself, not a wrapper or an active environment's link to it.
find_python() {
  local candidate
  for candidate in python3.13 python3.12 python3.11 python3; do
    if python_fits "$candidate"; then
      "$candidate" -c 'import sys; print(getattr(sys, "_base_executable", None) or sys.executable)'
      return
    fi
  done
  return 1
}

# Like orchestrator.devstack.kafka_jars: JAVA_HOME first, then the PATH.
java_fits() {
  local java=java version
  [ -z "${JAVA_HOME:-}" ] || [ ! -x "$JAVA_HOME/bin/java" ] || java=$JAVA_HOME/bin/java
  version=$("$java" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1) || return 1
  [ -n "$version" ] && [ "$version" -ge "$OLDEST_JAVA" ]
}

kafka_is_here() {
  local version
  version=$(sed -n 's:.*<kafka\.version>\(.*\)</kafka\.version>.*:\1:p' "$POM")
  [ -d "$CACHE/kafka-$version/jars" ]
}

java_is_needed() { [ -z "${OTA_KAFKA_BOOTSTRAP:-}" ] && ! java_fits; }
maven_is_needed() { [ -z "${OTA_KAFKA_BOOTSTRAP:-}" ] && ! kafka_is_here && ! command -v mvn >/dev/null; }

# Fills the arrays PACKAGES (Debian's names) and NEEDS (for people) with what is not there.
look_for_programs() {
  PACKAGES=()
  NEEDS=()
  if ! PYTHON=$(find_python); then
    PACKAGES+=(python3 python3-venv)
    NEEDS+=("Python 3.11 or newer with venv   apt install python3 python3-venv | dnf install python3.12 | brew install python@3.12")
  fi
  if java_is_needed; then
    PACKAGES+=(default-jre-headless)
    NEEDS+=("a JDK or JRE 17 or newer         apt install default-jre-headless | dnf install java-21-openjdk-headless | brew install openjdk")
  fi
  if maven_is_needed; then
    PACKAGES+=(maven)
    NEEDS+=("Maven                            apt install maven | dnf install maven | brew install maven")
  fi
}

ensure_programs() {
  look_for_programs
  [ ${#NEEDS[@]} -gt 0 ] || return 0
  if [ -f /etc/debian_version ] && [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    quietly "apt-get update" apt-get update
    quietly "apt-get install ${PACKAGES[*]}" apt-get install --yes --no-install-recommends "${PACKAGES[@]}"
    look_for_programs
    [ ${#NEEDS[@]} -gt 0 ] || return 0
  fi
  fail "these programs are missing or too old; please install them:" "${NEEDS[@]}" \
    "(Java and Maven are for the Kafka broker; with OTA_KAFKA_BOOTSTRAP=host:port an existing one is used.)"
}

# Sets UV.
ensure_uv() {
  if UV=$(command -v uv); then
    return
  fi
  local home=$CACHE/uv-$UV_VERSION
  UV=$home/bin/uv
  [ ! -x "$UV" ] || return 0
  local unfinished=$home.unfinished hash
  rm -rf "$unfinished"
  quietly "creating an environment for uv" "$PYTHON" -m venv "$unfinished"
  {
    printf 'uv==%s' "$UV_VERSION"
    for hash in $UV_HASHES; do printf ' --hash=sha256:%s' "$hash"; done
  } >"$unfinished/uv.txt"
  quietly "fetching uv $UV_VERSION" "$unfinished/bin/python" -m pip install --disable-pip-version-check \
    --require-hashes --only-binary :all: --requirement "$unfinished/uv.txt"
  # Only the environment's own scripts hold its path; uv is one binary and can be moved.
  mv "$unfinished" "$home"
}

# Two set-ups at once wait for each other. The lock belongs to the open file, so it outlasts the Python that takes it, and
# it goes with this shell however that ends. flock(1) does not exist on macOS.
lock() {
  exec 9>"$CACHE/setup.lock"
  if ! "$PYTHON" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)' 2>/dev/null; then
    say "waiting for another set-up"
    "$PYTHON" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
  fi
}

unlock() { exec 9>&-; }

# Sets VENV and PROJECT: one environment per lock file, interpreter and checkout (an editable install names its folder);
# PROJECT tells whether the project's own metadata in it is current.
name_environment() {
  local version key
  # shellcheck disable=SC2016
  read -r version key PROJECT < <("$PYTHON" - "$ROOT" "$LOCK" <<'END'
import hashlib, pathlib, sys
root, lock = map(pathlib.Path, sys.argv[1:])
key = hashlib.sha256(b"\0".join([lock.read_bytes(), sys.version.encode(), sys.executable.encode(), bytes(root)]))
project = hashlib.sha256((root / "pyproject.toml").read_bytes())
print(sys.version.split()[0], key.hexdigest()[:16], project.hexdigest()[:16])
END
  )
  VENV=$CACHE/venv-$key
  say "Python $version, $PYTHON"
}

environment_is_ready() {
  [ -f "$VENV/.packages" ] && [ "$(cat "$VENV/.project" 2>/dev/null)" = "$PROJECT" ]
}

ensure_environment() {
  ! environment_is_ready || return 0
  lock
  if [ ! -f "$VENV/.packages" ]; then
    ensure_uv
    rm -rf "$VENV"
    quietly "creating the environment $VENV" "$UV" venv --quiet --python "$PYTHON" "$VENV"
    # Compiled once here, instead of by each of the processes that start at the same time later.
    quietly "installing and compiling the locked packages" "$UV" pip install --python "$VENV/bin/python" \
      --compile-bytecode --require-hashes --requirement "$LOCK"
    touch "$VENV/.packages"
  fi
  if ! environment_is_ready; then
    ensure_uv
    quietly "adding this checkout" "$UV" pip install --python "$VENV/bin/python" --no-deps --no-build-isolation \
      --editable "$ROOT"
    printf '%s\n' "$PROJECT" >"$VENV/.project"
  fi
  unlock
}

ensure_kafka() {
  if [ -n "${OTA_KAFKA_BOOTSTRAP:-}" ] || kafka_is_here; then
    return
  fi
  say "fetching Apache Kafka"
  "$VENV/bin/python" -m orchestrator.devstack.kafka_jars >/dev/null || fail "fetching Apache Kafka"
}

setup() {
  mkdir -p "$CACHE"
  ensure_programs
  name_environment
  ensure_environment
  export VIRTUAL_ENV=$VENV PATH=$VENV/bin:$PATH
  unset PYTHONHOME
  ensure_kafka
  SETUP_SECONDS=$((SECONDS - began))
  say "set-up done"
}

# only_setup ARG...: whether --setup-only is among the arguments.
only_setup() {
  local argument
  for argument; do
    [ "$argument" != --setup-only ] || return 0
  done
  return 1
}
