// More js-libp2p nodes come than a node of ours has places for strangers.

import { multiaddr } from "@multiformats/multiaddr";

import { check, hear, rtt, run, start, step, tell, until } from "./js.mjs";

await run(async () => {
    const { address, places, crowd } = await hear();

    step(`${crowd} come`);
    const nodes = [];
    for (let number = 0; number < crowd; number += 1) {
        const node = await start({ connectionMonitor: { enabled: false } });
        nodes.push(node);
        await node.dial(multiaddr(address));
    }
    const staying = () => nodes.filter((node) => node.getConnections().length > 0);
    await until("the surplus is sent away", () => staying().length <= places);
    step(`${staying().length} may stay`);
    check(staying().length > places / 2, { staying: staying().length });

    step("a later one comes in as well");
    const late = await start();
    const { remotePeer } = await late.dial(multiaddr(address));
    await rtt(late, remotePeer);
    tell({ staying: staying().length });
    await hear();
    await rtt(late, remotePeer);
});
