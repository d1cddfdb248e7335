"""A provider of identities on a port of its own: gives its public keys over HTTP, and signs whatever it is asked to."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

AUDIENCE = "orchestrator"

MAKERS = {
    "RS256": (lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048), RSAAlgorithm),
    "ES256": (lambda: ec.generate_private_key(ec.SECP256R1()), ECAlgorithm),
    "EdDSA": (ed25519.Ed25519PrivateKey.generate, OKPAlgorithm),
}


def public_jwk(private, kind, **rest):
    return {**json.loads(kind.to_jwk(private.public_key())), "use": "sig", **rest}


class Provider:
    """Signs tokens by a key for each algorithm, and serves the keys until it is stopped."""

    def __init__(self):
        self.private = {name: make() for name, (make, _) in MAKERS.items()}
        self.jwks = [
            public_jwk(self.private[name], kind, kid=name, alg=name) for name, (_, kind) in MAKERS.items()
        ]
        self.status, self.body, self.location, self.asked = 200, None, None, 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.issuer = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.jwks_url = f"{self.issuer}/keys"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def _handler(self):
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                provider.asked += 1
                body = provider.body
                if body is None:
                    body = json.dumps({"keys": provider.jwks}).encode()
                self.send_response(provider.status)
                if provider.location:
                    self.send_header("Location", provider.location)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        return Handler

    def stop(self):
        """Go away, so that nobody listens there any more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def claims(self, **rest):
        now = int(time.time())
        usual = {
            "iss": self.issuer,
            "aud": AUDIENCE,
            "sub": "ada",
            "iat": now,
            "exp": now + 600,
            "tenant": "acme",
            "roles": ["operator"],
        }
        return {name: value for name, value in {**usual, **rest}.items() if value is not ...}

    def token(self, algorithm="RS256", *, headers=None, key=None, **claims):
        """A token by this provider; `...` for a claim leaves it out."""
        return jwt.encode(
            self.claims(**claims),
            key or self.private[algorithm],
            algorithm=algorithm,
            headers={"kid": algorithm, **(headers or {})},
        )


@contextmanager
def provider():
    """A provider for as long as the block lasts."""
    made = Provider()
    try:
        yield made
    finally:
        made.stop()
