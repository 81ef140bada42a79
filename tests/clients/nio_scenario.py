"""Two people on two nodes, both with matrix-nio.

HOMESERVER_A, LOGIN_TOKEN_A and the same with B come from the environment (tests/clients.rs).
Prints a line for each step; exits with 1 at the first that fails.
"""

import asyncio
import os
import sys

import nio

PATIENCE = 60.0


def good(answer):
    """Returns an answer that must be no error."""
    if isinstance(answer, nio.ErrorResponse):
        raise AssertionError(f"{type(answer).__name__}: {answer}")
    return answer


class Person:
    """A client that keeps every event it saw."""

    def __init__(self, side):
        self.token = os.environ[f"LOGIN_TOKEN_{side}"]
        self.client = nio.AsyncClient(os.environ[f"HOMESERVER_{side}"])
        self.seen = []
        self.client.add_event_callback(lambda room, event: self.seen.append((room, event)), nio.Event)

    async def log_in(self):
        answer = good(await self.client.login(token=self.token, device_name="nio"))
        self.user = answer.user_id
        await self.sync(0)

    async def sync(self, wait_ms):
        return good(await self.client.sync(timeout=wait_ms, full_state=False))

    async def until(self, what, look):
        """Syncs until there is something."""
        loop = asyncio.get_running_loop()
        end = loop.time() + PATIENCE
        while loop.time() < end:
            found = look()
            if found:
                return found
            await self.sync(1000)
        raise AssertionError(f"{self.user} never saw {what}")

    def name_of(self, room_id, user):
        """Returns how a member of a room is shown; None for strangers."""
        room = self.client.rooms.get(room_id)
        return room.user_name(user) if room and user in room.users else None

    async def reads(self, room_id, body):
        def look():
            for room, event in self.seen:
                if room.room_id == room_id and getattr(event, "body", None) == body:
                    return event
            return None

        return await self.until(f"the message {body!r}", look)

    async def send(self, room_id, body):
        content = {"msgtype": "m.text", "body": body}
        return good(await self.client.room_send(room_id, "m.room.message", content)).event_id


def step(name):
    print(f"nio: {name}", flush=True)


async def scenario(ann, bob):
    step("log in and sync")
    await ann.log_in()
    await bob.log_in()

    step("create, invite, join")
    room = good(await ann.client.room_create(name="nio")).room_id
    good(await ann.client.room_invite(room, bob.user))
    await bob.until("the invitation", lambda: room in bob.client.invited_rooms)
    good(await bob.client.join(room))
    await bob.until("the room", lambda: room in bob.client.rooms)
    await ann.until("Bob's join", lambda: ann.name_of(room, bob.user))

    step("send and receive, both ways")
    sent = await ann.send(room, "hello Bob")
    got = await bob.reads(room, "hello Bob")
    assert got.event_id == sent, (got.event_id, sent)
    await bob.send(room, "hello Ann")
    await ann.reads(room, "hello Ann")

    step("redact")
    oops = await ann.send(room, "oops")
    await bob.reads(room, "oops")
    good(await ann.client.room_redact(room, oops, reason="typo"))
    await bob.until(
        "the redaction",
        lambda: any(
            isinstance(event, nio.RedactionEvent) and event.redacts == oops
            for _, event in bob.seen
        ),
    )

    step("change the profile")
    good(await bob.client.set_displayname("Bob by nio"))
    await ann.until(
        "the new name", lambda: ann.name_of(room, bob.user) == "Bob by nio"
    )
    profile = good(await ann.client.get_profile(bob.user))
    assert profile.displayname == "Bob by nio", profile

    step("read the history back")
    page = good(await bob.client.room_messages(room, start="", limit=50))
    bodies = [getattr(event, "body", None) for event in page.chunk]
    assert "hello Bob" in bodies and "hello Ann" in bodies, bodies

    step("leave")
    good(await bob.client.room_leave(room))
    await ann.until("Bob's leave", lambda: ann.name_of(room, bob.user) is None)

    step("log out")
    good(await ann.client.logout())
    good(await bob.client.logout())
    step("passed")


async def main():
    ann, bob = Person("A"), Person("B")
    try:
        await scenario(ann, bob)
    finally:
        await ann.client.close()
        await bob.client.close()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except AssertionError as error:
        sys.exit(f"nio: failed: {error}")
