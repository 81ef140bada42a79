// Two people on two nodes, both with matrix-js-sdk: what Element's engine asks of a homeserver.
//
// HOMESERVER_A, LOGIN_TOKEN_A and the same with B come from the environment (tests/clients.rs).
// Prints a line for each step; exits with 1 at the first that fails.

import "../common/node20.mjs";

// The SDK tells every thought it has; it binds the console when it is loaded.
const say = console.log;
if (!process.env.DEBUG) {
    for (const level of ["trace", "debug", "log", "info", "warn"]) console[level] = () => {};
}
const sdk = await import("matrix-js-sdk");

const PATIENCE_MS = 60_000;

/** Waits for an event of an emitter for which `is` holds; `now` is asked first. */
function seen(what, emitter, name, is, now = () => undefined) {
    return new Promise((resolve, reject) => {
        const stop = setTimeout(() => reject(new Error(`never seen: ${what}`)), PATIENCE_MS);
        const look = (...values) => {
            if (!is(...values)) return;
            emitter.off(name, look);
            clearTimeout(stop);
            resolve(values[0]);
        };
        const already = now();
        if (already) {
            clearTimeout(stop);
            resolve(already);
        } else {
            emitter.on(name, look);
        }
    });
}

/** Logs in and syncs for the first time. */
async function person(side) {
    const baseUrl = process.env[`HOMESERVER_${side}`];
    const login = await sdk
        .createClient({ baseUrl })
        .loginRequest({ type: "m.login.token", token: process.env[`LOGIN_TOKEN_${side}`] });
    const client = sdk.createClient({
        baseUrl,
        userId: login.user_id,
        deviceId: login.device_id,
        accessToken: login.access_token,
        timelineSupport: true,
    });
    const prepared = seen("the first sync", client, "sync", (state) => state === "PREPARED");
    await client.startClient({ initialSyncLimit: 20, lazyLoadMembers: true, threadSupport: true });
    await prepared;
    return client;
}

const inRoom = (client, roomId, is) => client.getRoom(roomId)?.getLiveTimeline().getEvents().find(is);

/** Waits for an event in the timeline of a room. */
const event = (what, client, roomId, is) =>
    seen(
        what,
        client,
        "Room.timeline",
        (found) => found.getRoomId() === roomId && is(found),
        () => inRoom(client, roomId, is),
    );
const text = (client, roomId, body) =>
    event(`"${body}"`, client, roomId, (found) => found.getContent().body === body);

const membership = (client, roomId, is) =>
    seen(
        `membership ${is}`,
        client,
        "Room.myMembership",
        (room, now) => room.roomId === roomId && now === is,
        () => client.getRoom(roomId)?.getMyMembership() === is,
    );

let step = "log in";
const begin = (name) => {
    say(`js-sdk: ${name}`);
    step = name;
};

try {
    begin("log in and sync");
    const ann = await person("A");
    const bob = await person("B");
    const me = await ann.whoami();
    if (me.user_id !== ann.getUserId()) throw new Error(`whoami: ${JSON.stringify(me)}`);

    begin("find each other");
    const found = await ann.searchUserDirectory({ term: bob.getUserId(), limit: 5 });
    if (!found.results.some((who) => who.user_id === bob.getUserId())) {
        throw new Error(`not found: ${JSON.stringify(found)}`);
    }

    begin("create, invite, join");
    const { room_id: room } = await ann.createRoom({ preset: "private_chat", name: "js-sdk" });
    await ann.invite(room, bob.getUserId());
    await membership(bob, room, "invite");
    await bob.joinRoom(room);
    await membership(bob, room, "join");
    await event(
        "Bob's join",
        ann,
        room,
        (found) =>
            found.getType() === "m.room.member" &&
            found.getStateKey() === bob.getUserId() &&
            found.getContent().membership === "join",
    );

    begin("send and receive, both ways");
    const { event_id: sent } = await ann.sendTextMessage(room, "hello Bob");
    const got = await text(bob, room, "hello Bob");
    if (got.getId() !== sent) throw new Error(`sent ${sent}, got ${got.getId()}`);
    await bob.sendTextMessage(room, "hello Ann");
    await text(ann, room, "hello Ann");

    begin("react, reply, edit");
    await bob.sendEvent(room, "m.reaction", {
        "m.relates_to": { rel_type: "m.annotation", event_id: sent, key: "👍" },
    });
    await event("the reaction", ann, room, (found) => found.getType() === "m.reaction");
    await bob.sendMessage(room, {
        "msgtype": "m.text",
        "body": "a reply",
        "m.relates_to": { "m.in_reply_to": { event_id: sent } },
    });
    await text(ann, room, "a reply");

    begin("redact");
    const { event_id: oops } = await ann.sendTextMessage(room, "oops");
    const shown = await text(bob, room, "oops");
    const gone = seen(
        "the redaction",
        bob.getRoom(room),
        "Room.redaction",
        (redaction) => (redaction.event.redacts ?? redaction.getContent().redacts) === oops,
    );
    await ann.redactEvent(room, oops);
    await gone;
    if (!shown.isRedacted()) throw new Error("the redacted message is still shown");

    begin("change the profile");
    await bob.setDisplayName("Bob by js-sdk");
    await event(
        "the new name",
        ann,
        room,
        (found) =>
            found.getType() === "m.room.member" &&
            found.getContent().displayname === "Bob by js-sdk",
    );
    const profile = await ann.getProfileInfo(bob.getUserId());
    if (profile.displayname !== "Bob by js-sdk") throw new Error(JSON.stringify(profile));

    begin("read the history back");
    const fresh = sdk.createClient({
        baseUrl: ann.getHomeserverUrl(),
        userId: ann.getUserId(),
        accessToken: ann.getAccessToken(),
    });
    const page = await fresh.createMessagesRequest(room, null, 50, "b");
    if (page.chunk.at(-1)?.type !== "m.room.create") {
        throw new Error(`the history does not end with the beginning: ${page.chunk.length}`);
    }

    begin("leave");
    await bob.leave(room);
    await event(
        "Bob's leave",
        ann,
        room,
        (found) =>
            found.getStateKey() === bob.getUserId() && found.getContent().membership === "leave",
    );

    begin("log out");
    ann.stopClient();
    bob.stopClient();
    await ann.logout();
    await bob.logout();
    say("js-sdk: passed");
    process.exit(0);
} catch (error) {
    console.error(`js-sdk: "${step}" failed:`, error);
    process.exit(1);
}
