"""Two people who do not stop talking, and what became of their messages.

Each says a numbered message ten times a second and reads the other's by a waiting /sync. In the end
every message must have come, once, and in the order in which it was said (but where a path broke).
"""

import statistics
import sys
import threading
import time

from homes import PATIENCE, Connection

PACE = 0.1
PREFIX = "said "


class Voice:
    """What one says and the other hears."""

    def __init__(self, writer, reader, room, pace):
        self.writer, self.reader, self.room, self.pace = writer, reader, room, pace
        self.said, self.heard = [], []
        self.faults = []
        # What was lost on a path that broke is fetched, and may come after what was said later.
        self.ordered = True
        self.quiet = threading.Event()
        self.threads = [threading.Thread(target=self.guard, args=[self.say], daemon=True)]
        self.threads += [threading.Thread(target=self.guard, args=[self.hear], daemon=True)]

    def guard(self, work):
        connection = Connection(self.writer.namespace if work == self.say else self.reader.namespace)
        try:
            work(connection)
        except BaseException as fault:  # pylint: disable=broad-except
            self.faults.append(fault)
        finally:
            connection.close()

    def say(self, connection):
        due = time.monotonic()
        while not self.quiet.is_set():
            number = len(self.said)
            self.said.append(time.monotonic())
            body = f"{PREFIX}{self.writer.name} {number}"
            self.writer.send(self.room, body, body, connection)
            due = max(due + self.pace, time.monotonic())
            self.quiet.wait(due - time.monotonic())

    def hear(self, connection):
        end = None
        while end is None or (len(self.heard) < len(self.said) and time.monotonic() < end):
            if end is None and self.quiet.is_set():
                end = time.monotonic() + PATIENCE
            news = self.reader.sync(500, connection)
            now = time.monotonic()
            timeline = news.get("rooms", {}).get("join", {}).get(self.room, {}).get("timeline", {})
            assert not timeline.get("limited"), "more came at once than one timeline holds"
            for event in timeline.get("events", []):
                body = event.get("content", {}).get("body", "")
                if event["sender"] == self.writer.user and body.startswith(PREFIX):
                    self.heard.append((int(body.rsplit(" ", 1)[1]), now))

    def verdict(self):
        """Fails unless each was heard once and in order; returns the times of travel."""
        if self.faults:
            sys.exit(f"{self.writer.user} to {self.reader.user}: {self.faults[0]!r}")
        numbers = [number for number, _ in self.heard]
        lost = sorted(set(range(len(self.said))) - set(numbers))
        doubled = sorted({number for number in numbers if numbers.count(number) > 1})
        what = f"{self.writer.name[-7:]} to {self.reader.name[-7:]}, {len(self.said)} messages"
        if lost or doubled:
            sys.exit(f"{what}: lost {spans(lost)}, doubled {spans(doubled)}")
        if self.ordered and numbers != sorted(numbers):
            sys.exit(f"{what}: not in order: {spans(numbers)}")
        return [then - self.said[number] for number, then in self.heard]


def spans(numbers):
    """Writes sorted numbers as spans."""
    texts = []
    for number in numbers:
        if texts and texts[-1][1] == number - 1:
            texts[-1][1] = number
        else:
            texts.append([number, number])
    return ", ".join(f"{first} to {last}" for first, last in texts) or "none"


class Talk:
    """Both directions."""

    def __init__(self, ann, bob, room, pace=PACE):
        # What came before is read before: these readers are for what comes now.
        for person in (ann, bob):
            person.sync(0)
        self.voices = [Voice(ann, bob, room, pace), Voice(bob, ann, room, pace)]
        for voice in self.voices:
            for thread in voice.threads:
                thread.start()

    def going_well(self):
        """Fails as soon as one of them cannot speak or hear."""
        for voice in self.voices:
            if voice.faults:
                voice.verdict()

    def hush(self):
        """Has both say no more, and waits until the last word is said."""
        for voice in self.voices:
            voice.quiet.set()
        for voice in self.voices:
            voice.threads[0].join(PATIENCE)

    def complete(self):
        """Tells whether all that was said was heard."""
        return all(len(voice.heard) >= len(voice.said) for voice in self.voices)

    def end(self, ordered=True):
        """Ends it; returns the times of travel of all messages."""
        self.hush()
        for voice in self.voices:
            voice.ordered = ordered
        for voice in self.voices:
            for thread in voice.threads:
                thread.join(2 * PATIENCE)
        return [travel for voice in self.voices for travel in voice.verdict()]


def p50_p99(seconds):
    cuts = statistics.quantiles(seconds, n=100)
    return cuts[49], cuts[98]
