#!/usr/bin/env bash
# Puts Apache Flink and Beam's job server under $1/flink, for the tests and benchmarks; changes nothing outside but
# Maven's own cache.  Beam's FlinkRunner then starts it by --flink_job_server_jar=$1/flink/job-server.jar.
#
# Where there is no Java 11 or later, or no Maven, the tests that need it say so and are left out: exit 0 all the same.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
target=$(cd "$1" && pwd)/flink
said() { printf 'setup  flink: %s\n' "$*" >&2; exit 0; }

if cmp -s "$here/flink.xml" "$target/pom.xml"; then exit 0; fi
for program in java jar mvn; do
  command -v "$program" >/dev/null || said "no $program on PATH; its tests are left out"
done
rm -rf "$target"
mkdir -p "$target"
mvn -q -B -f "$here/flink.xml" org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies \
  -DoutputDirectory="$target/lib" -DincludeScope=runtime > "$target/log" 2>&1 \
  || said "Maven could not fetch it ($(grep -m1 ERROR "$target/log" | cut -c1-200)); its tests are left out"
# A jar of a manifest alone: what to run, where the classes are, and what Flink must see of Java 17.
cd "$target"
entry() { fold -b -w 70 | sed '2,$s/^/ /'; }  # a line has 72 bytes at most, and goes on after a blank
{
  echo "Main-Class: org.apache.beam.runners.flink.FlinkJobServerDriver"
  echo "Add-Opens:$(printf ' java.base/%s' java.lang java.lang.reflect java.util java.util.concurrent \
    java.util.concurrent.atomic java.util.concurrent.locks java.net java.io java.nio sun.nio.ch java.text java.time)" | entry
  echo "Class-Path:$(printf ' %s' lib/*.jar)" | entry
} > manifest
jar cfm job-server.jar manifest
cp "$here/flink.xml" pom.xml
