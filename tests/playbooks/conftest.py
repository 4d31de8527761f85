"""The modules' shared code is importable here under the name it has on a managed host."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import ansible.module_utils
import pytest

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOKS = ROOT / "playbooks"
SHARED = str(PLAYBOOKS / "module_utils")
if SHARED not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(SHARED)


def load(path: Path) -> ModuleType:
    """A plugin or module of ours as plain Python."""
    spec = importlib.util.spec_from_file_location(f"under_test_{path.stem}", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Recorded nvidia-smi output of real machines."""
    folder = Path(os.environ.get("IRONYARD_CONTRACTS", ROOT.parent / "shared" / "contracts")) / "nvidia-smi"
    if not folder.is_dir():
        pytest.skip(f"no recordings at {folder} (set IRONYARD_CONTRACTS)")
    return folder
