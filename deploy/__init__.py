"""The stack for several machines: in containers (``compose.yaml``), and its parts as processes of one machine."""
