"""A small Internet in network namespaces: public nodes, and two homes behind routers of any kind.

    relay 11.0.113.10 ──┐
    other 11.0.113.11 ──┤  (and more of them, where a case wants them)
                      inet ── router A 11.0.113.2 ── client A 10.0.1.2
                        └──── router B 11.0.113.3 ── client B 10.0.2.2

`inet` routes and does nothing else; 11.0.113.1 is its own, a third party for the probe. A home
without a router is at 11.0.113.2 or .3 itself; behind a double NAT there is one router more, in
100.64.0.0/10 as carriers have it. Nothing reaches the network of the machine, and everything is
gone when the lab closes. Several labs can stand beside each other.

The addresses are none of those kept for documentation: routers and libp2p rightly take those for
addresses that nobody can reach.

Where a home has IPv6, so has the public node: 2a11:113::10, and a home's own network is 2a11:113:a::/64
or 2a11:113:b::/64. Its router translates nothing there; it lets out what is asked for, and in what
answers.

Every router drops what it did not ask for in its *input* chain: else it answers the first early
packet of the other side itself, remembers that, and then gives our packet to the same place another
port. A lab without that rule measures its own bug.
"""

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "netns"))

from homes import PATIENCE, Home, until  # noqa: E402
from namespaces import Namespaces, run  # noqa: E402

PORT = 4848
REMAPPED = 50000
THIRD = "11.0.113.1"
RELAY = "11.0.113.10"
# Public hosts that a case may add.
OTHERS = {"other": "11.0.113.11", "third": "11.0.113.12"}
WAN = {"A": "11.0.113.2", "B": "11.0.113.3"}
# IPv6 of nobody's, as the addresses above.
THIRD6 = "2a11:113::1"
RELAY6 = "2a11:113::10"
WAN6 = {"A": "2a11:113::2", "B": "2a11:113::3"}
LAN6 = {"A": "2a11:113:a:", "B": "2a11:113:b:"}
CARRIER = {"A": "100.64.1", "B": "100.64.2"}
LAN = {"A": "10.0.1", "B": "10.0.2"}
STOP_WAIT = 10.0

# Mapping: which outside port a socket has. "same": one for all that it talks to.
# Filtering: who may send to it: "none" (anybody), "address" (hosts it sent to), "port" (sockets).
KINDS = {
    "public": {"mapping": "same", "filtering": "none", "kept": True, "udp": True},
    "full": {"mapping": "same", "filtering": "none", "kept": True, "udp": True},
    "addr": {"mapping": "same", "filtering": "address", "kept": True, "udp": True},
    "port": {"mapping": "same", "filtering": "port", "kept": True, "udp": True},
    "remap": {"mapping": "same", "filtering": "port", "kept": False, "udp": True},
    "sym": {"mapping": "other", "filtering": "port", "kept": False, "udp": True},
    "udpblock": {"mapping": "same", "filtering": "port", "kept": True, "udp": False},
    "double": {"mapping": "same", "filtering": "port", "kept": True, "udp": True},
    # IPv6 alone; and IPv6 beside IPv4 that cannot be punched.
    "six": {"mapping": "same", "filtering": "port", "kept": True, "udp": True, "six": True},
    "dual": {"mapping": "other", "filtering": "port", "kept": False, "udp": True, "six": True},
    # As port-restricted, with a router that can be asked for mappings.
    "mapped": {"mapping": "same", "filtering": "port", "kept": True, "udp": True},
}


def has_six(kind):
    return KINDS[kind].get("six", False)


def direct_in_theory(a, b):
    """Tells whether two homes can be connected without a relay."""
    if has_six(a) and has_six(b):
        return True
    if "six" in (a, b):
        return False
    a, b = KINDS[a], KINDS[b]
    if a["mapping"] == b["mapping"] == "same":
        return True
    if a["mapping"] == b["mapping"]:
        return False
    cone = a if a["mapping"] == "same" else b
    return cone["filtering"] in ("none", "address")


def rules(kind, inside, outside):
    """Returns the nftables rules of a router: `inside` is its client, `outside` its own address."""
    forward, prerouting, postrouting = [], [], []
    if kind == "udpblock":
        forward.append("meta l4proto udp drop")
    if kind == "mapped":
        # What miniupnpd opens is open.
        forward.append("jump miniupnpd")
        prerouting.append("jump miniupnpd_dnat")
    if kind in ("full", "addr"):
        prerouting.append(f'iifname "wan" meta l4proto {{ tcp, udp }} dnat ip to {inside}')
    if kind == "addr":
        forward.append('iifname "lan" update @seen { ip daddr }')
        forward.append('iifname "wan" ct state new ip saddr != @seen drop')
    elif kind != "full":
        forward.append('iifname "wan" ct state new,invalid drop')
    if kind == "remap":
        for protocol in ("tcp", "udp"):
            to = f"{outside}:{REMAPPED}"
            postrouting.append(f'oifname "wan" {protocol} sport {PORT} snat ip to {to}')
    translate = "masquerade fully-random" if kind in ("sym", "dual") else f"snat ip to {outside}"
    # IPv6 needs no translation.
    postrouting.append(f'oifname "wan" meta nfproto ipv4 {translate}')
    lines = lambda chain: "\n".join(f"    {line}" for line in chain)
    return f"""
table inet router {{
  set seen {{ type ipv4_addr; flags dynamic,timeout; timeout 60s; }}
  chain at_input {{ type filter hook input priority 0;
    iifname "wan" ct state new,invalid drop
  }}
  chain at_forward {{ type filter hook forward priority 0; policy accept;
{lines(forward)}
  }}
  chain miniupnpd {{ }}
  chain miniupnpd_dnat {{ }}
  chain miniupnpd_snat {{ }}
  chain at_prerouting {{ type nat hook prerouting priority -100;
{lines(prerouting)}
  }}
  chain at_postrouting {{ type nat hook postrouting priority 100;
{lines(postrouting)}
  }}
}}
"""


# What the Internet does on top of routing: nothing; lose the connections between the two homes and
# let none be made; or be gone.
BOTH = f"{{ {', '.join(WAN.values())} }}"
WEATHER = {
    "fair": "",
    "parted": f"""
    ip saddr {BOTH} ip daddr {BOTH} meta l4proto tcp reject with tcp reset
    ip saddr {BOTH} ip daddr {BOTH} drop""",
    "cut": "    drop",
}


class Lab(Namespaces):
    """The namespaces and the nodes in them."""

    def __init__(self, binary, kinds, keep=None):
        self.own_folder = None if keep else tempfile.TemporaryDirectory(prefix="mhnat")
        super().__init__("mhnat", keep or self.own_folder.name)
        self.binary = binary
        self.kinds = dict(zip("AB", kinds))
        self.six = any(has_six(kind) for kind in kinds)
        self.routers = {"A": [], "B": []}
        self.nodes = []
        self.environments = {}

    # The network.

    def host(self, short):
        """Makes a namespace, which hands on what is for others."""
        settings = ["net.ipv4.ip_forward=1"]
        if self.six:
            settings += ["net.ipv6.conf.all.forwarding=1", "net.ipv6.conf.default.accept_ra=0"]
        return self.add(short, self.six, *settings)

    def link(self, near, near_device, near_address, far, far_device, far_address):
        """Joins two namespaces; `far` uses `near` as its way to everywhere."""
        self.wire(near, near_device, far, far_device)
        run("ip", "-n", near, "addr", "add", near_address, "dev", near_device)
        run("ip", "-n", far, "addr", "add", far_address, "dev", far_device)
        run("ip", "-n", near, "link", "set", near_device, "up")
        run("ip", "-n", far, "link", "set", far_device, "up")
        gate, host = near_address.split("/")[0], far_address.split("/")[0]
        if far_address.endswith("/32"):
            run("ip", "-n", near, "route", "add", host, "dev", near_device)
            run("ip", "-n", far, "route", "add", gate, "dev", far_device)
        run("ip", "-n", far, "route", "add", "default", "via", gate)

    def link6(self, near, near_device, near_address, far, far_device, far_address, via=None):
        """Gives a link IPv6 too; `via` is where the network behind `far` is, if there is one."""
        gate, host = near_address.split("/")[0], far_address.split("/")[0]
        for name, device, address in (
            (near, near_device, near_address),
            (far, far_device, far_address),
        ):
            run("ip", "-n", name, "-6", "addr", "add", address, "dev", device, "nodad")
        if far_address.endswith("/128"):
            run("ip", "-n", near, "-6", "route", "add", host, "dev", near_device)
            run("ip", "-n", far, "-6", "route", "add", gate, "dev", far_device)
        run("ip", "-n", far, "-6", "route", "add", "default", "via", gate, "dev", far_device)
        if via:
            route = ["add", via, "via", host, "dev", near_device]
            run("ip", "-n", near, "-6", "route", *route)

    def build(self):
        self.inet = self.host("inet")
        self.relay = self.host("relay")
        self.link(self.inet, "relay", f"{THIRD}/32", self.relay, "wan", f"{RELAY}/32")
        if self.six:
            ends = [f"{THIRD6}/128", self.relay, "wan", f"{RELAY6}/128"]
            self.link6(self.inet, "relay", *ends)
        self.weather("fair")
        for side, kind in self.kinds.items():
            self.home(side, kind)

    def home(self, side, kind):
        client, wan, lan = self.host(f"client{side}"), WAN[side], LAN[side]
        if kind == "public":
            self.link(self.inet, side, f"{THIRD}/32", client, "wan", f"{wan}/32")
            return
        router = self.host(f"router{side}")
        self.link(self.inet, side, f"{THIRD}/32", router, "wan", f"{wan}/32")
        chain = [(router, "port" if kind == "double" else kind, wan)]
        if kind == "double":
            carrier, inner = CARRIER[side], self.host(f"inner{side}")
            self.link(router, "lan", f"{carrier}.1/24", inner, "wan", f"{carrier}.2/24")
            chain.append((inner, "port", f"{carrier}.2"))
            router = inner
        if has_six(kind):
            lan6 = LAN6[side]
            ends = [f"{THIRD6}/128", router, "wan", f"{WAN6[side]}/128"]
            self.link6(self.inet, side, *ends, via=f"{lan6}:/64")
        self.link(router, "lan", f"{lan}.1/24", client, "lan", f"{lan}.2/24")
        if has_six(kind):
            self.link6(router, "lan", f"{lan6}:1/64", client, "lan", f"{lan6}:2/64")
        if kind == "six":
            run("ip", "-n", client, "-4", "addr", "flush", "dev", "lan")
        for name, kind_of, outside in chain:
            table = rules(kind_of, f"{lan}.2", outside)
            run("ip", "netns", "exec", name, "nft", "-f", "-", stdin=table)
            self.routers[side].append(name)

    def other(self, short):
        """Adds a public host."""
        name = self.host(short)
        self.link(self.inet, short, f"{THIRD}/32", name, "wan", f"{OTHERS[short]}/32")
        return name

    def forward(self, side):
        """Has the router of a side forward our port, as a person sets it up."""
        router, inside = self.routers[side][0], f"{LAN[side]}.2"
        for protocol in ("tcp", "udp"):
            opened = [
                f'insert rule inet router at_forward iifname "wan" ip daddr {inside} '
                f"{protocol} dport {PORT} accept",
                f'add rule inet router at_prerouting iifname "wan" {protocol} dport {PORT} '
                f"dnat ip to {inside}",
            ]
            for line in opened:
                run("ip", "netns", "exec", router, "nft", *line.split())

    def client(self, side):
        return self.name(f"client{side}")

    def weather(self, kind):
        """Changes what the Internet does, at once."""
        table = f"""
table ip weather
delete table ip weather
table ip weather {{
  chain at_forward {{ type filter hook forward priority 0; policy accept;
{WEATHER[kind]}
  }}
}}
"""
        run("ip", "netns", "exec", self.inet, "nft", "-f", "-", stdin=table)

    def forget(self):
        """Makes all routers forget what went through them."""
        for router in self.routers["A"] + self.routers["B"]:
            flush = ["ip", "netns", "exec", router, "conntrack", "-F"]
            subprocess.run(flush, check=True, stderr=subprocess.DEVNULL)
            run("ip", "netns", "exec", router, "nft", "flush", "set", "inet", "router", "seen")

    # The nodes, and what else runs.

    def serve_mappings(self, side, protocol):
        """Lets the router of a side open ports when asked: "upnp", or "natpmp" (which is PCP too)."""
        router, folder = self.routers[side][0], self.folder / f"router{side}"
        folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "ext_ifname": "wan",
            "listening_ip": "lan",
            "enable_natpmp": "yes" if protocol == "natpmp" else "no",
            "enable_upnp": "yes" if protocol == "upnp" else "no",
            "upnp_table_name": "router",
            "upnp_nat_table_name": "router",
            "upnp_forward_chain": "miniupnpd",
            "upnp_nat_chain": "miniupnpd_dnat",
            "upnp_nat_postrouting_chain": "miniupnpd_snat",
            "secure_mode": "yes",
            "uuid": "b014febe-ecd3-4e0d-b1f4-5d4d7f3a3a3a",
        }
        lines = [f"{name}={value}" for name, value in settings.items()]
        lines.append(f"allow 1024-65535 {LAN[side]}.0/24 1024-65535")
        (folder / "miniupnpd.conf").write_text("\n".join(lines) + "\n")
        # In the foreground, or it would outlive the lab.
        command = ["miniupnpd", "-d", "-f", str(folder / "miniupnpd.conf")]
        command += ["-P", str(folder / "miniupnpd.pid")]
        process = self.within(router, command, f"router{side}", None)
        self.nodes.append((f"router{side}", process))

    def start(self, short, namespace, level=None, **settings):
        """Starts a node and waits until it serves; settings as in the environment."""
        settings = {"element__listen_address": "null", "libp2p__mdns": "false"} | settings
        settings = {f"MESSAGEHUB__{name.upper()}": text for name, text in settings.items()}
        self.environments[short] = self.environment(short, settings, level)
        data = str(self.folder / short / "data")
        command = [self.binary, "--data", data]
        process = self.within(namespace, command, short, self.environments[short])
        self.nodes.append((short, process))
        home = Home(self.binary, namespace, data, process.pid)
        until(f"{short} serving", home.serves)
        return home

    def doctor(self, home, short):
        """Asks the doctor about a running node; returns level and words of each check."""
        command = ["ip", "netns", "exec", home.namespace, self.binary, "doctor", "--json"]
        said = subprocess.run(
            [*command, "--data", home.data],
            cwd=self.folder / short,
            env=self.environments[short],
            capture_output=True,
            text=True,
        )
        findings = json.loads(said.stdout)["findings"]
        return {found["check"]: (found["level"], found["text"]) for found in findings}

    def stop(self, short):
        """Stops a node as a person would."""
        for name, process in self.nodes:
            if name == short and process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(PATIENCE)

    def tell(self, story):
        """Runs a story; where it fails, prints the end of each node's log."""
        try:
            story()
        except BaseException:
            self.logs()
            raise

    def logs(self, lines=40):
        """Prints the end of each node's log."""
        self.show_logs(dict.fromkeys(short for short, _ in self.nodes), lines)

    def close(self):
        for _, process in self.nodes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for _, process in self.nodes:
            try:
                process.wait(STOP_WAIT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        super().close()
        if self.own_folder:
            self.own_folder.cleanup()
