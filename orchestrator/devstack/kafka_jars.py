"""The broker's jars: fetched once by Maven into the user's cache folder, checked against pinned digests.

``python -m orchestrator.devstack.kafka_jars`` does it ahead of time and prints the folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from orchestrator.devstack.component import Say
from orchestrator.devstack.paths import cache_folder
from orchestrator.devstack.process import ComponentError, log_tail

#: Apache Kafka's version, the one in ``pom.xml``.
VERSION = "4.4.0"
#: The oldest Java the broker runs on.
OLDEST_JAVA = 17

_POM = Path(__file__).with_name("pom.xml")
_DIGESTS = Path(__file__).with_name("kafka-jars.sha256")
_WITHOUT = "or set OTA_KAFKA_BOOTSTRAP to a running broker."


def kafka_cache() -> Path:
    """Return the folder of everything that is shared by all brokers of this version."""
    return cache_folder() / f"kafka-{VERSION}"


def ensure_jars(say: Say) -> Path:
    """Return the folder with the broker's jars, after fetching them if this is the first time.

    A folder with this name is complete: it is filled under another name and renamed. A lock keeps two first runs apart.
    ``MAVEN_OPTS`` and the user's Maven settings (mirrors, proxies, local repository) apply.

    Raises:
        ComponentError: Maven is missing or failed, or delivered other jars than the pinned ones.
    """
    jars = kafka_cache() / "jars"
    if jars.is_dir():
        return jars
    maven = shutil.which("mvn")
    if maven is None:
        raise ComponentError(
            "Kafka's jars are not here yet, and there is no Maven to fetch them",
            remedy=f"Install Maven (Debian: apt install maven), {_WITHOUT}",
        )
    kafka_cache().mkdir(parents=True, exist_ok=True)
    with _locked(kafka_cache() / "lock", say):
        if not jars.is_dir():
            unfinished = kafka_cache() / "unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            _fetch(maven, unfinished, say)
            _check(unfinished)
            unfinished.rename(jars)
    return jars


def find_java() -> tuple[str, str]:
    """Return the ``java`` program and what it says about its version.

    Raises:
        ComponentError: there is none, or it is too old.
    """
    home = os.environ.get("JAVA_HOME")
    java = (shutil.which("java", path=Path(home) / "bin") if home else None) or shutil.which("java")
    remedy = f"Install a JDK {OLDEST_JAVA} or newer (Debian: apt install openjdk-17-jre-headless), {_WITHOUT}"
    if java is None:
        raise ComponentError("Kafka needs Java, and there is no java on the PATH", remedy=remedy)
    answer = _java_version(java)
    version = re.search(r'version "(\d+)', answer)
    if version is None or int(version[1]) < OLDEST_JAVA:
        raise ComponentError(f"Kafka needs Java {OLDEST_JAVA}, and {java} says: {answer.strip()}", remedy=remedy)
    return java, answer


@lru_cache
def _java_version(java: str) -> str:
    command = (java, "-version")
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False).stderr


def class_path(jars: Path) -> str:
    """Return the class path: explicit and in one order, because a class archive is bound to it word by word."""
    return os.pathsep.join(str(jar) for jar in sorted(jars.glob("*.jar")))


def class_archive(jars: Path, java_version: str) -> Path:
    """Return where the archive of loaded classes is kept: it cuts the broker's start to half, and is bound to both."""
    key = hashlib.sha256(f"{class_path(jars)}\n{java_version}".encode()).hexdigest()[:16]
    return kafka_cache() / f"classes-{key}.jsa"


def publish_archive(written: Path, archive: Path) -> None:
    """Make a complete archive that a broker wrote the one that all others use."""
    unfinished = archive.with_suffix(f".{os.getpid()}")
    shutil.move(written, unfinished)
    unfinished.replace(archive)


def _fetch(maven: str, into: Path, say: Say) -> None:
    say("fetching the broker's jars with Maven, once")
    log = kafka_cache() / "maven.log"
    command = (
        *(maven, "--batch-mode", "--strict-checksums", "-f", str(_POM), f"-Dkafka.version={VERSION}"),
        *("dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={into}"),
    )
    with (
        log.open("w", encoding="utf-8") as file,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            # A line for each large one: the rest, and Maven's own plugins, take no time to speak of.
            if jar := re.search(r"Downloaded from \S+: \S+/(\S+\.jar) \(([^)]+ MB) at", line):
                say(f"fetched {jar[1]} ({jar[2]})")
    if process.returncode != 0:
        raise ComponentError(
            f"Maven could not fetch the broker's jars (status {process.returncode})" + log_tail(log),
            remedy=f"Check Maven's settings and the network, {_WITHOUT}",
        )


def _check(folder: Path) -> None:
    expected = dict(line.split()[::-1] for line in _DIGESTS.read_text(encoding="ascii").splitlines())
    found = {jar.name: hashlib.sha256(jar.read_bytes()).hexdigest() for jar in folder.glob("*.jar")}
    different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if different:
        raise ComponentError(
            f"these jars are not the ones that {_DIGESTS.name} pins: {', '.join(different)}",
            remedy="Check which repository Maven used (its settings, a mirror).",
        )


@contextmanager
def _locked(file: Path, say: Say) -> Iterator[None]:
    with file.open("w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another process that fetches the jars")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> None:
    def say(line: str) -> None:
        sys.stderr.write(f"kafka: {line}\n")

    try:
        find_java()
        sys.stdout.write(f"{ensure_jars(say)}\n")
    except ComponentError as error:
        sys.exit(f"{error}\n{error.remedy}")


if __name__ == "__main__":
    main()
