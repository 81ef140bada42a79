// A node of ours carries a connection between two js-libp2p nodes, with the limits of strangers.

import { circuitRelayTransport } from "@libp2p/circuit-relay-v2";
import { multiaddr } from "@multiformats/multiaddr";

import { check, fails, hear, rtt, run, start, step, until } from "./js.mjs";

const COUNT = "/interop/count/1";
/** What a stranger's circuit carries, and for how long (docs/PROTOCOL.md §6). */
const LIMIT_LEN = 128 * 1024;
const LIMIT_SECONDS = 120;

/** Sends bytes and returns how many the other side counted. */
async function send(connection, length) {
    const stream = await connection.newStream(COUNT, { runOnLimitedConnection: true });
    const answered = new Promise((resolve, reject) => {
        stream.addEventListener("message", ({ data }) =>
            resolve(new TextDecoder().decode(data.subarray())),
        );
        stream.addEventListener("close", () => reject(new Error("no answer")));
    });
    for (let sent = 0; sent < length; sent += 16 * 1024) {
        const piece = new Uint8Array(Math.min(16 * 1024, length - sent));
        if (!stream.send(piece)) await stream.onDrain({ signal: AbortSignal.timeout(10_000) });
    }
    await stream.close({ signal: AbortSignal.timeout(10_000) });
    return Number(await answered);
}

await run(async () => {
    const { address, peer_id } = await hear();

    step("reserve");
    const circuit = `${address}/p2p-circuit`;
    const listener = await start({ listen: [circuit], transports: [circuitRelayTransport()] });
    await until("an address through the relay", () =>
        listener.getMultiaddrs().some((at) => `${at}`.startsWith(circuit)),
    );
    await listener.handle(
        COUNT,
        async (stream) => {
            let length = 0;
            for await (const piece of stream) length += piece.byteLength;
            stream.send(new TextEncoder().encode(`${length}`));
            await stream.close();
        },
        { runOnLimitedConnection: true },
    );

    step("be refused a way to who reserved nothing");
    const caller = await start({ transports: [circuitRelayTransport()] });
    const other = await start({ transports: [circuitRelayTransport()] });
    await other.dial(multiaddr(address));
    check(
        await fails(caller.dial(multiaddr(`${circuit}/p2p/${other.peerId}`))),
        "a way without a reservation",
    );

    step("call through the relay");
    const connection = await caller.dial(multiaddr(`${circuit}/p2p/${listener.peerId}`));
    check(connection.remotePeer.equals(listener.peerId), `${connection.remotePeer}`);
    check(
        `${connection.remoteAddr}`.includes(`/p2p/${peer_id}/p2p-circuit`),
        `${connection.remoteAddr}`,
    );
    check(connection.direct === false, "the connection is direct");
    const { bytes, seconds } = connection.limits ?? {};
    check(Number(bytes) <= LIMIT_LEN && Number(bytes) > LIMIT_LEN - 4096, { bytes: `${bytes}` });
    check(Number(seconds) <= LIMIT_SECONDS, { seconds });
    const took = await rtt(caller, listener.peerId);
    step(`a ping through the relay takes ${took} ms`);

    step("send half of what a stranger may");
    const counted = await send(connection, LIMIT_LEN / 2);
    check(counted === LIMIT_LEN / 2, { counted });
});
