// A js-libp2p node serves the public DHT; a node of ours knows nobody else and is found there, by
// its strings and no other record.

import { base32 } from "multiformats/bases/base32";

import {
    check,
    enterDht,
    hear,
    keyOf,
    meet,
    providersOf,
    publicAddress,
    run,
    start,
    startInDht,
    step,
    stringsOf,
    tell,
    until,
} from "./js.mjs";

/** Returns the records that a server keeps: keys and providers. */
async function records(server) {
    const kept = [];
    for await (const { key } of server.components.datastore.query({ prefix: "/dht/provider" })) {
        kept.push(key.toString().split("/").slice(-2).join(" "));
    }
    return kept.sort();
}

await run(async () => {
    step("serve a DHT");
    const server = await startInDht({ clientMode: false });
    tell({ address: publicAddress(server) });
    const person = await hear();

    step("keep the records of its strings, and no others");
    const strings = stringsOf(person);
    const expected = await Promise.all(
        // The store names a record by the base32 of its key.
        strings.map(async (string) => {
            const { multihash } = await keyOf(string);
            return `${base32.baseEncode(multihash.bytes)} ${person.peer_id}`;
        }),
    );
    await until("all records", async () => (await records(server)).length >= expected.length);
    const same = async () => {
        const kept = await records(server);
        check(kept.join() === expected.sort().join(), { kept, expected });
    };
    await same();

    step("find the person by each of them");
    // Ours is a server too, and knows its own records: it is not asked.
    const client = await startInDht({ clientMode: true, never: person.peer_id });
    const asked = await enterDht(client, publicAddress(server));
    const where = new Set();
    for (const string of strings) {
        const found = await providersOf(client, string);
        const good = found.filter(({ id, from }) => id === person.peer_id && asked.equals(from));
        check(good.length === 1 && found.length === 1, { string, found });
        good[0].at.forEach((at) => where.add(at));
    }

    step("find nobody by another");
    for (const string of [
        `p2p:${person.server_name}x`,
        `${person.displayname}:${person.server_name.slice(-6)}`,
    ]) {
        const found = await providersOf(client, string);
        check(found.length === 0, { string, found });
    }

    step("connect the person where the DHT said");
    const there = [...where].filter((at) => at.startsWith("/dns4/"));
    check(there.length === 1, [...where]);
    const { who } = await meet(await start(), `${there[0]}/p2p/${person.peer_id}`);
    check(who.protocols.includes("/messagehub/identity/1"), who.protocols);
    tell({ done: true });
    await hear();
    await same();
});
