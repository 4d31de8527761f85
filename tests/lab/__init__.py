"""Lab hosts: containers that behave like bare-metal GPU hosts (systemd, sshd, Docker, a simulated nvidia-smi)."""

from tests.lab.engine import LabError
from tests.lab.hosts import Host, Lab

__all__ = ["Host", "Lab", "LabError"]
