// What has to be there before MatrixChat's modules are loaded: the platform, the language, the theme.
import PlatformPeg from "matrix-react-sdk/src/PlatformPeg";
import * as languageHandler from "matrix-react-sdk/src/languageHandler";
import { setTheme } from "matrix-react-sdk/src/theme";
import { BrowserTab } from "./platform";

export async function prepare(): Promise<void> {
    PlatformPeg.set(new BrowserTab());
    await languageHandler.setLanguage(["en"]);
    await setTheme();
}
