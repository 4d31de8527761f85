#!/usr/bin/python3
"""Stand-in for dcgmi on lab hosts: it lists the simulated GPUs and runs no real test on them."""

import sys

from nvsim.dcgm import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
