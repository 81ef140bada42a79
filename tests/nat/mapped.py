"""A router that opens ports when it is asked: by PCP and NAT-PMP, then by UPnP.

    mapped.py BINARY [FOLDER]

Ann is behind a port-restricted router that runs miniupnpd, Bob behind a symmetric one: without the
mapping they could only meet at a relay. Her node has the router open its ports, has them confirmed
by the public node, and is reached directly. When it stops, nothing stays open.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import lab as labs  # noqa: E402
import probe  # noqa: E402
from homes import until  # noqa: E402
from pair import Watch, people  # noqa: E402

PROTOCOLS = {"natpmp": "PCP", "upnp": "UPnP"}
OPENED = [f"/ip4/{labs.WAN['A']}/tcp/{labs.PORT}", f"/ip4/{labs.WAN['A']}/udp/{labs.PORT}/quic-v1"]


def open_ports(lab):
    """Returns the rules that miniupnpd made."""
    show = ["nft", "list", "chain", "inet", "router", "miniupnpd_dnat"]
    command = ["ip", "netns", "exec", lab.routers["A"][0], *show]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [line.strip() for line in text.splitlines() if f"dport {labs.PORT}" in line]


def story(lab, protocol):
    for side in lab.kinds:
        probe.check(lab, side)
    lab.serve_mappings("A", protocol)
    start = time.monotonic()
    ann, bob, _ = people(lab)
    until("both ports open", lambda: len(open_ports(lab)) == 2)
    mapped = time.monotonic() - start
    until("both confirmed", lambda: set(OPENED) <= set(ann.status()["confirmed_addresses"]))
    confirmed = time.monotonic() - start
    said = lab.doctor(ann, "ann")
    words = f"granted by {PROTOCOLS[protocol]}"
    assert said["port mapping"][0] == "ok" and words in said["port mapping"][1], said
    assert said["reachable"][0] == "ok" and said["reachable"][1].startswith("mapped"), said
    # Who searches dials: the other way round would work without a mapping too.
    watch = Watch(bob, ann)
    until("Ann, found by Bob", lambda: ann.user in bob.find(f"p2p:{ann.name}"))
    until("a direct connection", watch.is_direct)
    watch.over.set()
    lab.stop("ann")
    until("the ports closed again", lambda: not open_ports(lab))
    return (
        f"{PROTOCOLS[protocol]}: both ports open {mapped:.1f} s after the start of the nodes, "
        f"confirmed after {confirmed:.1f} s; a symmetric home connects {watch.how()}; closed at the stop"
    )


def main():
    keep = sys.argv[2] if len(sys.argv) > 2 else None
    told = []
    for protocol in PROTOCOLS:
        folder = keep and f"{keep}/{protocol}"
        with labs.Lab(sys.argv[1], ("mapped", "sym"), folder) as lab:
            lab.tell(lambda lab=lab, protocol=protocol: told.append(story(lab, protocol)))
    print(json.dumps({"case": "mapped", "told": "; ".join(told)}), flush=True)


if __name__ == "__main__":
    main()
