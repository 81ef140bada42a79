// A node of ours is the only server of the public DHT: one js-libp2p client leaves a record there,
// another one, which knows nobody else, finds it.

import { multiaddr } from "@multiformats/multiaddr";

import {
    check,
    enterDht,
    hear,
    keyOf,
    providersOf,
    publicAddress,
    run,
    startInDht,
    step,
} from "./js.mjs";

await run(async () => {
    const ours = await hear();
    const string = "interop:a record that only the server knows";

    step("enter the DHT of ours, twice");
    const [giver, seeker] = [
        await startInDht({ clientMode: true }),
        await startInDht({ clientMode: true }),
    ];
    for (const client of [giver, seeker]) {
        const server = await enterDht(client, ours.address);
        check(server.equals(ours.peer_id), `${server}`);
    }

    step("find nothing yet");
    check((await providersOf(seeker, string)).length === 0, "a record before it was given");

    step("give it a record");
    const told = [];
    for await (const event of giver.services.dht.provide(await keyOf(string))) {
        if (event.name === "PEER_RESPONSE" && event.messageName === "ADD_PROVIDER")
            told.push(`${event.from}`);
    }
    check(told.join() === ours.peer_id, { told });

    step("find the record there");
    const found = await providersOf(seeker, string);
    check(found.length === 1 && found[0].id === `${giver.peerId}`, { found });
    check(found[0].from === ours.peer_id, { found });
    check(
        found[0].at.some((at) => publicAddress(giver).startsWith(at)),
        { found },
    );
    const known = seeker.getPeers().map(String);
    check(known.join() === ours.peer_id, { known });

    step("connect who gave it, where the record says");
    const connection = await seeker.dial(
        found[0].at.map((at) => multiaddr(at).encapsulate(`/p2p/${giver.peerId}`)),
    );
    check(connection.remotePeer.equals(giver.peerId), `${connection.remotePeer}`);
});
