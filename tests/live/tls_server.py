"""A server that speaks TLS, and HTTP/1.1 or HTTP/2."""

import socket
import ssl
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from h2 import config, connection, events  # type: ignore[import-untyped, unused-ignore]
from lib import LOOPBACK
from lib.messages import Headers, Reply, Request, header
from lib.server import Server, decoded


class TlsServer(Server):
    """A `Server` over TLS, with the protocols of `alpn`: `h2`, `http/1.1`.

    `respond` is called by one thread for each HTTP/2 connection.
    """

    def __init__(
        self,
        respond: Callable[[Request], Reply] = lambda _: Reply(),
        alpn: Sequence[str] = ("http/1.1",),
    ) -> None:
        super().__init__(respond)
        self.url = f"https://{LOOPBACK}:{self.port}"
        self._tls = tls_context(*alpn)

    def _serve(self, sock: socket.socket) -> None:
        with self._tls.wrap_socket(sock, server_side=True) as tls:
            if tls.selected_alpn_protocol() == "h2":
                self._serve_http2(tls)
            else:
                super()._serve(tls)

    def _serve_http2(self, sock: socket.socket) -> None:
        http2 = connection.H2Connection(
            config.H2Configuration(client_side=False, header_encoding=None)
        )
        http2.initiate_connection()
        heads: dict[int, Headers] = {}
        bodies: dict[int, bytearray] = {}
        while True:
            sock.sendall(http2.data_to_send())
            data = sock.recv(1 << 16)
            if not data:
                self.broken += [f"{head} broke off" for head in heads.values()]
                return
            for event in http2.receive_data(data):
                match event:
                    case events.RequestReceived():
                        heads[event.stream_id] = decoded(event.headers or ())
                        bodies[event.stream_id] = bytearray()
                    case events.DataReceived():
                        bodies[event.stream_id] += event.data or b""
                        http2.acknowledge_received_data(
                            event.flow_controlled_length, event.stream_id
                        )
                    case events.StreamReset():
                        self.broken.append(f"{heads.pop(event.stream_id)} was reset")
                    case events.StreamEnded():
                        head = heads.pop(event.stream_id)
                        request = Request(
                            version="2",
                            method=header(head, ":method") or "",
                            target=header(head, ":path") or "",
                            headers=[(n, v) for n, v in head if n[0] != ":" or n == ":authority"],
                            body=bytes(bodies.pop(event.stream_id)),
                        )
                        self.requests.append(request)
                        reply = self.respond(request)
                        if not _reply_http2(http2, sock, event.stream_id, request, reply):
                            return


def _reply_http2(
    http2: connection.H2Connection,
    sock: socket.socket,
    stream: int,
    request: Request,
    reply: Reply,
) -> bool:
    """Send an answer; return whether the connection can take another request.

    Pieces have to fit the client's flow-control window: no update is awaited here.
    """
    http2.send_headers(stream, [(":status", str(reply.status)), *reply.headers])
    for piece in reply.pieces(request.method):
        http2.send_data(stream, piece)
        sock.sendall(http2.data_to_send())
    if reply.complete:
        http2.end_stream(stream)
    return reply.complete


@cache
def tls_context(*alpn: str) -> ssl.SSLContext:
    """Return a server's side of TLS with a certificate of its own, and these protocols."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(alpn)
    with tempfile.NamedTemporaryFile() as pem:
        pem.write(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        pem.flush()
        context.load_cert_chain(pem.name)
    return context
