// js-libp2p and ours in a private network, both ways; and those with another secret, or none.

import { hkdfSync } from "node:crypto";

import { preSharedKey } from "@libp2p/pnet";
import { multiaddr } from "@multiformats/multiaddr";

import {
    PING,
    check,
    fails,
    hear,
    meet,
    rtt,
    run,
    sleep,
    start,
    step,
    tell,
    until,
} from "./js.mjs";

/** The key of a secret (docs/PROTOCOL.md §7). */
const keyOf = (secret) => Buffer.from(hkdfSync("sha256", secret, "", "libp2p", 32)).toString("hex");

/** As a file of such a key has it. */
const psk = (secret) =>
    new TextEncoder().encode(`/key/swarm/psk/1.0.0/\n/base16/\n${keyOf(secret)}`);

/** A node of the network of a secret; without one, of the open one. Counts who knocks. */
async function member(secret) {
    const node = { knocks: 0 };
    node.libp2p = await start({
        listen: ["/ip4/127.0.0.1/tcp/0"],
        connectionGater: {
            denyInboundConnection: () => {
                node.knocks += 1;
                return false;
            },
        },
        ...(secret && { connectionProtector: preSharedKey({ psk: psk(secret) }) }),
    });
    node.address = `${node.libp2p.getMultiaddrs()[0]}`;
    return node;
}

await run(async () => {
    step("derive a key as the document does");
    check(
        keyOf("secret") === "2c9a301b9ebcd73f3ed3874c68b098bf121154f6a4b4d9d39217d3d1269e345b",
        keyOf("secret"),
    );

    const { secret } = await hear();
    const [friend, stranger, outsider] = [
        await member(secret),
        await member(`${secret}.`),
        await member(),
    ];
    tell({ addresses: [friend, stranger, outsider].map(({ address }) => address) });
    const ours = await hear();

    step("be called by ours, and pinged");
    const inbound = await until("a call", () =>
        friend.libp2p.getConnections(undefined).find((open) => open.direction === "inbound"),
    );
    check(inbound.remotePeer.equals(ours.peer_id), `${inbound.remotePeer}`);
    await until("a ping of ours", () =>
        inbound.streams.some((open) => open.protocol === PING && open.direction === "inbound"),
    );

    step("not be called with another secret, or with none, though it knocked");
    await until("a knock", () => stranger.knocks > 0 && outsider.knocks > 0);
    // Whoever could be understood is connected within milliseconds, as the first one was.
    await sleep(2000);
    for (const other of [stranger, outsider])
        check(other.libp2p.getConnections().length === 0, "connected");

    step("call ours");
    const caller = await member(secret);
    const { connection, who } = await meet(caller.libp2p, ours.address);
    check(connection.remotePeer.equals(ours.peer_id), `${connection.remotePeer}`);
    const took = await rtt(caller.libp2p, connection.remotePeer);
    check(who.protocols.includes("/messagehub/identity/1"), who.protocols);
    step(`a ping takes ${took} ms`);

    step("not call ours with another secret, or with none");
    for (const [what, other] of [
        ["another secret", stranger],
        ["no secret", outsider],
    ]) {
        const refused = await fails(
            other.libp2p.dial(multiaddr(ours.address), { signal: AbortSignal.timeout(5_000) }),
        );
        check(refused, `connected with ${what}`);
        step(`${what}: ${refused.message.split("\n")[0]}`);
    }
});
