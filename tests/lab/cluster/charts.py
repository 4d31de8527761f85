"""Small charts in the place of the real ones: same name, version, default values, schema and definitions."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tests.lab.cluster.parts import PARTS, Part
from tests.lab.cluster.tools import Tools
from tests.lab.cluster.values import contract
from tests.lab.run import LabError


class Pin(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...


@dataclass(frozen=True)
class Definitions:
    """Where a chart keeps its custom resource definitions.

    `place`: `templates` (upgraded and removed with the release), `crds` (Helm's folder: added once, never
    touched again) or `part` (that folder in a chart inside the chart). `condition`: an expression of Helm's
    templates. `keep`: they survive the release.
    """

    files: tuple[str, ...]
    place: str = "templates"
    condition: str = "true"
    keep: bool = False


DEFINITIONS = {
    "cert-manager": Definitions(
        ("cert-manager",), condition="or .Values.crds.enabled .Values.installCRDs", keep=True
    ),
    "cloudnative-pg": Definitions(("cloudnative-pg",), condition=".Values.crds.create", keep=True),
    "gateway-crds-helm": Definitions(("gateway-api", "envoy-gateway"), keep=True),
    "gateway-helm": Definitions(("gateway-api", "envoy-gateway"), place="part"),
    "gpu-operator": Definitions(("gpu-operator",), place="crds"),
    "kube-prometheus-stack": Definitions(("prometheus-operator",), place="part"),
    "kueue": Definitions(("kueue",)),
    "prometheus-operator-crds": Definitions(("prometheus-operator",)),
}
# charts of which no default values are recorded: what their documentation shows
UNRECORDED: dict[str, dict[str, Any]] = {
    "gateway-crds-helm": {
        "crds": {
            "gatewayAPI": {"enabled": False, "channel": "experimental"},
            "envoyGateway": {"enabled": False},
        }
    },
}
UNRECORDED_CONDITIONS = {
    "gateway-api": ".Values.crds.gatewayAPI.enabled",
    "envoy-gateway": ".Values.crds.envoyGateway.enabled",
}

FULL_NAME = """
{{- define "fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name -}}
{{- end -}}
{{- end -}}
"""
# the values as the release really got them: what a test looks at
VALUES = """
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .Release.Name }}-values
  namespace: {{ .Release.Namespace }}
data:
  values.json: {{ .Values | toJson | quote }}
"""
SERVICE = """
---
apiVersion: v1
kind: Service
metadata: {name: "NAME", namespace: "{{ .Release.Namespace }}", labels: {app: "NAME"}}
spec:
  selector: {app: "NAME", release: "{{ .Release.Name }}"}
  ports: [{name: main, port: PORT, targetPort: PORT}]
"""
WORKLOAD = """
apiVersion: apps/v1
kind: KIND
metadata: {name: "NAME", namespace: "{{ .Release.Namespace }}", labels: {app: "NAME"}}
spec:
  selector: {matchLabels: {app: "NAME", release: "{{ .Release.Name }}"}}
  template:
    metadata: {labels: {app: "NAME", release: "{{ .Release.Name }}"}}
    spec:
      automountServiceAccountToken: false
      HOST
      containers:
      - name: main
        image: "CHART:VERSION"
        ports: [{containerPort: PORT}]
        resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {memory: 16Mi}}
        securityContext:
          allowPrivilegeEscalation: false
          runAsNonRoot: true
          runAsUser: 65532
          capabilities: {drop: [ALL]}
          seccompProfile: {type: RuntimeDefault}
"""


def make(pin: Pin, contracts: Path, folder: Path) -> Path:
    """The packed chart, written into `folder`."""
    known = contract(pin.name, contracts) or {}
    files = {
        "Chart.yaml": _chart_file(pin, known),
        "values.yaml": json.dumps(known.get("values", UNRECORDED.get(pin.name, {})), indent=1),
        "templates/_fullname.tpl": FULL_NAME,
        "templates/values.yaml": VALUES,
    }
    if "schema" in known:
        files["values.schema.json"] = json.dumps(known["schema"])
    for number, part in enumerate(PARTS.get(pin.name, ())):
        files[f"templates/part-{number}.yaml"] = _part(pin, part)
    files |= _definitions(pin.name, contracts)
    return _pack(pin, files, folder)


def _chart_file(pin: Pin, known: dict[str, Any]) -> str:
    chart: dict[str, Any] = {
        "apiVersion": "v2",
        "name": pin.name,
        "version": pin.version,
        "type": "application",
    }
    chart["appVersion"] = known.get("appVersion", pin.version)
    owned = DEFINITIONS.get(pin.name)
    if owned is not None and owned.place == "part":
        chart["dependencies"] = [{"name": "crds", "version": "0.0.0", "condition": "crds.enabled"}]
    return json.dumps(chart)


def _part(pin: Pin, part: Part) -> str:
    text = WORKLOAD + (SERVICE if part.port and part.service else "")
    host = "hostNetwork: true" if part.on_host else ""
    for word, value in (
        ("NAME", part.name.replace("{fullname}", '{{ include "fullname" . }}')),
        ("KIND", part.kind),
        ("PORT", str(part.port or 8080)),
        ("CHART", pin.name),
        ("VERSION", pin.version),
        ("HOST", host),
    ):
        text = text.replace(word, value)
    return f"{{{{- if {part.when} }}}}\n{text}\n{{{{- end }}}}\n" if part.when else text


def _definitions(chart: str, contracts: Path) -> dict[str, str]:
    owned = DEFINITIONS.get(chart)
    if owned is None:
        return {}
    files = {}
    for source in owned.files:
        condition = UNRECORDED_CONDITIONS.get(source, "true") if chart in UNRECORDED else owned.condition
        for document in json.loads((contracts / "crds" / f"{source}.json").read_text()):
            if owned.keep:
                document["metadata"].setdefault("annotations", {})["helm.sh/resource-policy"] = "keep"
            name = f"{document['metadata']['name']}.yaml"
            text = json.dumps(document)
            if owned.place == "templates":
                body = text.replace("{{", '{{ "{{" }}')
                files[f"templates/{name}"] = f"{{{{- if {condition} }}}}\n{body}\n{{{{- end }}}}\n"
            else:
                files[f"{'charts/crds/' if owned.place == 'part' else ''}crds/{name}"] = text
    if owned.place == "part":
        files["charts/crds/Chart.yaml"] = json.dumps({"apiVersion": "v2", "name": "crds", "version": "0.0.0"})
    return files


def _pack(pin: Pin, files: dict[str, str], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{pin.name}-{pin.version}.tgz"
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, text in sorted(files.items()):
            data = text.encode()
            entry = tarfile.TarInfo(f"{pin.name}/{name}")
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))
    return path


def publish(pins: Iterable[Pin], contracts: Path, folder: Path, repository: str, tools: Tools) -> list[Path]:
    """One chart a pin, made in `folder` and pushed to `repository` (`oci://…`, without TLS)."""
    made = [make(pin, contracts, folder) for pin in pins]
    for path in made:
        helm(tools, ["push", str(path), repository, "--plain-http"])
    return made


def helm(tools: Tools, arguments: Sequence[str]) -> str:
    """Raises LabError with Helm's words."""
    done = subprocess.run([tools["helm"], *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"helm {arguments[0]}: {done.stderr.strip()}")
    return done.stdout
