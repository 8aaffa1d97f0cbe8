"""The manifests in deploy/kubernetes: valid for Kubernetes, at one with each other, commands that exist."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from click import Context as ClickContext

from cafs.cli.config import load_settings
from cafs.cli.context import Context
from cafs.cli.main import cli
from cafs.core.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy/kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))
DOCUMENTS = [document for path in FILES for document in yaml.safe_load_all(path.read_text())]
RELEASES = ("1.29", kubernetes_validate.latest_version())
"""The oldest that is checked, and the newest whose schemas are known."""
WORKLOADS = {"Deployment", "StatefulSet", "DaemonSet"}


def name_of(document: Any) -> str:
    return f"{document['kind']}/{document['metadata']['name']}"


def workloads() -> list[Any]:
    return [document for document in DOCUMENTS if document["kind"] in WORKLOADS]


def containers() -> Iterator[tuple[Any, Any]]:
    """Each with its pod's specification."""
    for document in workloads():
        spec = document["spec"]["template"]["spec"]
        for container in spec["containers"]:
            yield spec, container


def settings() -> Settings:
    """Of all pods: the configuration, as a pod reads it."""
    [configuration] = [document for document in DOCUMENTS if document["kind"] == "ConfigMap"]
    given = tomllib.loads(configuration["data"]["config.toml"])
    flags = [f"{key}={','.join(value) if isinstance(value, list) else value}" for key, value in given.items()]
    return load_settings({}, is_root=True, flags=flags)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_kubernetes_takes_it(document: Any, release: str) -> None:
    kubernetes_validate.validate(document, release, strict=True)


def test_a_mistake_would_be_found() -> None:
    [wrong, *_] = list(yaml.safe_load_all((FOLDER / "peer.yaml").read_text()))
    wrong["spec"]["template"]["spec"]["hostNetwrk"] = True
    with pytest.raises(kubernetes_validate.ValidationError, match="hostNetwrk"):
        kubernetes_validate.validate(wrong, RELEASES[-1], strict=True)


def test_there_is_what_the_guide_names() -> None:
    kinds = {name_of(document) for document in workloads()}
    assert kinds == {
        "DaemonSet/cafs-peer",
        "DaemonSet/cafs-snapshotter",
        "StatefulSet/cafs-seed",
        "Deployment/cafs-scheduler",
        "Deployment/cafs-manager",
    }
    assert len({container["image"] for _, container in containers()}) == 1
    assert {document["metadata"].get("namespace", "cafs") for document in DOCUMENTS} == {"cafs"}


@pytest.mark.parametrize("container", [container for _, container in containers()], ids=lambda c: c["name"])
def test_the_command_line_is_one_of_ours(container: Any) -> None:
    environment = {variable["name"]: variable.get("value", "127.0.0.1") for variable in container["env"]}
    arguments = container["args"]
    for name, value in environment.items():
        arguments = [word.replace(f"$({name})", value) for word in arguments]
    assert not any("$(" in word for word in arguments)
    context = Context()
    command = cli.get_command(ClickContext(cli, obj=context), arguments[0])
    assert command is not None
    with command.make_context(arguments[0], arguments[1:], obj=context) as parsed:
        ports = {int(str(word).rpartition(":")[2]) for word in parsed.params.values() if ":" in str(word)}
    load_settings(environment, is_root=True, flags=context.flags)  # no variable or setting that nobody knows
    assert ports == {port["containerPort"] for port in container.get("ports", [])}


def test_services_lead_to_pods_and_the_configuration_to_services() -> None:
    services = {}
    for document in DOCUMENTS:
        if document["kind"] == "Service":
            selector = document["spec"]["selector"].items()
            [found] = [
                workload
                for workload in workloads()
                if selector <= workload["spec"]["template"]["metadata"]["labels"].items()
            ]
            [container] = found["spec"]["template"]["spec"]["containers"]
            named = {port["name"]: port["containerPort"] for port in container["ports"]}
            for port in document["spec"]["ports"]:
                assert named[port["targetPort"]] == port["port"]
                services[f"{document['metadata']['name']}.cafs.svc:{port['port']}"] = found
    configured = settings()
    assert [services[address]["metadata"]["name"] for address in configured.managers] == ["cafs-manager"]
    # The manager names them. Behind a service, hosts would not take the same one for the same content.
    assert configured.schedulers == ()
    assert "cafs-scheduler" not in {found["metadata"]["name"] for found in services.values()}


def test_selectors_fit_their_own_pods_and_volumes_are_there() -> None:
    for workload in workloads():
        spec, template = workload["spec"], workload["spec"]["template"]
        assert spec["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
        claims = [claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", [])]
        volumes = {volume["name"] for volume in template["spec"]["volumes"]} | set(claims)
        for container in template["spec"]["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            probes = [probe for name, probe in container.items() if name.endswith("Probe")]
            ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
            for probe in probes:
                [port] = [how["port"] for how in probe.values() if isinstance(how, dict)]
                assert port in {*ports, *ports.values()}


def test_the_image_has_what_the_manifests_run() -> None:
    """The console, with which comes all that manager, scheduler and snapshotter need."""
    built = (ROOT / "deploy/Containerfile").read_text()
    assert re.findall(r"/src\[(.*?)\]", built) == ["console"]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert "cafs[manager]" in extras["console"]
    assert "cafs[snapshotter]" in extras["manager"]


def test_no_more_rights_than_needed() -> None:
    """Only what mounts is privileged; nobody has a token of Kubernetes', a writable root or capabilities."""
    assert not [document for document in DOCUMENTS if "Role" in document["kind"]]
    for spec, container in containers():
        assert spec["automountServiceAccountToken"] is False
        security = container["securityContext"]
        if container["name"] in {"mountd", "snapshotter"}:
            assert security == {"privileged": True}
            mounts = {
                mount["mountPath"]: mount.get("mountPropagation") for mount in container["volumeMounts"]
            }
            assert mounts["/run/cafs"] == mounts["/var/lib/cafs"] == "Bidirectional"
        else:
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert security["allowPrivilegeEscalation"] is False
