"""The image and the cluster's description of a worker fit the package, and grant no more than it takes."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from prefect_snapshots.integration.settings import SnapshotsSettings

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "deployments" / "Dockerfile").read_text()
OBJECTS: list[dict[str, Any]] = list(yaml.safe_load_all((ROOT / "deployments" / "kubernetes.yaml").read_text()))
[WORKER] = [found["spec"]["template"]["spec"] for found in OBJECTS if found["kind"] == "Deployment"]


def instructions(name: str) -> list[list[str]]:
    """The arguments of every such instruction of the Dockerfile."""
    lines = re.sub(r"\\\n\s*", "", DOCKERFILE).splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith(f"{name} ")]


def test_the_image_copies_what_there_is_and_is_not_run_by_root() -> None:
    copied = [
        source for arguments in instructions("COPY") if "--from=build" not in arguments for source in arguments[:-1]
    ]
    assert {"pyproject.toml", "README.md", "LICENSE", "prefect_snapshots", "flows", "deployments"} == set(copied)
    assert all((ROOT / source).exists() for source in copied)
    [[user]] = instructions("USER")
    assert user.partition(":")[0] == str(WORKER["securityContext"]["runAsUser"])


def test_the_image_takes_extras_of_the_package() -> None:
    defaults = dict(argument.split("=", 1) for [argument] in instructions("ARG"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(defaults["EXTRAS"].split(",")) <= project["optional-dependencies"].keys()


def test_the_worker_serves_the_pool_of_the_deployments() -> None:
    deployed = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())
    pools = {deployment["work_pool"]["name"] for deployment in deployed["deployments"]}
    [command] = [re.findall(r'"([^"]+)"', line) for line in DOCKERFILE.splitlines() if line.startswith("CMD ")]
    assert command[command.index("--pool") + 1] in pools


def test_the_worker_has_the_least_permissions() -> None:
    assert not WORKER["automountServiceAccountToken"]
    assert not any(found["kind"] in {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"} for found in OBJECTS)
    assert WORKER["securityContext"]["runAsNonRoot"]
    for container in WORKER["containers"]:
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"]
        assert not security["allowPrivilegeEscalation"]
        assert security["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("container", WORKER["containers"], ids=lambda container: str(container["name"]))
def test_secrets_come_from_a_secret(container: dict[str, Any]) -> None:
    for variable in container["env"]:
        secret = re.search("PASSWORD|KEY", variable["name"]) is not None
        assert ("secretKeyRef" in variable.get("valueFrom", {})) == secret, variable["name"]
    ours = {name.removeprefix("PREFECT_INTEGRATIONS_SNAPSHOTS_").lower() for name in names(container)}
    assert {"repository", "password"} == ours & SnapshotsSettings.model_fields.keys()


def names(container: dict[str, Any]) -> list[str]:
    return [variable["name"] for variable in container["env"]]
