"""The login of a home's servers, Prefect's and the App's: a secret that one file holds, and nothing else of ours.

It reaches processes by their environment only: command lines, records, reports and logs never hold it.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from valflow.errors import StackError

USER = "valflow"
# Read by Prefect's clients, Prefect's server, and our guard of the App.
FOR_CLIENTS, FOR_SERVER = "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"
FOR_APP = "VALFLOW_APP_LOGIN"


def login_file(state_folder: Path) -> Path:
    """Where the login of a home is kept."""
    return state_folder / "login"


def make_login(state_folder: Path, *, anew: bool = False) -> str:
    """The login as ``user:secret``; made where there is none.

    Args:
        state_folder: see ``homes.state_folder``.
        anew: replace the one that is there.

    Raises:
        StackError: the file can be read by others, or holds no login.
    """
    path = login_file(state_folder)
    if path.exists() and not anew:
        return read_login(state_folder)
    state_folder.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".draft")
    draft.unlink(missing_ok=True)
    # With its mode from the first moment on, and never through a link that somebody put there.
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    login = f"{USER}:{secrets.token_urlsafe(32)}"
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(login + "\n")
    draft.replace(path)
    return login


def read_login(state_folder: Path) -> str:
    """The login as ``user:secret``.

    Raises:
        StackError: there is none, others can read it, or the file holds something else.
    """
    path = login_file(state_folder)
    renew = "`valflow up --secure --new-secret` makes a new one"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise StackError(f"expected the login of this home in {path}: {error.strerror}; {renew}") from None
    with os.fdopen(descriptor, encoding="ascii", errors="replace") as file:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        text = file.read(1000).strip()
    if mode & 0o077:
        raise StackError(
            f"expected only you to be able to read {path} (mode 600), found mode {mode:03o}: others may know the "
            f"secret by now; {renew}"
        )
    user, colon, secret = text.partition(":")
    if not (user and colon and secret):
        raise StackError(f"expected user:secret in {path}, found something else; {renew}")
    return text
