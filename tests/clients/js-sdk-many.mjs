// Many encrypted messages between two people on two nodes, each with two devices, while the network is
// cut for a while and each node is killed and started: all of them are read on all devices.
//
// HOMESERVER_A and the same with B come from the environment (tests/clients.rs), and so do MESSAGES, how
// many there are, and CUT_S, for how many seconds nothing passes. Asks as js-sdk-encrypted.mjs does.

import { ask, device, readAll, say, until } from "./js-sdk-devices.mjs";

const MESSAGES = Number(process.env.MESSAGES);
const CUT_MS = 1000 * Number(process.env.CUT_S);

let step = "log in";
const begin = (name) => {
    say(`many: ${name}`);
    step = name;
};

/** Sends a message; the node may be off for a while. */
async function send(client, room, body) {
    const txn = `${client.getDeviceId()} ${body}`;
    await until(`"${body}" sent`, () =>
        client.sendMessage(room, null, { msgtype: "m.text", body }, txn).then(
            () => true,
            (error) => {
                if (error.httpStatus) throw error;
                // The engine keeps what was not sent, and takes it for sent already.
                const pending = client.getRoom(room).getPendingEvents();
                for (const event of pending) client.cancelPendingEvent(event);
            },
        ),
    );
}

try {
    begin("two people with two devices each, in an encrypted room");
    const ann = await device("A", "Ann's desk");
    const bob = await device("B", "Bob's desk");
    const { room_id: room } = await ann.createRoom({
        preset: "trusted_private_chat",
        invite: [bob.getUserId()],
        initial_state: [
            {
                type: "m.room.encryption",
                state_key: "",
                content: { algorithm: "m.megolm.v1.aes-sha2", rotation_period_msgs: 100 },
            },
        ],
    });
    await until("the invite", () => bob.getRoom(room)?.getMyMembership() === "invite");
    await bob.joinRoom(room);
    await until("Bob", () => ann.getRoom(room)?.getMember(bob.getUserId())?.membership === "join");
    const phone = await device("A", "Ann's phone");
    const tablet = await device("B", "Bob's tablet");
    const all = [ann, bob, phone, tablet];
    for (const client of all) {
        await until(`all devices at ${client.label}'s`, async () => {
            const found = await client
                .getCrypto()
                .getUserDeviceInfo([ann.getUserId(), bob.getUserId()], true);
            return [...found.values()].every((devices) => devices.size >= 2);
        });
        await until("the room", () => client.getRoom(room)?.hasEncryptionStateEvent());
    }

    // What is to happen before which message.
    let cut;
    const at = {
        [Math.floor(MESSAGES * 0.2)]: async () => {
            begin("nothing passes between them for a while");
            await ask("freeze B");
            cut = new Promise((resolve) => setTimeout(resolve, CUT_MS)).then(async () => {
                await ask("thaw B");
                cut = undefined;
            });
        },
        [Math.floor(MESSAGES * 0.5)]: async () => {
            await cut;
            begin("Ann's node is killed and started");
            await ask("kill A");
            await ask("start A");
        },
        [Math.floor(MESSAGES * 0.7)]: async () => {
            begin("Bob's node is killed and started");
            await ask("kill B");
            await ask("start B");
        },
    };
    begin(`${MESSAGES} messages`);
    const begun = Date.now();
    for (let n = 0; n < MESSAGES; n++) {
        await at[n]?.();
        // Bob's clients cannot reach their node either while it is stopped.
        const able = cut ? [ann, phone] : all;
        await send(able[n % able.length], room, `message ${n}`);
    }
    begin("all devices read all of them");
    await readAll(all, room, [...Array(MESSAGES).keys()].map((n) => `message ${n}`));
    say(`many: ${MESSAGES} messages, all read on ${all.length} devices ${(Date.now() - begun) / 1000} s after the first`);
    for (const client of all) client.stopClient();
    process.exit(0);
} catch (error) {
    console.error(`many: "${step}" failed:`, error);
    process.exit(1);
}
