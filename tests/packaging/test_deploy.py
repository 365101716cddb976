"""What is shipped for other machines agrees with the program: ports, paths, variables, times, files."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from codellama_proxy.config.settings import Settings
from codellama_proxy.core.snapshot import Server
from codellama_proxy.server.assembly import FLUSH_SECONDS
from codellama_proxy.server.process import AFTER_DRAIN_SECONDS
from tests.support import chromium, person, postgres
from tests.support.cases import each
from tests.support.container_sandbox import DOCKERFILE, USER
from tests.support.processes import ROOT

PORT = 4000
DRAIN = 25.0
WHOLE_STOP = DRAIN + AFTER_DRAIN_SECONDS + FLUSH_SECONDS
HEALTH = {"/health/readiness", "/health/liveliness"}
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
KUBERNETES = list(yaml.safe_load_all((ROOT / "deploy/kubernetes.yaml").read_text()))
INVENTS = "adding-a-provider.md"  # shows files that the reader makes
GUIDES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def kind(name: str) -> Any:
    (found,) = [one for one in KUBERNETES if one["kind"] == name]
    return found


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(ROOT / "deploy/codellama-proxy.service")
    return parser


def test_every_platform_allows_enough_time_to_stop() -> None:
    assert Server().drain == DRAIN
    pod = kind("Deployment")["spec"]["template"]["spec"]
    pause = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert int(COMPOSE["services"]["proxy"]["stop_grace_period"].removesuffix("s")) > WHOLE_STOP
    assert pod["terminationGracePeriodSeconds"] > WHOLE_STOP + pause
    assert int(unit()["Service"]["TimeoutStopSec"]) > WHOLE_STOP
    assert json.loads((ROOT / "railway.json").read_text())["deploy"]["drainingSeconds"] > WHOLE_STOP


def test_every_platform_uses_the_served_port_and_paths() -> None:
    assert [one.text for one in DOCKERFILE if one.word == "EXPOSE"] == [str(PORT)]
    container = kind("Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert container["ports"] == [{"name": "http", "containerPort": PORT}]
    probes = [container[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert {probe["path"] for probe in probes} == HEALTH
    assert json.loads((ROOT / "railway.json").read_text())["deploy"]["healthcheckPath"] in HEALTH
    scraped = yaml.safe_load((ROOT / "deploy/prometheus.yml").read_text())["scrape_configs"]
    assert scraped[0]["static_configs"] == [{"targets": [f"proxy:{PORT}"]}]


def test_the_container_may_write_only_to_data() -> None:
    pod = kind("Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsUser"] == int(USER)
    assert pod["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    mounts = {
        mount["mountPath"]: mount.get("readOnly", False) for mount in pod["containers"][0]["volumeMounts"]
    }
    assert mounts == {"/data": False, "/config": True}
    proxy = COMPOSE["services"]["proxy"]
    assert proxy["read_only"] is True
    assert proxy["cap_drop"] == ["ALL"]
    assert proxy["volumes"] == ["./config:/config:ro", "data:/data"]


def test_every_platform_runs_one_instance() -> None:
    deployment = kind("Deployment")["spec"]
    assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})
    railway = json.loads((ROOT / "railway.json").read_text())["deploy"]
    assert (railway["numReplicas"], railway["overlapSeconds"]) == (1, 0)


SCALED = list(yaml.safe_load_all((ROOT / "deploy/kubernetes-postgresql.yaml").read_text()))
SCALED_COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "deploy/compose.postgresql.yaml").read_text())


def test_replicas_on_a_database_server_are_replaced_one_after_the_other() -> None:
    (deployment,) = [one["spec"] for one in SCALED if one["kind"] == "Deployment"]
    assert deployment["replicas"] == 3
    assert deployment["strategy"] == {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    pod = deployment["template"]["spec"]
    assert [volume for volume in pod["volumes"] if "persistentVolumeClaim" in volume] == []
    alone = kind("Deployment")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == alone["terminationGracePeriodSeconds"]
    assert pod["containers"][0]["securityContext"] == alone["containers"][0]["securityContext"]
    assert pod["containers"][0]["image"] == alone["containers"][0]["image"]
    mounts = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounts == {"/tmp", "/config"}  # the cache is in a temporary file
    kinds = {one["kind"] for one in SCALED}
    assert kinds >= {"PodDisruptionBudget", "HorizontalPodAutoscaler", "Service", "NetworkPolicy"}


def test_the_compose_file_of_a_database_server_adds_to_the_other() -> None:
    assert set(SCALED_COMPOSE["services"]) - set(COMPOSE["services"]) == {"database"}
    proxy, database = SCALED_COMPOSE["services"]["proxy"], SCALED_COMPOSE["services"]["database"]
    assert proxy["environment"]["PROXY_DATABASE"] == "postgresql://proxy@database/proxy"
    assert proxy["tmpfs"] == ["/tmp"]
    assert database["networks"] == ["database"]
    assert SCALED_COMPOSE["networks"]["database"] == {"internal": True}
    assert not [name for name in ("ports", "expose") if name in database]


def test_every_mounted_file_exists() -> None:
    mounted = [volume for one in COMPOSE["services"].values() for volume in one["volumes"]]
    files = [volume.split(":")[0] for volume in mounted if volume.startswith("./deploy/")]
    assert len(files) >= 5
    assert [file for file in files if not (ROOT / file).is_file()] == []
    volumes = {volume.split(":")[0] for volume in mounted if not volume.startswith("./")}
    assert volumes == set(COMPOSE["volumes"])


def variables(text: str) -> Iterator[str]:
    yield from re.findall(r"\bPROXY_[A-Z_]+\b", text)


@each(
    "path",
    [
        ROOT / "Dockerfile",
        ROOT / "compose.yaml",
        *sorted((ROOT / "deploy").glob("*.yaml")),
        ROOT / "deploy/codellama-proxy.service",
        *GUIDES,
    ],
)
def test_every_named_variable_is_read(path: Path) -> None:
    of_tests = {chromium.VARIABLE, postgres.VARIABLE, person.SCREENSHOTS_VARIABLE}
    known = {f"PROXY_{name.upper()}" for name in Settings.model_fields} | of_tests
    assert set(variables(path.read_text())) <= known


def test_the_unit_starts_the_installed_command_without_privileges() -> None:
    service = unit()["Service"]
    assert service["ExecStart"] == "/opt/codellama-proxy/.venv/bin/codellama-proxy serve"
    assert service["CapabilityBoundingSet"] == ""
    assert service["ProtectSystem"] == "strict"
    assert service["DynamicUser"] == "yes"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    text = (ROOT / "deploy/codellama-proxy.service").read_text()
    copy = tmp_path / "codellama-proxy.service"
    copy.write_text(text.replace("/opt/codellama-proxy/.venv/bin/codellama-proxy", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "codellama-proxy.service" not in done.stderr, done.stderr


@each("guide", GUIDES)
def test_every_internal_link_has_a_target(guide: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", guide.read_text()):
        if "://" not in target:
            assert (guide.parent / target).exists(), target


@each("guide", [one for one in GUIDES if one.name != INVENTS])
def test_every_file_named_in_the_guides_exists(guide: Path) -> None:
    paths = r"(?:^|[`\s])((?:tests|scripts|docs|deploy/[\w-]+\.)/?[\w/.-]*\w)(?!\*)\b"
    named = [name for name in re.findall(paths, guide.read_text(), re.MULTILINE) if "/" in name]
    assert [name for name in named if not (ROOT / name).exists()] == []
