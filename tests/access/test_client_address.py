"""A table of forwarding headers, honest and spoofed, each with the client that is seen."""

from __future__ import annotations

import time
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.forwarded import Proxies, client_address, client_group, read_address

PROXIES = Proxies.parse(["127.0.0.1/32", "10.0.0.0/8", "fd00::/8"])
OWN = ("10.0.0.1", 40000)
STRANGER = ("203.0.113.9", 40000)


def forwarded_for(*lines: str) -> list[tuple[bytes, bytes]]:
    return [(b"x-forwarded-for", line.encode("latin-1")) for line in lines]


def forwarded(*lines: str) -> list[tuple[bytes, bytes]]:
    return [(b"forwarded", line.encode("latin-1")) for line in lines]


def seen(peer: tuple[str, int] | None, headers: list[tuple[bytes, bytes]], proxies: Proxies = PROXIES) -> str:
    return str(client_address(peer, headers, proxies))


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        (forwarded_for("198.51.100.7"), "198.51.100.7"),
        (forwarded_for("198.51.100.7, 10.1.1.1"), "198.51.100.7"),
        (forwarded_for("1.1.1.1, 198.51.100.7"), "198.51.100.7"),
        (forwarded_for("127.0.0.1, 10.0.0.9, 198.51.100.7, 10.1.1.1"), "198.51.100.7"),
        (forwarded_for("1.1.1.1", "198.51.100.7"), "198.51.100.7"),
        (forwarded_for("1.1.1.1", "198.51.100.7", "10.2.2.2"), "198.51.100.7"),
        (forwarded_for("10.3.3.3, 10.2.2.2"), "10.3.3.3"),
        (forwarded_for(""), "10.0.0.1"),
        (forwarded_for("garbage"), "10.0.0.1"),
        (forwarded_for("198.51.100.7, garbage"), "10.0.0.1"),
        (forwarded_for("198.51.100.7, unknown, 10.2.2.2"), "10.2.2.2"),
        (forwarded_for("198.51.100.7,,10.2.2.2"), "10.2.2.2"),
        (forwarded_for("garbage, 198.51.100.7"), "198.51.100.7"),
        (forwarded_for("198.51.100.7:4711"), "198.51.100.7"),
        (forwarded_for("[2001:db8::7]:4711"), "2001:db8::7"),
        (forwarded_for("2001:db8::7"), "2001:db8::7"),
        (forwarded_for("[2001:db8::7]evil"), "10.0.0.1"),
        (forwarded_for("fe80::7%eth0"), "fe80::7"),
        (forwarded_for("::ffff:198.51.100.7"), "198.51.100.7"),
        (forwarded_for("198.51.100.7, ::ffff:10.1.1.1"), "198.51.100.7"),
        (forwarded_for("198.51.100.7, fd00::1"), "198.51.100.7"),
        (forwarded_for("010.0.0.1"), "10.0.0.1"),
        (forwarded_for("0x7f.1"), "10.0.0.1"),
        (forwarded_for("2130706433"), "10.0.0.1"),
        (forwarded_for("198.51.100.7\x00"), "10.0.0.1"),
        (forwarded_for("١٩٨.51.100.7".encode().decode("latin-1")), "10.0.0.1"),
        (forwarded_for(", ".join(["1.1.1.1"] + ["10.0.0.2"] * 100)), "10.0.0.2"),
        (forwarded("for=198.51.100.7"), "198.51.100.7"),
        (forwarded("For=198.51.100.7;proto=https;by=10.0.0.1"), "198.51.100.7"),
        (forwarded('for="[2001:db8::7]:4711"'), "2001:db8::7"),
        (forwarded("for=1.1.1.1, for=198.51.100.7;proto=http, for=10.1.1.1"), "198.51.100.7"),
        (forwarded("for=1.1.1.1", "for=198.51.100.7"), "198.51.100.7"),
        (forwarded('for=1.1.1.1;host="a,b;c", for=198.51.100.7'), "198.51.100.7"),
        (forwarded('for=1.1.1.1, for=198.51.100.7;host="x, for=2.2.2.2"'), "198.51.100.7"),
        (forwarded("for=_hidden"), "10.0.0.1"),
        (forwarded("for=unknown"), "10.0.0.1"),
        (forwarded("proto=https"), "10.0.0.1"),
        (forwarded("for=1.1.1.1;for=2.2.2.2"), "10.0.0.1"),
        (forwarded("for=1.1.1.1 for=2.2.2.2"), "10.0.0.1"),
        (forwarded('for="1.1.1.1'), "10.0.0.1"),
        (forwarded("for"), "10.0.0.1"),
        (forwarded("="), "10.0.0.1"),
        (forwarded("for=1.1.1.1" + " " * 5000), "10.0.0.1"),
        # A client behind a proxy that knows only the one header can write the other.
        (forwarded_for("198.51.100.7") + forwarded("for=198.51.100.7"), "198.51.100.7"),
        (forwarded_for("198.51.100.7") + forwarded("for=1.1.1.1"), "10.0.0.1"),
        ([(b"x-real-ip", b"1.1.1.1"), (b"client-ip", b"1.1.1.1")], "10.0.0.1"),
    ],
)
def test_behind_a_trusted_proxy(headers: list[tuple[bytes, bytes]], client: str) -> None:
    assert seen(OWN, headers) == client


@pytest.mark.parametrize("headers", [forwarded_for("1.1.1.1"), forwarded("for=1.1.1.1"), forwarded_for("127.0.0.1")])
def test_what_a_stranger_says_of_itself_does_not_count(headers: list[tuple[bytes, bytes]]) -> None:
    assert seen(STRANGER, headers) == "203.0.113.9"
    assert seen(OWN, headers, Proxies()) == "10.0.0.1"


def test_a_socket_that_takes_both_families_knows_its_proxies() -> None:
    assert seen(("::ffff:10.0.0.1", 1), forwarded_for("198.51.100.7")) == "198.51.100.7"
    assert seen(("fe80::1%eth0", 1), []) == "fe80::1"


def test_a_unix_socket_is_trusted_where_the_file_says_so() -> None:
    trusted = Proxies.parse(["unix"])
    assert client_address(None, forwarded_for("198.51.100.7"), PROXIES) is None
    assert seen(None, forwarded_for("198.51.100.7"), trusted) == "198.51.100.7"
    assert client_group(client_address(None, [], trusted)) == "unix"


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("::ffff:198.51.100.7", "198.51.100.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("::1", "::/64"),
    ],
)
def test_a_client_is_its_ipv4_address_or_its_ipv6_network(address: str, group: str) -> None:
    assert client_group(read_address(address)) == group


def test_wrong_networks_are_told() -> None:
    for text in ("10.0.0.1/8", "localhost", "", "10.0.0.0/33"):
        with pytest.raises(ValueError, match=r".+"):
            Proxies.parse([text])


@given(st.ip_addresses())
def test_every_address_is_read_back(address: object) -> None:
    expected = getattr(ip_address(str(address)), "ipv4_mapped", None) or address
    assert read_address(str(address)) == expected
    wrapped = f"[{address}]:80" if ":" in str(address) else f"{address}:80"
    assert read_address(wrapped) == expected


@given(st.text(max_size=40), st.lists(st.text(alphabet='for=";,\\ 1.2:[]%_', max_size=60), max_size=4))
def test_no_header_can_make_it_raise_or_name_a_proxy_that_was_not_there(chain: str, lines: list[str]) -> None:
    headers = [(b"x-forwarded-for", chain.encode()), *((b"forwarded", line.encode()) for line in lines)]
    assert client_address(OWN, headers, PROXIES) is not None
    assert client_address(STRANGER, headers, PROXIES) == ip_address(STRANGER[0])


@pytest.mark.parametrize("unit", ['"\\', '"', "for=", " ", ";", 'for="', ",", "\\"])
def test_a_long_header_costs_no_more_than_its_length(unit: str) -> None:
    headers = forwarded_for(unit * (60_000 // len(unit))) + forwarded(unit * (4000 // len(unit)))
    begun = time.process_time()
    client_address(OWN, headers, PROXIES)
    assert time.process_time() - begun < 0.25
