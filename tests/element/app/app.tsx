// Element itself: checks the configured server, shows MatrixChat, and keeps the address bar and the
// screen in step.
import React from "react";
import ReactDOM from "react-dom";
import MatrixChat from "matrix-react-sdk/src/components/structures/MatrixChat";
import { AutoDiscovery } from "matrix-js-sdk/src/autodiscovery";
import PlatformPeg from "matrix-react-sdk/src/PlatformPeg";
import { MatrixClientPeg } from "matrix-react-sdk/src/MatrixClientPeg";
import SdkConfig from "matrix-react-sdk/src/SdkConfig";
import AutoDiscoveryUtils from "matrix-react-sdk/src/utils/AutoDiscoveryUtils";

type Params = Record<string, string>;
const paramsOf = (query: string): Params => Object.fromEntries(new URLSearchParams(query));

/** The screen that the fragment of the address names, as in `#/room/!id?via=x`. */
function screenOfAddress(): { screen: string; params: Params } {
    const [screen, query = ""] = window.location.hash.replace(/^#\/?/, "").split("?", 2);
    return { screen, params: paramsOf(query) };
}

let shown: string | undefined;
function onNewScreen(screen: string, replaceLast = false): void {
    shown = `#/${screen}`;
    if (replaceLast) window.location.replace(shown);
    else window.location.assign(shown);
}
function onHashChange(): void {
    if (decodeURIComponent(window.location.hash) === shown) return;
    const { screen, params } = screenOfAddress();
    (window as any).matrixChat?.showScreen(screen, params);
}
/** Takes the login token, which is used up, out of the address. */
function onTokenLoginCompleted(): void {
    const address = new URL(window.location.href);
    address.search = "";
    window.history.replaceState(null, "", address.href);
}
/** The service worker asks for the session, to fetch media with it. */
function onQuestion(event: MessageEvent): void {
    if (event.data?.type !== "session?") return;
    const client = MatrixClientPeg.get();
    const session = client && { homeserver: client.getHomeserverUrl(), token: client.getAccessToken() };
    event.ports[0].postMessage(session ?? null);
}

export async function show(): Promise<void> {
    navigator.serviceWorker?.addEventListener("message", onQuestion);
    const configured = SdkConfig.get("default_server_config") as any;
    const discovered = await AutoDiscovery.fromDiscoveryConfig(configured);
    const name = configured["m.homeserver"].server_name;
    const validated = await AutoDiscoveryUtils.buildValidatedConfigFromDiscovery(name, discovered, true);
    validated.isDefault = true;
    SdkConfig.add({ validated_server_config: validated });

    window.addEventListener("hashchange", onHashChange);
    const start = screenOfAddress();
    const Chat = MatrixChat as any;
    (window as any).matrixChat = ReactDOM.render(
        <Chat
            config={SdkConfig.get()}
            onNewScreen={onNewScreen}
            enableGuest={false}
            realQueryParams={paramsOf(window.location.search)}
            startingFragmentQueryParams={start.params}
            onTokenLoginCompleted={onTokenLoginCompleted}
            initialScreenAfterLogin={start.screen ? start : undefined}
            defaultDeviceDisplayName={PlatformPeg.get()!.getDefaultDeviceDisplayName()}
        />,
        document.getElementById("matrixchat"),
    );
    (window as any).mxMatrixClientPeg = MatrixClientPeg;
}
