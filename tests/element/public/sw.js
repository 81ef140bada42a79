// Media are for who shows a token; the UI asks for them in <img> without one, by the old address. As in
// Element, this service worker asks the page for the token and the server by the new address.
self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

const WAIT_MS = 2000;

async function sessionOf(clientId) {
    const page = clientId ? await self.clients.get(clientId) : (await self.clients.matchAll())[0];
    if (!page) return null;
    return new Promise((resolve) => {
        const { port1, port2 } = new MessageChannel();
        const timer = setTimeout(() => resolve(null), WAIT_MS);
        port1.onmessage = ({ data }) => {
            clearTimeout(timer);
            resolve(data);
        };
        page.postMessage({ type: "session?" }, [port2]);
    });
}

async function fetched(request, clientId, url, what, which) {
    const session = await sessionOf(clientId);
    if (!session?.token || new URL(session.homeserver).origin !== url.origin) return fetch(request);
    url.pathname = `/_matrix/client/v1/media/${what}/${which}`;
    return fetch(url, { headers: { Authorization: `Bearer ${session.token}` } });
}

self.addEventListener("fetch", (event) => {
    const { request, clientId } = event;
    const url = new URL(request.url);
    const media = /^\/_matrix\/media\/(?:v3|r0)\/(download|thumbnail)\/(.+)$/.exec(url.pathname);
    if (request.method === "GET" && media) {
        event.respondWith(fetched(request, clientId, url, media[1], media[2]));
    }
});
