"""Addresses that a pod listens at: its own, without those of its link, which no network policy covers."""

from __future__ import annotations

import socket
from ipaddress import ip_address


def own_addresses() -> list[str]:
    """Return the pod's own addresses, and loopback for `kubectl port-forward`; any address if it knows none."""
    try:
        # The kubelet has written them beside the pod's name into /etc/hosts.
        addresses = {
            str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)
        }
    except OSError:
        addresses = set()
    own = sorted(address for address in addresses if not is_of_link(address) and not ip_address(address).is_loopback)
    return [*own, "127.0.0.1"] if own else ["0.0.0.0"]


def is_of_link(address: str) -> bool:
    """True if an address, such as fe80::1%eth0, is valid on one link alone."""
    return ip_address(address.partition("%")[0]).is_link_local
