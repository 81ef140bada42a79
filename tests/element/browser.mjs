// A browser, and people in it: each has a context of his own, with one page of Element. What the pages
// ask of servers and say on their consoles is kept.

import { mkdirSync } from "node:fs";
import { chromium } from "playwright-core";

/** Longest wait for anything. */
export const PATIENCE_MS = Number(process.env.PATIENCE_MS ?? 30_000);
/** Where pictures of what went wrong are put. */
export const PICTURES = new URL("../../target/element-pictures/", import.meta.url).pathname;

export const launch = () => {
    mkdirSync(PICTURES, { recursive: true });
    return chromium.launch({
        executablePath: process.env.CHROMIUM,
        headless: true,
        args: [
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--use-fake-ui-for-media-stream",
            "--use-fake-device-for-media-stream",
        ],
    });
};

/** A device of a person, whose node is `side`. */
export class Device {
    static async of(browser, name, side) {
        const device = new Device();
        device.name = name;
        device.homeserver = process.env[`HOMESERVER_${side}`];
        device.element = process.env[`ELEMENT_${side}`];
        device.refused = [];
        device.complaints = [];
        device.loads = 0;
        device.context = await browser.newContext({
            locale: "en-US",
            viewport: { width: 1280, height: 900 },
            permissions: ["clipboard-read", "clipboard-write", "microphone"],
        });
        device.page = await device.context.newPage();
        device.page.setDefaultTimeout(PATIENCE_MS);
        device.listen();
        return device;
    }

    listen() {
        this.page.on("response", async (answer) => {
            const url = new URL(answer.url());
            if (process.env.DEBUG && url.pathname.startsWith("/_matrix")) {
                console.log(`${this.name}: ${answer.status()} ${answer.request().method()} ${url.pathname}${url.search}`);
            }
            if (answer.status() < 400) return;
            const body = await answer.json().catch(() => ({}));
            const asked = { method: answer.request().method(), path: url.pathname };
            this.refused.push({ ...asked, status: answer.status(), errcode: body.errcode, error: body.error });
        });
        this.page.on("requestfailed", (asked) => {
            const { hostname, href } = new URL(asked.url());
            if (!hostname.startsWith("127.")) this.complaints.push(`asked somebody else: ${href}`);
        });
        this.page.on("console", (said) => {
            if (said.type() === "error") this.complaints.push(said.text());
        });
        this.page.on("pageerror", (error) => this.complaints.push(`not caught: ${error.stack ?? error}`));
        this.page.on("load", () => this.loads++);
    }

    /** Takes a picture of the page. */
    async picture(name) {
        const file = `${PICTURES}${this.name}-${name.replace(/\W+/g, "-")}.png`.replace(/ /g, "-");
        await this.page.screenshot({ path: file }).catch(() => {});
        return file;
    }

    /** Asks the homeserver as this device. */
    async ask(path) {
        const token = await this.page.evaluate(() => window.mxMatrixClientPeg.get().getAccessToken());
        const answer = await fetch(`${this.homeserver}${path}`, { headers: { Authorization: `Bearer ${token}` } });
        return { status: answer.status, body: await answer.json() };
    }
}

/** Waits until there is something. */
export async function until(what, look) {
    const end = Date.now() + PATIENCE_MS;
    for (;;) {
        const found = await look();
        if (found) return found;
        if (Date.now() > end) throw new Error(`never seen: ${what}`);
        await new Promise((resolve) => setTimeout(resolve, 100));
    }
}
