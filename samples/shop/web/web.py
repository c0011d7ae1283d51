"""The shop's pages: a plain HTTP server on loopback that knows nothing of Ashlar."""

import json
import os
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CART_URL = os.environ["CART_URL"]


class Pages(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/page":
            self.page()
        elif self.path == "/admin":
            self.answer(200, {"service": "web", "admin": "everything"})
        else:
            self.answer(404, {"error": "no such page"})

    def page(self):
        try:
            with urllib.request.urlopen(CART_URL + "/items", timeout=5) as response:
                cart = json.load(response)
        except (urllib.error.URLError, OSError) as error:
            self.answer(502, {"error": f"cart: {error}"})
            return
        caller = self.headers.get("x-forwarded-client-cert", "")
        self.answer(200, {"service": "web", "language": "Python", "caller": caller, "cart": cart})

    def answer(self, status, document):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", 8081), Pages).serve_forever()
