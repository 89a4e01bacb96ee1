"""Whatever the node agent or the CA sends, the answer is an acknowledgement, an error, or a closed connection."""

import asyncio
import base64
import contextlib
import socket
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.ca import authority
from meshapi.identity import SpiffeId
from meshapi.proto import engine_pb2, zds_pb2
from meshengine import Engine
from meshkit.secrets import request as secrets
from ztunnel.workloads import Workloads
from ztunnel.zds import ZdsClient

names = st.sampled_from(["", "web", "a/b", "shop", "ü", "x" * 300, "a b", "\0"])
infos = st.builds(zds_pb2.WorkloadInfo, name=names, namespace=names, service_account=names)
uids = st.sampled_from(["", "u", "v", "\0"])


def deletion(uid: str) -> zds_pb2.WorkloadRequest:
    made = zds_pb2.WorkloadRequest()
    getattr(made, "del").uid = uid
    return made


requests = st.one_of(
    st.builds(zds_pb2.WorkloadRequest, add=st.builds(zds_pb2.AddWorkload, uid=uids, workload_info=st.none() | infos)),
    st.builds(zds_pb2.WorkloadRequest, keep=st.builds(zds_pb2.KeepWorkload, uid=uids)),
    st.builds(deletion, uids),
    st.builds(zds_pb2.WorkloadRequest, snapshot_sent=st.builds(zds_pb2.SnapshotSent)),
)
packets = st.one_of(
    requests.map(lambda request: request.SerializeToString()), st.binary(min_size=1, max_size=64), st.just(b"x" * 2000)
)
conversations = st.lists(st.tuples(packets, st.sampled_from([0, 0, 1, 1, 1, 2, 4])), max_size=6)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def converse(conversation: list[tuple[bytes, int]], folder: str) -> None:
    engine = Engine(engine_pb2.EngineConfig(worker_threads=1).SerializeToString())
    workloads = Workloads(engine)
    client = ZdsClient(Path(folder) / "s", workloads)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(f"{folder}/s")
        listener.listen()
        client.retire()
        # Retired before it runs, it would not connect; one session is what is wanted here.
        task = asyncio.create_task(client._session())
        loop = asyncio.get_running_loop()
        listener.setblocking(False)
        agent, _ = await loop.sock_accept(listener)
        with agent, contextlib.suppress(OSError):
            assert await loop.sock_recv(agent, 1024)
            for packet, count in conversation:
                socket.send_fds(agent, [packet], [0] * count)
                # A starting workload is acknowledged when its listeners are open; here no engine reports that.
                answered = asyncio.create_task(loop.sock_recv(agent, 1024))
                await asyncio.wait({answered, task}, timeout=0.05, return_when=asyncio.FIRST_COMPLETED)
                if not answered.done() or not answered.result():
                    answered.cancel()
                    await asyncio.gather(answered, return_exceptions=True)
                    break
                zds_pb2.WorkloadResponse.FromString(answered.result())
    # Either it waits for a workload's start, or it has ended as a session may.
    task.cancel()
    [ended] = await asyncio.gather(task, return_exceptions=True)
    allowed = ["CancelledError", "ProtocolError", "DecodeError", "NoneType"]
    assert type(ended).__name__ in allowed or isinstance(ended, OSError), repr(ended)
    for uid in ("u", "v", "\0"):
        workloads.remove(uid)
    engine.close()


@settings(max_examples=60, deadline=None)
@given(conversations)
def test_any_conversation_of_the_node_agent_ends_well_and_leaks_nothing(conversation: list[tuple[bytes, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        before = descriptors()
        asyncio.run(converse(conversation, folder))
        assert descriptors() == before


WEB = SpiffeId("cluster.local", "shop", "web")


@st.composite
def answers(draw: st.DrawFn) -> tuple[secrets.Request, list[str]]:
    """A valid answer of the CA with some bytes changed, removed or added."""
    request, chain = _good()
    part = draw(st.integers(0, len(chain) - 1))
    der = bytearray(base64.b64decode("".join(chain[part].strip().splitlines()[1:-1])))
    for at, value in draw(st.lists(st.tuples(st.integers(0, len(der) - 1), st.integers(0, 255)), max_size=3)):
        der[at] = value
    der = der[: draw(st.integers(0, len(der)) | st.just(len(der)))]
    pem = f"-----BEGIN CERTIFICATE-----\n{base64.encodebytes(der).decode()}-----END CERTIFICATE-----\n"
    chain[part] = draw(st.sampled_from([pem, pem, pem, pem + pem, pem[:-20], "", "\0", "ü"]))
    return request, chain[: draw(st.integers(0, len(chain)) | st.just(len(chain)))]


def _good(cache: list[tuple[secrets.Request, list[str]]] = []) -> tuple[secrets.Request, list[str]]:  # noqa: B006
    if not cache:
        now = datetime.now(UTC)
        root, key = authority.self_signed(trust_domain="cluster.local", now=now, life=timedelta(days=1))
        request = secrets.make_request(WEB)
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        public = load_pem_private_key(request.key_pem, None).public_key()
        signer = authority.Authority.load(certificate_pem=root, key_pem=key)
        cache.append((request, signer.issue(public, uri=str(WEB), now=now, life=timedelta(hours=1))))
    request, chain = cache[0]
    return request, list(chain)


@settings(max_examples=500, deadline=None)
@given(answers())
def test_any_answer_of_the_ca_is_valid_or_refused(answer: tuple[secrets.Request, list[str]]) -> None:
    request, chain = answer
    try:
        issued = secrets.read_answer(WEB, request, chain)
    except secrets.BadCertificate:
        return
    assert issued.key_pem == request.key_pem
    assert b"BEGIN CERTIFICATE" in issued.roots_pem
