"""Relays that nobody configured: found through the DHT, or the node of a room-mate.

    strangers.py BINARY dht|member KIND:KIND [FOLDER]

The two homes have no `staticRelays`; all they know is a bootstrap node, which relays for nobody.

With `dht`, another public node runs as it comes, knows nobody but the bootstrap node either, and shares
no room with anybody. It learns by itself that it is public, and begins to relay. Each home has to find
it in the DHT, see that it carries for strangers, and be reached through it: then Ann finds Bob, they
talk, and are punched where that is possible.

With `member`, the only relay serves `members` alone. Each home shares a room with it, and none with the
other. A stranger, who is told its address as that of a relay, gets nothing there; the homes talk by it
for longer, and say more, than a stranger's circuit would carry.
"""

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import lab as labs  # noqa: E402
import probe  # noqa: E402
from homes import until  # noqa: E402
from pair import DIRECT_WAIT, SETTLE, Watch, meet, talking  # noqa: E402
from talk import Talk  # noqa: E402

# A stranger's circuit carries 128 KiB each way, so people who are left with one say little.
FEW_WORDS = 2.0
STRANGERS_BYTES = 128 * 1024
# What a member says by a circuit of its own: more than a stranger could.
LONG_WORDS = "x" * 8000
# What the doctor calls it.
WORDS = {
    "direct": "directly",
    "punched": "by a punched hole",
    "reversed": "by calling back",
    "relayed": "through a relay",
}
# How long a stranger has to be refused: a reservation at whoever offers one takes 1.5 s.
REFUSED_FOR = 8.0


def addresses(place):
    return [f"/ip4/{place}/udp/{labs.PORT}/quic-v1", f"/ip4/{place}/tcp/{labs.PORT}"]


def known_as(home, place):
    until(f"the network of {place}", lambda: home.status()["peer_id"])
    return ",".join(f"{at}/p2p/{home.status()['peer_id']}" for at in addresses(place))


def public(lab, short, place, namespace, **settings):
    home = lab.start(short, namespace, **settings)
    home.log_in()
    return home, known_as(home, place)


def bootstrap(lab):
    """Starts the node by which all enter; it carries nothing."""
    settings = {
        "libp2p__external_addresses": ",".join(addresses(labs.RELAY)),
        "libp2p__dht__bootstrap_peers": "",
        "libp2p__relay__serve": "off",
    }
    return public(lab, "bootstrap", labs.RELAY, lab.relay, **settings)


def relays_of(home):
    return [(relay["peer_id"], relay["kind"]) for relay in home.status()["relays"]]


def home_of(lab, short, side, entry, **settings):
    home = lab.start(short, lab.client(side), libp2p__dht__bootstrap_peers=entry, **settings)
    home.log_in()
    return home


def through_the_dht(lab):
    for side in lab.kinds:
        probe.check(lab, side)
    _, entry = bootstrap(lab)
    place = labs.OTHERS["other"]
    settings = {"libp2p__dht__bootstrap_peers": entry}
    relay, _ = public(lab, "relay", place, lab.other("other"), **settings)
    peer = relay.status()["peer_id"]
    start = time.monotonic()
    ann, bob = home_of(lab, "ann", "A", entry), home_of(lab, "bob", "B", entry)
    watch = Watch(ann, bob)
    for home in (ann, bob):
        until("a relay out of the DHT", lambda home=home: (peer, "stranger") in relays_of(home))
    took = time.monotonic() - start
    assert not relay.peer(ann) or not relay.peer(ann)["gossips"], "they share a room"
    found, room = meet(ann, bob)
    talk = Talk(ann, bob, room, FEW_WORDS)
    in_theory = labs.direct_in_theory(*lab.kinds.values())
    talking(talk, DIRECT_WAIT if in_theory else SETTLE, watch.is_direct)
    talking(talk, SETTLE)
    # Among strangers a relay ends a circuit after 128 KiB; then the next one is made.
    until("a connection", watch.how)
    how = watch.how()
    assert how and (how != "relayed") == in_theory, f"{how}, directly in theory: {in_theory}"
    messages = len(talk.end(ordered=False))
    watch.over.set()
    said = lab.doctor(ann, "ann")
    punchable = labs.KINDS[lab.kinds["A"]]["mapping"] == "same"
    assert said["reachable"][1].startswith("hole-punched" if punchable else "relayed"), said
    assert WORDS[how] in said["peers"][1], said
    return (
        f"both homes hold a reservation at a relay that they found in the DHT {took:.1f} s after "
        f"their start; Bob is found after {found:.2f} s, {how}; {messages} messages, none lost"
    )


def a_member(lab):
    for side in lab.kinds:
        probe.check(lab, side)
    _, entry = bootstrap(lab)
    place = labs.OTHERS["other"]
    settings = {"libp2p__dht__bootstrap_peers": entry, "libp2p__relay__serve": "members"}
    relay, known = public(lab, "relay", place, lab.other("other"), **settings)
    peer = relay.status()["peer_id"]
    start = time.monotonic()
    ann, bob = home_of(lab, "ann", "A", entry), home_of(lab, "bob", "B", entry)
    watch = Watch(ann, bob)
    for home in (ann, bob):
        meet(home, relay)
    for home in (ann, bob):
        until("the member's relay", lambda home=home: (peer, "member") in relays_of(home))
    took = time.monotonic() - start
    # Whoever is nobody's member is refused, though the relay is of use by now and named outright.
    settings = {"libp2p__dht__bootstrap_peers": entry, "libp2p__static_relays": known}
    stranger, _ = public(lab, "stranger", labs.OTHERS["third"], lab.other("third"), **settings)
    until("the stranger at the relay", lambda: stranger.peer(relay))
    end = time.monotonic() + REFUSED_FOR
    while time.monotonic() < end:
        assert not relays_of(stranger), "a stranger is carried"
        time.sleep(0.2)
    assert (peer, "member") in relays_of(ann), "nobody is carried"
    found, room = meet(ann, bob)
    talk = Talk(ann, bob, room)
    said = 0
    while said < 2 * STRANGERS_BYTES:
        ann.send(room, f"long {said}", LONG_WORDS)
        said += len(LONG_WORDS)
        talking(talk, 0.2)
    talking(talk, SETTLE)
    ways = {how for _, how in watch.changes if how}
    assert ways == {"relayed"} and watch.how() == "relayed", f"they were connected: {ways}"
    breaks = sum(1 for _, how in watch.changes if how is None)
    assert not breaks, f"the circuit broke {breaks} times"
    messages = len(talk.end())
    watch.over.set()
    return (
        f"both homes hold a reservation at the node of a room-mate {took:.1f} s after their start, "
        f"and a stranger gets none; Bob is found after {found:.2f} s, relayed; {messages} messages "
        f"and {said // 1024} KiB by one circuit, none lost"
    )


STORIES = {"dht": through_the_dht, "member": a_member}


def main():
    binary, which, kinds = sys.argv[1:4]
    keep = sys.argv[4] if len(sys.argv) > 4 else None
    with labs.Lab(binary, kinds.split(":"), keep) as lab:
        told = []
        lab.tell(lambda: told.append(STORIES[which](lab)))
    print(json.dumps({"case": f"{which}:{kinds}", "told": told[0]}), flush=True)


if __name__ == "__main__":
    main()
