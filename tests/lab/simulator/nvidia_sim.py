#!/usr/bin/python3
"""Control of the simulated GPUs: use them, make them misbehave, show their state."""

import sys

from nvsim.control import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
