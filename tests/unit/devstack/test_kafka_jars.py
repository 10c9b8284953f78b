import hashlib
import os
import re
from pathlib import Path

import pytest

from orchestrator.devstack import kafka_jars
from orchestrator.devstack.process import ComponentError

MAVEN = """#!{shell}
echo "[INFO] Downloaded from central: https://repo.example/org/some/thing-1.0.jar (3.1 MB at 9.0 MB/s)"
echo "[INFO] Downloaded from central: https://repo.example/org/some/small-1.0.jar (31 kB at 9.0 MB/s)"
for word; do case $word in -DoutputDirectory=*) folder=${{word#*=}};; esac; done
mkdir -p "$folder"
printf '%s' "{content}" > "$folder/thing-1.0.jar"
exit {status}
"""


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return kafka_jars.kafka_cache()


@pytest.fixture
def maven(monkeypatch, tmp_path):
    """A Maven that delivers one jar, of which the pinned digest is that of "genuine"."""
    digests = tmp_path / "digests"
    digests.write_text(f"{hashlib.sha256(b'genuine').hexdigest()}  thing-1.0.jar\n")
    monkeypatch.setattr(kafka_jars, "_DIGESTS", digests)

    def install(content="genuine", status=0):
        program = tmp_path / "bin" / "mvn"
        program.parent.mkdir(exist_ok=True)
        program.write_text(MAVEN.format(shell="/bin/sh", content=content, status=status))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")

    return install


def test_jars_are_fetched_once_and_the_large_ones_are_told(cache, maven):
    maven()
    said = []
    folder = kafka_jars.ensure_jars(said.append)
    assert [jar.name for jar in folder.iterdir()] == ["thing-1.0.jar"]
    assert [line for line in said if line.startswith("fetched")] == ["fetched thing-1.0.jar (3.1 MB)"]
    said.clear()
    assert kafka_jars.ensure_jars(said.append) == folder
    assert said == []


def test_other_jars_than_the_pinned_ones_are_refused_and_not_kept(cache, maven):
    maven(content="forged")
    with pytest.raises(ComponentError, match=r"thing-1\.0\.jar"):
        kafka_jars.ensure_jars(lambda _: None)
    assert not (cache / "jars").exists()


def test_a_failing_maven_shows_its_output_and_the_next_try_starts_afresh(cache, maven):
    maven(status=1)
    with pytest.raises(ComponentError, match="Downloaded from central"):
        kafka_jars.ensure_jars(lambda _: None)
    maven()
    assert kafka_jars.ensure_jars(lambda _: None).is_dir()


def test_without_maven_the_error_says_what_to_install(cache, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ComponentError) as raised:
        kafka_jars.ensure_jars(lambda _: None)
    assert "apt install maven" in raised.value.remedy
    assert "OTA_KAFKA_BOOTSTRAP" in raised.value.remedy


@pytest.mark.parametrize(
    ("answer", "accepted"),
    [
        ('openjdk version "17.0.15" 2025-04-15', True),
        ('openjdk version "25" 2025-09-16', True),
        ('java version "1.8.0_401"', False),
        ("The operation couldn't be completed. Unable to locate a Java Runtime.", False),
    ],
)
def test_java_must_be_new_enough(answer, accepted, monkeypatch, tmp_path):
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text(f'#!/bin/sh\ncat >&2 <<"END"\n{answer}\nEND\n')
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    if accepted:
        assert kafka_jars.find_java()[0] == str(java)
    else:
        with pytest.raises(ComponentError, match="needs Java 17"):
            kafka_jars.find_java()


def test_the_class_path_does_not_depend_on_the_order_of_the_folder(tmp_path):
    for name in ("b.jar", "a.jar", "notes.txt"):
        (tmp_path / name).touch()
    assert kafka_jars.class_path(tmp_path) == f"{tmp_path / 'a.jar'}:{tmp_path / 'b.jar'}"


def test_a_class_archive_belongs_to_one_class_path_and_one_java(cache, tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"
    for folder in (first, second):
        folder.mkdir()
        (folder / "a.jar").touch()
    archives = {kafka_jars.class_archive(jars, java) for jars in (first, second) for java in ("17", "21")}
    assert len(archives) == 4


def test_pom_and_constant_name_the_same_kafka_without_ranges():
    pom = Path(kafka_jars.__file__).with_name("pom.xml").read_text()
    assert f"<kafka.version>{kafka_jars.VERSION}</kafka.version>" in pom
    assert not re.search(r"<version>[\[(]", pom)
