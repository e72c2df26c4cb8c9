"""Runs a command as another user of this machine: ``python -I as_user.py USER COMMAND…``, started by root.

PostgreSQL refuses to run as root. Run by path, so that it imports nothing: the command takes this process's place.
"""

from __future__ import annotations

import os
import pwd
import sys


def main(user: str, command: list[str]) -> None:
    """Become ``user``, for good, and then the command."""
    entry = pwd.getpwnam(user)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    os.chdir("/")  # wherever root was, the user may not be allowed to be
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
