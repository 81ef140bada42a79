// Shows what the node tells by server-sent events. Nothing is asked again and again; a window that is not
// looked at hears nothing.

import { byId, bytes, fill, lines, make, many, pairs, row, say, set } from "./parts.js";
import { showNetwork } from "./network.js";
import { showHistory, addSample } from "./plots.js";
import "./care.js";

const AGAIN_MS = 10_000;
let source = null;
let again = null;

function look() {
  if (source || document.hidden) return;
  clearTimeout(again);
  source = new EventSource("/_messagehub/status/events");
  source.addEventListener("history", (event) => showHistory(JSON.parse(event.data)));
  source.addEventListener("shown", (event) => {
    set("live", "live");
    show(JSON.parse(event.data));
  });
  source.addEventListener("error", () => {
    set("live", "no connection to the node; trying again …");
    if (source.readyState !== EventSource.CLOSED) return;
    source = null;
    set("live", "the node does not show this now: it is off, or too many windows show it; trying again …");
    again = setTimeout(look, AGAIN_MS);
  });
}

function rest() {
  source?.close();
  source = null;
  set("live", "paused");
}

document.addEventListener("visibilitychange", () => (document.hidden ? rest() : look()));

function show(now) {
  say("headline", now.headline);
  document.title = now.headline.level === "good" ? "MessageHub" : "MessageHub: look here";
  if (now.trouble) {
    set("live", now.trouble);
    return;
  }
  showYou(now);
  say("reach-said", now.reach);
  lines("why", now.why);
  fill("relays", now.relays, (relays) => relays.map((relay) => row("Your relay", "", `${relay.words}; ${relay.address}`)));
  pairs("details", now.details);
  showNetwork(now);
  showRooms(now);
  showOwed(now);
  showTransfers(now.transfers);
  const { database, media, media_count, element, free } = now.storage;
  pairs("storage-list", [
    ["Messages and keys", bytes(database)],
    ["Pictures and files", `${bytes(media)} (${media_count})`],
    ["Element", bytes(element)],
    ["Free on this disk", bytes(free)],
  ]);
  pairs("settings", now.settings.map(({ name, words }) => [name, words]));
  set("element-words", now.element_words);
  if (now.sample) addSample(now.sample);
}

function showYou(now) {
  byId("you-known").hidden = !now.you;
  byId("next").hidden = Boolean(now.you);
  lines("next", now.you ? [] : now.next);
  if (now.you) {
    const { you } = now;
    set("you-name", you.name || "You have not chosen a name yet");
    set("you-id", you.user_id);
    lines("you-found", you.found_as.slice(0, 1));
    if (byId("invite").value !== you.invite) byId("invite").value = you.invite;
    if (!byId("qr").getAttribute("src")) byId("qr").src = "/_messagehub/status/qr.svg";
  }
  byId("household-known").hidden = now.household.length === 0;
  fill("household", now.household, (all) => all.map((person) =>
    row(person.name, many(person.devices, "device", "devices"), `found as ${person.found_as[0]}`)));
}

function latest({ nodes, have }) {
  if (nodes === 0) return "only on this node";
  if (have >= nodes) return nodes === 1 ? "the other node has all of it" : `all ${nodes} other nodes have all of it`;
  if (have === 0) return `not known yet who of ${many(nodes, "other node", "other nodes")} has all of it`;
  return `${have} of ${nodes} other nodes are known to have all of it`;
}

function showRooms(now) {
  fill("room-list", [now.rooms, now.invites], ([rooms, invites]) => {
    const all = rooms.map((room) => row(room.name, `${room.here} of ${many(room.people, "person", "people")} on`, latest(room)));
    if (invites > 0) all.unshift(row(many(invites, "invite", "invites"), "", "Answer in your client."));
    return all.length ? all : [row("You are in no room yet.", "", "Start a chat in your client, or send somebody the invite above.")];
  });
  set("more-rooms", now.more_rooms > 0 ? `and ${now.more_rooms} more` : "");
}

function showOwed(now) {
  fill("owed-list", now.owed, (all) => (all.length ? all.map((owed) =>
    row(owed.name, `${owed.items} (${bytes(owed.bytes)})`, `${owed.next}: ${owed.waiting.join("; ")}`))
    : [row("Nothing waits.", "", "Everybody has what is for them.")]));
  byId("lately-known").hidden = now.lately.length === 0;
  lines("lately", now.lately.toReversed());
}

function showTransfers(all) {
  fill("transfer-list", all, (transfers) => (transfers.length ? transfers.map(({ what, came, all }) => {
    const bar = all ? make("progress", { value: came, max: all, "aria-label": what }) : undefined;
    return row(what, all ? `${bytes(came)} of ${bytes(all)}` : came ? bytes(came) : "looked for", bar);
  }) : [row("Nothing is being fetched.", "")]));
}

look();
