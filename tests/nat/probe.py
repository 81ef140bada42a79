"""Checks that a router of the lab behaves as its kind says, before anything is built on it.

First a socket of the client sends to a public host, and that host, another port of it, and a third
party send back: what comes through is the *filtering*. Then another socket sends to all three, and
they tell as whom they see it: the *mapping*. For UDP and for TCP, over IPv4 and, where the home has
it, over IPv6: there, no router translates, and all of them filter.
"""

import contextlib
import socket
import struct
import time

from homes import within
from lab import KINDS, PORT, RELAY, RELAY6, THIRD, THIRD6, has_six

HOSTS = [("relay", RELAY, 7001), ("relay", RELAY, 7002), ("inet", THIRD, 7001)]
HOSTS6 = [("relay", RELAY6, 7001), ("relay", RELAY6, 7002), ("inet", THIRD6, 7001)]
ANY, ANY6 = "0.0.0.0", "::"
SIX = {"mapping": "same", "filtering": "port", "kept": True}
FRESH = PORT + 1
WAIT = 0.4


def bound(namespace, protocol, address, port):
    with within(namespace):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        one = socket.socket(family, protocol)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    # No TIME_WAIT: the node that comes next wants the port.
    if protocol == socket.SOCK_STREAM:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.settimeout(WAIT)
    one.bind((address, port))
    return one


def places(lab, protocol, hosts):
    """The sockets outside."""
    return [bound(lab.name(short), protocol, address, port) for short, address, port in hosts]


def came(socket_of, expected=None):
    """Takes what comes within the wait; with `expected`, only until that many came."""
    texts, end = [], time.monotonic() + WAIT
    while time.monotonic() < end and len(texts) != expected:
        socket_of.settimeout(max(end - time.monotonic(), 0.001))
        with contextlib.suppress(OSError):
            texts.append(socket_of.recvfrom(100))
    return texts


def udp(lab, client, stack, hosts, own):
    outside = [stack.enter_context(one) for one in places(lab, socket.SOCK_DGRAM, hosts)]
    fresh = stack.enter_context(bound(client, socket.SOCK_DGRAM, own, FRESH))
    fresh.sendto(b"?", hosts[0][1:])
    through = set()
    for _, door in came(outside[0], 1):
        for number, place in enumerate(outside):
            place.sendto(str(number).encode(), door)
        through = {int(text) for text, _ in came(fresh, len(hosts))}
    one = stack.enter_context(bound(client, socket.SOCK_DGRAM, own, PORT))
    seen = []
    for (_, address, port), place in zip(hosts, outside):
        one.sendto(b"?", (address, port))
        seen += [source for _, source in came(place, 1)]
    return seen, through


def tcp(lab, client, stack, hosts, own):
    outside = [stack.enter_context(one) for one in places(lab, socket.SOCK_STREAM, hosts)]
    for place in outside:
        place.listen()

    def connect(port, to, place):
        one = stack.enter_context(bound(client, socket.SOCK_STREAM, own, port))
        one.connect(to)
        accepted, source = place.accept()
        stack.enter_context(accepted)
        return source

    listening = stack.enter_context(bound(client, socket.SOCK_STREAM, own, FRESH))
    listening.listen()
    door = connect(FRESH, hosts[0][1:], outside[0])
    # That one is connected, so it can speak.
    through = {0}
    for number, (short, address, port) in enumerate(hosts[1:], 1):
        dialling = bound(lab.name(short), socket.SOCK_STREAM, address, port)
        stack.enter_context(dialling)
        with contextlib.suppress(OSError):
            dialling.connect(door)
            through.add(number)
    hosts = zip(hosts, outside)
    return [connect(PORT, host[1:], place) for host, place in hosts], through


def behaviour(seen, through):
    """Reads what was found as mapping, filtering, and whether the port is kept."""
    filtering = {
        frozenset({0, 1, 2}): "none",
        frozenset({0, 1}): "address",
        frozenset({0}): "port",
    }
    return {
        "mapping": "same" if len(set(seen)) == 1 else "other",
        "filtering": filtering.get(frozenset(through), str(through)),
        "kept": all(source[1] == PORT for source in seen),
    }


def check(lab, side):
    """Fails where the router of a side is not what it should be."""
    kind = lab.kinds[side]
    expected = {key: KINDS[kind][key] for key in SIX}
    if kind != "six":
        look_at(lab, side, HOSTS, ANY, expected, KINDS[kind]["udp"])
    if has_six(kind):
        look_at(lab, side, HOSTS6, ANY6, SIX, True)


def look_at(lab, side, hosts, own, expected, has_udp):
    for protocol, look in (("udp", udp), ("tcp", tcp)):
        with contextlib.ExitStack() as stack:
            seen, through = look(lab, lab.client(side), stack, hosts, own)
        lab.forget()
        kind = f"{lab.kinds[side]}, {protocol} by {own}"
        found = f"router {kind}: seen as {seen}, let through {through}"
        if protocol == "udp" and not has_udp:
            assert not seen, found
        else:
            assert len(seen) == len(hosts) and behaviour(seen, through) == expected, found
