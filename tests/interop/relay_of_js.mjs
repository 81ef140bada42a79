// A js-libp2p node carries between two nodes of ours that have no other way: found, invited, talked.

import { randomBytes } from "node:crypto";

import { circuitRelayServer } from "@libp2p/circuit-relay-v2";

import { PATIENCE_MS, check, hear, run, start, step, tell, until } from "./js.mjs";

/** What is said is longer than what the relay carries through one circuit, 128 KiB. */
const MESSAGES = 10;
// By chance, since what is gossiped is deflated.
const FILLING = randomBytes(12 * 1024).toString("base64");

/** A person at a homeserver: as much of a client as is needed here. */
class Person {
    constructor({ base, login_token }) {
        Object.assign(this, { base, login_token, texts: new Set(), rooms: {} });
    }

    async ask(method, path, body) {
        const answer = await fetch(`${this.base}/_matrix/client/v3/${path}`, {
            method,
            headers: this.token && { authorization: `Bearer ${this.token}` },
            body: body && JSON.stringify(body),
            signal: AbortSignal.timeout(PATIENCE_MS),
        });
        const said = await answer.json();
        check(answer.ok, { method, path, status: answer.status, said });
        return said;
    }

    async logIn() {
        const login = { type: "m.login.token", token: this.login_token };
        const { access_token, user_id } = await this.ask("POST", "login", login);
        Object.assign(this, { token: access_token, user_id });
    }

    async sync() {
        const since = this.since ? `&since=${encodeURIComponent(this.since)}` : "";
        const news = await this.ask("GET", `sync?timeout=500${since}`);
        this.since = news.next_batch;
        for (const is of ["leave", "join", "invite"]) {
            for (const [room, update] of Object.entries(news.rooms?.[is] ?? {})) {
                this.rooms[room] = is;
                for (const { content } of update.timeline?.events ?? [])
                    this.texts.add(content.body);
            }
        }
    }

    /** Syncs until something was seen. */
    until(what, look) {
        return until(`${what}, by ${this.user_id}`, async () => {
            await this.sync();
            return look(this);
        });
    }

    say(room, txn, body) {
        const path = `rooms/${encodeURIComponent(room)}/send/m.room.message/${txn}`;
        return this.ask("PUT", path, { msgtype: "m.text", body });
    }
}

await run(async () => {
    step("serve as a relay");
    const { listen } = await hear();
    const circuits = [];
    const relay = await start({
        listen: [listen],
        // It tells nobody of an address that is not confirmed.
        announce: [listen],
        services: { relay: circuitRelayServer() },
        connectionGater: {
            denyOutboundRelayedConnection: (from, to) => {
                circuits.push(`${from} ${to}`);
                return false;
            },
        },
    });
    const address = `${relay.getMultiaddrs()[0]}`;
    tell({ address });
    const [ann, bob] = (await hear()).map((person) => new Person(person));
    for (const person of [ann, bob]) await person.logIn();
    tell({ logged_in: true });
    [ann.peer_id, bob.peer_id] = await hear();

    step("take connections for both");
    await until("two reservations", () => relay.services.relay.reservations.size === 2);
    const reserved = [...relay.services.relay.reservations.keys()].map(String).sort();
    check(reserved.join() === [ann.peer_id, bob.peer_id].sort().join(), { reserved });
    check(circuits.length === 0, { circuits });

    step("show Bob to Ann");
    const search_term = `${address}/p2p-circuit/p2p/${bob.peer_id}`;
    const { results } = await ann.ask("POST", "user_directory/search", { search_term, limit: 5 });
    check(results.length === 1 && results[0].user_id === bob.user_id, { results });
    check(circuits.includes(`${ann.peer_id} ${bob.peer_id}`), { circuits });

    step("carry an invitation and a join");
    const { room_id: room } = await ann.ask("POST", "createRoom", {
        preset: "private_chat",
        invite: [bob.user_id],
    });
    await bob.until("the invitation", ({ rooms }) => rooms[room] === "invite");
    await bob.ask("POST", `join/${encodeURIComponent(room)}`, {});

    step("carry messages, both ways, though each circuit ends");
    for (let number = 0; number < MESSAGES / 2; number += 1) {
        for (const [from, to] of [
            [ann, bob],
            [bob, ann],
        ]) {
            const text = `${number} from ${from.user_id} ${FILLING}`;
            await from.say(room, `${number}`, text);
            await to.until(`message ${number}`, ({ texts }) => texts.has(text));
        }
    }
    step(`${circuits.length} circuits were opened`);
    check(circuits.length > 1, { circuits });
    tell({ carried: circuits.length });
    await hear();
});
