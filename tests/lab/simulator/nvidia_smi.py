#!/usr/bin/python3
"""Stand-in for nvidia-smi on lab hosts: our own program, its form held against recordings of the real one."""

import sys

from nvsim.smi import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
