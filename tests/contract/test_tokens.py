"""Tokens of an identity provider, verified against keys that a real server gives: whom they prove, and what they do not."""

import base64
import hashlib
import hmac
import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from orchestrator.domain.errors import Misconfigured, Unavailable
from orchestrator.tokens import FRESH_S, PAUSE_S, STALE_S, Issuer, Trust, Unproven
from tests.contract import jwks_server
from tests.contract.jwks_server import AUDIENCE, public_jwk

HOUR = 3600


@pytest.fixture
def provider():
    with jwks_server.provider() as made:
        yield made


class Clock:
    def __init__(self):
        self.at = 0.0

    def __call__(self):
        return self.at


@pytest.fixture
def clock():
    return Clock()


def trust(provider, **rest):
    return Trust(
        **{
            "issuer": provider.issuer,
            "audience": AUDIENCE,
            "jwks_url": provider.jwks_url,
            "leeway_s": 5,
            **rest,
        }
    )


@pytest.fixture
def issuer(provider, clock):
    return Issuer(trust(provider), clock=clock)


def encoded(part):
    text = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def forged(provider, header, secret=None, **claims):
    """A token put together by hand, signed by HMAC under a secret or by nothing."""
    signed = f"{encoded({'typ': 'JWT', 'kid': 'RS256', **header})}.{encoded(provider.claims(**claims))}"
    signature = b"" if secret is None else hmac.new(secret, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{encoded(signature)}"


class TestAToken:
    @pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
    def test_proves_its_subject_tenant_and_roles(self, issuer, provider, algorithm):
        who = issuer.proved(provider.token(algorithm, roles=["operator", "auditor"]))
        assert (who.name, who.tenant, who.roles) == ("ada", "acme", {"operator", "auditor"})
        assert (who.kind, who.scopes) == ("token", ("*",))
        assert 0 < who.until.timestamp() - time.time() <= 600

    def test_may_carry_its_roles_deeper_as_words_or_with_a_prefix(self, provider):
        issuer = Issuer(
            trust(provider, roles_claim="realm_access.roles", role_prefix="orc:", tenant_claim="org.id")
        )
        token = provider.token(
            realm_access={"roles": ["orc:operator", "offline_access"]}, org={"id": "acme"}, tenant="other"
        )
        assert (issuer.proved(token).tenant, issuer.proved(token).roles) == ("acme", {"operator"})
        words = Issuer(trust(provider)).proved(provider.token(roles="operator auditor"))
        assert words.roles == {"operator", "auditor"}

    def test_without_roles_holds_none(self, issuer, provider):
        assert issuer.proved(provider.token(roles=...)).roles == frozenset()

    def test_that_is_a_little_early_or_late_is_within_the_leeway(self, issuer, provider):
        now = int(time.time())
        assert issuer.proved(provider.token(exp=now - 2))
        assert issuer.proved(provider.token(nbf=now + 3))


class TestNobodyIsProvedByATokenThat:
    @pytest.mark.parametrize(
        "claims",
        [
            {"aud": "another"},
            {"aud": ["another", "third"]},
            {"iss": "http://127.0.0.1:1"},
            {"exp": 1},
            {"exp": "soon"},
            {"exp": ...},
            {"iat": ...},
            {"iat": 2**40},
            {"nbf": 2**40},
            {"sub": ...},
            {"sub": ""},
            {"sub": "a\nb"},
            {"sub": 7},
            {"aud": ...},
            {"iss": ...},
            {"tenant": ...},
            {"tenant": ["acme"]},
            {"tenant": "a b"},
            {"tenant": {}},
            {"roles": 7},
            {"roles": [7]},
            {"roles": {"operator": True}},
            {"roles": ["Operator"]},
            {"roles": ["r"] * 3 + [f"role{n}" for n in range(200)]},
        ],
        ids=str,
    )
    def test_claims(self, issuer, provider, claims):
        with pytest.raises(Unproven):
            issuer.proved(provider.token(**claims))

    def test_is_signed_by_nothing(self, issuer, provider):
        for name in ("none", "None", "NONE", "nOnE"):
            with pytest.raises(Unproven):
                issuer.proved(forged(provider, {"alg": name}))

    def test_is_signed_by_hmac_under_the_public_key(self, issuer, provider):
        public = provider.private["RS256"].public_key()
        for form in (serialization.PublicFormat.SubjectPublicKeyInfo, serialization.PublicFormat.PKCS1):
            for encoding in (serialization.Encoding.PEM, serialization.Encoding.DER):
                secret = public.public_bytes(encoding, form)
                with pytest.raises(Unproven):
                    issuer.proved(forged(provider, {"alg": "HS256"}, secret))
        with pytest.raises(Unproven):
            issuer.proved(forged(provider, {"alg": "HS256"}, json.dumps(provider.jwks[0]).encode()))

    def test_names_a_key_of_another_algorithm(self, issuer, provider):
        for kid in ("ES256", "EdDSA"):
            with pytest.raises(Unproven, match="does not fit its key"):
                issuer.proved(provider.token("RS256", headers={"kid": kid}))

    def test_brings_its_own_key(self, issuer, provider):
        mine = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        headers = {
            "jwk": public_jwk(mine, RSAAlgorithm, kid="RS256"),
            "jku": provider.jwks_url,
            "x5u": "http://x",
        }
        with pytest.raises(Unproven):
            issuer.proved(provider.token(key=mine, headers=headers))

    def test_names_no_key_or_one_that_is_not_there(self, issuer, provider):
        for headers in ({"kid": "other"}, {"kid": ""}, {"kid": "../../etc/passwd"}, {"kid": "RS256' OR 1=1"}):
            with pytest.raises(Unproven):
                issuer.proved(provider.token(headers=headers))
        with pytest.raises(Unproven):
            issuer.proved(jwt.encode(provider.claims(), provider.private["RS256"], algorithm="RS256"))

    def test_says_that_something_unknown_must_be_understood(self, issuer, provider):
        with pytest.raises(Unproven):
            issuer.proved(provider.token(headers={"crit": ["b64"], "b64": True}))

    def test_was_changed_after_it_was_signed(self, issuer, provider):
        head, body, signature = provider.token().split(".")
        other = encoded(provider.claims(roles=["tenant_admin"]))
        for token in (
            f"{head}.{other}.{signature}",
            f"{head}.{body}.",
            f"{head}.{body}.{signature[:-8]}AAAAAAAA",
            f"{head}.{body}.{encoded(b'0' * 64)}",
        ):
            with pytest.raises(Unproven):
                issuer.proved(token)

    @pytest.mark.parametrize(
        "token",
        [
            "",
            "a.b",
            "a.b.c.d",
            "...",
            "a" * 9000,
            f"{'A' * 9000}.{'A' * 3000}.A",
            "é.a.b",
            "a.b.c\n",
        ],
    )
    def test_has_not_the_form_of_one_is_looked_at_no_further(self, issuer, token):
        with pytest.raises(Unproven, match="not the form"):
            issuer.proved(token)

    @pytest.mark.parametrize(
        "token", ["e30.e30.", "W10.e30.AA", f"{'A' * 3000}.{'A' * 3000}.A", "e30.e30.AA"]
    )
    def test_says_nothing(self, issuer, token):
        with pytest.raises(Unproven):
            issuer.proved(token)

    def test_is_nested_so_deeply_that_reading_it_fails(self, issuer):
        deep = encoded(b"[" * 2500 + b"]" * 2500)
        with pytest.raises(Unproven):
            issuer.proved(f"{deep}.e30.AA")

    def test_is_signed_by_an_algorithm_that_is_not_pinned_though_the_key_is_there(self, provider):
        issuer = Issuer(trust(provider, algorithms=("ES256",)))
        assert issuer.proved(provider.token("ES256"))
        with pytest.raises(Unproven):
            issuer.proved(provider.token("RS256"))


class TestAKeyOfTheProvider:
    @pytest.mark.parametrize(
        "spoil",
        [
            lambda p: p.jwks[0].update(use="enc"),
            lambda p: p.jwks[0].update(alg="RS512"),
            lambda p: p.jwks[0].update(kty="oct", k="AAAA"),
            lambda p: p.jwks[0].pop("n"),
            lambda p: p.jwks[0].update(n=7),
        ],
    )
    def test_that_is_for_something_else_signs_no_token_and_spoils_no_other(self, issuer, provider, spoil):
        spoil(provider)
        with pytest.raises(Unproven):
            issuer.proved(provider.token("RS256"))
        assert issuer.proved(provider.token("ES256"))

    def test_that_is_weak_signs_no_token(self, issuer, provider):
        weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - a weak key is what this is about
        provider.jwks[0] = public_jwk(weak, RSAAlgorithm, kid="RS256")
        with pytest.raises(Unproven), pytest.warns(jwt.InsecureKeyLengthWarning):
            issuer.proved(provider.token(key=weak))

    def test_on_another_curve_signs_no_token(self, issuer, provider):
        other = ec.generate_private_key(ec.SECP384R1())
        provider.jwks[1] = public_jwk(other, ECAlgorithm, kid="ES256")
        with pytest.raises(Unproven):
            issuer.proved(jwt.encode(provider.claims(), other, algorithm="ES384", headers={"kid": "ES256"}))


class TestTheKeys:
    def test_are_fetched_once_and_again_when_they_are_old(self, issuer, provider, clock):
        for _ in range(5):
            issuer.proved(provider.token())
        assert provider.asked == 1
        clock.at += FRESH_S
        issuer.proved(provider.token())
        assert provider.asked == 2

    def test_that_were_turned_over_are_found_at_the_first_token_by_the_new_one(self, issuer, provider, clock):
        issuer.proved(provider.token())
        provider.jwks[0]["kid"] = "new"
        clock.at += PAUSE_S
        assert issuer.proved(provider.token(headers={"kid": "new"}))
        with pytest.raises(Unproven):
            issuer.proved(provider.token())
        assert provider.asked == 2

    def test_are_not_asked_for_by_every_token_with_an_unknown_id(self, issuer, provider, clock):
        issuer.proved(provider.token())
        clock.at += PAUSE_S
        for number in range(50):
            with pytest.raises(Unproven):
                issuer.proved(provider.token(headers={"kid": f"unknown-{number}"}))
        assert provider.asked == 2

    def test_that_are_known_are_trusted_for_an_hour_while_the_provider_is_down(self, issuer, provider, clock):
        issuer.proved(provider.token())
        provider.status = 500
        clock.at += STALE_S - 1
        assert issuer.proved(provider.token())
        clock.at += 1
        with pytest.raises(Unavailable):
            issuer.proved(provider.token())

    @pytest.mark.parametrize(
        ("status", "body"),
        [
            (500, None),
            (404, b"{}"),
            (302, b""),
            (200, b"nonsense"),
            (200, b"[]"),
            (200, b'{"keys": 7}'),
            (200, b"\xff\xfe"),
            (200, b"[" * 100_000),
            (200, b'{"keys": [' + b"7," * 200_000 + b"7]}"),
        ],
        ids=["500", "404", "redirect", "nonsense", "list", "number", "bytes", "deep", "large"],
    )
    def test_that_cannot_be_had_leave_every_token_unjudged(self, issuer, provider, status, body):
        provider.status, provider.body, provider.location = status, body, "/elsewhere"
        with pytest.raises(Unavailable):
            issuer.proved(provider.token())
        assert provider.asked == 1

    def test_of_a_provider_that_is_gone_leave_every_token_unjudged(self, clock):
        with jwks_server.provider() as gone:
            token = gone.token()
            issuer = Issuer(trust(gone), clock=clock)
        with pytest.raises(Unavailable):
            issuer.proved(token)

    def test_are_not_fetched_through_a_proxy_of_the_environment(self, issuer, provider, monkeypatch):
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
        assert issuer.proved(provider.token())


@pytest.mark.parametrize(
    "wrong",
    [
        {"issuer": ""},
        {"audience": ""},
        {"jwks_url": ""},
        {"jwks_url": "http://id.example/keys"},
        {"jwks_url": "file:///etc/passwd"},
        {"algorithms": ("HS256",)},
        {"algorithms": ("none",)},
        {"algorithms": ()},
        {"algorithms": ("RS256", "HS256")},
    ],
    ids=str,
)
def test_a_trust_that_would_believe_anybody_is_refused(wrong):
    usual = {"issuer": "https://id.example", "audience": "us", "jwks_url": "https://id.example/keys"}
    Trust(**usual)
    with pytest.raises(Misconfigured):
        Trust(**{**usual, **wrong})
