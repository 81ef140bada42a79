// What several parts of the page use. Text is always set as text: names are whatever others chose.

export const byId = (id) => document.getElementById(id);

export function make(tag, about = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(about)) {
    if (value !== undefined && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== undefined && child !== null && child !== ""));
  return element;
}

export function set(id, text) {
  const element = byId(id);
  if (element.textContent !== text) element.textContent = text;
}

/** Shows a sentence with its level: good, fair or bad. */
export function say(id, said) {
  set(id, said.text);
  byId(id).className = byId(id).className.replace(/ (good|fair|bad)\b/g, "") + ` ${said.level}`;
}

const shown = new Map();

/** Fills an element anew, only where what it shows has changed. */
export function fill(id, what, build) {
  const now = JSON.stringify(what);
  if (shown.get(id) === now) return;
  shown.set(id, now);
  byId(id).replaceChildren(...build(what));
}

export function lines(id, texts) {
  fill(id, texts, (all) => all.map((text) => make("li", {}, text)));
}

export function row(title, side, ...more) {
  const below = more.filter((text) => text).map((text) =>
    typeof text === "string" ? make("span", { class: "more" }, text) : text);
  return make("li", {}, make("span", { class: "title" }, title), make("span", { class: "side" }, side || ""), ...below);
}

export function pairs(id, all) {
  fill(id, all, (now) => now.flatMap(([name, texts]) =>
    [make("dt", {}, name), ...[texts].flat().map((text) => make("dd", {}, text))]));
}

export function bytes(count) {
  if (count === null || count === undefined) return "not known";
  for (const [unit, size] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) {
    if (count >= size) return `${(count / size).toFixed(count >= 10 * size ? 0 : 1)} ${unit}`;
  }
  return `${count} B`;
}

export const many = (count, one, more) => `${count} ${count === 1 ? one : more}`;
