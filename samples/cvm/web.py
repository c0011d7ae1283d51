"""A service that knows nothing of Ashlar: plain HTTP on loopback."""
import http.server
import os


class Web(http.server.BaseHTTPRequestHandler):
    timeout = 10

    def do_GET(self):
        body = {"/healthz": b"well\n", "/": b"A lamp and a chair.\n"}.get(self.path)
        self.send_response(200 if body else 404)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")


if __name__ == "__main__":
    port = int(os.environ.get("PORT", "8082"))
    http.server.ThreadingHTTPServer(("127.0.0.1", port), Web).serve_forever()
