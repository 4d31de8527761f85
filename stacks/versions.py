"""Every chart and image that the platform rolls out, one pin a line."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Chart:
    """A Helm chart: `repository` is the URL of an index, or an `oci://` folder that holds the chart."""

    name: str
    version: str
    repository: str


@dataclass(frozen=True, slots=True)
class Image:
    """A container image by its whole name (registry included) and exact tag."""

    name: str
    tag: str

    @property
    def reference(self) -> str:
        return f"{self.name}:{self.tag}"


CERT_MANAGER = Chart("cert-manager", "v1.21.1", "oci://quay.io/jetstack/charts")
CLOUDNATIVE_PG = Chart("cloudnative-pg", "0.29.0", "https://cloudnative-pg.github.io/charts")
DCGM_EXPORTER = Chart("dcgm-exporter", "4.8.2", "https://nvidia.github.io/dcgm-exporter/helm-charts")
ENVOY_GATEWAY = Chart("gateway-helm", "v1.9.0", "oci://docker.io/envoyproxy")
ENVOY_GATEWAY_CRDS = Chart("gateway-crds-helm", "v1.9.0", "oci://docker.io/envoyproxy")
GPU_OPERATOR = Chart("gpu-operator", "v26.7.0", "https://helm.ngc.nvidia.com/nvidia")
HARBOR = Chart("harbor", "1.19.1", "https://helm.goharbor.io")
KUEUE = Chart("kueue", "0.19.2", "oci://registry.k8s.io/kueue/charts")
MLFLOW = Chart("mlflow", "0.1.1", "oci://ghcr.io/mlflow/charts")
PROMETHEUS_CRDS = Chart("prometheus-operator-crds", "31.0.1", "oci://ghcr.io/prometheus-community/charts")
PROMETHEUS_STACK = Chart("kube-prometheus-stack", "88.5.3", "oci://ghcr.io/prometheus-community/charts")
SEAWEEDFS = Chart("seaweedfs", "4.44.0", "https://seaweedfs.github.io/seaweedfs/helm")
VALKEY = Chart("valkey", "0.11.0", "https://valkey.io/valkey-helm/")

ENVOY = Image("docker.io/envoyproxy/envoy", "distroless-v1.39.0")
GUACAMOLE = Image("docker.io/guacamole/guacamole", "1.6.0")
GUACD = Image("docker.io/guacamole/guacd", "1.6.0")
IRONYARD = Image("ghcr.io/ironyard/ironyard", "0.1.0")
MLFLOW_SERVER = Image("ghcr.io/mlflow/mlflow", "v3.16.1-full")
POSTGRESQL = Image("ghcr.io/cloudnative-pg/postgresql", "17.11-202608310816-system-trixie")
SEAWEEDFS_SHELL = Image("docker.io/chrislusf/seaweedfs", "4.44")

CHARTS: tuple[Chart, ...] = tuple(pin for pin in list(globals().values()) if isinstance(pin, Chart))
IMAGES: tuple[Image, ...] = tuple(pin for pin in list(globals().values()) if isinstance(pin, Image))
