"""One case of the NAT lab: two real nodes behind two routers, and a public node.

    pair.py BINARY KIND:KIND[:parted] [FOLDER]

Ann, behind the first router, knows nothing of Bob but his rendezvous string. She finds him, makes a
room, invites him; he joins; both talk without a pause until some seconds after they are connected
directly. With `parted` that path is then lost for a while, and comes back. Prints a line of JSON with
the figures. Fails where a router is not of its kind, a message is lost, doubled or (unless a path was
lost) out of order, or two homes that could be connected directly are not.
"""

import json
import sys
import threading
import time
from pathlib import Path
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).resolve().parent))

import lab as labs  # noqa: E402
import probe  # noqa: E402
from homes import until  # noqa: E402
from talk import Talk, p50_p99  # noqa: E402

LOOK = 0.02
# How long a direct connection may take to come up.
DIRECT_WAIT = 30.0
# How long they talk on after that, or where there will be none.
SETTLE = 3.0
RELAYED_SETTLE = 8.0
# A QUIC connection that nobody answers ends after 10 s; a node that noticed tries other ways.
PARTED = 12.0


class Watch(threading.Thread):
    """Looks again and again at how one node is connected to another."""

    def __init__(self, home, other):
        super().__init__(daemon=True)
        self.home, self.other = home, other
        self.begun = time.monotonic()
        self.changes = []
        self.over = threading.Event()
        self.start()

    def run(self):
        while not self.over.wait(LOOK):
            # A node that ends has nothing to tell.
            try:
                peer = self.home.peer(self.other)
            except (OSError, KeyError):
                return
            how = peer and peer["way"]
            if how != (self.changes[-1][1] if self.changes else None):
                self.changes.append((time.monotonic(), how))

    def how(self):
        return self.changes[-1][1] if self.changes else None

    def is_direct(self):
        return self.how() not in (None, "relayed")

    def first(self, good):
        return next((then for then, how in list(self.changes) if how and good(how)), None)


def people(lab):
    """Starts the three nodes. The public one is where the others enter the network, and their relay:
    it is of a friend of each, since it has real limits for members of its rooms alone. Each has a
    room of their own with it, so that the two have nothing to do with each other. Returns both, and a
    watch on how they are connected from the first moment on.
    """
    places = [f"/ip4/{labs.RELAY}/udp/{labs.PORT}/quic-v1", f"/ip4/{labs.RELAY}/tcp/{labs.PORT}"]
    if lab.six:
        places += [place.replace(f"/ip4/{labs.RELAY}", f"/ip6/{labs.RELAY6}") for place in places]
    public = {
        # Nobody else is there who could confirm it.
        "libp2p__external_addresses": ",".join(places),
        "libp2p__relay__serve": "members",
        "libp2p__dht__bootstrap_peers": "",
    }
    relay = lab.start("relay", lab.relay, **public)
    relay.log_in()
    until("the network of the public node", lambda: relay.status()["peer_id"])
    peer = relay.status()["peer_id"]
    known = ",".join(f"{place}/p2p/{peer}" for place in places)
    settings = {"libp2p__dht__bootstrap_peers": known, "libp2p__static_relays": known}
    homes = []
    for short, side in (("ann", "A"), ("bob", "B")):
        home = lab.start(short, lab.client(side), **settings)
        home.log_in()
        if homes:
            watch = Watch(homes[0], home)
        until("the public node", lambda home=home: home.peer(relay))
        meet(relay, home)
        until("a way in", lambda home=home: is_reachable(home.status()))
        homes.append(home)
    return *homes, watch


def is_reachable(status):
    return status["relays"] or status["reachability"] == "public"


def meet(ann, bob, settings=None):
    """Has one find another and invite them; returns how long the finding took, and the room."""
    found = until(f"{bob.user}, found", lambda: bob.user in ann.find(f"p2p:{bob.name}"))
    invite = {"preset": "private_chat", "invite": [bob.user]} | (settings or {})
    room = ann.ask("POST", "v3/createRoom", invite)["room_id"]
    bob.until("the invitation", lambda _: room in bob.rooms["invite"])
    bob.ask("POST", f"v3/join/{quote(room)}", {})
    bob.until("the room", lambda _: room in bob.rooms["join"])
    return found, room


def talking(talk, seconds, enough=lambda: False):
    """Lets them talk until there is enough of it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not enough():
        talk.going_well()
        time.sleep(LOOK)


def story(lab, part):
    kinds = tuple(lab.kinds.values())
    in_theory = labs.direct_in_theory(*kinds)
    for side in lab.kinds:
        probe.check(lab, side)
    ann, bob, watch = people(lab)
    found, room = meet(ann, bob)
    talk = Talk(ann, bob, room)
    talking(talk, DIRECT_WAIT if in_theory else RELAYED_SETTLE, watch.is_direct)
    talking(talk, SETTLE)
    how = watch.how()
    case = ":".join(kinds)
    if not how or (in_theory and how == "relayed"):
        sys.exit(f"{case}: {how or 'not connected'}, and can be connected directly: {in_theory}")
    if all(map(labs.has_six, kinds)):
        at = ann.peer(bob)["address"]
        assert at.startswith("/ip6/"), f"{case}: connected at {at}, where IPv4 lets nobody in"
    if part:
        told = parted(lab, watch, talk)
        travels = talk.end(ordered=False)
        figures = {"told": f"{told}; {len(travels)} messages, none lost"}
        case += ":parted"
    else:
        first = watch.first(lambda how: True)
        direct = watch.first(lambda how: how != "relayed")
        travels = talk.end()
        figures = {"how": how, "found_s": found, "messages": len(travels), "lost": 0}
        figures["upgrade_s"] = direct - first if direct else None
        figures["p50_s"], figures["p99_s"] = p50_p99(travels)
    watch.over.set()
    print(json.dumps({"case": case} | figures), flush=True)


def parted(lab, watch, talk):
    """Loses the direct path while they talk; tells how they go on."""
    lab.weather("parted")
    start = time.monotonic()
    talking(talk, PARTED, lambda: not watch.is_direct())
    noticed = time.monotonic() - start
    talking(talk, PARTED, lambda: watch.how() == "relayed")
    relayed = time.monotonic() - start
    assert watch.how() == "relayed", "no other way was found"
    talking(talk, SETTLE)
    lab.weather("fair")
    back = time.monotonic()
    talking(talk, DIRECT_WAIT, watch.is_direct)
    took = time.monotonic() - back
    again = f"{watch.how()} again {took:.1f} s after its return" if watch.is_direct() else (
        f"still relayed {took:.0f} s after its return"
    )
    talking(talk, SETTLE)
    return (
        f"the direct path is lost, which is noticed after {noticed:.1f} s; relayed after "
        f"{relayed:.1f} s, {again}"
    )


def main():
    binary, (*kinds, last) = sys.argv[1], sys.argv[2].split(":")
    part = last == "parted"
    keep = sys.argv[3] if len(sys.argv) > 3 else None
    with labs.Lab(binary, kinds if part else [*kinds, last], keep) as lab:
        lab.tell(lambda: story(lab, part))


if __name__ == "__main__":
    main()
