// The picture of the network: this node in the middle, the others around it. Drawn as SVG where d3-force puts
// it; the list below says the same in words.

import { byId, fill, make, many, row, set } from "./parts.js";

/* global d3 */
const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT] = [720, 340];
const LABEL = 18;
const DISTANCE = { lan: 110, direct: 165, punched: 165, reversed: 165, relayed: 140 };
const calm = matchMedia("(prefers-reduced-motion: reduce)");

const nodes = new Map();
let links = [];
let last = null;
let drawn = "";

const simulation = d3.forceSimulation([])
  .force("link", d3.forceLink([]).id((node) => node.id).distance((link) => DISTANCE[link.path]).strength(0.6))
  .force("charge", d3.forceManyBody().strength(-700))
  .force("x", d3.forceX(WIDTH / 2).strength(0.03))
  .force("y", d3.forceY(HEIGHT / 2).strength(0.14))
  .force("apart", d3.forceCollide(38))
  .on("tick", place)
  .stop();

const draw = (tag, about) => {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(about)) element.setAttribute(name, value);
  return element;
};

const short = (name) => (name.length > LABEL ? `${name.slice(0, LABEL - 1)}…` : name);

function place() {
  const within = (value, most) => Math.max(30, Math.min(most - 30, value));
  for (const node of nodes.values()) {
    node.x = within(node.x, WIDTH);
    node.y = within(node.y, HEIGHT);
    node.group?.setAttribute("transform", `translate(${node.x.toFixed(1)} ${node.y.toFixed(1)})`);
  }
  for (const { line, source, target } of links) {
    for (const [name, value] of [["x1", source.x], ["y1", source.y], ["x2", target.x], ["y2", target.y]]) {
      line.setAttribute(name, value.toFixed(1));
    }
  }
}

/** Lays it out anew where somebody came, went, or is connected in another way. */
function layOut(peers) {
  const wanted = new Map([["me", { id: "me", name: "You", kind: "me" }]]);
  const lines = [];
  for (const peer of peers) {
    wanted.set(peer.id, { id: peer.id, name: peer.name, kind: "peer", path: peer.path, silent: !peer.answers });
  }
  for (const { id, path, relay } of peers) {
    if (path === "relayed" && relay) {
      if (!wanted.has(relay)) {
        wanted.set(relay, { id: relay, name: "a relay", kind: "relay" });
        lines.push({ source: "me", target: relay, path: "relayed" });
      }
      lines.push({ source: relay, target: id, path, peer: id });
    } else {
      lines.push({ source: "me", target: id, path, peer: id });
    }
  }
  for (const id of nodes.keys()) if (!wanted.has(id)) nodes.delete(id);
  let turn = 0;
  for (const [id, node] of wanted) {
    turn += 2.4;
    const start = { x: WIDTH / 2 + 90 * Math.cos(turn), y: HEIGHT / 2 + 60 * Math.sin(turn) };
    nodes.set(id, Object.assign(nodes.get(id) ?? start, node));
  }
  Object.assign(nodes.get("me"), { fx: WIDTH / 2, fy: HEIGHT / 2, x: WIDTH / 2, y: HEIGHT / 2 });
  links = lines;
  const graph = byId("graph");
  graph.replaceChildren();
  for (const link of links) {
    link.line = draw("line", { class: link.path });
    graph.append(link.line);
  }
  for (const node of nodes.values()) {
    node.group = draw("g", { class: `${node.kind} ${node.path ?? ""} ${node.silent ? "silent" : ""}` });
    node.group.append(draw("circle", { r: node.kind === "me" ? 15 : node.kind === "relay" ? 8 : 11 }));
    const label = draw("text", { y: node.kind === "me" ? 33 : 28 });
    label.textContent = short(node.name);
    const whole = draw("title", {});
    whole.textContent = node.name;
    node.group.append(label, whole);
    graph.append(node.group);
  }
  simulation.nodes([...nodes.values()]);
  simulation.force("link").links(links);
  simulation.alpha(0.9);
  if (calm.matches) {
    simulation.stop().tick(200);
    place();
  } else {
    simulation.restart();
  }
}

/** Leaves those of one room in view, and says who hands on what is said there. */
function choose(now) {
  const room = now.rooms.find(({ id }) => id === byId("room-choice").value);
  const isIn = (peer) => !room || room.servers.includes(peer.server);
  const peers = new Map(now.peers.map((peer) => [peer.id, peer]));
  for (const [id, node] of nodes) {
    const peer = peers.get(id);
    node.group?.classList.toggle("aside", Boolean(peer) && !isIn(peer));
  }
  for (const { line, peer } of links) {
    line.classList.toggle("aside", Boolean(peer) && peers.has(peer) && !isIn(peers.get(peer)));
    line.classList.toggle("mesh", Boolean(room?.mesh.includes(peer)));
  }
  if (!room) return set("room-words", "");
  const mesh = now.peers.filter((peer) => room.mesh.includes(peer.id)).map((peer) => peer.name);
  const through = mesh.length ? `What you say there goes straight to ${mesh.join(", ")} (thick lines), and from there on.`
    : "Nobody of it is connected to whom you would hand on what you say; they get it when you meet.";
  return set("room-words", `${room.name}: ${many(room.nodes, "other node", "other nodes")}, ${room.met} of them met. ${through}`);
}

export function showNetwork(now) {
  last = now;
  const picture = JSON.stringify(now.peers.map(({ id, name, path, relay, answers }) => [id, name, path, relay, answers]));
  if (picture !== drawn) {
    drawn = picture;
    layOut(now.peers);
    const told = now.peers.map((peer) => `${peer.name} ${peer.path_words}`);
    byId("graph").setAttribute("aria-label", told.length ? `You are connected to ${told.join("; ")}` : "Nobody is connected");
  }
  const rooms = now.rooms.map(({ id, name }) => [id, name]);
  const chosen = byId("room-choice").value;
  fill("room-choice", rooms, (all) => [make("option", { value: "" }, "everybody"),
    ...all.map(([id, name]) => make("option", { value: id }, `those of ${name}`))]);
  if (rooms.some(([id]) => id === chosen)) byId("room-choice").value = chosen;
  choose(now);
  fill("peers", now.peers, (peers) => (peers.length ? peers.map((peer) => {
    const span = peer.answers ? (peer.rtt_ms === null ? "" : `${peer.rtt_ms} ms`) : "does not answer now";
    const member = peer.member ? "in rooms of yours" : "in no room of yours";
    return row(peer.name, span, `${peer.path_words}, ${member}; ${peer.address}`);
  }) : [row("Nobody is connected right now.", "", "Nodes of people in your rooms are looked for all the time.")]));
  set("strangers", now.strangers ? `and ${many(now.strangers, "connection", "connections")} to others, by which people are found` : "");
}

byId("room-choice").addEventListener("change", () => last && choose(last));
