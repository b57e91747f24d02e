"""Names and passwords, kept in a file.

    accounts = read_accounts(Path("accounts.txt"))       # ValueError names the line that is wrong
    page.launch(auth=accounts.check, ...)
    print(hashed_line("ana", "a password"))              # a line for the file that does not show the password

The file has a line `name:password` for each person, or `name:scrypt$...` as `hashed_line` makes it; empty
lines and those that begin with # are ignored.
"""

import asyncio
import hashlib
import hmac
import re
import secrets
from pathlib import Path

from pyramid.disk import special

SCRYPT = {"n": 2**14, "r": 8, "p": 1}  # 16 MB and some 50 ms a try
HASHED = re.compile(r"scrypt\$(\d+)\$(\d+)\$(\d+)\$([0-9a-f]{16,})\$([0-9a-f]{32,})")
UNKNOWN = f"scrypt${'$'.join(map(str, SCRYPT.values()))}${'00' * 16}${'00' * 32}"


class Accounts:
    """Names and passwords."""

    def __init__(self, passwords: dict[str, str]):
        self.passwords = passwords

    async def check(self, name: str, password: str) -> bool:
        """Whether the password is this name's. Hashing takes a while, so another thread does it."""
        return await asyncio.to_thread(self.matches, name, password)

    def matches(self, name: str, password: str) -> bool:
        kept = self.passwords.get(name)
        # An unknown name takes as long as a known one, or the time would tell who is known.
        right = same_password(kept if kept is not None else UNKNOWN, password)
        return right and kept is not None


def read_accounts(path: Path) -> Accounts:
    """The accounts of a file. Raises ValueError, with the number of the line, for what is no account."""
    try:
        if what := special(path):
            raise OSError(None, f"it is {what}")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise ValueError(f"--auth-file {path} cannot be read: {reason}") from None
    passwords: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, colon, password = line.partition(":")
        name = name.strip()
        wrong = None
        if not colon or not name or not password.strip():
            wrong = "is not name:password"
        elif name in passwords:
            wrong = f"names {name!r} a second time"
        elif password.startswith("scrypt$") and not HASHED.fullmatch(password.strip()):
            wrong = "holds a damaged hash: make it again with --hash-password"
        if wrong:
            raise ValueError(f"--auth-file {path}: line {number} {wrong}")
        passwords[name] = password.strip() if HASHED.fullmatch(password.strip()) else password
    if not passwords:
        raise ValueError(f"--auth-file {path} holds no account: give a line name:password for each person")
    return Accounts(passwords)


def same_password(kept: str, password: str) -> bool:
    """Whether `password` is the one kept, as it is or as a hash."""
    if not (parts := HASHED.fullmatch(kept)):
        return hmac.compare_digest(kept.encode(), password.encode())
    n, r, p = map(int, parts.groups()[:3])
    salt = bytes.fromhex(parts[4])
    digest = bytes.fromhex(parts[5])
    made = hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, maxmem=256 * n * r, dklen=len(digest))
    return hmac.compare_digest(made, digest)


def hashed_line(name: str, password: str) -> str:
    """A line of the accounts' file. Raises ValueError for a name or password that cannot be one."""
    if not name.strip() or ":" in name or name.startswith("#"):
        raise ValueError(f"{name!r} cannot be a name: use letters and digits, and no colon")
    if not password.strip():
        raise ValueError("the password is empty")
    salt = secrets.token_bytes(16)
    digest = hashlib.scrypt(
        password.encode(), salt=salt, maxmem=256 * SCRYPT["n"] * SCRYPT["r"], dklen=32, **SCRYPT
    )
    cost = "$".join(map(str, SCRYPT.values()))
    return f"{name.strip()}:scrypt${cost}${salt.hex()}${digest.hex()}"
