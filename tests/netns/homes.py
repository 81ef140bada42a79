"""People at home, for tests that run real nodes in network namespaces: their sessions, and figures.

One process on one clock: a socket stays in the namespace in which it was made, so whoever uses this
enters a namespace only to make one.
"""

import contextlib
import ctypes
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from urllib.parse import quote

HOMESERVER = ("127.84.48.2", 80)
PATIENCE = 60.0
KEPT_ALIVE = 2.0

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000


@contextlib.contextmanager
def within(namespace):
    """Puts this thread, and no other, into a network namespace for a while."""
    own = f"/proc/self/task/{threading.get_native_id()}/ns/net"
    back = os.open(own, os.O_RDONLY)
    try:
        enter(f"/run/netns/{namespace}")
        yield
    finally:
        LIBC.setns(back, CLONE_NEWNET)
        os.close(back)


def enter(namespace):
    """Moves this thread into a network namespace for good."""
    handle = os.open(namespace, os.O_RDONLY)
    try:
        if LIBC.setns(handle, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns to {namespace}")
    finally:
        os.close(handle)


def connect(namespace):
    """Connects to the homeserver of a namespace."""
    with within(namespace):
        connection = socket.create_connection(HOMESERVER, timeout=PATIENCE)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


class Connection(http.client.HTTPConnection):
    """A keep-alive connection to the homeserver of a namespace."""

    def __init__(self, namespace):
        super().__init__(HOMESERVER[0], HOMESERVER[1], timeout=PATIENCE)
        self.namespace = namespace
        self.used = 0.0

    def connect(self):
        self.sock = connect(self.namespace)

    def request(self, *arguments):  # pylint: disable=arguments-differ
        # The homeserver hangs up on who says nothing for 5 s.
        if time.monotonic() - self.used > KEPT_ALIVE:
            self.close()
        super().request(*arguments)
        self.used = time.monotonic()


class Home:
    """One person: a namespace, a data folder, the pid of the node, and a session."""

    def __init__(self, binary, namespace, data, pid):
        self.binary = binary
        self.namespace = namespace
        self.data = data
        self.pid = pid
        self.token = None
        self.since = None
        self.rooms = {"join": {}, "invite": {}, "leave": {}}
        self.connection = Connection(self.namespace)

    def ask(self, method, path, body=None, connection=None, good=True):
        """Makes a request; returns its body, or None where it was refused and may be."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        data = None if body is None else json.dumps(body).encode()
        connection = connection or self.connection
        connection.request(method, f"/_matrix/client/{path}", data, headers)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status == 200:
            return json.loads(text)
        if good:
            sys.exit(f"{method} {path}: {answer.status} {text.decode(errors='replace')}")
        return None

    def serves(self):
        try:
            return self.ask("GET", "versions", good=False) is not None
        except OSError:
            self.connection.close()
            if os.path.exists(f"/proc/{self.pid}"):
                return False
            sys.exit(f"the node of {self.namespace} ended")

    def status(self):
        """Returns what `messagehub status --json` tells; over its socket, to look often."""
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(PATIENCE)
            control.connect(f"{self.data}/control.sock")
            control.sendall(b'{"command":"status"}\n')
            with control.makefile() as answer:
                return json.loads(answer.readline())["Ok"]

    def peer(self, other):
        """Returns how another person's node is connected, or None."""
        peers = self.status()["peers"]
        return next((peer for peer in peers if peer["server_name"] == other.name), None)

    def log_in(self):
        """Logs in as the README says; that makes the identity and brings the network up."""
        command = ["ip", "netns", "exec", self.namespace, self.binary, "login-token"]
        token = subprocess.run(
            [*command, "--data", self.data], check=True, stdout=subprocess.PIPE, text=True
        ).stdout.strip()
        login = self.ask("POST", "v3/login", {"type": "m.login.token", "token": token})
        self.token, self.user = login["access_token"], login["user_id"]
        self.name = self.user.split(":", 1)[1]

    def sync(self, wait_ms, connection=None):
        """Takes what is new."""
        filters = quote(json.dumps({"room": {"timeline": {"limit": 200}}}))
        # As Element asks: state comes apart, and no timeline is cut short where forks meet.
        path = f"v3/sync?timeout={wait_ms}&filter={filters}&use_state_after=true"
        if self.since:
            path += f"&since={quote(self.since)}"
        news = self.ask("GET", path, connection=connection)
        self.since = news["next_batch"]
        for membership, rooms in news.get("rooms", {}).items():
            if membership in self.rooms:
                self.rooms[membership].update(rooms)
        return news

    def until(self, what, look):
        """Syncs until `look` finds something in the news."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            found = look(self.sync(1000))
            if found:
                return found
        sys.exit(f"{self.user} never saw {what}")

    def sees_text(self, room, body):
        def look(news):
            timeline = news.get("rooms", {}).get("join", {}).get(room, {}).get("timeline", {})
            events = timeline.get("events", [])
            return any(event.get("content", {}).get("body") == body for event in events)

        self.until(f"the message {body!r}", look)

    def send(self, room, transaction, body, connection=None):
        path = f"v3/rooms/{quote(room)}/send/m.room.message/{quote(transaction)}"
        content = {"msgtype": "m.text", "body": body}
        return self.ask("PUT", path, content, connection=connection)["event_id"]

    def find(self, term):
        body = {"search_term": term, "limit": 10}
        return [x["user_id"] for x in self.ask("POST", "v3/user_directory/search", body)["results"]]


def until(what, look, patience=PATIENCE):
    """Looks until there is something; returns how long that took, in seconds."""
    start = time.monotonic()
    while not look():
        if time.monotonic() - start > patience:
            sys.exit(f"never happened: {what}")
        time.sleep(0.02)
    return time.monotonic() - start


def figure(what, value):
    print(f"{what:<58} {value}", flush=True)


def quantiles(seconds):
    cuts = statistics.quantiles(seconds, n=100)
    return f"p50 {cuts[49] * 1e3:.1f} ms, p99 {cuts[98] * 1e3:.1f} ms (of {len(seconds)})"
