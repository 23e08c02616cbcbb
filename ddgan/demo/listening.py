"""Where the page is to be reached."""

import ipaddress
import socket

from ddgan.errors import UserError


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach ``host``, a name or an IPv4 address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 takes a free one. Raises UserError if it cannot."""
    try:
        return socket.create_server((host, port))
    except (OSError, OverflowError) as error:
        raise UserError(
            f"cannot listen on --host {host} --port {port} ({error}); choose another port, or 0 "
            "for any that is free"
        ) from None
