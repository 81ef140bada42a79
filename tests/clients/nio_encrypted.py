"""Two people on two nodes in an encrypted room, both with matrix-nio, whose encryption is not Element's.

HOMESERVER_A and the same with B come from the environment (tests/clients.rs). What only the test can do
(a login token, the end and the start of a node) is asked for by a line "ask: …" on standard output, and
answered by a line on standard input. Prints a line for each step; exits with 1 at the first that fails.
"""

import asyncio
import os
import sys
import tempfile

import nio

PATIENCE = 90.0


def ask(what):
    """Has the test do something."""
    print(f"ask: {what}", flush=True)
    return sys.stdin.readline().strip()


def good(answer):
    """Returns an answer that must be no error."""
    if isinstance(answer, nio.ErrorResponse):
        raise AssertionError(f"{type(answer).__name__}: {answer}")
    return answer


class Person:
    """A client with a store of keys, that keeps what it saw."""

    def __init__(self, side, folder):
        self.side = side
        config = nio.AsyncClientConfig(encryption_enabled=True, store_sync_tokens=True)
        base = os.environ[f"HOMESERVER_{side}"]
        self.client = nio.AsyncClient(base, store_path=folder, config=config)
        self.seen = []
        self.unread = {}
        self.client.add_event_callback(self.on_event, (nio.RoomMessageText, nio.MegolmEvent))

    def on_event(self, room, event):
        if isinstance(event, nio.MegolmEvent):
            self.unread[event.event_id] = event.session_id
        elif event.decrypted:
            self.seen.append((room.room_id, event.body))

    async def log_in(self):
        token = ask(f"token {self.side}")
        answer = good(await self.client.login(token=token, device_name="nio"))
        self.user = answer.user_id
        await self.sync(0)

    async def sync(self, wait_ms):
        """Takes what is new, and does for encryption what a client has to do then."""
        answer = await self.client.sync(timeout=wait_ms, full_state=False)
        client = self.client
        if client.should_upload_keys:
            good(await client.keys_upload())
        if client.should_query_keys:
            good(await client.keys_query())
        if client.should_claim_keys:
            good(await client.keys_claim(client.get_users_for_key_claiming()))
        await client.send_to_device_messages()
        return answer

    async def until(self, what, look):
        """Syncs until there is something."""
        loop = asyncio.get_running_loop()
        end = loop.time() + PATIENCE
        while loop.time() < end:
            found = look()
            if found:
                return found
            try:
                await self.sync(1000)
            except OSError:
                # The node is off for a while.
                await asyncio.sleep(0.2)
        raise AssertionError(f"{self.user} never saw {what}")

    def has_member(self, room_id, user):
        """Tells whether somebody is in a room, and it is encrypted."""
        room = self.client.rooms.get(room_id)
        return room is not None and room.encrypted and user in room.users

    async def reads(self, room_id, body):
        await self.until(f"the message {body!r}", lambda: (room_id, body) in self.seen)

    async def send(self, room_id, body):
        content = {"msgtype": "m.text", "body": body}
        sent = self.client.room_send(
            room_id, "m.room.message", content, ignore_unverified_devices=True
        )
        good(await sent)


def step(name):
    print(f"nio encrypted: {name}", flush=True)


async def scenario(ann, bob):
    step("log in, and upload keys")
    await ann.log_in()
    await bob.log_in()

    step("an encrypted room")
    encryption = {
        "type": "m.room.encryption",
        "state_key": "",
        "content": {"algorithm": "m.megolm.v1.aes-sha2"},
    }
    created = await ann.client.room_create(invite=[bob.user], initial_state=[encryption])
    room = good(created).room_id
    await bob.until("the invitation", lambda: room in bob.client.invited_rooms)
    good(await bob.client.join(room))
    await bob.until("the room", lambda: bob.has_member(room, ann.user))
    await ann.until("Bob", lambda: ann.has_member(room, bob.user))

    step("both directions")
    await ann.send(room, "hello Bob")
    await bob.reads(room, "hello Bob")
    await bob.send(room, "hello Ann")
    await ann.reads(room, "hello Ann")

    step("Bob's node is killed, and hears what was said meanwhile")
    ask("kill B")
    for n in range(10):
        await ann.send(room, f"while you were off {n}")
    ask("start B")
    for n in range(10):
        await bob.reads(room, f"while you were off {n}")

    step("Ann's node is killed as well")
    await bob.send(room, "before")
    ask("kill A")
    await bob.send(room, "after")
    ask("start A")
    for body in ("before", "after"):
        await ann.reads(room, body)
    await ann.send(room, "the end")
    await bob.reads(room, "the end")

    step("nothing is undecryptable")
    for person in (ann, bob):
        if person.unread:
            raise AssertionError(f"{person.user} cannot read {len(person.unread)} messages")
    step("passed")


async def main():
    with tempfile.TemporaryDirectory() as ann_keys, tempfile.TemporaryDirectory() as bob_keys:
        ann, bob = Person("A", ann_keys), Person("B", bob_keys)
        try:
            await scenario(ann, bob)
        finally:
            await ann.client.close()
            await bob.client.close()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except AssertionError as error:
        sys.exit(f"nio encrypted: failed: {error}")
