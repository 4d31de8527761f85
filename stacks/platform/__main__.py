"""The platform, wired: `pulumi up` in this folder."""

from __future__ import annotations

import pulumi

from stacks.components.access import Access
from stacks.components.base import Platform
from stacks.components.cache import Cache
from stacks.components.certificates import Certificates
from stacks.components.database import Database
from stacks.components.experiments import Experiments
from stacks.components.facade import Facade
from stacks.components.gateway import Gateway
from stacks.components.gpu import Gpu
from stacks.components.monitoring import Monitoring
from stacks.components.queueing import Queueing
from stacks.components.registry import Registry
from stacks.components.storage import Storage

platform = Platform.load()

monitoring = Monitoring(platform)
gateway = Gateway(platform, monitoring=monitoring)
Certificates(platform, gateway=gateway, monitoring=monitoring)
monitoring.publish(gateway)
storage = Storage(platform, monitoring=monitoring)
database = Database(platform, storage=storage, monitoring=monitoring)
cache = Cache(platform, monitoring=monitoring)
Gpu(platform, monitoring=monitoring)
Queueing(platform, monitoring=monitoring)
registry = Registry(
    platform, database=database, cache=cache, storage=storage, gateway=gateway, monitoring=monitoring
)
experiments = Experiments(
    platform, database=database, storage=storage, gateway=gateway, monitoring=monitoring
)
access = Access(platform, gateway=gateway)
facade = Facade(platform, database=database, gateway=gateway, monitoring=monitoring)

pulumi.export("url", facade.url)
pulumi.export("grafana", monitoring.grafana_address)
pulumi.export("grafana_password", monitoring.grafana_password)
pulumi.export("prometheus", monitoring.url)
pulumi.export("buckets", sorted(storage.buckets))
pulumi.export("registry", registry.account and registry.account.url)
pulumi.export("registry_password", registry.account and registry.account.password)
pulumi.export("experiments", experiments.tracking and experiments.tracking.url)
pulumi.export("experiments_password", experiments.tracking and experiments.tracking.password)
pulumi.export("access", access.console and access.console.url)
