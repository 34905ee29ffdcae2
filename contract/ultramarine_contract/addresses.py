"""Where a pod listens: at its own addresses, and not at those of its link, which no network policy sees."""

from __future__ import annotations

import socket
from ipaddress import ip_address


def own_addresses() -> list[str]:
    """The pod's own addresses, and loopback's for `kubectl port-forward`; all there are where it knows none."""
    try:
        # The kubelet has written them beside the pod's name into /etc/hosts.
        found = {str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)}
    except OSError:
        found = set()
    own = sorted(address for address in found if not is_of_link(address) and not ip_address(address).is_loopback)
    return [*own, "127.0.0.1"] if own else ["0.0.0.0"]


def is_of_link(address: str) -> bool:
    """Whether an address, such as fe80::1%eth0, is good on one link alone."""
    return ip_address(address.partition("%")[0]).is_link_local
