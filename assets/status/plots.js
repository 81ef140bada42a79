// Traffic and latency of the last hour, as uPlot draws them. Beside each stands in words what it shows now.

import { byId, bytes, set } from "./parts.js";

/* global uPlot */
const HOUR = 360;
const HEIGHT = 190;
let samples = [];
let plots = [];

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const ms = (value) => (value === null || value === undefined ? "–" : `${value} ms`);
const rate = (value) => (value === null || value === undefined ? "–" : `${bytes(value)}/s`);

/** The time that is shown: ten minutes at least, and where there was nothing yet too. */
function shownTime() {
  const now = samples.at(-1)?.at ?? Date.now() / 1000;
  return [Math.min(samples[0]?.at ?? now, now - 600), now];
}

function plot(id, words, keys) {
  const place = byId(id);
  place.replaceChildren();
  const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") } };
  const series = keys.map(({ label, paint, dash }) => ({
    label, stroke: colour(paint), width: 2, dash, points: { show: false }, spanGaps: true, value: (_, value) => words(value),
  }));
  const made = new uPlot({
    width: Math.max(200, place.clientWidth), height: HEIGHT, legend: { live: false },
    cursor: { drag: { x: false, y: false } },
    scales: {
      x: { range: shownTime },
      y: { range: (_, least, most) => [0, Math.max(most ?? 0, 1) * 1.1] },
    },
    axes: [axis, { ...axis, size: 70, values: (_, values) => values.map((value) => words(Math.round(value))) }],
    series: [{}, ...series],
  }, columns(keys), place);
  made.root.querySelector("canvas").setAttribute("aria-hidden", "true");
  return { made, keys, place };
}

const columns = (keys) => [samples.map(({ at }) => at), ...keys.map(({ key }) => samples.map((sample) => sample[key]))];

function drawAll() {
  for (const { made } of plots) made.destroy();
  plots = [
    plot("traffic", rate, [
      { key: "received", label: "comes in", paint: "--direct" },
      { key: "sent", label: "goes out", paint: "--relayed", dash: [6, 4] },
    ]),
    plot("latency", ms, [
      { key: "send_ms", label: "half of what you send", paint: "--direct" },
      { key: "send_slow_ms", label: "19 in 20", paint: "--punched", dash: [6, 4] },
      { key: "sync_ms", label: "news to your client", paint: "--lan", dash: [2, 3] },
    ]),
  ];
  tell();
}

function tell() {
  const now = samples.at(-1);
  set("traffic-words", now ? `Now ${rate(now.received)} in, ${rate(now.sent)} out.` : "Nothing was measured yet: it is every 10 seconds.");
  const sent = samples.findLast(({ send_ms }) => send_ms !== null);
  const synced = samples.findLast(({ sync_ms }) => sync_ms !== null);
  set("latency-words", sent || synced
    ? `Lately: what you send was safe on disk within ${ms(sent?.send_ms)}, and news were gathered in ${ms(synced?.sync_ms)}.`
    : "Nothing was sent in this hour.");
}

export function showHistory(all) {
  samples = all;
  drawAll();
}

export function addSample(sample) {
  if (samples.some(({ at }) => at >= sample.at)) return;
  samples = [...samples, sample].slice(-HOUR);
  for (const { made, keys } of plots) made.setData(columns(keys));
  tell();
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
new ResizeObserver(() => {
  for (const { made, place } of plots) {
    const width = Math.max(200, place.clientWidth);
    if (made.width !== width) made.setSize({ width, height: HEIGHT });
  }
}).observe(byId("traffic"));
