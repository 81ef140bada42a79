// Where Element begins. Its modules read the configuration and translate words while they are loaded,
// so these come first: the configuration, then language and theme, then the rest.
import "matrix-js-sdk/src/browser-index";
import "./compat/client";
import SdkConfig from "matrix-react-sdk/src/SdkConfig";

async function begin(): Promise<void> {
    const answer = await fetch("config.json", { cache: "no-store" });
    if (!answer.ok) throw new Error(`config.json: ${answer.status}`);
    SdkConfig.put(await answer.json());
    await navigator.serviceWorker?.register("sw.js");
    const { prepare } = await import(/* webpackChunkName: "prepare" */ "./prepare");
    await prepare();
    const { show } = await import(/* webpackChunkName: "app" */ "./app");
    await show();
}

begin().catch((error) => {
    console.error("Element does not start", error);
    document.getElementById("matrixchat")!.textContent = `Element does not start: ${error}`;
});
