"""Programs that people run, over direct connections: they serve and forward whole what they serve over plain TCP.

nginx sends files with ``sendfile``, HAProxy and Go's ``io.Copy`` splice between sockets, PostgreSQL keeps sessions.
"""

import asyncio
import hashlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from meshkit.linux import netns
from tests.support import debian
from tests.support.direct import DirectMesh, direct_mesh
from tests.support.namespaced import Pod
from tests.support.waiting import scaled, until

pytestmark = pytest.mark.root

SIZE = 20_000_000
ROWS = 100_000
SOURCE = Path(__file__).parent / "programs" / "forward.go"
NOBODY = 65534


@pytest.fixture
async def direct() -> AsyncIterator[DirectMesh]:
    async with direct_mesh() as made:
        yield made


def inside(pod: Pod, *command: str | Path) -> list[str]:
    return ["nsenter", f"--net={netns.path(pod.netns)}", *map(str, command)]


async def output(pod: Pod, *command: str | Path, **environment: str) -> str:
    """Run a program in a pod and return what it writes."""
    done = await asyncio.to_thread(
        subprocess.run,
        inside(pod, *command),
        capture_output=True,
        text=True,
        timeout=scaled(60),
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@contextmanager
def running(pod: Pod, *command: str | Path, log: Path, environment: dict[str, str] | None = None) -> Iterator[None]:
    with log.open("wb") as file:
        started = subprocess.Popen(inside(pod, *command), stdout=file, stderr=file, env=environment)
    try:
        yield
    finally:
        started.terminate()
        started.wait(30)


async def listening(pod: Pod, port: int) -> None:
    found = lambda: f":{port} " in subprocess.check_output(inside(pod, "ss", "-Hltn"), text=True)  # noqa: E731
    await until(found, within_s=30)


async def direct_hops(direct: DirectMesh, request: Callable[[], object], hops: int) -> None:
    """Send requests until each hop of them is direct."""
    for _ in range(20):
        before = direct.count("connected")
        await request()
        if direct.count("connected") == before + hops:
            return
    raise AssertionError("requests still go through the tunnel")


NGINX = """
daemon off; pid {folder}/pid; error_log stderr; user root; worker_processes 1;
events {{ worker_connections 512; }}
http {{
  access_log off; sendfile on; client_max_body_size 100m;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{ listen 8080; root {folder}/www; location /kept/ {{ dav_methods PUT; create_full_put_path on; }} }}
}}
"""
HAPROXY = """
defaults
  mode tcp
  option splice-request
  option splice-response
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen forward
  bind :8081
  server next {ip}:8082
"""


@pytest.fixture
def forward(tmp_path: Path) -> Path:
    """The program of ``forward.go``."""
    made = tmp_path / "forward"
    subprocess.run(["go", "build", "-o", made, SOURCE], check=True, env={**os.environ, "CGO_ENABLED": "0"})
    return made


async def test_files_pass_nginx_haproxy_and_go_whole(direct: DirectMesh, forward: Path, tmp_path: Path) -> None:
    root = debian.unpack("nginx", "haproxy")
    environment = debian.environment(root)
    web, splicer, copier, client = [await direct.mesh.pod(name) for name in ("web", "splicer", "copier", "client")]
    www = tmp_path / "www"
    www.mkdir()
    tmp_path.chmod(0o755)
    body = os.urandom(SIZE)
    (www / "big").write_bytes(body)
    (www / "small").write_bytes(b"small")
    (tmp_path / "nginx.conf").write_text(NGINX.format(folder=tmp_path))
    (tmp_path / "haproxy.cfg").write_text(HAPROXY.format(ip=copier.ip))
    with ExitStack() as stack:
        for pod, port, command in (
            (web, 8080, (root / "usr/sbin/nginx", "-p", tmp_path, "-e", "stderr", "-c", tmp_path / "nginx.conf")),
            (copier, 8082, (forward, ":8082", f"{web.ip}:8080")),
            (splicer, 8081, (root / "usr/sbin/haproxy", "-db", "-f", tmp_path / "haproxy.cfg")),
        ):
            log = tmp_path / f"{pod.name}.log"
            stack.enter_context(running(pod, *command, log=log, environment=environment))
            await listening(pod, port)
        url = f"http://{splicer.ip}:8081"
        fetch = ("curl", "-sSf", "--max-time", "50")
        await direct_hops(direct, lambda: output(client, *fetch, f"{url}/small"), 3)
        before = direct.count("connected")
        files = [tmp_path / f"got{number}" for number in range(3)]
        outputs = [text for file in files for text in ("-o", str(file), f"{url}/big")]
        await output(client, *fetch, "--parallel", "--parallel-immediate", *outputs)
        for file in files:
            assert hashlib.sha256(file.read_bytes()).digest() == hashlib.sha256(body).digest()
        await output(client, *fetch, "-T", str(files[0]), f"{url}/kept/big")
        assert hashlib.sha256((www / "kept" / "big").read_bytes()).digest() == hashlib.sha256(body).digest()
        await output(client, *fetch, *[f"{url}/small"] * 50)  # one connection
        assert direct.count("connected") == before + 3 * 5
    await until(lambda: direct.open() == 0)
    assert (tmp_path / "copier.log").read_text() == ""


@pytest.fixture
def postgresql(tmp_path: Path) -> Iterator[Path]:
    """PostgreSQL's files where another user than root can reach them, as it demands."""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    root = tmp_path / "root"
    root.mkdir()
    unpacked = debian.unpack("postgresql-15", "postgresql-client-15", "libpq5")
    subprocess.run(["mount", "--bind", unpacked, root], check=True)
    yield root
    subprocess.run(["umount", root], check=True)


async def test_postgresql_keeps_its_sessions(direct: DirectMesh, postgresql: Path, tmp_path: Path) -> None:
    programs, environment = postgresql / "usr/lib/postgresql/15/bin", debian.environment(postgresql)
    server, client = [await direct.mesh.pod(name) for name in ("server", "client")]
    data = tmp_path / "data"
    data.mkdir()
    shutil.chown(data, NOBODY, NOBODY)
    as_nobody = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    made = (*as_nobody, programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-locale", "--no-sync")
    await output(server, *made, **environment)
    with (data / "pg_hba.conf").open("a") as file:
        file.write("host all all 0.0.0.0/0 trust\n")
    options = ["-c", "listen_addresses=*", "-c", f"unix_socket_directories={data}", "-c", "jit=off", "-c", "fsync=off"]
    start = (*as_nobody, programs / "postgres", "-D", data, *options)
    with running(server, *start, log=tmp_path / "log", environment=environment):
        await listening(server, 5432)
        to = ("-h", server.ip, "-U", "postgres", "postgres")
        query = lambda text: output(client, programs / "psql", "-XAtq", "-c", text, *to, **environment)  # noqa: E731
        await until_answered(query)
        await direct_hops(direct, lambda: query("select 1"), 1)
        before = direct.count("connected")
        rows = await query(f"select i, md5(i::text) from generate_series(1, {ROWS}) i")
        assert rows == "".join(f"{i}|{hashlib.md5(str(i).encode()).hexdigest()}\n" for i in range(1, ROWS + 1))
        await output(client, programs / "pgbench", "-i", "-q", "-s", "1", *to, **environment)
        load = ("-n", "-c", "4", "-j", "2", "-t", "50", "-C")  # -C: a connection for each transaction
        done = await output(client, programs / "pgbench", *load, *to, **environment)
        assert "number of failed transactions: 0" in done
        sums = "select sum(abalance) = (select sum(delta) from pgbench_history) from pgbench_accounts"
        assert await query(sums) == "t\n"
        assert direct.count("connected") >= before + 200
    await until(lambda: direct.open() == 0)


async def until_answered(query: Callable[[str], object]) -> None:
    """Wait until the server has started: it listens a moment before it answers."""
    for _ in range(50):
        try:
            await query("select 1")
        except AssertionError:
            await asyncio.sleep(0.2)
        else:
            return
    raise AssertionError("the server does not answer")
