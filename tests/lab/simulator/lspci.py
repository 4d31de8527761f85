#!/usr/bin/python3
"""Stand-in for lspci on lab hosts: it lists the described GPUs instead of the outer machine's devices."""

import sys

from nvsim.lspci import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
