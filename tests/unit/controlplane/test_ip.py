"""Addresses as text and bytes: as the library has them."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.ambient import ip


@given(st.ip_addresses())
def test_both_directions_are_the_librarys(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    assert ip.packed(str(address)) == address.packed
    assert ip.text(address.packed) == str(address)


@pytest.mark.parametrize("address", ["", "10.0.0", "10.0.0.256", "010.0.0.1", "10.0.0.1/32", "web", "::g", " 10.0.0.1"])
def test_what_the_library_refuses_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"does not appear to be|Octet|Expected"):
        ip.packed(address)
