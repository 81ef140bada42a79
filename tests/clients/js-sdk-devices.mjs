// Devices of people, by matrix-js-sdk and its crypto in Rust: what the scenarios with encryption share.

import { createInterface } from "node:readline";

import "../common/node20.mjs";

export const say = console.log;
if (!process.env.DEBUG) {
    for (const level of ["trace", "debug", "log", "info", "warn"]) console[level] = () => {};
}
const sdk = await import("matrix-js-sdk");

const PATIENCE_MS = Number(process.env.PATIENCE_MS ?? 90_000);
const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** Has the test do something. */
export async function ask(what) {
    say(`ask: ${what}`);
    return (await answers.next()).value;
}

/** Waits until there is something. */
export async function until(what, look) {
    const end = Date.now() + PATIENCE_MS;
    for (;;) {
        const found = await look();
        if (found) return found;
        if (Date.now() > end) throw new Error(`never seen: ${what}`);
        await new Promise((resolve) => setTimeout(resolve, 100));
    }
}

/** What opens the secret storage of a person, by user id. */
const recovery = {};

/** A new device of a person: logs in, makes or fetches what cross-signing needs, syncs. */
export async function device(side, name) {
    const baseUrl = process.env[`HOMESERVER_${side}`];
    const login = await sdk
        .createClient({ baseUrl })
        .loginRequest({ type: "m.login.token", token: await ask(`token ${side}`) });
    const client = sdk.createClient({
        baseUrl,
        userId: login.user_id,
        deviceId: login.device_id,
        accessToken: login.access_token,
        cryptoCallbacks: {
            getSecretStorageKey: async ({ keys }) => [
                Object.keys(keys)[0],
                recovery[login.user_id].privateKey,
            ],
        },
    });
    client.label = name;
    await client.setDeviceDetails(login.device_id, { display_name: name });
    await client.initRustCrypto({ useIndexedDB: false });
    await client.startClient({ initialSyncLimit: 50, lazyLoadMembers: true });
    await until("the first sync", () => client.isInitialSyncComplete());
    const crypto = client.getCrypto();
    // Keys that are there already can be taken out of the secret storage once they are known.
    await crypto.userHasCrossSigningKeys(login.user_id, true);
    await crypto.bootstrapCrossSigning({
        authUploadDeviceSigningKeys: (makeRequest) => makeRequest(null),
    });
    if (!(login.user_id in recovery)) {
        await crypto.bootstrapSecretStorage({
            createSecretStorageKey: async () => {
                recovery[login.user_id] = await crypto.createRecoveryKeyFromPassphrase();
                return recovery[login.user_id];
            },
            setupNewKeyBackup: true,
        });
    }
    return client;
}

export const events = (client, room) => client.getRoom(room)?.getLiveTimeline().getEvents() ?? [];

/** Waits until somebody can read a message that was encrypted. */
export async function reads(client, room, body) {
    const found = await until(`"${body}" at ${client.label}`, () =>
        events(client, room).find((event) => event.getContent().body === body),
    );
    if (!found.isEncrypted()) throw new Error(`"${body}" was not encrypted`);
}

export const devicesOf = async (client, who) => {
    const found = await client.getCrypto().getUserDeviceInfo([who.getUserId()]);
    return [...(found.get(who.getUserId())?.keys() ?? [])];
};

/** Reads the whole history of a room as a device decrypts it: texts, and ids of what it cannot read. */
async function history(client, room) {
    const texts = new Set();
    const failed = [];
    const mapped = client.getEventMapper();
    for (let from = null; ; ) {
        const page = await client.createMessagesRequest(room, from, 100, "b");
        for (const raw of page.chunk) {
            const event = mapped(raw);
            await client.decryptEventIfNeeded(event);
            if (event.isDecryptionFailure()) failed.push(event.getId());
            else if (event.isEncrypted()) texts.add(event.getContent().body);
        }
        if (!page.end) return { texts, failed };
        from = page.end;
    }
}

/**
 * Waits until each device reads all of some messages in the history. (Not in the timeline that the engine
 * keeps: where it sends while it hears nothing, it takes a timeline that is cut short for a whole one.)
 */
export async function readAll(clients, room, bodies) {
    for (const client of clients) {
        let missing, failed;
        await until(`all messages at ${client.label}`, async () => {
            const found = await history(client, room);
            missing = bodies.filter((body) => !found.texts.has(body));
            failed = found.failed;
            return !missing.length;
        }).catch((error) => {
            throw new Error(`${error.message}: not ${missing.join(", ")}; ${failed.length} cannot be read`);
        });
        if (failed.length) throw new Error(`${client.label} cannot read ${failed.length} messages`);
    }
}
