#!/usr/bin/env python3
"""Bad days of two people in one room, and how long it takes until everything flows again.

    whole_again.py BINARY [--times N] [--logs FOLDER] [--short | KIND ...]

Two real nodes on one LAN, each in a network namespace of its own, in their default settings. A bad day
happens to one of them or to the LAN. When it is over, both say something, type, and mark as read, again
and again. Printed is how long it took until all six came through to the other side, with what was said
while nothing came through. Fails where that took longer than it may, and where `messagehub status` does
not tell the truth.

Kinds (SECONDS where there is a colon):

    kill            one is killed and started at once
    cut:SECONDS     nothing comes through between them
    deaf:SECONDS    one hears nothing of the other, and is heard
    move            the address of one changes
    move-both       the addresses of both change
    card            of two network cards, the one that is used goes
    suspend:SECONDS one does not run for a while
    ahead, behind   one is started with a clock that is a day off, which is put right then
    jump            the clock of one is a day off for a while as it runs
    tcp:SECONDS     as cut, where there is TCP alone
    six             IPv6 alone, no router: they find each other, and meet in a room
    mtu             packets of more than 1,300 bytes get lost without a word: they meet in a room

Without a kind: all of them, as `--list` shows. Needs root, iproute2, nftables, ethtool, and cc for the
clocks.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import quote

from homes import Connection, Home, until
from namespaces import Namespaces, run

HERE = Path(__file__).resolve().parent
ALL = ["kill", "cut:5", "cut:8", "cut:12", "cut:30", "cut:60", "deaf:5", "deaf:18", "deaf:60", "move"]
ALL += ["move-both", "card", "suspend:70", "ahead", "behind", "jump", "tcp:12", "tcp:60", "six", "mtu"]
# Each thing that can happen once, in less than four minutes.
SHORT = ["kill", "cut:8", "cut:12", "deaf:18", "move", "move-both", "card", "suspend:15", "ahead"]
SHORT += ["behind", "tcp:12", "six", "mtu"]
# After a bad day; for finding each other and joining a room too.
LIMIT = 5.0
# After so long without an answer, status has to say so.
KNOWN_AFTER = 12.0
# Which connections there are between two nodes that have only just met by two network cards is chance.
STARTS = {"card": 5}
PACE = 0.25
PATIENCE = 60.0
DAY = 24 * 60 * 60


class Ears(threading.Thread):
    """All that one person comes to know, and when."""

    def __init__(self, home, other, room):
        super().__init__(daemon=True)
        self.home, self.other, self.room = home, other, room
        self.texts, self.typing, self.read = {}, [], []
        self.over = threading.Event()
        self.start()

    def run(self):
        connection = Connection(self.home.namespace)
        while not self.over.is_set():
            try:
                news = self.home.sync(200, connection)
            except (Exception, SystemExit):  # pylint: disable=broad-except
                # It was killed, has yet to start, or says after a suspend that it took too long (504):
                # clients ask again.
                connection.close()
                time.sleep(0.1)
                continue
            self.hear(news.get("rooms", {}).get("join", {}).get(self.room, {}), time.monotonic())
        connection.close()

    def hear(self, room, now):
        for event in room.get("timeline", {}).get("events", []):
            body = event.get("content", {}).get("body")
            if event["sender"] == self.other.user and body:
                self.texts.setdefault(body, now)
        for event in room.get("ephemeral", {}).get("events", []):
            if event["type"] == "m.typing" and self.other.user in event["content"]["user_ids"]:
                self.typing.append(now)
            if event["type"] == "m.receipt":
                for kinds in event["content"].values():
                    if self.other.user in kinds.get("m.read", {}):
                        self.read.append(now)

    def stop(self):
        self.over.set()
        self.join(PATIENCE)


class Person(Home):
    """Somebody who can be killed, and whose clock can be set."""

    def __init__(self, lan, short):
        super().__init__(lan.binary, lan.name(short), str(lan.folder / short / "data"), 0)
        self.lan, self.short, self.process, self.count = lan, short, None, 0

    def begin(self, **settings):
        usual = {"MESSAGEHUB__ELEMENT__LISTEN_ADDRESS": "null"}
        usual |= {"MESSAGEHUB__LIBP2P__DHT__BOOTSTRAP_PEERS": ""}
        own = self.lan.environment(self.short, usual | self.lan.settings | settings)
        command = [self.binary, "--data", self.data]
        self.process = self.lan.within(self.namespace, command, self.short, own)
        self.pid = self.process.pid
        self.connection.close()
        until(f"{self.short} serving", self.serves)

    def kill(self, how=signal.SIGKILL):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(how)
            self.process.wait(PATIENCE)
        self.connection.close()

    def stop_and_go_on(self, seconds):
        self.process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self.process.send_signal(signal.SIGCONT)

    def says(self, room, body):
        self.count += 1
        return self.send(room, f"{body} {self.count} {time.time_ns()}", body)

    def types(self, room, on):
        path = f"v3/rooms/{quote(room)}/typing/{quote(self.user)}"
        content = {"typing": True, "timeout": 20000} if on else {"typing": False}
        self.ask("PUT", path, content)

    def reads(self, room, event):
        self.ask("POST", f"v3/rooms/{quote(room)}/receipt/m.read/{quote(event)}", {})

    def clock(self, seconds):
        (self.lan.folder / self.short / "clock").write_text(f"{seconds}\n", encoding="utf-8")


class Lan(Namespaces):
    """Two homes, and a switch between them; or two, with two network cards each."""

    def __init__(self, binary, folder, cards=1, six=False, settings=None, clocks=False):
        super().__init__("mhwa", folder)
        self.binary, self.cards, self.six = binary, cards, six
        self.settings = settings or {}
        self.hosts = {"a": 1, "b": 2}
        self.next_host = 10
        self.people = {}
        self.clocks = clocks

    def build(self):
        switch = self.add("lan", self.six)
        for card in range(self.cards):
            run("ip", "-n", switch, "link", "add", f"br{card}", "type", "bridge")
            run("ip", "-n", switch, "link", "set", f"br{card}", "up")
        for short in self.hosts:
            home = self.add(short, self.six)
            for card in range(self.cards):
                port = f"{short}{card}"
                self.wire(switch, port, home, f"card{card}")
                run("ip", "-n", switch, "link", "set", port, "master", f"br{card}")
                run("ip", "-n", switch, "link", "set", port, "up")
                self.plug(short, card)
            self.people[short] = Person(self, short)

    def plug(self, short, card):
        home, device = self.name(short), f"card{card}"
        if not self.six:
            self.address(short, card, "add")
        run("ip", "-n", home, "link", "set", device, "up")
        if not self.six:
            # mDNS: multicast has to know its way out.
            route = ["add", "224.0.0.0/4", "dev", device, "metric", str(10 + card)]
            run("ip", "-n", home, "route", *route, check=False)

    def address(self, short, card, what):
        at = f"10.84.{48 + card}.{self.hosts[short]}/24"
        run("ip", "-n", self.name(short), "addr", what, at, "dev", f"card{card}")

    def move(self, short):
        """Gives a home another address."""
        self.address(short, 0, "del")
        self.next_host += 1
        self.hosts[short] = self.next_host
        self.plug(short, 0)

    def unplug(self, short, card):
        run("ip", "-n", self.name(short), "link", "set", f"card{card}", "down")
        run("ip", "-n", self.name(short), "addr", "flush", "dev", f"card{card}")

    def drop(self, *ports, what=""):
        """What comes from these homes into the switch is lost."""
        chains = "".join(
            f"  chain {port} {{ type filter hook ingress device \"{port}\" priority 0; "
            f"policy accept; {what} drop; }}\n"
            for port in ports
        )
        table = f"table netdev weather\ndelete table netdev weather\ntable netdev weather {{\n{chains}}}\n"
        run("ip", "netns", "exec", self.name("lan"), "nft", "-f", "-", stdin=table)

    def narrow(self):
        """Loses large packets without a word."""
        for short in self.hosts:
            off = ["tso", "off", "gso", "off", "gro", "off", "tx-udp-segmentation", "off"]
            run("ip", "netns", "exec", self.name(short), "ethtool", "-K", "card0", *off)
        # A length of the link layer, its own 14 bytes included.
        self.drop("a0", "b0", what="meta length > 1314")

    def clock_settings(self, short):
        """Builds the shim that sets a clock, and says how it is used."""
        shim = self.folder / "clock.so"
        if not shim.exists():
            source = HERE.parent / "clock" / "clock.c"
            run("cc", "-O2", "-shared", "-fPIC", "-o", str(shim), str(source), "-ldl")
        folder = self.folder / short
        folder.mkdir(parents=True, exist_ok=True)
        return {"LD_PRELOAD": str(shim), "CLOCK_OFFSET_FILE": str(folder / "clock")}

    def logs(self, lines=60):
        self.show_logs(self.hosts, lines)

    def close(self):
        for person in self.people.values():
            person.kill(signal.SIGTERM)
        super().close()


def meet(ann, bob):
    """Has them find each other and meet in a room."""
    until(f"{bob.user}, found", lambda: bob.user in ann.find(f"p2p:{bob.name}"))
    invite = {"preset": "private_chat", "invite": [bob.user]}
    room = ann.ask("POST", "v3/createRoom", invite)["room_id"]
    bob.until("the invitation", lambda _: room in bob.rooms["invite"])
    bob.ask("POST", f"v3/join/{quote(room)}", {})
    bob.until("the room", lambda _: room in bob.rooms["join"])
    return room


def flows(ann, bob, ears, room, earlier, start):
    """Waits until all flows both ways; returns when each did."""
    first = {}
    for person in (ann, bob):
        person.types(room, False)
        first[person.user] = f"after {time.time_ns()} of {person.name[-7:]}"
        event = person.says(room, first[person.user])
        person.reads(room, event)
    wanted = {
        ann.user: [*earlier.get(ann.user, []), first[ann.user]],
        bob.user: [*earlier.get(bob.user, []), first[bob.user]],
    }
    came = {}
    typing = True
    while True:
        now = time.monotonic()
        for writer, ear in ((ann, ears[1]), (bob, ears[0])):
            texts = [ear.texts.get(body) for body in wanted[writer.user]]
            if all(texts):
                came.setdefault(("chat", writer.short), max(*texts, start) - start)
            for what, seen in (("typing", ear.typing), ("receipts", ear.read)):
                after = [then for then in list(seen) if then > start]
                if after:
                    came.setdefault((what, writer.short), after[0] - start)
        if len(came) == 6:
            break
        if now - start > PATIENCE:
            missing = {f"{what} of {who}" for what in ("chat", "typing", "receipts") for who in "ab"}
            missing -= {f"{what} of {who}" for what, who in came}
            sys.exit(f"never came through: {', '.join(sorted(missing))}")
        for person in (ann, bob):
            person.types(room, typing)
            person.reads(room, person.says(room, f"still {time.time_ns()} of {person.name[-7:]}"))
        typing = not typing
        time.sleep(PACE)
    for person in (ann, bob):
        person.types(room, False)
    return came


def truth(ann, bob):
    """Status has to say of each that the other is there and gossips."""

    def good(one, other):
        status = one.status()
        peer = next((x for x in status["peers"] if x["server_name"] == other.name), None)
        meshed = status["topics"]["meshed"] == status["topics"]["subscribed"] > 0
        return peer and peer["gossips"] and peer.get("answers", True) and meshed

    until("status telling that all is well", lambda: good(ann, bob) and good(bob, ann), 15.0)


def apart(ann, bob, seconds):
    """After a while without each other, status must not claim that they are connected."""
    if seconds < KNOWN_AFTER:
        return
    for one, other in ((ann, bob), (bob, ann)):
        peer = one.peer(other)
        if peer and peer.get("answers", True):
            sys.exit(f"status of {one.short} says that {other.short} is connected, which it is not")


class Days:
    """Bad days of one kind, one after another, of the same two people."""

    def __init__(self, lan, kind):
        self.lan, self.kind = lan, kind
        self.name, _, seconds = kind.partition(":")
        self.seconds = float(seconds or 0)
        self.ann, self.bob = lan.people["a"], lan.people["b"]

    def prepare(self):
        clock = self.lan.clock_settings("b") if self.lan.clocks else {}
        self.own = {"a": {}, "b": clock}
        if self.lan.clocks:
            self.bob.clock(0)
        for person in (self.ann, self.bob):
            person.begin(**self.own[person.short])
            person.log_in()
        self.room = meet(self.ann, self.bob)
        for person in (self.ann, self.bob):
            person.sync(0)
        self.ears = [Ears(self.ann, self.bob, self.room), Ears(self.bob, self.ann, self.room)]
        flows(self.ann, self.bob, self.ears, self.room, {}, time.monotonic())
        truth(self.ann, self.bob)

    def day(self):
        said = {}
        start = self.happens(said)
        came = flows(self.ann, self.bob, self.ears, self.room, said, start)
        truth(self.ann, self.bob)
        return came

    def speak(self, said):
        for person in (self.ann, self.bob):
            body = f"meanwhile {time.time_ns()} of {person.name[-7:]}"
            person.says(self.room, body)
            said.setdefault(person.user, []).append(body)

    def happens(self, said):
        lan, ann, bob = self.lan, self.ann, self.bob
        if self.name == "kill":
            bob.kill()
            bob.begin(**self.own["b"])
        elif self.name in ("cut", "tcp", "deaf"):
            lan.drop(*(["b0"] if self.name == "deaf" else ["a0", "b0"]))
            time.sleep(self.seconds / 2)
            self.speak(said)
            time.sleep(self.seconds / 2)
            apart(ann, bob, self.seconds)
            lan.drop()
        elif self.name == "move":
            lan.move("b")
        elif self.name == "move-both":
            lan.move("a")
            lan.move("b")
        elif self.name == "card":
            at = bob.peer(ann)["address"]
            lan.unplug("b", 0 if "/10.84.48." in at else 1)
        elif self.name == "suspend":
            bob.stop_and_go_on(self.seconds)
        elif self.name in ("ahead", "behind"):
            bob.kill(signal.SIGTERM)
            bob.clock(DAY if self.name == "ahead" else -DAY)
            bob.begin(**self.own["b"])
            time.sleep(4)
            self.speak(said)
            bob.clock(0)
        elif self.name == "jump":
            bob.clock(DAY)
            time.sleep(4)
            self.speak(said)
            bob.clock(0)
        else:
            sys.exit(f"no such kind: {self.kind}")
        return time.monotonic()

    def end(self):
        for ear in getattr(self, "ears", []):
            ear.stop()


def meeting(binary, folder, kind):
    """A first meeting under bad conditions; returns how long each part took, from both being up."""
    with Lan(binary, folder, six=kind == "six") as lan:
        ann, bob = lan.people["a"], lan.people["b"]
        if kind == "mtu":
            lan.narrow()
        ears = []
        try:
            for person in (ann, bob):
                person.begin()
                person.log_in()
            start = time.monotonic()
            until("both connected", lambda: ann.peer(bob) and bob.peer(ann))
            found = time.monotonic() - start
            room = meet(ann, bob)
            ears = [Ears(ann, bob, room), Ears(bob, ann, room)]
            came = flows(ann, bob, ears, room, {}, time.monotonic())
            came = {what: time.monotonic() - start for what in came}
            came[("found", "both")] = found
            truth(ann, bob)
            if kind == "six":
                doctor(ann)
            return came
        except BaseException:
            lan.logs()
            raise
        finally:
            for ear in ears:
                ear.stop()


def doctor(home):
    """The doctor must not take a machine with IPv6 alone for one without a network."""
    command = ["ip", "netns", "exec", home.namespace, home.binary, "doctor", "--data", home.data]
    said = subprocess.run(command, check=False, capture_output=True, text=True).stdout
    if "in no network" in said:
        sys.exit(f"the doctor says:\n{said}")


def days(binary, folder, kind, times):
    """Returns the times of each day of a kind."""
    if kind in ("six", "mtu"):
        # Data folders stay: what they remember of the last time is wrong, which must not matter.
        return [meeting(binary, folder, kind) for _ in range(times)]
    name = kind.partition(":")[0]
    if name in STARTS:
        starts = range(max(times, STARTS[name]))
        return [story(binary, folder / str(start), kind, 1)[0] for start in starts]
    return story(binary, folder, kind, times)


def story(binary, folder, kind, times):
    """Returns the same of bad days that happen, one after another, to two people who have just met."""
    name = kind.partition(":")[0]
    settings = {}
    if name == "tcp":
        settings["MESSAGEHUB__LIBP2P__LISTEN_ADDRESSES"] = "/ip4/0.0.0.0/tcp/4848"
    cards = 2 if name == "card" else 1
    clocks = name in ("ahead", "behind", "jump")
    folder.mkdir(parents=True, exist_ok=True)
    with Lan(binary, folder, cards=cards, settings=settings, clocks=clocks) as lan:
        bad = Days(lan, kind)
        try:
            bad.prepare()
            return [bad.day() for _ in range(times)]
        except BaseException:
            lan.logs()
            raise
        finally:
            bad.end()


def tell(kind, told):
    """Prints the line of a kind; tells whether each day ended in time."""
    totals = [max(came.values()) for came in told]
    late = [total for total in totals if total > LIMIT]
    good = len(totals) - len(late)
    worst = {}
    for came in told:
        for (what, _), took in came.items():
            worst[what] = max(worst.get(what, 0.0), took)
    parts = ", ".join(f"{what} {took:.1f} s" for what, took in sorted(worst.items()))
    print(
        f"{kind:<12} {good:>3} of {len(totals):<3} within {LIMIT:.0f} s  "
        f"median {statistics.median(totals):5.2f} s  worst {max(totals):5.2f} s  ({parts})",
        flush=True,
    )
    for total in late:
        print(f"{kind:<12} late: {total:.2f} s", flush=True)
    return not late


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary", type=lambda path: str(Path(path).resolve(strict=True)))
    parser.add_argument("kinds", nargs="*", metavar="KIND")
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--logs", type=Path)
    parser.add_argument("--short", action="store_true", help="the shorter kinds alone")
    parser.add_argument("--list", action="store_true", help="print all kinds")
    options = parser.parse_intermixed_args()
    if options.list:
        print(" ".join(ALL))
        return
    if os.getuid() != 0:
        sys.exit("whole_again.py needs root to make network namespaces")
    bad = []
    for kind in options.kinds or (SHORT if options.short else ALL):
        with tempfile.TemporaryDirectory(prefix="mhwa") as own:
            folder = (options.logs or Path(own)) / kind.replace(":", "-")
            folder.mkdir(parents=True, exist_ok=True)
            try:
                if not tell(kind, days(options.binary, folder, kind, options.times)):
                    bad.append(kind)
            except SystemExit as fault:
                print(f"{kind:<12} FAILED: {fault}", flush=True)
                bad.append(kind)
    print(f"whole again: {'failed: ' + ', '.join(bad) if bad else 'passed'}", flush=True)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
