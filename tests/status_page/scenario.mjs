// The status page in Chromium: what it shows of three nodes, that it changes by itself, that everybody can use
// it (axe, keyboard, dark, phone), and that it asks nobody else. Pictures are put into target/status-pictures.

import assert from "node:assert/strict";
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const PATIENCE_MS = Number(process.env.PATIENCE_MS ?? 60_000);
const PICTURES = new URL("../../target/status-pictures/", import.meta.url).pathname;
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const HOME = process.env.HOMESERVER_A;
const SERIOUS = ["serious", "critical"];
const SIZES = { desktop: { width: 1280, height: 900 }, phone: { width: 390, height: 844 } };

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const ask = async (what) => {
  console.log(`ask: ${what}`);
  return (await answers.next()).value;
};

mkdirSync(PICTURES, { recursive: true });
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM,
  headless: true,
  args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
});

const complaints = [];

/** Opens the page; what it asks of others and says on its console is a fault. */
async function open(size, colorScheme, reducedMotion = "no-preference") {
  const context = await browser.newContext({ viewport: SIZES[size], colorScheme, reducedMotion, locale: "en-US" });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  page.on("console", (said) => ["error", "warning"].includes(said.type()) && complaints.push(said.text()));
  page.on("pageerror", (error) => complaints.push(`not caught: ${error.stack ?? error}`));
  page.on("request", (asked) => asked.url().startsWith(HOME) || complaints.push(`asked somebody else: ${asked.url()}`));
  const answer = await page.goto(HOME);
  assert.equal(answer.status(), 200);
  return { page, context };
}

const says = (page, selector, pattern) =>
  page.waitForFunction(([at, text]) => new RegExp(text).test(document.querySelector(at).textContent), [selector, pattern]);

/** Waits until the picture stands still. */
async function settled(page) {
  const places = () => page.$$eval("#graph g", (all) => all.map((node) => node.getAttribute("transform")).join());
  for (let before = null, now = await places(); before !== now; now = await places()) {
    before = now;
    await page.waitForTimeout(400);
  }
}

async function noSeriousFinding(page, what) {
  // Evaluated by the browser's own tools: the page itself could load no such script.
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  for (const { id, impact, help, nodes } of violations) {
    console.log(`${what}: axe ${impact}: ${id}: ${help}: ${nodes.map(({ html }) => html).slice(0, 3).join(" | ")}`);
  }
  assert.deepEqual(violations.filter(({ impact }) => SERIOUS.includes(impact)).map(({ id }) => id), [], what);
}

// Everybody is there, and the page says so, on a desktop and a phone, by day and by night.
for (const size of Object.keys(SIZES)) {
  for (const scheme of ["light", "dark"]) {
    const what = `${size}, ${scheme}`;
    const { page, context } = await open(size, scheme);
    await says(page, "#headline", "connected with 2 other households");
    await says(page, "#room-list", "Garden");
    await says(page, "#peers", "Bob.*Eve|Eve.*Bob");
    await page.waitForFunction(() => document.querySelector("#qr").naturalWidth > 0);
    await page.waitForSelector(".uplot canvas");
    await settled(page);
    assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `${what}: nothing stands out`);
    await noSeriousFinding(page, what);
    await page.screenshot({ path: `${PICTURES}${size}-${scheme}.png` });
    await page.screenshot({ path: `${PICTURES}${size}-${scheme}-whole.png`, fullPage: true });
    await context.close();
  }
}

// What stands there is right, and is said as text, whatever others call themselves.
const { page, context } = await open("desktop", "light", "reduce");
await says(page, "#room-list", "3 of 3 people on");
await says(page, "#owed-list", "Nothing waits");
await says(page, "#you-id", "^@p2p:bahwqcera");
assert.match(await page.inputValue("#invite"), /@p2p:bahwqcera.*\n.*\n?.*\/p2p\/12D3KooW/s);
assert.equal(await page.$$eval("#graph line", (lines) => lines.length), 2);
assert.match(await page.getAttribute("#graph", "aria-label"), /You are connected to .*on your network/);
assert.equal(await page.locator("b", { hasText: "bold" }).count(), 0, "a name is no markup");
await says(page, "#room-list", "<b>bold</b>");

// By the keyboard: a room is chosen, and its mesh is said.
await page.focus("#room-choice");
await page.keyboard.type("those of G");
await says(page, "#room-words", "Garden: 2 other nodes, 2 of them met");
await page.keyboard.press("Home");
await says(page, "#room-words", "^$");
const reached = new Set();
for (let presses = 0; presses < 40; presses++) {
  await page.keyboard.press("Tab");
  reached.add(await page.evaluate(() => document.activeElement.id || document.activeElement.dataset.copy || document.activeElement.tagName));
}
for (const id of ["doctor", "room-choice", "invite", "you-id"]) assert.ok(reached.has(id), `${id} by the keyboard: ${[...reached]}`);

// It changes by itself: somebody goes, what is for him waits, and he comes back.
const loads = await page.evaluate(() => performance.getEntriesByType("navigation").length);
await ask("kill B");
await says(page, "#headline", "connected with 1 other household ");
await says(page, "#room-list", "2 of 3 people on");
assert.equal(await page.$$eval("#graph line", (lines) => lines.length), 1);
await ask("start B");
await says(page, "#headline", "connected with 2 other households");
assert.equal(await page.evaluate(() => performance.getEntriesByType("navigation").length), loads);
const asked = await page.evaluate(() => performance.getEntriesByType("resource").filter(({ name }) => name.endsWith("/events")).length);
assert.ok(asked <= 1, `it asks again and again: ${asked}`);

// The doctor looks.
await page.click("#doctor");
await says(page, "#findings-said", "All is well|Something could be better");
await says(page, "#findings", "homeserver");
await noSeriousFinding(page, "after the doctor");

// The node goes, and comes back; the window finds it again.
await ask("kill A");
await says(page, "#live", "no connection|does not show");
complaints.splice(0, complaints.length, ...complaints.filter((text) => !/ERR_(CONNECTION|INCOMPLETE)/.test(text)));
await ask("start A");
await says(page, "#live", "^live$");
await says(page, "#headline", "connected with 2 other households");
await context.close();

await browser.close();
assert.deepEqual(complaints.filter((text) => !/ERR_(CONNECTION|INCOMPLETE)/.test(text)), []);
console.log("the status page is as it should be");
process.exit(0);
