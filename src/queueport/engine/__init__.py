"""The protocol: `lifecycle` decides without I/O, and the other modules carry its decisions out. For the core."""
