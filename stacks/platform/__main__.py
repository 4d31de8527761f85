"""The platform, wired: `pulumi up` in this folder."""

from __future__ import annotations

import pulumi

from stacks.components.base import Platform
from stacks.components.cache import Cache
from stacks.components.certificates import Certificates
from stacks.components.database import Database
from stacks.components.gateway import Gateway
from stacks.components.gpu import Gpu
from stacks.components.monitoring import Monitoring
from stacks.components.queueing import Queueing
from stacks.components.storage import Storage

platform = Platform.load()

monitoring = Monitoring(platform)
gateway = Gateway(platform, monitoring=monitoring)
certificates = Certificates(platform, gateway=gateway, monitoring=monitoring)
monitoring.publish(gateway)
storage = Storage(platform, monitoring=monitoring)
database = Database(platform, storage=storage, monitoring=monitoring)
cache = Cache(platform, monitoring=monitoring)
Gpu(platform, monitoring=monitoring)
Queueing(platform, monitoring=monitoring)

pulumi.export("storage", storage.buckets and sorted(storage.buckets))
