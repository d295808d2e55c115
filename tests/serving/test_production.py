"""The files of production: what a schema can check, what the embedded server can run, what must agree."""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
import re
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from google.protobuf import text_format

from serving.embedded_server.config_files import read_model_config
from serving.embedded_server.options import ServerOptions
from serving.embedded_server.server import EmbeddedServer
from serving.messages import BatchingParameters, MonitoringConfig
from tests.serving.adder import export

PRODUCTION = Path(__file__).parents[2] / "serving/production"
KUBERNETES_VERSION = "1.31"


def read(name: str) -> Any:
    return yaml.safe_load((PRODUCTION / name).read_text())


@pytest.mark.parametrize("file", sorted(path.name for path in (PRODUCTION / "kubernetes").glob("*.yaml")))
def test_kubernetes_manifests_meet_the_api(file: str) -> None:
    kubernetes_validate.validate(read(f"kubernetes/{file}"), KUBERNETES_VERSION, strict=True)
    broken = read(f"kubernetes/{file}")
    broken["spec" if "spec" in broken else "metadata"]["nonsense"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES_VERSION, strict=True)


def test_the_kustomization_names_files_that_are_there() -> None:
    whole = read("kustomization.yaml")
    assert {f"kubernetes/{path.name}" for path in (PRODUCTION / "kubernetes").glob("*.yaml")} == set(whole["resources"])
    (config,) = whole["configMapGenerator"]
    assert all((PRODUCTION / file).is_file() for file in config["files"])
    pod = read("kubernetes/deployment.yaml")["spec"]["template"]["spec"]
    (volume,) = (volume for volume in pod["volumes"] if volume["name"] == "config")
    mounted = [source["configMap"]["name"] for source in volume["projected"]["sources"]]
    assert config["name"] in mounted
    others = set(mounted) - {config["name"]}
    assert others == {"serving-models"}, "applying the folder again leaves the models as roll-outs wrote them"
    assert "models.config" not in config["files"]


def test_calls_are_taken_from_clients_alone() -> None:
    policy, deployment = read("kubernetes/network_policy.yaml")["spec"], read("kubernetes/deployment.yaml")["spec"]
    assert policy["podSelector"]["matchLabels"] == deployment["selector"]["matchLabels"]
    (container,) = deployment["template"]["spec"]["containers"]
    names = {port["name"] for port in container["ports"]}
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == names
    assert all(rule["from"] for rule in policy["ingress"])


def test_compose_opens_no_port_to_others_and_shows_no_password() -> None:
    services = read("compose.yaml")["services"]
    for name, service in services.items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:") or (name == "serving" and port.startswith("${BIND:-127.0.0.1}:")), port
        assert "PASSWORD}" not in " ".join(service.get("command", [])), "arguments are seen by all of the host"
    assert "REDIS_PASSWORD" in services["redis"]["environment"]


def test_pods_run_without_rights() -> None:
    pod = read("kubernetes/deployment.yaml")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["automountServiceAccountToken"] is False
    own = container["securityContext"]
    assert (own["readOnlyRootFilesystem"], own["allowPrivilegeEscalation"]) == (True, False)
    assert own["capabilities"] == {"drop": ["ALL"]}
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
    assert all(mount["readOnly"] for mount in container["volumeMounts"] if mount["name"] != "scratch")
    assert pod["terminationGracePeriodSeconds"] > int(container["lifecycle"]["preStop"]["exec"]["command"][1])


def test_compose_meets_its_schema() -> None:
    vendored = importlib.resources.files("check_jsonschema.builtin_schemas").joinpath("vendor/compose-spec.json")
    schema = json.loads(vendored.read_text())
    whole = read("compose.yaml")
    jsonschema.validate(whole, schema)
    whole["services"]["serving"]["nonsense"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(whole, schema)
    for service in read("compose.yaml")["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert not source.startswith("./") or (PRODUCTION / source).exists(), source


# The fields of KServe's v1beta1 InferenceService that the file uses, with their types; a field of another name is an
# error there. The file was also held against the classes of KServe's own SDK, 0.21.
INFERENCE_SERVICE = {
    "predictor": {
        "minReplicas": int,
        "maxReplicas": int,
        "scaleMetric": str,
        "scaleTarget": int,
        "securityContext": dict,
        "model": {
            "modelFormat": {"name": str},
            "runtime": str,
            "protocolVersion": str,
            "storageUri": str,
            "args": list,
            "ports": list,
            "resources": dict,
            "securityContext": dict,
        },
    }
}


def check(value: Any, wanted: Any, where: str) -> None:
    if not isinstance(wanted, dict):
        assert isinstance(value, wanted), where
        return
    assert set(value) == set(wanted), where
    for name, kind in wanted.items():
        check(value[name], kind, f"{where}.{name}")


def test_the_inference_service() -> None:
    whole = read("kserve/inference_service.yaml")
    assert (whole["apiVersion"], whole["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    check(whole["spec"], INFERENCE_SERVICE, "spec")
    model = whole["spec"]["predictor"]["model"]
    container = {"name": "c", "image": "i"} | {
        name: model[name] for name in ("args", "ports", "resources", "securityContext")
    }
    spec = {"securityContext": whole["spec"]["predictor"]["securityContext"], "containers": [container]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}
    kubernetes_validate.validate(pod, KUBERNETES_VERSION, strict=True)


def flags_of(arguments: list[str]) -> dict[str, str]:
    return dict(argument.removeprefix("--").split("=", 1) for argument in arguments)


def test_the_flags_are_the_same_everywhere_and_known() -> None:
    compose = flags_of(read("compose.yaml")["services"]["serving"]["command"])
    (container,) = read("kubernetes/deployment.yaml")["spec"]["template"]["spec"]["containers"]
    assert flags_of(container["args"]) == compose
    known = {field.name for field in dataclasses.fields(ServerOptions)}
    assert set(compose) <= known
    inference = flags_of(read("kserve/inference_service.yaml")["spec"]["predictor"]["model"]["args"])
    assert set(inference) <= known


def test_protobuf_files() -> None:
    assert len(read_model_config(PRODUCTION / "models.config").model_config_list.config) == 3
    text_format.Parse((PRODUCTION / "batching.config").read_text(), BatchingParameters())
    text_format.Parse((PRODUCTION / "monitoring.config").read_text(), MonitoringConfig())


def test_the_configuration_runs_and_the_dashboard_asks_for_metrics_that_are_there(tmp_path: Path) -> None:
    for model in ("mim_encoder", "mim_ranker", "mim_retrieval"):
        export(tmp_path / f"models/{model}/1", 1.0)
    config = tmp_path / "models.config"
    config.write_text((PRODUCTION / "models.config").read_text().replace("/models/", f"{tmp_path}/models/"))
    given = flags_of(read("compose.yaml")["services"]["serving"]["command"])
    switches = {name: value == "true" for name, value in given.items() if value in ("true", "false")}
    options = ServerOptions(
        **switches,
        port=0,
        rest_api_port=0,
        model_config_file=config,
        monitoring_config_file=PRODUCTION / "monitoring.config",
        batching_parameters_file=PRODUCTION / "batching.config",
    )
    with EmbeddedServer(options=options) as server:
        assert sorted(server.core.manager.available()) == ["mim_encoder", "mim_ranker", "mim_retrieval"]
        connection = HTTPConnection(str(server.rest_address), timeout=5)
        connection.request("GET", "/v1/models/mim_ranker")
        response = connection.getresponse()
        assert response.status == 200, "what the readiness probe asks"
        response.read()
        prometheus = read("prometheus.yaml")["scrape_configs"][0]["metrics_path"]
        connection.request("GET", prometheus)
        page = connection.getresponse().read().decode()
        connection.close()
    exposed = set(re.findall(r"^# TYPE (\S+) ", page, re.MULTILINE))
    assert len(exposed) == 10
    asked = (PRODUCTION / "grafana/dashboard.json").read_text() + (PRODUCTION / "alerts.yaml").read_text()
    names = set(re.findall(r":tensorflow:serving:[a-z_:]+", asked))
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in names - exposed} <= exposed
    panels = json.loads((PRODUCTION / "grafana/dashboard.json").read_text())["panels"]
    assert len(panels) == 6
    assert all(panel["targets"] for panel in panels)


def test_alerts_say_what_to_do() -> None:
    (group,) = read("alerts.yaml")["groups"]
    for rule in group["rules"]:
        assert {"alert", "expr", "for", "labels", "annotations"} == set(rule)
        assert rule["annotations"]["summary"]
    assert read("prometheus.yaml")["rule_files"] == ["alerts.yaml"]


def test_redis_forgets_nothing() -> None:
    command = read("compose.yaml")["services"]["redis"]["command"]
    assert "--maxmemory-policy noeviction" in command[-1], "a vector that was put must stay"
    assert "--appendonly yes" in command[-1]
