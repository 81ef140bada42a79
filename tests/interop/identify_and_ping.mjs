// identify and ping, both ways; and what a node that is not ours can spoil: nothing.

import { PING, check, fails, hear, meet, rtt, run, start, step, tell, until } from "./js.mjs";

/**
 * js-libp2p ends a stream of pings after 10 s, which ours finds out with the next ping, 15 s after the
 * first. So that one is lost; the one after it shows that the connection is not taken for dead.
 */
const PINGS = 2;

await run(async () => {
    step("wait to be called");
    const called = await start({ listen: ["/ip4/127.0.0.1/tcp/0"] });
    let pings = 0;
    const handler = called.components.registrar.getHandler(PING).handler;
    await called.unhandle(PING);
    await called.handle(PING, (stream, connection) => {
        stream.addEventListener("message", () => (pings += 1));
        return handler(stream, connection);
    });
    const ended = [];
    called.addEventListener("connection:close", ({ detail }) => ended.push(`${detail.remotePeer}`));
    const identified = new Promise((resolve) => {
        called.addEventListener("peer:identify", ({ detail }) => resolve(detail));
    });
    tell({ address: `${called.getMultiaddrs()[0]}` });
    const ours = await hear();

    step("be called and told who it is");
    const who = await identified;
    check(who.peerId.equals(ours.peer_id), `${who.peerId}`);
    check(who.connection.direction === "inbound", who.connection.direction);
    check(who.protocolVersion === "/messagehub/1.0.0", who.protocolVersion);
    check(who.agentVersion.startsWith("messagehub/"), who.agentVersion);

    step("call and be told the same");
    const caller = await start();
    const { connection, who: told } = await meet(caller, ours.address);
    check(told.peerId.equals(ours.peer_id), `${told.peerId}`);
    for (const protocol of [
        "/ipfs/id/1.0.0",
        PING,
        "/messagehub/identity/1",
        "/messagehub/federation/1",
    ]) {
        check(told.protocols.includes(protocol), { missing: protocol, of: told.protocols });
    }
    check(
        told.listenAddrs.some((at) => ours.address.startsWith(`${at}`)),
        told.listenAddrs.map(String),
    );
    check(`${told.observedAddr}`.startsWith("/ip4/127."), `${told.observedAddr}`);

    step("ping");
    const took = [];
    for (let number = 0; number < 5; number += 1) {
        took.push(await rtt(caller, connection.remotePeer));
    }
    step(`pings took ${took.join(", ")} ms`);

    step("be refused gossip, and send what is no request");
    check(!told.protocols.some((protocol) => protocol.startsWith("/meshsub/")), told.protocols);
    check(await fails(connection.newStream("/meshsub/1.1.0")), "gossip with a stranger");
    for (const protocol of ["/messagehub/identity/1", "/messagehub/federation/1"]) {
        const stream = await connection.newStream(protocol);
        const over = new Promise((resolve) => stream.addEventListener("close", resolve));
        let answer = 0;
        stream.addEventListener("message", ({ data }) => (answer += data.byteLength));
        stream.send(new Uint8Array([0, 0, 0, 4, 1, 2, 3, 4]));
        await stream.close();
        await over;
        // server_keys are shown to whoever asks; nothing else is.
        check(answer > 0 === (protocol === "/messagehub/identity/1"), { protocol, answer });
    }
    await rtt(caller, connection.remotePeer);

    step(`be pinged ${PINGS} times on one connection`);
    await until("pings of ours", () => pings >= PINGS);
    check(!ended.includes(ours.peer_id), "the connection did not last");
    tell({ pings });
    await hear();
});
