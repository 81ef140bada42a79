// Ann, Bob and Cid on nodes of their own do in Element what people do in a chat.
//
// HOMESERVER_A, ELEMENT_A and the same with B and C come from tests/element.rs. Prints a line for each
// step, then what was refused to Element and what it said on its console; exits with 1 at the first
// step that fails, where something was refused that should not be, or said that nobody explained.

import * as people from "./acts.mjs";
import { Device, PICTURES, launch, until } from "./browser.mjs";
import { COMPLAINTS, REFUSED } from "./expected.mjs";

const begun = Date.now();
const tell = (...words) => console.log(`element: ${((Date.now() - begun) / 1000).toFixed(1)} s`, ...words);
const devices = [];
const browser = await launch();

async function device(name, side) {
    const made = await Device.of(browser, name, side);
    devices.push(made);
    return made;
}

let failed = 0;
async function step(name, act) {
    try {
        const said = await act();
        tell(name, said ?? "");
    } catch (error) {
        failed++;
        tell(`FAILED: ${name}: ${error.stack}`);
        for (const one of devices) tell("see", await one.picture(`failed ${name}`));
        if (!process.env.KEEP_GOING) throw error;
    }
}

/** Does a step where the node has an endpoint that it needs, and says so where it has not. */
async function stepWith(path, name, act) {
    const { body } = await devices[0].ask(path);
    if (body.errcode === "M_UNRECOGNIZED") tell(`SKIPPED: ${name}: the node has no ${path}`);
    else await step(name, act);
}
const RELATIONS = "/_matrix/client/v1/rooms/!r/relations/$e";
const MEDIA = "/_matrix/client/v1/media/config";

/** A path without what is another one each time. */
const template = (path) =>
    path
        .split("/")
        .map(decodeURIComponent)
        .map((part) => ({ "!": "{room}", "@": "{user}", "$": "{event}", "#": "{alias}" })[part[0]] ?? part)
        .join("/");

/** Prints what was refused and said, and tells whether all of it is explained. */
function account() {
    const counts = new Map();
    const count = (line, why) => counts.set(line, { why, times: (counts.get(line)?.times ?? 0) + 1 });
    for (const { name, refused, complaints } of devices) {
        for (const { method, path, status, errcode, error } of refused) {
            const what = `${method} ${template(path)}: ${status} ${errcode ?? ""}`;
            const why = REFUSED.find(([is]) => is.test(what))?.[1];
            count(`refused: ${what}${why ? "" : ` (${error}) at ${name}`}`, why);
        }
        for (const said of complaints) {
            count(`said: ${said.slice(0, 600)}`, COMPLAINTS.find(([is]) => is.test(said))?.[1]);
        }
    }
    for (const [line, { why, times }] of counts) tell(`${times} x ${line}`, "->", why ?? "UNEXPLAINED");
    return [...counts.values()].every(({ why }) => why);
}

try {
    const ann = await device("ann", "A");
    const bob = await device("bob", "B");

    for (const one of [ann, bob]) {
        await step(`${one.name} signs in`, async () => {
            const took = await people.signIn(one);
            await one.page.waitForSelector(".mx_LeftPanel");
            await until("no spinner", async () => !(await one.page.locator(".mx_Spinner").count()));
            await one.picture("home");
            Object.assign(one, await people.identity(one));
            // The login page, and Element after it: nothing reloads.
            if (one.loads !== 2) throw new Error(`the page was loaded ${one.loads} times`);
            return `and sees the rooms after ${took} ms`;
        });
        await people.calm(one);
    }
    await step("Ann and Bob take names", async () => {
        await people.callOneself(ann, "Ann");
        await people.callOneself(bob, "Bob");
    });
    await step("Ann finds Bob by his rendezvous string", async () => {
        await people.findInNewChat(ann, `Bob:${bob.userId.slice(-8)}`, bob.userId);
        await ann.picture("found");
        await people.close(ann);
    });
    await step("Ann begins an encrypted chat with Bob, whom she finds by his id", async () => {
        await people.beginChat(ann, bob.userId, bob.userId);
        await people.say(ann, "hello Bob");
        await people.reads(ann, "hello Bob");
        await ann.picture("chat");
    });
    await step("Bob accepts, and reads what she said", async () => {
        await people.accept(bob, "Ann");
        await people.reads(bob, "hello Bob");
        // Else it is a room like any other.
        await bob.page.waitForSelector('.mx_RoomSublist:has-text("People") .mx_RoomTile:has-text("Ann")');
    });
    await step("Bob answers", async () => {
        await people.say(bob, "hello Ann");
        await people.reads(ann, "hello Ann");
        await people.say(ann, "how are you");
        await people.reads(bob, "how are you");
        for (const one of [ann, bob]) await one.picture("both ways");
    });
    await step("Bob reacts", async () => {
        await people.react(bob, "how are you", "👍");
        await ann.page.waitForSelector(".mx_ReactionsRowButton");
    });
    await step("Ann edits", async () => {
        await people.edit(ann, "how are you", " today");
        await people.reads(bob, "how are you today");
    });
    await step("Bob replies", async () => {
        await people.reply(bob, "how are you today", "well, thank you");
        await ann.page.waitForSelector(".mx_ReplyChain");
        await people.reads(ann, "well, thank you");
    });
    await step("Bob removes what he said", async () => {
        await people.say(bob, "oops");
        await people.reads(ann, "oops");
        await people.redact(bob, "oops");
        await ann.page.waitForSelector(".mx_RedactedBody");
    });
    await stepWith(RELATIONS, "Ann replies in a thread, and Bob in it", async () => {
        await people.replyInThread(ann, "hello Ann", "in a thread");
        await bob.page.waitForSelector(".mx_ThreadSummary");
        await bob.page.locator(".mx_ThreadSummary").first().click();
        await people.say(bob, "in it too", ".mx_ThreadView");
        await ann.page.waitForSelector('.mx_ThreadView .mx_EventTile_line:has-text("in it too")');
        for (const one of [ann, bob]) await one.picture("thread");
        for (const one of [ann, bob]) await people.closePanel(one);
    });
    await stepWith(RELATIONS, "a poll", async () => {
        await people.makePoll(ann, "Which?", ["Tea", "Coffee"]);
        await bob.page.locator('.mx_PollOption:has-text("Tea")').first().click();
        await ann.page.waitForSelector("text=/1 vote/");
    });
    await stepWith(MEDIA, "Ann sends a picture", async () => {
        await people.sendFile(ann, "picture.png");
        const wide = await people.seesPicture(bob);
        if (wide !== 64) throw new Error(`the picture is ${wide} wide`);
    });
    await stepWith(MEDIA, "Bob sends a file", async () => {
        const buffer = Buffer.from("what is in the file");
        await people.sendFile(bob, { name: "notes.txt", mimeType: "text/plain", buffer });
        await ann.page.waitForSelector('.mx_MFileBody:has-text("notes.txt")');
    });
    await stepWith(MEDIA, "Bob sends what he says", async () => {
        await people.sendVoice(bob);
        await ann.page.waitForSelector(".mx_MVoiceMessageBody");
    });
    await step("Ann and Bob verify each other by emoji", async () => {
        await people.verifyPerson(ann, bob, "Bob");
        for (const one of [ann, bob]) await one.picture("verified");
    });
    // Whoever invites shares the room keys of the past, as a file.
    await stepWith(MEDIA, "a group with encryption, and Cid", async () => {
        const cid = await device("cid", "C");
        await people.signIn(cid);
        await cid.page.waitForSelector(".mx_LeftPanel");
        Object.assign(cid, await people.identity(cid));
        await people.calm(cid);
        await people.makeRoom(ann, "Three of us");
        await people.invite(ann, bob.userId);
        await people.invite(ann, cid.userId);
        await people.accept(bob, "Three of us");
        await people.accept(cid, "Three of us");
        for (const one of [ann, bob, cid]) {
            await people.say(one, `${one.name} is here`);
            for (const other of [ann, bob, cid]) await people.reads(other, `${one.name} is here`);
        }
        await cid.picture("group");
    });
    await step("Dora registers at Ann's node, and Bob finds her and begins a chat", async () => {
        const dora = await device("dora", "A");
        await people.register(dora, "dora", "a password that nobody guesses");
        Object.assign(dora, await people.identity(dora));
        await people.calm(dora);
        await people.calm(bob);
        await people.beginChat(bob, `dora:${dora.userId.slice(-8)}`, dora.userId);
        await people.say(bob, "hello Dora");
        await people.accept(dora, "Bob");
        await people.reads(dora, "hello Dora");
        await people.say(dora, "hello from the household");
        await people.reads(bob, "hello from the household");
        await dora.picture("household");
        await people.signOut(dora);
    });
    await people.calm(ann);
    await step("Ann sets up her key backup", async () => {
        ann.recoveryKey = await people.secure(ann);
        await until("all room keys in the backup", async () => {
            const { body } = await ann.ask("/_matrix/client/v3/room_keys/version");
            return body.count >= 2;
        });
    });
    await step("a second device of Ann, verified by emoji, reads the history", async () => {
        const phone = await device("phone", "A");
        await people.signIn(phone);
        await phone.picture("unverified");
        await people.verifyDevice(phone, ann);
        await people.open(phone, "Bob");
        await people.reads(phone, "hello Ann");
        await people.reads(phone, "how are you today");
        await people.open(bob, "Ann");
        await people.say(bob, "to both of you");
        await people.reads(phone, "to both of you");
        await phone.picture("history");
        await people.signOut(phone);
    });
    await step("Bob begins anew with his keys, and Ann is told", async () => {
        await people.open(ann, "Bob");
        await until("Ann's trust", async () => (await people.trust(ann, bob.userId)).now);
        await people.resetKeys(bob);
        await until("Ann's doubt", async () => {
            const { now, once } = await people.trust(ann, bob.userId);
            return once && !now;
        });
        await people.open(bob, "Ann");
        await people.say(bob, "with new keys");
        await people.reads(ann, "with new keys");
        for (const one of [ann, bob]) await one.picture("after the reset");
    });
    await stepWith(MEDIA, "Bob leaves the group", async () => {
        await people.leave(bob, "Three of us");
        await people.open(ann, "Three of us");
        await people.reads(ann, "Bob left the room").catch(() => ann.page.waitForSelector("text=/left the room/"));
    });
    await step("Bob signs out", () => people.signOut(bob));
    await step("nothing is undecryptable", async () => {
        for (const one of devices) {
            const count = await one.page.locator(".mx_DecryptionFailureBody").count();
            if (count) throw new Error(`${one.name} cannot read ${count} messages`);
        }
    });
} catch {
    // Said already.
}
const explained = account();
await browser.close();
if (failed || !explained) {
    tell(`failed; pictures are in ${PICTURES}`);
    process.exit(1);
}
tell("passed");
process.exit(0);
