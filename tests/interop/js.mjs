// What the scenarios beside this file share: a js-libp2p node, steps, and the talk with the test.
//
// A scenario is started by tests/interop.rs, which starts the nodes of ours. A line of its output
// that is JSON is for the test (`tell`), a line of its input is from there (`hear`); all other lines
// are steps. It exits with 1 at the first thing that is not as it should be.

import "../common/node20.mjs";

import { createServer } from "node:net";
import { basename } from "node:path";
import { createInterface } from "node:readline";

import { noise } from "@libp2p/noise";
import { identify } from "@libp2p/identify";
import { kadDHT, passthroughMapper } from "@libp2p/kad-dht";
import { ping } from "@libp2p/ping";
import { tcp } from "@libp2p/tcp";
import { yamux } from "@libp2p/yamux";
import { multiaddr } from "@multiformats/multiaddr";
import { createLibp2p } from "libp2p";
import { CID } from "multiformats/cid";
import * as raw from "multiformats/codecs/raw";
import { sha256 } from "multiformats/hashes/sha2";

/** The public DHT. */
export const KAD = "/ipfs/kad/1.0.0";
export const PING = "/ipfs/ping/1.0.0";
/** As long as the tests wait for anything. */
export const PATIENCE_MS = 60_000;
const PAUSE_MS = 40;

const started = [];
const name = basename(process.argv[1], ".mjs");
const begin = Date.now();
let doing = "start";

/** Says what is done next. */
export function step(what) {
    doing = what;
    console.log(`${name}: ${((Date.now() - begin) / 1000).toFixed(1)} s: ${what}`);
}

/** Fails unless something holds. */
export function check(good, otherwise) {
    if (!good)
        throw new Error(typeof otherwise === "string" ? otherwise : JSON.stringify(otherwise));
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Looks again and again until there is something. */
export async function until(what, look, patience_ms = PATIENCE_MS) {
    const end = Date.now() + patience_ms;
    for (;;) {
        const found = await look();
        if (found) return found;
        check(Date.now() < end, `never happened: ${what}`);
        await sleep(PAUSE_MS);
    }
}

/** Tells the test. */
export const tell = (news) => console.log(JSON.stringify(news));

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** Waits for what the test has to say. */
export async function hear() {
    const { value, done } = await lines.next();
    check(!done, "the test has ended");
    return JSON.parse(value);
}

/** Starts a node; `more` is of libp2p's own settings. */
export async function start({
    listen = [],
    announce = [],
    services = {},
    transports = [],
    ...more
} = {}) {
    const node = await createLibp2p({
        addresses: { listen, appendAnnounce: announce },
        transports: [tcp(), ...transports],
        connectionEncrypters: [noise()],
        streamMuxers: [yamux()],
        services: { identify: identify(), ping: ping(), ...services },
        ...more,
    });
    started.push(node);
    return node;
}

/** Connects a node; returns the connection, and what identify tells of the other side. */
export async function meet(node, at) {
    const told = [];
    node.addEventListener("peer:identify", ({ detail }) => told.push(detail));
    const connection = await node.dial([at].flat().map((one) => multiaddr(one)));
    const who = await until("identify", () =>
        told.find((one) => one.connection.id === connection.id),
    );
    return { connection, who };
}

/** Pings a peer once; returns how long it took. */
export const rtt = (node, peer) =>
    node.services.ping.ping(peer, { signal: AbortSignal.timeout(10_000) });

/** Returns a port of the loopback interface that nobody uses. */
export function freePort() {
    return new Promise((resolve, reject) => {
        const server = createServer();
        server.on("error", reject);
        server.listen(0, "127.0.0.1", () => {
            const { port } = server.address();
            server.close(() => resolve(port));
        });
    });
}

/**
 * Starts a node of the public DHT, on loopback.
 *
 * Nobody takes a loopback address for one of the public DHT. A name may be any machine's: so all of
 * them are known as `localhost`. js-libp2p knows what that means and would leave it out as well,
 * which the mapper is for. It never dials `never`, so that it asks others.
 */
export async function startInDht({ clientMode, never }) {
    const port = await freePort();
    const dht = kadDHT({
        protocol: KAD,
        clientMode,
        peerInfoMapper: passthroughMapper,
        // The first one of all has nobody to ask.
        allowQueryWithZeroPeers: true,
    });
    const listen = [`/ip4/127.0.0.1/tcp/${port}`];
    const announce = [`/dns4/localhost/tcp/${port}`];
    const connectionGater = { denyDialPeer: (peer) => `${peer}` === never };
    return start({ listen, announce, services: { dht }, connectionGater });
}

/** Returns where a node of the DHT is found. */
export const publicAddress = (node) =>
    node
        .getMultiaddrs()
        .map(String)
        .find((at) => at.startsWith("/dns4/"));

/** Connects a node, and waits until its DHT counts the other one in. */
export async function enterDht(node, at) {
    const { remotePeer } = await node.dial(multiaddr(at));
    await until("a node in the table", () => node.services.dht.routingTable.find(remotePeer));
    return remotePeer;
}

/** Returns the key under which a string is found (docs/PROTOCOL.md §6). */
export async function keyOf(string) {
    return CID.createV1(raw.code, await sha256.digest(new TextEncoder().encode(string)));
}

/** Returns the strings of a person. */
export function stringsOf({ server_name, displayname }) {
    const suffixes = [7, 8, 9, 10].map((length) => server_name.slice(-length));
    // Folded: for the names of these tests, lower case is that.
    const names = [...new Set([displayname, displayname.toLowerCase()])];
    const named = names.flatMap((name) => suffixes.map((suffix) => `${name}:${suffix}`));
    return [`p2p:${server_name}`, ...named];
}

/** Looks for providers of a string in the DHT; returns which, where, and who said so. */
export async function providersOf(node, string) {
    const found = [];
    const signal = AbortSignal.timeout(PATIENCE_MS);
    for await (const event of node.services.dht.findProviders(await keyOf(string), { signal })) {
        if (event.name !== "PROVIDER") continue;
        for (const { id, multiaddrs } of event.providers) {
            found.push({
                id: id.toString(),
                at: multiaddrs.map(String),
                from: event.from.toString(),
            });
        }
    }
    return found;
}

/** Tells whether a promise fails, and returns how. */
export const fails = (promise) =>
    promise.then(
        () => undefined,
        (error) => error,
    );

/** Runs a scenario. */
export async function run(scenario) {
    let code = 1;
    try {
        await scenario();
        step("passed");
        code = 0;
    } catch (error) {
        console.log(`${name}: "${doing}" failed: ${error.stack}`);
    }
    await Promise.race([Promise.allSettled(started.map((node) => node.stop())), sleep(2000)]);
    process.exit(code);
}
