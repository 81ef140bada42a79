"""A port that somebody has their router forward while the node runs.

    forwarded.py BINARY [FOLDER]

Ann is behind a port-restricted router that cannot be asked. AutoNAT finds that nobody reaches her, or its
answers are lost, and the library's part of it asks no more. Her node begins it anew after a while;
then the router forwards her port. Her node has to notice by itself, without being started again and
without any news of the network.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import lab as labs  # noqa: E402
import probe  # noqa: E402
from homes import until  # noqa: E402
from strangers import bootstrap, home_of  # noqa: E402

AT = f"/ip4/{labs.WAN['A']}/udp/{labs.PORT}/quic-v1"
# The first time that it begins anew is a minute after it gave up, the next ones come after 3 and 7.
PATIENCE = 5 * 60.0
# What the node says then, if it is asked to say so much.
AGAIN = "testing again whether we can be reached as"
LEVEL = "warn,messagehub=info,messagehub::actors::swarm::event_loop=debug"


def story(lab):
    probe.check(lab, "A")
    _, entry = bootstrap(lab)
    ann = home_of(lab, "ann", "A", entry, level=LEVEL)
    tested = lambda: any(AGAIN in line and AT in line for line in lab.log("ann").splitlines())
    again = until("another test", tested, PATIENCE)
    assert ann.status()["confirmed_addresses"] == [], "the router lets everybody in"
    lab.forward("A")
    took = until("noticed", lambda: AT in ann.status()["confirmed_addresses"], PATIENCE)
    assert ann.status()["reachability"] == "public"
    return (
        f"nobody could connect, which is tested again {again:.0f} s after the start; a port that is "
        f"forwarded then is noticed {took:.0f} s later"
    )


def main():
    keep = sys.argv[2] if len(sys.argv) > 2 else None
    with labs.Lab(sys.argv[1], ("port", "public"), keep) as lab:
        told = []
        lab.tell(lambda: told.append(story(lab)))
    print(json.dumps({"case": "forwarded", "told": told[0]}), flush=True)


if __name__ == "__main__":
    main()
