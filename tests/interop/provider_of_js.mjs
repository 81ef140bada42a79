// A js-libp2p node says in the public DHT that it is somebody. A node of ours finds it there and
// connects it; it proves nothing, and so it is shown to nobody.

import {
    check,
    enterDht,
    hear,
    keyOf,
    publicAddress,
    run,
    startInDht,
    step,
    tell,
    until,
} from "./js.mjs";

await run(async () => {
    step("serve a DHT");
    const server = await startInDht({ clientMode: false });
    tell({ address: publicAddress(server) });
    const { peer_id, strings } = await hear();

    step("say that one is somebody");
    // Ours is a server too: told of the record, it would have nothing to look for.
    const pretender = await startInDht({ clientMode: true, never: peer_id });
    const called = new Set();
    pretender.addEventListener("connection:open", ({ detail }) => {
        if (detail.direction === "inbound") called.add(`${detail.remotePeer}`);
    });
    await enterDht(pretender, publicAddress(server));
    for (const string of strings) {
        const signal = AbortSignal.timeout(10_000);
        await pretender.contentRouting.provide(await keyOf(string), { signal });
    }
    check(!called.has(peer_id), "called before anybody looked");
    tell({ provided: strings.length });

    await hear();
    step("have been found and connected");
    await until("a call", () => called.has(peer_id), 5_000);
});
