"""Hostile addresses: none of these leads our requests anywhere but to a host that was named, at a public address."""

import pytest

from controlplane.errors import InvalidInputError
from controlplane.jobs.sources import AllowedSources, read_sources

SOURCES = read_sources("photos.example.org, *.example.net, cdn.example.com:8443", "10.1.0.0/16")


@pytest.mark.parametrize(
    "url",
    [
        "https://photos.example.org/1.jpg",
        "http://photos.example.org",
        "http://PHOTOS.example.org./a?token=x#y",
        "https://photos.example.org:443/",
        "https://a.example.net/1.jpg",
        "https://a.b.example.net/1.jpg",
        "https://cdn.example.com:8443/1.jpg",
    ],
)
def test_hosts_of_the_list_may_be_asked(url: str) -> None:
    SOURCES.check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "photos.example.org/1.jpg",
        "//photos.example.org/1.jpg",
        "file:///etc/passwd",
        "ftp://photos.example.org/1.jpg",
        "gopher://photos.example.org/",
        "data:image/png;base64,AAAA",
        "http://",
        "http://127.0.0.1/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0177.0.0.1/",
        "http://0/",
        "http://localhost/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[fe80::1%25eth0]/",
        "http://169.254.169.254/latest/meta-data/",
        "http://metadata.google.internal/",
        "http://100.100.100.200/",
        "http://example.net/",
        "http://notexample.net/",
        "http://photos.example.org.evil.com/",
        "http://evil.com/photos.example.org",
        "http://evil.com#photos.example.org",
        "http://evil.com?photos.example.org",
        "http://photos.example.org@evil.com/",
        "http://user:password@photos.example.org/",
        "http://photos.example.org\\@evil.com/",
        "http://evil.com\\.example.net/",
        "http://photos.example.org:22/",
        "http://photos.example.org:8443/",
        "https://cdn.example.com/",
        "http://photos.example.org:99999/",
        "http://photos.example.org:x/",
        "http://photos.example.org\t.evil.com/",
        "http://photos.example.org /",
        "http://photos.example.org\r\nHost: evil.com/",
        "http://photos.example.org/\x00",
        "http://phötos.example.net/",
        "http://\uff50hotos.example.org/",
        "http://photos\u3002example\u3002org/",
        "http://[photos.example.org]/",
        "http://%70hotos.example.net/",
        "http://-.example.net,evil.com/",
    ],
)
def test_everything_else_is_refused_without_asking_and_without_repeating_it(url: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        SOURCES.check_url(url)
    assert refused.value.field == "image_url"
    assert not url or url not in str(refused.value)


def test_without_a_list_nothing_is_fetched() -> None:
    with pytest.raises(InvalidInputError, match="photos are not fetched here"):
        AllowedSources().check_url("https://photos.example.org/1.jpg")


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "10.1.255.255"])
def test_public_addresses_and_named_networks_may_be_connected_to(address: str) -> None:
    assert SOURCES.allows_address(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.255.255.254",
        "0.0.0.0",
        "10.0.0.1",
        "10.2.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "2001:0:7f00:1::1",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "2001:db8::1",
        "nonsense",
        "",
    ],
)
def test_no_other_address_may(address: str) -> None:
    assert not SOURCES.allows_address(address)


@pytest.mark.parametrize("hosts", ["*", "*.", "http://x", "a b", "x:", "x:0", "x:99999", "[::1]", "x/y"])
def test_a_list_that_makes_no_sense_is_refused(hosts: str) -> None:
    with pytest.raises(InvalidInputError, match="HUESHIFT_IMAGE_HOSTS"):
        read_sources(hosts, "")


@pytest.mark.parametrize("networks", ["10.1.0.1/16", "x", "10.0.0.0/99"])
def test_a_network_that_is_none_is_refused(networks: str) -> None:
    with pytest.raises(InvalidInputError, match="HUESHIFT_IMAGE_NETWORKS"):
        read_sources("", networks)
