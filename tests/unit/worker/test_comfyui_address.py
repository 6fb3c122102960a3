import socket

import pytest

from inference_worker.comfyui.address import Address, read_address
from inference_worker.comfyui.errors import UnreachableError
from inference_worker.errors import SettingError


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.8.9.1", "[::1]", "10.1.2.3", "172.31.0.1", "192.168.4.4", "[fd00::5]"]
)
def test_this_machine_and_private_networks_are_taken(host: str) -> None:
    assert read_address(f"http://{host}:8188").http_url == f"http://{host}:8188"


@pytest.mark.parametrize(
    "host",
    ["203.0.113.7", "172.32.0.1", "169.254.169.254", "0.0.0.0", "[2001:db8::1]", "[fe80::1]", "[::ffff:203.0.113.7]"],
)
def test_anything_else_is_refused_and_the_flag_that_allows_it_is_named(host: str) -> None:
    with pytest.raises(SettingError, match=r"--comfyui-url: .* give --comfyui-allow"):
        read_address(f"http://{host}:8188")


def test_a_further_network_can_be_allowed() -> None:
    assert read_address("http://203.0.113.7:8188", ["203.0.113.0/24"]).host == "203.0.113.7"
    with pytest.raises(SettingError, match="--comfyui-url"):
        read_address("http://203.0.114.7:8188", ["203.0.113.0/24"])
    with pytest.raises(SettingError, match="--comfyui-allow"):
        read_address("http://127.0.0.1", ["not a network"])


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:8188", "ftp://127.0.0.1", "http://", "http://me:secret@127.0.0.1", "http://127.0.0.1/?a=b",
     "http://127.0.0.1:99999", "http://127.0.0.1/#x"],
)  # fmt: skip
def test_what_is_no_such_url(url: str) -> None:
    with pytest.raises(SettingError, match="--comfyui-url"):
        read_address(url)


def test_a_prefix_and_https_are_kept() -> None:
    address = read_address("https://127.0.0.1/comfy/")
    assert (address.http_url, address.ws_url) == ("https://127.0.0.1:443/comfy", "wss://127.0.0.1:443/comfy/ws")


async def look_up(monkeypatch: pytest.MonkeyPatch, *found: str) -> None:
    def answer(*_: object, **__: object) -> list[object]:
        if not found:
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, 8188)) for ip in found]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    await read_address("http://comfyui.example:8188").check()


async def test_a_name_is_looked_up_and_every_address_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    await look_up(monkeypatch, "10.0.0.3")
    with pytest.raises(SettingError, match=r"comfyui\.example is at 203\.0\.113\.9"):
        await look_up(monkeypatch, "10.0.0.3", "203.0.113.9")
    with pytest.raises(UnreachableError, match="has no address now"):
        await look_up(monkeypatch)


def test_a_mapped_address_counts_as_what_it_is() -> None:
    Address("http", "x", 1, "", read_address("http://127.0.0.1").allowed).check_ip("::ffff:10.0.0.1")
