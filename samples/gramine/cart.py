"""A service that speaks mutual TLS itself, with what its marble wrote for it.

Nothing but the manifest of the mesh puts files into FOLDER: the chain and key of
this marble, the trust anchors, and the one SPIFFE ID that may call. A renewal
replaces them, and each connection uses the newest.
"""
import http.server
import json
import os
import pathlib
import ssl
import threading

FOLDER = pathlib.Path(os.environ.get("CART_FOLDER", "/run/cart"))
PORT = int(os.environ.get("CART_PORT", "8082"))


def context():
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.num_tickets = 0  # no connection is resumed past a revocation
    tls.load_verify_locations(FOLDER / "roots.pem")
    tls.load_cert_chain(FOLDER / "cart.pem")
    return tls


def callers(certificate):
    return [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]


class Items(http.server.BaseHTTPRequestHandler):
    timeout = 10

    def do_GET(self):
        body = json.dumps(["lamp", "chair"]).encode()
        status = 200 if self.path == "/items" else 404
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body) if status == 200 else 0))
        self.end_headers()
        if status == 200:
            self.wfile.write(body)


class Server(http.server.ThreadingHTTPServer):
    """Makes the handshake in the connection's thread: a slow peer holds up itself."""

    slots = threading.BoundedSemaphore(64)

    def process_request_thread(self, request, client_address):
        with self.slots:
            try:
                request.settimeout(10)
                with context().wrap_socket(request, server_side=True) as tls:
                    if callers(tls.getpeercert()) != [(FOLDER / "caller").read_text().strip()]:
                        return
                    self.finish_request(tls, client_address)
            except OSError as error:
                print(f"{client_address[0]}: {error}", flush=True)
            finally:
                self.shutdown_request(request)


if __name__ == "__main__":
    server = Server(("0.0.0.0", PORT), Items)
    print(f"listening on {server.server_address[1]}", flush=True)
    server.serve_forever()
