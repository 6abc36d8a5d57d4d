"""The manifests for a cluster, as they are written and as kustomize puts them together: Kubernetes' own schema, least rights, one way in."""

from __future__ import annotations

import copy
import functools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import toy_course
import yaml
from parts import missing
from test_cloud import options, pinned

from onepiece.host.road.environments import versions

COMPOSE = toy_course.ROOT / "compose"
KUBERNETES = COMPOSE / "cloud/kubernetes"
FILES = sorted(path for path in KUBERNETES.rglob("*.yaml") if path.name not in ("kustomization.yaml", "prometheus-adapter.yaml"))
WAYS = ("base", "autoscale", "multi-node")
READMES = [COMPOSE / "cloud" / name for name in ("README.md", "README.zh-TW.md")]
# Of LeaderWorkerSet's own definition, v0.10.0; the pods in it are Kubernetes'.
GROUP = {"replicas", "leaderWorkerTemplate", "rolloutStrategy", "startupPolicy", "networkConfig"}
GROUP_TEMPLATE = {"leaderTemplate", "workerTemplate", "size", "restartPolicy", "subGroupPolicy", "volumeClaimTemplates"}

Manifest = dict[str, Any]


def objects(text: str) -> list[Manifest]:
    return [content for content in yaml.safe_load_all(text) if content]


WRITTEN = [content for path in FILES for content in objects(path.read_text(encoding="utf-8"))]
each_object = pytest.mark.parametrize("content", WRITTEN, ids=lambda content: f"{content['kind']}-{content['metadata']['name']}")


@functools.cache
def together(way: str) -> str:
    """All objects of one way to deploy, as kustomize puts them together."""
    program = next(filter(None, map(shutil.which, ("kustomize", "kubectl"))), None)
    if program is None:
        missing("kubectl", "neither kustomize nor kubectl is installed")
    command = [program, *(["kustomize"] if Path(program).stem == "kubectl" else ["build"]), str(KUBERNETES / way)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout


@functools.cache
def schema() -> dict[str, Any]:
    return dict(json.loads((toy_course.ROOT / "tests/schemas/kubernetes.json").read_text(encoding="utf-8")))


def mistakes(content: Any, kind: str) -> list[str]:
    validator = jsonschema.Draft202012Validator({**schema(), "$ref": f"#/$defs/{kind}"})
    return [f"{list(error.absolute_path)}: {error.message}" for error in validator.iter_errors(content)]


def problems(content: Manifest) -> list[str]:
    """What Kubernetes, or LeaderWorkerSet, would not take."""
    if content["kind"] != "LeaderWorkerSet":
        return mistakes(content, content["kind"])
    template = content["spec"]["leaderWorkerTemplate"]
    unknown = sorted(set(content["spec"]) - GROUP) + sorted(set(template) - GROUP_TEMPLATE)
    return unknown + mistakes(template["leaderTemplate"], "PodTemplateSpec") + mistakes(template["workerTemplate"], "PodTemplateSpec")


def pods(content: Manifest) -> list[Manifest]:
    """The pod templates in an object."""
    if content["kind"] == "LeaderWorkerSet":
        return [content["spec"]["leaderWorkerTemplate"][name] for name in ("leaderTemplate", "workerTemplate")]
    return [content["spec"]["template"]] if content["kind"] == "Deployment" else []


def named(kind: str, name: str, among: list[Manifest] = WRITTEN) -> Manifest:
    (found,) = [content for content in among if (content["kind"], content["metadata"]["name"]) == (kind, name)]
    return found


def container(kind: str, name: str) -> Manifest:
    (found,) = pods(named(kind, name))[0]["spec"]["containers"]
    return dict(found)


# --- form -----------------------------------------------------------------------------------------


@each_object
def test_kubernetes_knows_every_field(content: Manifest) -> None:
    assert problems(content) == []


def test_the_schema_finds_mistakes() -> None:
    deployment = copy.deepcopy(named("Deployment", "vllm"))
    pod = deployment["spec"]["template"]["spec"]
    pod["container"] = pod.pop("containers")
    assert any("container" in problem for problem in problems(deployment))
    group = copy.deepcopy(named("LeaderWorkerSet", "vllm"))
    group["spec"]["leaderWorkerTemplate"]["workerTemplate"]["spec"]["containers"][0]["resources"]["limit"] = {}
    group["spec"]["size"] = 2
    assert problems(group)[0] == "size" and all("limit" in problem for problem in problems(group)[1:]) and len(problems(group)) > 1


@pytest.mark.parametrize("way", WAYS)
def test_kustomize_puts_it_together(way: str) -> None:
    found = objects(together(way))
    assert [problem for content in found for problem in problems(content)] == []
    for content in found:
        assert content["kind"] == "Namespace" or content["metadata"]["namespace"] == "onepiece"
    configuration = next(content for content in found if content["kind"] == "ConfigMap")
    assert configuration["data"] == {
        name: (COMPOSE / "gateway" / name).read_text(encoding="utf-8") for name in ("nginx.conf.template", "start.sh")
    }
    volumes = pods(named("Deployment", "gateway", found))[0]["spec"]["volumes"]
    assert {"name": "configuration", "configMap": {"name": configuration["metadata"]["name"]}} in volumes, "a new template, new pods"
    kinds = sorted(content["kind"] for content in found)
    assert ("LeaderWorkerSet" in kinds) == (way == "multi-node") and ("HorizontalPodAutoscaler" in kinds) == (way == "autoscale")
    assert kinds.count("Deployment") == (1 if way == "multi-node" else 2)


# --- rights and secrets ---------------------------------------------------------------------------


@each_object
def test_a_pod_is_restricted_and_bounded(content: Manifest) -> None:
    for template in pods(content):
        pod = template["spec"]
        person = pod["securityContext"]
        assert person["runAsNonRoot"] is True and person["runAsUser"] > 0 and person["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False, "the Service vllm would set VLLM_PORT, which vLLM reads as a number"
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert all(set(volume) - {"name"} <= {"emptyDir", "configMap", "secret"} for volume in pod["volumes"])
        assert all(volume["emptyDir"].get("sizeLimit") for volume in pod["volumes"] if "emptyDir" in volume)
        (only,) = pod["containers"]
        assert only["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert only["resources"]["limits"]["memory"] and only["resources"]["requests"]["cpu"]
        assert {mount["name"] for mount in only["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_the_cluster_is_told_to_refuse_anything_else() -> None:
    assert named("Namespace", "onepiece")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_secrets_are_made_by_commands_and_by_no_file() -> None:
    assert [content for content in WRITTEN if content["kind"] == "Secret"] == []
    assert not [path for path in FILES if re.search(r"hf_\w{20}|(?<!sha256:)\b[0-9a-f]{48,}", path.read_text(encoding="utf-8"))]
    text = "\n".join(path.read_text(encoding="utf-8") for path in FILES)
    used = set(re.findall(r"secretName: ([\w-]+)", text)) | set(re.findall(r"secretKeyRef: \{ name: ([\w-]+)", text))
    assert used == {"gateway-key", "hub-token"}
    for readme in READMES:
        for name in used:
            assert f"create secret generic {name} " in readme.read_text(encoding="utf-8")


def test_images_and_model_are_those_of_the_versions_file() -> None:
    known = versions()
    images = {pinned(known["images"]["bases"]["vllm"]), pinned(known["serving"]["images"]["gateway"])}
    assert {pod["spec"]["containers"][0]["image"] for content in WRITTEN for pod in pods(content)} == images
    for kind in ("Deployment", "LeaderWorkerSet"):
        arguments = container(kind, "vllm")["args"]
        model = options(arguments).get("--model", arguments[0])
        assert options(arguments)["--revision"] == known["models"][model]["revision"]


# --- the gateway ----------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container("Deployment", "gateway")["env"]}


def test_the_gateway_has_every_setting_of_its_template_and_the_values_of_compose() -> None:
    used = set(re.findall(r"\$\{(ONEPIECE_[A-Z_]+)\}", (COMPOSE / "gateway/nginx.conf.template").read_text(encoding="utf-8")))
    assert set(environment()) == used
    services = yaml.safe_load((COMPOSE / "serving.yaml").read_text(encoding="utf-8"))["services"]
    for name, value in services["serving"]["environment"].items():
        if f"${{{name}:-" in value:
            assert environment()[name] == re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value), name
    assert environment()["ONEPIECE_VLLM"] == "vllm.onepiece.svc.cluster.local:8000 resolve"


def test_the_gateway_starts_as_compose_starts_it() -> None:
    services = yaml.safe_load((COMPOSE / "serving.yaml").read_text(encoding="utf-8"))["services"]
    assert container("Deployment", "gateway")["command"] == services["serving"]["entrypoint"], "which holds the key to its form"
    mounts = {mount["name"]: mount["mountPath"] for mount in container("Deployment", "gateway")["volumeMounts"]}
    assert mounts["key"] == "/run/onepiece" and "key:/run/onepiece:ro" in services["serving"]["volumes"]


def test_nginx_takes_the_configuration(tmp_path: Path) -> None:
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        missing("nginx", "nginx is not installed (Debian: apt install nginx-light)")
    values = environment() | {
        "ONEPIECE_RUN": str(tmp_path),
        "ONEPIECE_KEY_CONF": str(tmp_path / "key.conf"),
        "ONEPIECE_ACCESS_LOG": str(tmp_path / "access.log"),
        # A cluster's names are not known here; what stands around them is tried.
        "ONEPIECE_RESOLVER": environment()["ONEPIECE_RESOLVER"].replace("kube-dns.kube-system.svc.cluster.local", "127.0.0.1"),
        "ONEPIECE_VLLM": "127.0.0.1:8000",  # `resolve` is for nginx 1.27.3 and newer
    }
    (tmp_path / "key.conf").write_text(
        'map $http_authorization $onepiece_key {\n    default 0;\n    "~^Bearer x$" 1;\n}\n', encoding="utf-8"
    )
    text = (COMPOSE / "gateway/nginx.conf.template").read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace(f"${{{name}}}", value)
    (tmp_path / "nginx.conf").write_text(text, encoding="utf-8")
    done = subprocess.run([program, "-t", "-e", "stderr", "-c", str(tmp_path / "nginx.conf")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- what runs, and who reaches it ----------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), [("Deployment", "gateway"), ("Deployment", "vllm"), ("LeaderWorkerSet", "vllm")])
def test_what_answers_is_watched(kind: str, name: str) -> None:
    server = container(kind, name)
    ports = {port["name"]: port["containerPort"] for port in server["ports"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert server[probe]["httpGet"]["port"] in ports
        assert server[probe]["httpGet"]["path"] == ("/healthz" if name == "gateway" else "/health")
    if name == "vllm":
        started = server["startupProbe"]["periodSeconds"] * server["startupProbe"]["failureThreshold"]
        services = yaml.safe_load((COMPOSE / "serving.yaml").read_text(encoding="utf-8"))["services"]
        (patience,) = re.findall(r":-(\d+)s", services["vllm"]["healthcheck"]["start_period"])
        assert started >= int(patience), "at least what compose waits"
        limits = server["resources"]["limits"]
        assert limits["nvidia.com/gpu"] == int(options(server["args"]).get("--tensor-parallel-size", "1"))
        assert ports["http"] == int(options(server["args"])["--port"])


@pytest.mark.parametrize("name", ["gateway", "vllm"])
def test_services_and_budgets_find_their_pods(name: str) -> None:
    for owner in [content for content in WRITTEN if content["metadata"]["name"] == name and pods(content)]:
        labels = pods(owner)[0]["metadata"]["labels"]
        service = named("Service", name)["spec"]
        assert service["selector"].items() <= labels.items() and service.get("type", "ClusterIP") == "ClusterIP"
        assert [port["targetPort"] for port in service["ports"]] == ["http"]
        if owner["kind"] == "Deployment":
            assert owner["spec"]["selector"]["matchLabels"].items() <= labels.items()
            budget = named("PodDisruptionBudget", name)["spec"]
            assert budget["selector"]["matchLabels"] == owner["spec"]["selector"]["matchLabels"]
            assert budget["maxUnavailable"] == 1, "minAvailable 1 would never let the machine of a single replica be emptied"


def test_only_the_gateway_is_open_and_vllm_hears_the_gateway_and_the_metrics() -> None:
    policies = {content["metadata"]["name"]: content["spec"] for content in WRITTEN if content["kind"] == "NetworkPolicy"}
    assert policies["nobody"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    entrances = {name: rule for name, policy in policies.items() for rule in policy.get("ingress", [])}
    assert [name for name, rule in entrances.items() if "from" not in rule] == ["gateway"]
    assert [port["port"] for port in entrances["gateway"]["ports"]] == [8080]
    pod, namespace = entrances["vllm"]["from"]
    assert pod == {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "gateway"}}}
    assert namespace == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    for name, policy in policies.items():
        for way in policy.get("egress", []):
            for block in [to["ipBlock"] for to in way["to"] if "ipBlock" in to and to["ipBlock"]["cidr"] == "0.0.0.0/0"]:
                assert block["except"] == ["169.254.0.0/16"] and [port["port"] for port in way["ports"]] == [443], name


def test_the_ranks_of_a_group_differ_in_what_a_rank_is_only() -> None:
    group = named("LeaderWorkerSet", "vllm")["spec"]["leaderWorkerTemplate"]
    (leader,), (worker,) = (group[name]["spec"]["containers"] for name in ("leaderTemplate", "workerTemplate"))
    assert [word for word in leader["args"] if word not in worker["args"]] == ["--host=0.0.0.0", "--port=8000"]
    assert [word for word in worker["args"] if word not in leader["args"]] == ["--headless"]
    for key in ("image", "command", "env", "resources", "volumeMounts"):
        assert leader[key] == worker[key]
    given = options(leader["args"])
    assert given["--pipeline-parallel-size"] == str(group["size"])
    assert (given["--nnodes"], given["--node-rank"]) == ("$(LWS_GROUP_SIZE)", "$(LWS_WORKER_INDEX)")
    assert group["workerTemplate"]["metadata"]["labels"]["app.kubernetes.io/name"] != "vllm", "the Service finds the leader only"
    # The same server as on two machines without a cluster.
    command = yaml.safe_load((COMPOSE / "cloud/multi-node.yaml").read_text(encoding="utf-8"))["services"]["worker"]["command"].split()
    assert set(options(worker["args"])) == set(options(command)) - {"--master-port"}


def test_the_autoscaler_has_a_deployment_and_a_metric_that_somebody_makes() -> None:
    spec = named("HorizontalPodAutoscaler", "vllm")["spec"]
    assert named(spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"]["name"])
    assert 1 <= spec["minReplicas"] < spec["maxReplicas"] <= 4, "what it can cost is bounded"
    (metric,) = spec["metrics"]
    values = yaml.safe_load((KUBERNETES / "autoscale/prometheus-adapter.yaml").read_text(encoding="utf-8"))
    (rule,) = values["rules"]["custom"]
    assert rule["name"]["as"] == metric["pods"]["metric"]["name"] and ":" not in rule["name"]["as"]
    (series,) = re.findall(r'__name__="([^"]+)"', rule["seriesQuery"])
    assert series in (COMPOSE / "monitoring/prometheus/alerts.yml").read_text(encoding="utf-8"), "a metric of vLLM that the stack watches"
    annotations = pods(named("Deployment", "vllm"))[0]["metadata"]["annotations"]
    assert annotations == {"prometheus.io/scrape": "true", "prometheus.io/port": "8000"}
    scaled = named("Deployment", "vllm", objects(together("autoscale")))
    assert "replicas" not in scaled["spec"], "applying the files again must not undo what the autoscaler did"


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_the_guide_says_how_what_it_takes_and_that_it_is_not_proven(readme: Path) -> None:
    text = readme.read_text(encoding="utf-8")
    for way in WAYS:
        assert f"kubectl apply -k compose/cloud/kubernetes/{way}" in text
    for file in ("serve.sky.yaml", "multi-node.yaml", "prometheus-adapter.yaml"):
        assert file in text
    assert "sky serve down" in text and "LeaderWorkerSet" in text and "production-stack" in text
