"""Requests while versions change, in every way that they do: none may fail, or be answered by another model's scores.

    mim bench chaos

An open loop asks the embedded server for the newest version and, one in five, for the one labelled `stable`.  Beside
it, by turns: a good version is renamed into place; a broken one is; one is copied into place file by file; the newest
is deleted; the label moves.  Every answer is held against the scores of the very version that it names.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.protobuf import text_format

from benchmarks.load import open_loop
from benchmarks.report import publish
from benchmarks.served_ranker import MODEL, THREADS, ctr_calls, export_shop_ranker, rank_arrays, request, served
from serving import messages
from serving.client import MimClient
from serving.tensors import to_array

TARGET_MS = 150.0
KINDS, STABLE = 3, "stable"  # different models; version v is a copy of model v % KINDS
REQUESTS, CANDIDATES = 40, 10
FLAGS = (
    "--file_system_poll_wait_seconds=0.2",
    "--load_retry_interval_micros=300000",
    "--max_num_load_retries=5",
    *THREADS,
)
ENDED = "END"
CHANGES = ("renamed", "broken", "copied in place", "label moved", "newest deleted")


def main(words: list[str] | None = None) -> None:
    """Runs and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=250.0, help="Requests a second.")
    parser.add_argument("--changes", type=int, default=30)
    parser.add_argument("--expect", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.expect:
        print(json.dumps(expected(arguments.expect)))
        return
    found = run(arguments.requests, arguments.rate, arguments.changes)
    value = found["p99.9"]
    met = value < TARGET_MS and not found["errors"] and sum(found["changes"].values()) >= arguments.changes
    publish("chaos", value, "ms, p99.9 while versions change", TARGET_MS, found, met=met)


def run(requests: int, rate: float, changes: int) -> dict[str, Any]:
    """The load and the changes; their figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = folder / "store"
        for kind in range(KINDS):
            export_shop_ranker(store / str(kind), seed=kind)
        command = [sys.executable, "-m", "benchmarks.chaos", "--expect", str(store)]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        scores = [[np.array(one) for one in kind] for kind in json.loads(output.splitlines()[-1])]
        versions = Versions(folder / "models", store)
        config = folder / "models.config"
        config.write_text(versions.config(label=False))
        bodies = [request("rank", rank_arrays(CANDIDATES, seed)) for seed in range(REQUESTS)]
        bodies = [labelled(body) if place % 5 == 0 else body for place, body in enumerate(bodies)]
        answered: Counter[int] = Counter()

        def check(which: int, answer: bytes) -> str | None:
            response = messages.PredictResponse.FromString(answer)
            version = response.model_spec.version.value
            answered[version] += 1
            same = np.allclose(to_array(response.outputs["ctr"]), scores[version % KINDS][which], atol=1e-6)
            return None if same else f"version {version} answered with other scores than its own"

        with (
            served("--model_config_file", str(config), *FLAGS) as (address, _),
            Changing(versions, address, requests / rate / (changes + 1)) as done,
        ):
            load = asyncio.run(open_loop(address, bodies, rate, requests / rate, check=check))
        return {
            "requests": load.sent,
            "errors": dict(load.errors),
            "rate": rate,
            "changes": dict(done),
            "versions_that_answered": len(answered),
            **load.percentiles(),
        }


def expected(store: Path) -> list[list[list[float]]]:
    """Scores of every request by every model, in a process of its own."""
    asked = [rank_arrays(CANDIDATES, seed) for seed in range(REQUESTS)]
    made = []
    for kind in range(KINDS):
        rank = ctr_calls(store / str(kind))["rank"]
        made.append([rank(arrays).tolist() for arrays in asked])
    return made


def labelled(body: bytes) -> bytes:
    """The same request, of the version that is labelled."""
    made = messages.PredictRequest.FromString(body)
    made.model_spec.version_label = STABLE
    return bytes(made.SerializeToString())


class Versions:
    """A model's folder of versions, all of them served, one labelled; changes it as people and pipelines do."""

    def __init__(self, models: Path, store: Path) -> None:
        self._folder, self._store = models / MODEL, store
        self._numbers = itertools.count(1)
        self.good: list[int] = []
        self._folder.mkdir(parents=True)
        self.label = self.renamed()

    def config(self, label: bool = True) -> str:
        """ModelServerConfig in text form."""
        labels = f'version_labels {{ key: "{STABLE}" value: {self.label} }}' if label else ""
        return (
            f'model_config_list {{ config {{ name: "{MODEL}" base_path: "{self._folder}" '
            f'model_platform: "tensorflow" model_version_policy {{ all {{ }} }} {labels} }} }}'
        )

    def renamed(self) -> int:
        """A whole version, moved into place at once."""
        number = next(self._numbers)
        part = self._folder / f"{number}.part"
        subprocess.run(["cp", "-r", str(self._store / str(number % KINDS)), str(part)], check=True)
        part.rename(self._folder / str(number))
        self.good.append(number)
        return number

    def broken(self, how: int) -> int:
        """A version that can never be loaded."""
        number = next(self._numbers)
        part = self._folder / f"{number}.part"
        subprocess.run(["cp", "-r", str(self._store / str(number % KINDS)), str(part)], check=True)
        graph = part / "saved_model.pb"
        if how % 3 == 0:
            graph.write_bytes(graph.read_bytes()[:-1000])
        elif how % 3 == 1:
            (part / "variables" / "variables.index").write_bytes(b"no index")
        else:
            graph.unlink()
        part.rename(self._folder / str(number))
        return number

    def copied_in_place(self) -> int:
        """A version under its number from the first, which the server finds half there."""
        number = next(self._numbers)
        source, target = self._store / str(number % KINDS), self._folder / str(number)
        for path in sorted(source.rglob("*")):
            (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            if path.is_file():
                subprocess.run(["cp", str(path), str(target / path.relative_to(source))], check=True)
                time.sleep(0.1)
        self.good.append(number)
        return number

    def delete(self, number: int) -> None:
        """As `rm -r` does."""
        shutil.rmtree(self._folder / str(number))
        if number in self.good:
            self.good.remove(number)


class Changing:
    """While entered, changes something every so many seconds, in a thread of its own; gives what was done."""

    def __init__(self, versions: Versions, address: str, seconds: float) -> None:
        self._versions, self._address, self._seconds = versions, address, seconds
        self._ended, self._failed = threading.Event(), list[BaseException]()
        self.done: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Counter[str]:
        self._client = MimClient(self._address, timeout=10)
        self._await(self._versions.label)
        self._reload()
        self._thread.start()
        return self.done

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()
        self._client.close()
        if self._failed:
            raise self._failed[0]

    def _run(self) -> None:
        try:
            started = time.monotonic()
            for number, kind in enumerate(itertools.cycle(CHANGES), 1):
                if self._ended.wait(max(0, started + number * self._seconds - time.monotonic())):
                    return
                self._change(kind, number)
                self.done[kind] += 1
        except BaseException as error:
            self._failed.append(error)

    def _change(self, kind: str, number: int) -> None:
        versions = self._versions
        if kind == "renamed":
            self._await(versions.renamed())
        elif kind == "broken":
            broken = versions.broken(number // len(CHANGES))
            self._await(broken, ENDED)
            versions.delete(broken)
        elif kind == "copied in place":
            self._await(versions.copied_in_place())
        elif kind == "label moved":
            versions.label = versions.good[-2]  # neither the newest nor the one before
            self._reload()
            for old in versions.good[: versions.good.index(versions.label)]:
                versions.delete(old)
        else:
            newest = versions.good[-1]
            versions.delete(newest)
            self._await(newest, ENDED)

    def _reload(self) -> None:
        """The configuration again, as `mim rollout` sends it."""
        config = text_format.Parse(self._versions.config(), messages.ModelServerConfig())
        with grpc.insecure_channel(self._address) as channel:
            reload = messages.calls(channel)["HandleReloadConfigRequest"]
            answer = reload(messages.ReloadConfigRequest(config=config), timeout=60)
        if answer.status.error_code:
            raise RuntimeError(answer.status.error_message)

    def _await(self, version: int, state: str = "AVAILABLE") -> None:
        """Until the server says so of a version; half a minute at most."""
        deadline = time.monotonic() + 30
        while True:
            found = {entry.version: entry.state for entry in self._client.status(MODEL)}.get(version)
            if found == state:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"version {version} is in state {found} after 30 s; it should be {state}")
            time.sleep(0.1)


if __name__ == "__main__":
    main()
