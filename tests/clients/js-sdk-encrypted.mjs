// Two people on two nodes, in an encrypted room, with matrix-js-sdk and its crypto in Rust: what
// Element does. Each node is off for a part of it, and each person gets a second device.
//
// HOMESERVER_A and the same with B come from the environment (tests/clients.rs). What only the test can
// do (a login token, ending and starting a node) is asked for by a line "ask: …" on standard output,
// and answered by a line on standard input. Prints a line for each step; exits with 1 at the first
// that fails.

import { ask, device, devicesOf, events, reads, say, until } from "./js-sdk-devices.mjs";

let step = "log in";
const begin = (name) => {
    say(`encrypted: ${name}`);
    step = name;
};

try {
    begin("log in, with keys, cross-signing, secret storage and backup");
    const ann = await device("A", "Ann's desk");
    const bob = await device("B", "Bob's desk");

    begin("an encrypted room");
    const { room_id: room } = await ann.createRoom({
        preset: "trusted_private_chat",
        is_direct: true,
        invite: [bob.getUserId()],
        initial_state: [
            {
                type: "m.room.encryption",
                state_key: "",
                content: { algorithm: "m.megolm.v1.aes-sha2" },
            },
        ],
    });
    await ann.sendTextMessage(room, "before you came");
    await until("the invite", () => bob.getRoom(room)?.getMyMembership() === "invite");
    await bob.joinRoom(room);
    await until("Bob in the room", () => ann.getRoom(room)?.getMember(bob.getUserId())?.membership === "join");
    await until("the room", () => bob.getRoom(room)?.hasEncryptionStateEvent());

    begin("both directions");
    await ann.sendTextMessage(room, "hello Bob");
    await reads(bob, room, "hello Bob");
    await bob.sendTextMessage(room, "hello Ann");
    await reads(ann, room, "hello Ann");

    begin("a second device of Ann reads what is said, and the history from the backup");
    const phone = await device("A", "Ann's phone");
    await until("Ann's phone at Bob's", async () =>
        (await devicesOf(bob, ann)).includes(phone.getDeviceId()),
    );
    await bob.sendTextMessage(room, "hello both");
    await reads(phone, room, "hello both");
    await reads(ann, room, "hello both");
    await until("a backup of the room keys", async () => {
        // The SDK keeps what it heard at first.
        const answer = await fetch(`${ann.getHomeserverUrl()}/_matrix/client/v3/room_keys/version`, {
            headers: { Authorization: `Bearer ${ann.getAccessToken()}` },
        });
        return (await answer.json()).count >= 2;
    });
    await phone.getCrypto().loadSessionBackupPrivateKeyFromSecretStorage();
    const { imported } = await phone.getCrypto().restoreKeyBackup();
    if (imported < 2) throw new Error(`restored ${imported} room keys`);
    await reads(phone, room, "hello Ann");

    begin("Bob is off, and hears what was said to him meanwhile");
    await ask("kill B");
    for (const n of [1, 2, 3]) await ann.sendTextMessage(room, `while you were off ${n}`);
    await phone.sendTextMessage(room, "from the phone too");
    await ask("start B");
    for (const n of [1, 2, 3]) await reads(bob, room, `while you were off ${n}`);
    await reads(bob, room, "from the phone too");

    begin("a new device of Bob writes to Ann, whose node is off");
    await ask("kill A");
    const tablet = await device("B", "Bob's tablet");
    await until("the room on the tablet", () => tablet.getRoom(room)?.hasEncryptionStateEvent());
    await tablet.sendTextMessage(room, "from a device that you never met");
    await bob.sendTextMessage(room, "and from one that you did");
    await ask("start A");
    for (const client of [ann, phone]) {
        await reads(client, room, "from a device that you never met");
        await reads(client, room, "and from one that you did");
    }

    begin("a device that is gone is gone for others");
    const gone = phone.getDeviceId();
    await phone.logout(true);
    await until("Ann's phone gone at Bob's", async () => !(await devicesOf(bob, ann)).includes(gone));

    begin("all of it could be read");
    await ann.sendTextMessage(room, "the end");
    for (const client of [bob, tablet]) await reads(client, room, "the end");
    for (const client of [ann, bob]) {
        const failed = events(client, room).filter((event) => event.isDecryptionFailure());
        // What was said before Bob came is not for him, where nobody shares it.
        const unread = client === bob ? failed.slice(1) : failed;
        if (unread.length) throw new Error(`${client.label} cannot read ${unread.length} messages`);
    }
    for (const client of [ann, bob, tablet]) client.stopClient();
    say("encrypted: passed");
    process.exit(0);
} catch (error) {
    console.error(`encrypted: "${step}" failed:`, error);
    process.exit(1);
}
