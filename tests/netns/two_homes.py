"""The story of two_homes.sh, told through the Client-Server API of both nodes.

    two_homes.py BINARY NAMESPACE:DATA:PID NAMESPACE:DATA:PID

One process on one clock: a socket stays in the namespace in which it was made, so this one enters a
namespace only to connect. Prints figures; fails where something does not happen, or takes ten times
as long as anybody would bear.
"""

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
MESSAGES = 200
HISTORY = 1000
WRITERS = 4

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000


def enter(namespace):
    """Moves this thread, and no other, into a network namespace."""
    handle = os.open(namespace, os.O_RDONLY)
    try:
        if LIBC.setns(handle, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns to {namespace}")
    finally:
        os.close(handle)


def connect(namespace):
    """Connects to the homeserver of a namespace; the thread comes back from there."""
    own = f"/proc/self/task/{threading.get_native_id()}/ns/net"
    back = os.open(own, os.O_RDONLY)
    try:
        enter(f"/run/netns/{namespace}")
        connection = socket.create_connection(HOMESERVER, timeout=PATIENCE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection
    finally:
        LIBC.setns(back, CLONE_NEWNET)
        os.close(back)


class Connection(http.client.HTTPConnection):
    """A keep-alive connection to the homeserver of a namespace."""

    def __init__(self, namespace):
        super().__init__(HOMESERVER[0], HOMESERVER[1], timeout=PATIENCE)
        self.namespace = namespace

    def connect(self):
        self.sock = connect(self.namespace)


class Home:
    """One person: a namespace, a data folder, the pid of the node, and a session."""

    def __init__(self, binary, described):
        self.binary = binary
        self.namespace, self.data, pid = described.rsplit(":", 2)
        self.pid = int(pid)
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
        path = f"v3/sync?timeout={wait_ms}&filter={filters}"
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


def delivery(writer, reader, room):
    """Sends one by one; returns the times from the send to the other's waiting /sync."""
    done, times = {}, []
    arrived = threading.Condition()
    prefix = f"timed {writer.name[-7:]} "
    # What came before is read before: the clock is for what comes now.
    reader.sync(0)

    def read():
        connection = Connection(reader.namespace)
        seen = 0
        while seen < MESSAGES:
            news = reader.sync(5000, connection)
            now = time.monotonic()
            timeline = news.get("rooms", {}).get("join", {}).get(room, {}).get("timeline", {})
            for event in timeline.get("events", []):
                body = event.get("content", {}).get("body", "")
                if body.startswith(prefix):
                    seen += 1
                    with arrived:
                        done[body] = now
                        arrived.notify()
        connection.close()

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    for number in range(MESSAGES):
        body = f"{prefix}{number}"
        start = time.monotonic()
        writer.send(room, body, body)
        with arrived:
            if not arrived.wait_for(lambda: body in done, PATIENCE):
                sys.exit(f"{reader.user} never saw {body!r}")
        times.append(done[body] - start)
    thread.join(PATIENCE)
    return times


def main():
    binary = sys.argv[1]
    ann, bob = (Home(binary, described) for described in sys.argv[2:4])
    for home in (ann, bob):
        until(f"{home.namespace} serving", home.serves)
    ann.log_in()
    bob.log_in()

    # Both nodes are up now: the network begins with the identity.
    took = until("Bob, found by Ann", lambda: bob.user in ann.find(f"p2p:{bob.name}"))
    figure("both up -> found by p2p:<server name>", f"{took:.2f} s")
    took += until("Ann, found by Bob", lambda: ann.user in bob.find(f"p2p:{ann.name[-7:]}"))
    figure("... and by p2p:<last 7>, the other way round", f"{took:.2f} s")
    if took > 50:
        sys.exit("people should find each other within 5 s; this took more than ten times that")
    path = f"v3/profile/{quote(bob.user)}/displayname"
    bob.ask("PUT", path, {"displayname": "Bob"})
    took = until("the new name", lambda: bob.user in ann.find(f"Bob:{bob.name[-10:]}"))
    figure("new display name -> found by <display name>:<last 10>", f"{took:.2f} s")

    start = time.monotonic()
    invite = {"preset": "private_chat", "name": "us", "invite": [bob.user]}
    room = ann.ask("POST", "v3/createRoom", invite)["room_id"]
    bob.until("the invitation", lambda _: room in bob.rooms["invite"])
    figure("create and invite -> the invitation seen", f"{time.monotonic() - start:.3f} s")
    start = time.monotonic()
    bob.ask("POST", f"v3/join/{quote(room)}", {})
    bob.until("the room", lambda _: room in bob.rooms["join"])
    figure("join -> the room seen", f"{time.monotonic() - start:.3f} s")
    ann.send(room, "t1", "hello Bob")
    bob.sees_text(room, "hello Bob")
    bob.send(room, "t1", "hello Ann")
    ann.sees_text(room, "hello Ann")

    for writer, reader, who in ((ann, bob, "Ann to Bob"), (bob, ann, "Bob to Ann")):
        figure(f"send -> the other's /sync, {who}", quantiles(delivery(writer, reader, room)))

    big = ann.ask("POST", "v3/createRoom", {"preset": "private_chat", "name": "big"})["room_id"]
    failures = []

    def fill(lane):
        connection = Connection(ann.namespace)
        try:
            for number in range(lane, HISTORY, WRITERS):
                ann.send(big, f"fill {number}", f"event {number}", connection)
        except BaseException as error:  # pylint: disable=broad-except
            failures.append(error)
        finally:
            connection.close()

    start = time.monotonic()
    lanes = [threading.Thread(target=fill, args=(lane,)) for lane in range(WRITERS)]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()
    if failures:
        sys.exit(f"filling the room: {failures[0]}")
    took = time.monotonic() - start
    figure(f"{HISTORY} sends by {WRITERS} writers", f"{HISTORY / took:.0f} a second")

    ann.ask("POST", f"v3/rooms/{quote(big)}/invite", {"user_id": bob.user})
    bob.until("the second invitation", lambda _: big in bob.rooms["invite"])
    start = time.monotonic()
    bob.ask("POST", f"v3/join/{quote(big)}", {})
    figure(f"join of a room with {HISTORY} events", f"{time.monotonic() - start:.3f} s")

    def history():
        bodies, page_from = set(), ""
        for _ in range(2 * HISTORY // 100 + 10):
            path = f"v3/rooms/{quote(big)}/messages?dir=b&limit=100{page_from}"
            page = bob.ask("GET", path)
            bodies.update(event.get("content", {}).get("body") for event in page["chunk"])
            if "end" not in page:
                break
            page_from = f"&from={quote(page['end'])}"
        return sum(f"event {number}" in bodies for number in range(HISTORY)) == HISTORY

    until("the whole history on Bob's side", history)
    figure("... and its whole history read", f"{time.monotonic() - start:.3f} s")
    print("two homes: passed", flush=True)


if __name__ == "__main__":
    main()
