"""The story of two_homes.sh, told through the Client-Server API of both nodes.

    two_homes.py BINARY NAMESPACE:DATA:PID NAMESPACE:DATA:PID

Prints figures; fails where something does not happen, or takes ten times as long as anybody would
bear.
"""

import sys
import threading
import time
from urllib.parse import quote

from homes import PATIENCE, Connection, Home, figure, quantiles, until

MESSAGES = 200
HISTORY = 1000
WRITERS = 4


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


def described(binary, home):
    namespace, data, pid = home.rsplit(":", 2)
    return Home(binary, namespace, data, int(pid))


def main():
    binary = sys.argv[1]
    ann, bob = (described(binary, home) for home in sys.argv[2:4])
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
