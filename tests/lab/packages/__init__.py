"""Stand-ins for the vendor's packages: the same names, commands, units and files, programs of our own."""
