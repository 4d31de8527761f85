"""Lab hosts: containers like bare-metal GPU hosts, with systemd, sshd, Docker and a simulated nvidia-smi."""

from tests.lab.engine import LabError
from tests.lab.hosts import Host, Lab

__all__ = ["Host", "Lab", "LabError"]
