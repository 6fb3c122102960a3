"""A client may only be the node that its certificate names."""

import pytest

from controlplane.tls.identity import IdentityError, check_identity, identities_of

SPIFFE = "spiffe://colorize/envoy/envoy-1"


@pytest.mark.parametrize(
    ("node_id", "identities"),
    [
        ("envoy-1", [SPIFFE]),
        ("envoy-1", ["envoy-1"]),
        ("envoy/envoy-1", [SPIFFE]),
        ("edge.example.com", ["spiffe://colorize/other", "edge.example.com"]),
        ("envoy-2", None),  # plaintext
    ],
)
def test_a_node_that_its_certificate_names_may_speak(node_id: str, identities: list[str] | None) -> None:
    check_identity(node_id, identities)


@pytest.mark.parametrize(
    ("node_id", "identities"),
    [
        ("envoy-2", [SPIFFE, "envoy-1"]),
        ("1", [SPIFFE]),  # whole segments
        ("nvoy-1", [SPIFFE]),
        ("colorize", ["spiffe://colorize"]),  # a trust domain is no node
        ("colorize/envoy/envoy-1", [SPIFFE]),
        ("/envoy-1", [SPIFFE]),
        ("", ["spiffe://colorize/envoy/"]),
        ("", [""]),
        ("envoy-1", ["*"]),
        ("a.example.com", ["*.example.com"]),
        ("ENVOY-1", ["envoy-1"]),  # would be a second row for one Envoy
        ("envoy-1", ["https://colorize/envoy/envoy-1"]),
        ("envoy-1", []),
    ],
)
def test_any_other_node_may_not(node_id: str, identities: list[str]) -> None:
    with pytest.raises(IdentityError):
        check_identity(node_id, identities)


def test_a_refusal_names_both_sides() -> None:
    with pytest.raises(IdentityError) as refused:
        check_identity("envoy-2", [SPIFFE, "envoy-1"])
    assert "'envoy-2'" in str(refused.value)
    assert f"({SPIFFE}, envoy-1)" in str(refused.value)
    with pytest.raises(IdentityError, match="names \\(nobody: it has neither a SPIFFE nor a DNS name\\)"):
        check_identity("envoy-2", [])


def test_identities_are_read_from_what_grpc_verified() -> None:
    context = {
        "transport_security_type": [b"ssl"],
        "x509_common_name": [b"envoy-9"],  # says nothing: browsers and Envoy ignore it too
        "peer_uri": [b"https://colorize", SPIFFE.encode()],
        "peer_dns": [b"envoy-1", b"spiffe://colorize/envoy/forged"],
    }
    assert identities_of(context) == (SPIFFE, "envoy-1")


def test_a_common_name_is_no_identity() -> None:
    assert identities_of({"transport_security_type": [b"ssl"], "x509_common_name": [b"envoy-1"]}) == ()
    assert identities_of({}) == ()
