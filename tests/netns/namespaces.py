"""Network namespaces in which tests run real nodes: made, wired, and gone at the end.

Nothing in them reaches the network of the machine. Their names begin with the pid, so that several tests
can stand beside each other. Needs root and iproute2.
"""

import os
import subprocess
import sys
from pathlib import Path


def run(*command, stdin=None, check=True):
    """Runs a command; what it says where it may fail is of no interest."""
    quiet = None if check else subprocess.DEVNULL
    subprocess.run(command, check=check, input=stdin, text=True, stderr=quiet)


class Namespaces:
    """Some namespaces; `build` makes them and `close` takes them away."""

    def __init__(self, mark, folder):
        self.prefix = f"{mark}{os.getpid()}"
        self.folder = Path(folder)
        self.made = []

    def __enter__(self):
        try:
            self.build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def build(self):
        raise NotImplementedError

    def close(self):
        for name in self.made:
            subprocess.run(["ip", "netns", "del", name], check=False)

    def name(self, short):
        return f"{self.prefix}-{short}"

    def add(self, short, six, *settings):
        """Makes one, with IPv6 or without it."""
        name = self.name(short)
        run("ip", "netns", "add", name)
        self.made.append(name)
        run("ip", "-n", name, "link", "set", "lo", "up")
        # Else the first second's packets wait for addresses that nobody else could have.
        six_settings = ["net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.default.dad_transmits=0"]
        if not six:
            six_settings = ["net.ipv6.conf.all.disable_ipv6=1"]
        run("ip", "netns", "exec", name, "sysctl", "-qw", *six_settings, *settings)
        return name

    @staticmethod
    def wire(near, near_device, far, far_device):
        """Lays a cable between two."""
        ends = ["type", "veth", "peer", "name", far_device, "netns", far]
        run("ip", "link", "add", near_device, "netns", near, *ends)

    def within(self, name, command, short, environment):
        """Starts a command in a namespace; what it says goes to the log of `short`."""
        folder = self.folder / short
        folder.mkdir(parents=True, exist_ok=True)
        command = ["ip", "netns", "exec", name, *command]
        with open(folder / "log", "a", encoding="utf-8") as log:
            return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)

    def environment(self, short, settings, level=None):
        """Returns the environment of a node: settings, and none of ours. It logs what a node always does,
        unless we, or else a case, want another level."""
        own = {name: text for name, text in os.environ.items() if not name.startswith("MESSAGEHUB")}
        own |= {"HOME": str(self.folder / short)}
        if level:
            own.setdefault("RUST_LOG", level)
        return own | settings

    def log(self, short):
        """Returns what a node has logged."""
        return (self.folder / short / "log").read_text(errors="replace")

    def show_logs(self, shorts, lines):
        """Prints the end of each log that there is."""
        for short in shorts:
            if (self.folder / short / "log").exists():
                print(f"--- end of the log of {short}", file=sys.stderr)
                print("\n".join(self.log(short).splitlines()[-lines:]), file=sys.stderr)
